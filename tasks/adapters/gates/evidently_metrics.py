"""Compute the metrics, presets and reports that a model's file adds under `drift.evidently`.

Names are looked up in Evidently's public modules only. Evidently silently accepts misspelt parameters, so parameters
are checked against the class first. Each item runs as its own report. A test without a result is reported with the
item's place in the file; whether that only warns is for the policy (`second_opinion.with_own_tests`).
"""

import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import ModuleType
from typing import Any

import evidently.metrics
import evidently.presets
import evidently.tests
import pandas as pd
from evidently import Dataset, Report
from evidently.core.metric_types import CountValue, MetricResult, MetricTestResult, SingleValue
from evidently.core.report import Snapshot
from evidently.legacy.tests.base_test import TestStatus

from deployments.config.blocks.data import imported
from deployments.config.blocks.monitoring import EvidentlyItem
from deployments.config.model import ModelConfig
from tasks.adapters.gates.evidently import as_dataset
from tasks.adapters.gates.evidently_columns import Samples, escape, without_markup
from tasks.policy.records.errors import ModelConfigError
from tasks.policy.records.reports import OwnTest, UncomputedTest

LONGEST = 300  # maximum length in characters of a test's description
NO_TEST = "the item has no test; expected tests, share_tests or default_tests: true"
SHARED = ("tests", "share_tests")  # settings of an item that are not parameters of its class
NO_RESULT = (TestStatus.ERROR, TestStatus.SKIPPED)


@dataclass(frozen=True)
class OwnResults:
    """Results of the user's items: tests, tests and items that gave no result, and one snapshot per computed item."""

    tests: tuple[OwnTest, ...] = ()
    uncomputed: tuple[UncomputedTest, ...] = ()
    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)


def check_items(config: ModelConfig) -> None:
    """Check that every name, parameter and function of `drift.evidently` exists. Raises ModelConfigError."""
    names = {name: name for name in config.columns.features.tabular}
    for number, item in enumerate(config.drift.evidently):
        place = f"{config.name}: drift.evidently.{number}"
        _function(item, place) if item.report else _build(item, place, names)
        own = item.tests or item.share_tests or any(name.endswith("tests") for name in item.parameters)
        if item.fails_as == "drifted" and not (item.report or item.default_tests or own):
            raise ModelConfigError(f"{place}.fails_as is drifted, but {NO_TEST}")


def compute_items(items: Sequence[EvidentlyItem], samples: Samples, moment: datetime) -> OwnResults:
    """Run every item on the samples. An exception of an item or a function is reported in `uncomputed`."""
    shown = dict(zip(samples.features, escape(samples.features), strict=True))
    current, reference = _datasets(samples, shown)
    tests: list[OwnTest] = []
    uncomputed: list[UncomputedTest] = []
    snapshots: dict[str, Snapshot] = {}
    for number, item in enumerate(items):
        place = f"drift.evidently.{number}"
        try:
            snapshot = _report(item, place, shown).run(current, reference, timestamp=moment, name=item.name)
        except Exception as error:  # noqa: BLE001 – user code may raise anything; the report names the item
            uncomputed.append(_uncomputed(item, place, _describe(error)))
        else:
            results = list(_results_of(snapshot, item, place))
            tests += [one for one in results if isinstance(one, OwnTest)]
            uncomputed += [one for one in results if isinstance(one, UncomputedTest)]
            if not results and item.fails_as == "drifted":
                uncomputed.append(_uncomputed(item, place, NO_TEST))
            snapshots[item.name if item.name not in snapshots else f"{item.name} ({number})"] = snapshot
    return OwnResults(tuple(tests), tuple(uncomputed), snapshots)


def without_samples(items: Sequence[EvidentlyItem], reason: str) -> OwnResults:
    """Return the results of a window whose rows cannot be compared with a sample of the reference."""
    return OwnResults(
        uncomputed=tuple(_uncomputed(item, f"drift.evidently.{number}", reason) for number, item in enumerate(items))
    )


def _uncomputed(item: EvidentlyItem, place: str, reason: str) -> UncomputedTest:
    return UncomputedTest(f"Evidently's {item.name} was not computed ({place}): {reason}", item.fails_as)


def _report(item: EvidentlyItem, place: str, shown: Mapping[str, str]) -> Report:
    if not item.report:
        return Report([_build(item, place, shown)], include_tests=item.default_tests)
    found = _function(item, place)(**item.parameters)
    if not isinstance(found, Report):
        raise TypeError(f"the function returned {type(found).__name__}, expected an evidently.Report")
    return found


def _function(item: EvidentlyItem, place: str) -> Any:
    return imported(
        str(item.report),
        lambda reason: ModelConfigError(
            f"{place}.report is {item.report}, which cannot be imported ({reason}); "
            "expected module:function, installed or on PYTHONPATH"
        ),
    )


def _build(item: EvidentlyItem, place: str, shown: Mapping[str, str]) -> Any:
    """Build the metric or preset, with column names as Evidently sees them."""
    kind = "metric" if item.metric else "preset"
    module = evidently.metrics if item.metric else evidently.presets
    name = str(item.metric or item.preset)
    made = _public(module, name, f"{place}.{kind}")
    accepted = [one for one in made.__fields__ if one not in (*SHARED, "type", "include_tests")]
    for parameter in item.parameters:
        if parameter not in accepted:
            hint = _nearest(parameter, accepted)
            raise ModelConfigError(f"{place}.parameters.{parameter} is not known to {name}; {hint}")
    settings = {one: _translate(one, value, shown) for one, value in item.parameters.items()}
    for one in SHARED:
        tests = [_test(*test) for test in getattr(item, one).items()]
        if tests and one not in made.__fields__:
            raise ModelConfigError(f"{place}.{one} does not fit {name}, which has none")
        settings |= {one: tests} if tests else {}
    try:
        return made(**settings)
    except (TypeError, ValueError) as error:
        raise ModelConfigError(
            f"{place}.parameters do not fit {name} ({_describe(error)}); expected its parameters: {', '.join(accepted)}"
        ) from error


def _public(module: ModuleType, name: str, place: str) -> Any:
    public = [one for one in module.__all__ if inspect.isclass(getattr(module, one))]
    if name not in public:
        raise ModelConfigError(f"{place} is {name}, which is not in {module.__name__}; {_nearest(name, public)}")
    return getattr(module, name)


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}."


def _translate(parameter: str, value: Any, shown: Mapping[str, str]) -> Any:
    if parameter == "column":
        return shown.get(value, value)
    if parameter == "columns" and isinstance(value, list):
        return [shown.get(one, one) for one in value]
    if parameter.startswith("per_column_") and isinstance(value, dict):
        return {shown.get(one, one): setting for one, setting in value.items()}
    return _plain(value)


def _plain(value: Any) -> Any:
    """Convert a value to its spelling in the samples."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return without_markup(value) if isinstance(value, str) else value


def _test(name: str, limit: Any) -> Any:
    expected = evidently.tests.Reference(**limit) if isinstance(limit, dict) else _plain(limit)
    return getattr(evidently.tests, name)(expected)


def _datasets(samples: Samples, shown: Mapping[str, str]) -> tuple[Dataset, Dataset]:
    """Build both datasets from every sampled feature, each with its own values; missing values are null."""
    frames: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    numeric = []
    for feature in samples.features:
        is_numeric = samples.frozen[feature].kind == "numeric"
        numeric += [shown[feature]] if is_numeric else []
        for frame, side in zip(frames, samples.sides(feature, all_rows=True), strict=True):
            frame[shown[feature]] = side.values if is_numeric else _escaped(side.values)
    current, reference = (as_dataset(pd.DataFrame(frame), numeric) for frame in frames)
    return current, reference


def _escaped(names: Any) -> pd.Series:
    column = pd.Series(names, dtype=object)
    known = sorted(column.dropna().unique())
    return column.map(dict(zip(known, escape(known), strict=True))).astype(object)


def _results_of(snapshot: Snapshot, item: EvidentlyItem, place: str) -> Iterator[OwnTest | UncomputedTest]:
    """Yield the result of each of an item's tests; a test of NaN has no result, though Evidently gives one."""
    for metric in snapshot.metric_results.values():
        for result in metric.tests:
            if _is_nan(metric):
                yield _uncomputed(item, place, f"{result.name}: the value is not a number")
            elif result.status in NO_RESULT:
                yield _uncomputed(item, place, _shortened(_in_words(result)))
            else:
                critical = result.status != TestStatus.WARNING
                yield OwnTest(
                    metric=item.name,
                    passed=result.status == TestStatus.SUCCESS,
                    description=_shortened(_in_words(result)),
                    fails_as=item.fails_as if critical else "warn",
                )


def _in_words(result: MetricTestResult) -> str:
    """Describe a test's result, with the column name that some descriptions omit."""
    named = result.name.split(":")[0] in result.description
    return result.description if named else f"{result.name}: {result.description}"


def _is_nan(metric: MetricResult) -> bool:
    parts = (metric.count, metric.share) if isinstance(metric, CountValue) else (metric,)
    return any(isinstance(part, SingleValue) and part.value != part.value for part in parts)


def _describe(error: Exception) -> str:
    if isinstance(error, ModelConfigError):
        return str(error)
    return f"{type(error).__name__}: {_shortened(' '.join(str(error).split()))}"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
