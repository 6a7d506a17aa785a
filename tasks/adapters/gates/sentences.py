"""Describe expectations and their results in Great Expectations' words, without values of hidden columns."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache
from numbers import Number
from string import Template
from typing import Any

from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
from great_expectations.render.renderer.inline_renderer import InlineRenderer

from tasks.adapters.gates.expectation_suite import SuiteExpectation
from tasks.policy.data_quality.expectations import Parameters
from tasks.policy.statistics.numbers import MOST_DIGITS, beside, percent, plain, rounded_bound

HIDDEN = "(not shown)"
SHOWN_VALUES = 20
BOUNDS = {"min_value", "max_value"}
PASS_THROUGH = re.compile(r"PassThrough\('(.*?)'\)")
"""How Great Expectations writes a row condition that is given as text."""
NO_VALUE = {"expect_column_kl_divergence_to_be_less_than": "infinite: values occur where none are expected"}
"""Words for a statistic without a value where "none" would mislead."""
PLAIN = {"column", "column_A", "column_B", "mostly_pct", "strict_min", "strict_max"}
"""Arguments that a sentence may show for a hidden column too."""


@dataclass(frozen=True)
class Shown:
    """How findings are presented: bounds that depend on the window, columns whose values and bounds are hidden, and the
    number of decimals in which the values of a column are given."""

    parameters: Parameters
    hidden: frozenset[str] = frozenset()
    decimals: Mapping[str, int] = field(default_factory=dict)


def describe(one: SuiteExpectation, total: Mapping[str, Any] | None, met: bool, shown: Shown) -> tuple[str, str]:
    """Return what is expected and what was found: ("age values must be greater than …", "otherwise in 3 of …").

    `total` is Great Expectations' result; None where there is none, and "" is then found.
    """
    hidden = bool(shown.hidden & one.reads(shown.hidden))
    failing = _failing_share(total)
    least, found = shares(one.arguments.get("mostly", 1.0), failing, met)
    words = _sentence(one, shown, hidden, least)
    return words, "" if total is None else _found(one, total, met, hidden, found)


def shares(mostly: float, failing: float | None, met: bool) -> tuple[str, str]:
    """(`mostly`, failing share) in percent, in three digits or in as many as it takes to agree with the verdict.

    >>> shares(0.87587, 0.05, True), shares(0.9996, 0.0004, True), shares(0.99, 0.010004, False)
    (('87.6', '5'), ('99.96', '0.04'), ('99', '1.0004'))
    """
    for digits in range(3, MOST_DIGITS + 1):
        least, found = percent(mostly, digits), percent(failing or 0.0, digits)
        if failing is None or (100 - Decimal(least) >= Decimal(found)) == met:
            break
    return least, found


def _failing_share(total: Mapping[str, Any] | None) -> float | None:
    values = 0 if total is None else (total.get("element_count") or 0) - (total.get("missing_count") or 0)
    return total["unexpected_count"] / values if total and values > 0 else None


def _sentence(one: SuiteExpectation, shown: Shown, hidden: bool, least: str) -> str:
    arguments = {name: _filled(value, shown.parameters) for name, value in one.arguments.items()}
    if one.description:
        return one.description
    if one.learned:
        template = _template(one.type, tuple(sorted(arguments)))
        values = _values(arguments, shown.decimals.get(str(arguments.get("column"))))
    else:
        template, values = _rendered(ExpectationConfiguration(one.type, arguments))
    values = {**values, "mostly_pct": least}
    texts = {name: value if name in PLAIN or not hidden else HIDDEN for name, value in values.items()}
    words = Template(template).safe_substitute(_shortened(texts, hidden)).strip()
    return PASS_THROUGH.sub(r"\1", words)


def _found(one: SuiteExpectation, total: Mapping[str, Any], met: bool, hidden: bool, share: str) -> str:
    """Describe a result in counts; show a value only if it is a number or a time of a column that is not hidden."""
    if "element_count" in total:
        values = total["element_count"] - (total.get("missing_count") or 0)
        return f"otherwise in {total['unexpected_count']:,} of {values:,} rows ({share} %)"
    if "unexpected_count" in total:
        return f"other values: {total['unexpected_count']:,}"
    observed = total.get("observed_value")
    if observed is None:
        return "as expected" if met else NO_VALUE.get(one.type, "none")
    if isinstance(observed, datetime) and not hidden:
        return _text(observed)
    if isinstance(observed, Number) and not hidden:
        limits = (one.arguments.get(name) for name in ("min_value", "max_value", "value", "threshold"))
        return _formatted(observed, [float(limit) for limit in limits if isinstance(limit, int | float)])
    return "as expected" if met else "others, not shown"


def _formatted(observed: Any, limits: Sequence[float]) -> str:
    """Give a number in four digits, or in as many as keep it on its side of every limit; whole numbers in full."""
    if isinstance(observed, int) or float(observed).is_integer():
        return f"{observed:.15g}"
    return max((plain(beside(float(observed), limit)) for limit in (*limits, 0.0)), key=len)


def _filled(value: object, parameters: Parameters) -> object:
    return parameters.get(value["$PARAMETER"], value) if isinstance(value, dict) and "$PARAMETER" in value else value


@cache
def _template(kind: str, arguments: tuple[str, ...]) -> str:
    """Return the sentence template of a learned expectation, which depends on the names of its arguments only.

    Great Expectations takes 10 ms to render one template, and a model has about a hundred of these expectations.
    """
    stand_ins = {"column": "column", "mostly": 0.5, "strict_min": True, "strict_max": True, "value_set": ["a"]}
    given = {name: stand_ins.get(name, 1.0 if name.startswith("min") else 2.0) for name in arguments}
    return _rendered(ExpectationConfiguration(kind, given))[0]


def _values(arguments: Mapping[str, Any], decimals: int | None) -> dict[str, str]:
    found = {name: _text(value) for name, value in arguments.items()}
    for name in BOUNDS & {*arguments}:
        if decimals is not None and isinstance(arguments[name], float):
            found[name] = rounded_bound(arguments[name], decimals, up=name == "min_value")
    if "value_set" in arguments:
        listed = [_text(value) for value in arguments["value_set"]]
        more = [f"and {len(listed) - SHOWN_VALUES:,} more"] if len(listed) > SHOWN_VALUES else []
        found["v__0"] = " ".join([*listed[:SHOWN_VALUES], *more])
    return found


def _rendered(configuration: ExpectationConfiguration) -> tuple[str, dict[str, str]]:
    """Return the template and its values from Great Expectations' own renderer."""
    content = InlineRenderer(render_object=configuration).get_rendered_content()[0].value
    values = {name: getattr(param, "value", param) for name, param in (content.params or {}).items()}
    written = {name: value["value"] if isinstance(value, dict) else value for name, value in values.items()}
    return content.template or configuration.type, {name: _text(value) for name, value in written.items()}


def _shortened(values: Mapping[str, str], hidden: bool) -> dict[str, str]:
    """Truncate long sets; of a hidden set show neither its values nor its size."""
    listed = [name for name in values if name.startswith("v__")]
    most = 1 if hidden else SHOWN_VALUES
    cut = dict.fromkeys(listed[most:], "")
    more = {listed[most]: f"and {len(listed) - most:,} more"} if len(listed) > most and not hidden else {}
    return {**values, **cut, **more}


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return plain(f"{value:.15g}") if 1e-6 <= abs(value) < 1e15 else f"{value:.15g}"
    return str(value)
