"""Expectation suites as Great Expectations' own JSON: the suite learned from a reference, and the model owner's suite.

Great Expectations logs and drops an expectation type that it does not know. A gate must not lose any, so each
expectation is built individually here, and one that cannot be built is an error.
"""

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
from great_expectations.exceptions import GreatExpectationsError
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from great_expectations.expectations.metadata_types import FailureSeverity

from deployments.config.blocks.data import imported
from deployments.config.model import ModelConfig
from tasks.policy.data_quality.expectations import (
    Expectation,
    Roles,
    condition_columns,
    learn_expectations,
    named_columns,
)
from tasks.policy.records.base import digest
from tasks.policy.records.errors import SuiteError
from tasks.policy.records.profile import ReferenceProfile
from tasks.policy.records.reports import Verdict
from tasks.policy.records.text import raised

EXAMPLE = "json.dumps(suite.to_json_dict())"


@dataclass(frozen=True)
class SuiteExpectation:
    """One expectation of Great Expectations and its settings in the suite."""

    type: str
    arguments: dict[str, Any]
    check: str
    learned: bool
    severity: FailureSeverity
    description: str | None = None
    own: gxe.Expectation | None = None
    """The object that the model owner's function returned; may be of a custom class."""

    @property
    def on_failure(self) -> Verdict:
        return "fail" if self.severity == FailureSeverity.CRITICAL else "warn"

    def numbered(self, place: int) -> gxe.Expectation:
        """Copy the expectation, as an expectation belongs to one suite; its results carry the number."""
        if self.own is not None:
            return self.own.copy(update={"meta": {"place": place}, "id": None}, deep=True)
        return ExpectationConfiguration(self.type, self.arguments, meta={"place": place}).to_domain_obj()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns whose values it is about; empty for an expectation on the table."""
        return named_columns(self.type, self.arguments)

    def reads(self, known: Collection[str]) -> frozenset[str]:
        """Every column that is needed to evaluate it; a row condition written as text may name `known` columns."""
        return condition_columns(self.arguments.get("row_condition"), known).union(self.columns)

    @property
    def expects_text(self) -> bool:
        """Whether its arguments can only fit text: a pattern, a length, or a set with text in it."""
        names = ("column", "column_A", "column_B", "column_list", "row_condition", "condition_parser")
        given = [value for name, value in self.arguments.items() if name not in names]
        return "lengths" in self.type or any(map(_has_text, given))

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the bounds that are filled in per window."""
        found = [value for value in self.arguments.values() if isinstance(value, dict) and "$PARAMETER" in value]
        return tuple(value["$PARAMETER"] for value in found)


def _has_text(value: object) -> bool:
    if isinstance(value, dict):
        return "$PARAMETER" not in value and any(map(_has_text, value.values()))
    return any(map(_has_text, value)) if isinstance(value, list | tuple | set) else isinstance(value, str)


@dataclass(frozen=True)
class Suite:
    """The expectations of a suite, and the SHA-256 of its canonical JSON, which tells later which suite was used."""

    expectations: tuple[SuiteExpectation, ...] = ()
    sha256: str | None = None

    def split(self, label: str) -> tuple[tuple[SuiteExpectation, ...], tuple[SuiteExpectation, ...]]:
        """Return the expectations on rows, and those that read the label, which comes later than its row."""
        on_rows = tuple(one for one in self.expectations if label not in one.reads((label,)))
        return on_rows, tuple(one for one in self.expectations if label in one.reads((label,)))


def canonical_sha256(content: object) -> str:
    """SHA-256 of content as JSON with sorted keys and without spaces: the layout of a file does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def roles_of(config: ModelConfig, leaks: Iterable[str] = ()) -> Roles:
    return Roles(config.columns.key, config.columns.time, tuple(leaks), frozenset(config.columns.personal))


def learned_suite(config: ModelConfig, reference: ReferenceProfile) -> str:
    """Return the JSON of the suite learned from this reference under the model's current settings."""
    roles = roles_of(config)
    expectations = learn_expectations(reference, config.quality, roles)
    suite = gx.ExpectationSuite(
        name=f"{config.name} {reference.window.name}",
        expectations=[_to_gx(one) for one in expectations],
        meta={
            "reference": reference.content_hash,
            "settings": _settings(config),
            "arrow_types": {one.feature: one.counts.arrow_type for one in reference.features},
        },
    )
    return json.dumps(suite.to_json_dict(), indent=1)


def current_suite(config: ModelConfig, reference: ReferenceProfile, stored: str | None) -> str:
    """Return the stored suite if it was learned under the current settings, else learn it again."""
    if stored is not None and json.loads(stored)["meta"].get("settings") == _settings(config):
        return stored
    return learned_suite(config, reference)


def _settings(config: ModelConfig) -> str:
    """Return a digest of every setting that the learned bounds depend on."""
    limits = config.quality.model_dump_json(exclude={"labels", "suite", "rows_in_memory"})
    return digest(limits, config.columns.key, config.columns.time, *sorted(config.columns.personal))


def _to_gx(one: Expectation) -> gxe.Expectation:
    column = {} if one.column is None else {"column": one.column}
    severity = FailureSeverity.WARNING if one.warns else FailureSeverity.CRITICAL
    return ExpectationConfiguration(
        type=one.type,
        kwargs={**column, **one.arguments},
        meta={"check": one.check},
        severity=severity,
        description=one.description,
    ).to_domain_obj()


def read_suite(text: str) -> Suite:
    """Parse a suite that `learned_suite` wrote."""
    content = json.loads(text)
    expectations = tuple(
        SuiteExpectation(
            one["type"],
            one["kwargs"],
            one["meta"]["check"],
            learned=True,
            severity=FailureSeverity(one["severity"]),
            description=one.get("description"),
        )
        for one in content["expectations"]
    )
    return Suite(expectations, canonical_sha256(content))


def own_suite(setting: str) -> Suite:
    """Load the suite that `quality.suite` names: the path of a JSON suite, or `module:function`. Raises SuiteError."""
    found, content = _from_file(Path(setting)) if setting.endswith(".json") else _from_function(setting)
    return Suite(tuple(_expected(one) for one in found), canonical_sha256(content))


def _expected(one: gxe.Expectation) -> SuiteExpectation:
    kind, arguments = str(one.configuration.type), dict(one.configuration.kwargs)
    return SuiteExpectation(kind, arguments, kind, False, FailureSeverity(one.severity), one.description, one)


def _from_file(path: Path) -> tuple[list[gxe.Expectation], object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        listed = content["expectations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SuiteError(
            f"quality.suite: {path}: cannot be read as a suite ({type(error).__name__}); expected the output of {EXAMPLE}"
        ) from error
    found = []
    for number, one in enumerate(listed, start=1):
        try:
            found.append(ExpectationConfiguration(**one).to_domain_obj())
        except (GreatExpectationsError, ValueError, TypeError) as error:
            raise SuiteError(
                f"quality.suite: {path}: expectation {number} cannot be used ({error}); expected a type of Great "
                f"Expectations {gx.__version__} with its arguments, as {EXAMPLE} writes it"
            ) from error
    return found, content


def _from_function(name: str) -> tuple[list[gxe.Expectation], object]:
    make = imported(
        name,
        lambda reason: SuiteError(
            f"quality.suite: {name}: cannot be imported ({reason}); expected module:function, installed or on PYTHONPATH"
        ),
    )
    try:
        made = make()
        found = list(made.expectations if isinstance(made, gx.ExpectationSuite) else made)
    except Exception as error:
        raise SuiteError(
            f"quality.suite: {name}: the function {raised(error)}; expected an ExpectationSuite or a list of "
            "expectations"
        ) from error
    other_types = [type(one).__name__ for one in found if not isinstance(one, gxe.Expectation)]
    if other_types:
        raise SuiteError(
            f"quality.suite: {name}: returned {other_types[0]}, expected an ExpectationSuite or a list of expectations"
        )
    suite = made if isinstance(made, gx.ExpectationSuite) else None
    content = suite.to_json_dict() if suite else {"expectations": [one.configuration.to_json_dict() for one in found]}
    return found, content
