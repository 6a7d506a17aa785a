"""Evidently as an independent second opinion: it measures bounded samples of both sides with its own methods.

Evidently's preset computes each statistic three times on all rows and draws every column. Here its tests run once, on
samples, at the limits calibrated for the model (`tasks.policy.monitoring.second_opinion`), and only the worst columns
are drawn. Where Evidently disagrees with the verdict on all rows, a bootstrap shows whether sampling error explains it.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.core.container import MetricContainer
from evidently.core.metric_types import Metric, MetricTestResult, SingleValueCalculation
from evidently.core.report import Context, Snapshot
from evidently.legacy.calculations.stattests.registry import get_registered_stattest
from evidently.legacy.core import ColumnType
from evidently.legacy.model.widget import BaseWidgetInfo
from evidently.legacy.renderers.html_widgets import table_data
from evidently.legacy.tests.base_test import TestStatus
from evidently.metrics.column_statistics import ValueDrift, ValueDriftBoundTest, ValueDriftTest

from tasks.adapters.gates.evidently_columns import Compared, Samples, compare, escape
from tasks.policy.monitoring.drift import DriftLimits
from tasks.policy.monitoring.second_opinion import QUANTILE, combine_features
from tasks.policy.records.reports import DriftReport, FeatureDrift, FeatureOpinion, SecondOpinion

LISTED = 100  # rows of the table at the top of the page
DRAWS, RESAMPLED = 50, 40  # bootstrap draws per disagreement, and the most disagreements that are resampled
gc.freeze()  # Evidently's modules hold a million objects; collecting over them costs 0.3 s of the first report


@dataclass(frozen=True)
class Found:
    """One Evidently test and its result."""

    test: Compared
    score: float
    is_drifted: bool

    @property
    def effect(self) -> float:
        return self.test.scale.effect(self.score)


@dataclass(frozen=True)
class Measured:
    """Evidently's opinion, and the test results behind it by feature."""

    opinion: SecondOpinion
    found: dict[str, list[Found]]


def measure_samples(report: DriftReport, samples: Samples, limits: DriftLimits, seed: int = 0) -> Measured:
    """Measure every sampled feature with Evidently. Skip a test with too few rows on a side (`limits.min_rows`)."""
    found: dict[str, list[Found]] = {}
    for feature in samples.features:
        tests = [_run(test) for test in compare(samples.frozen[feature], *samples.sides(feature), limits)]
        if tests:
            found[feature] = tests
    known = {drift.feature: drift for drift in report.features}
    opinions = [_opinion(known[feature], tests) for feature, tests in found.items()]
    apart = sorted((one for one in opinions if one.disagrees), key=lambda one: -abs(one.effect / one.limit - 1))
    bounded = {one.feature: _with_interval(one, found[one.feature], seed) for one in apart[:RESAMPLED]}
    opinions = [bounded.get(one.feature, one) for one in opinions]
    opinion = combine_features(report, opinions, len(samples.current), len(samples.reference), limits.max_share)
    return Measured(opinion, found)


def _run(test: Compared) -> Found:
    kind = ColumnType.Numerical if test.is_numeric else ColumnType.Categorical
    result = get_registered_stattest(test.stattest, kind)(test.reference, test.current, kind, test.threshold)
    return Found(test, float(result.drift_score), bool(result.drifted))


def _opinion(drift: FeatureDrift, found: Sequence[Found]) -> FeatureOpinion:
    """Pick the deciding test: the one furthest past its limit, else the method used on all rows, else the first."""
    past = max((one for one in found if one.is_drifted), key=lambda one: one.effect / one.test.limit, default=None)
    deciding = past or next((one for one in found if one.test.method == drift.method), found[0])
    verdict: Any = "drifted" if past else "stable"
    return FeatureOpinion(
        drift.feature,
        verdict,
        deciding.test.method,
        deciding.effect,
        deciding.test.limit,
        disagrees={verdict, drift.verdict} == {"drifted", "stable"},
    )


def _with_interval(opinion: FeatureOpinion, found: Sequence[Found], seed: int) -> FeatureOpinion:
    """Add a bootstrap interval of the effect, widened by the bootstrap bias: resampled distances are biased upwards."""
    deciding = next(one for one in found if one.test.method == opinion.method)
    random = np.random.default_rng(seed)
    effects = np.array([_run(deciding.test.resampled(random)).effect for _ in range(DRAWS)])
    bias, half = float(effects.mean()) - opinion.effect, QUANTILE * float(effects.std(ddof=1))
    ends = sorted((opinion.effect, opinion.effect - bias))
    return replace(opinion, low=max(0.0, ends[0] - half), high=ends[1] + half)


class SampledDrift(ValueDrift):
    """Evidently's `ValueDrift` of a column that is already measured; the column is listed but not drawn."""

    score: float
    drifted: bool


class SampledDriftCalculation(SingleValueCalculation[SampledDrift]):
    def calculate(self, context: Context, current_data: Dataset, reference_data: Dataset | None) -> Any:
        metric = self.metric
        result = self.result(metric.score)
        result.widget = []
        result.set_tests(
            [
                MetricTestResult(
                    id="drift",
                    name=f"Value Drift for column {metric.column}",
                    description=f"Drift score is {metric.score:0.2f}. The drift detection method is {metric.method}. "
                    f"The drift threshold is {metric.threshold:0.2f}.",
                    status=TestStatus.FAIL if metric.drifted else TestStatus.SUCCESS,
                    metric_config=self.to_metric_config(),
                    test_config={},
                    bound_test=ValueDriftBoundTest(test=ValueDriftTest(), metric_fingerprint=metric.metric_id),
                )
            ]
        )
        return result

    def display_name(self) -> str:
        return f"Value drift for {self.metric.column}"


class BothVerdicts(MetricContainer):
    """A table of both verdicts, worst column first, followed by the drawn columns."""

    measured: list[ValueDrift]
    rows: list[tuple[str, ...]]

    def generate_metrics(self, context: Context) -> Sequence[Metric]:
        return self.measured

    def render(self, context: Context, child_widgets: Any = None) -> list[BaseWidgetInfo]:
        table = table_data(title="Columns, worst first", column_names=HEADER, data=self.rows)
        return [table, *super().render(context, child_widgets)]


def draw_report(report: DriftReport, measured: Measured | None, plots: int) -> Snapshot:
    """Build Evidently's snapshot: both verdicts by column, its tests, and plots of the worst `plots` columns."""
    found = measured.found if measured else {}
    order = [drift.feature for drift in report.features if drift.feature in found]
    shown = dict(zip(order, escape(order), strict=True))
    drawn: dict[str, Compared] = {}
    metrics: list[ValueDrift] = []
    for feature in order:
        for one in found[feature]:
            values = one is found[feature][0] and one.test.has_values
            name = shown[feature] if values else f"{shown[feature]}, {one.test.method}"
            settings = {"column": name, "method": one.test.stattest, "threshold": one.test.threshold}
            if values and len(drawn) < plots:
                drawn[name] = one.test
                metrics.append(ValueDrift(**settings))
            else:
                metrics.append(SampledDrift(**settings, score=one.score, drifted=one.is_drifted))
    sides = [_dataset(drawn, side) for side in ("current", "reference")]
    container = BothVerdicts(measured=metrics, rows=_rows(report))
    return Report([container], include_tests=True).run(*sides, timestamp=report.window.end)


def _dataset(drawn: dict[str, Compared], side: str) -> Dataset:
    frame = pd.DataFrame({name: getattr(test, side) for name, test in drawn.items()})
    return as_dataset(frame, [name for name, test in drawn.items() if test.is_numeric])


def as_dataset(frame: pd.DataFrame, numeric: Sequence[str]) -> Dataset:
    """Wrap a frame with explicit column types, to bypass Evidently's type inference."""
    definition = DataDefinition(
        numerical_columns=list(numeric),
        categorical_columns=[name for name in frame.columns if name not in set(numeric)],
        datetime_columns=[], text_columns=[], unknown_columns=[], list_columns=[],
    )  # fmt: skip
    return Dataset.from_pandas(frame, data_definition=definition)


HEADER = [
    "column",
    "all rows",
    "effect",
    "limit",
    "Evidently",
    "effect on its sample",
    "they",
    "q",
    "mean σ",
    "moved prediction",
    "nulls",
    "before",
    "unseen",
]


def _rows(report: DriftReport) -> list[tuple[str, ...]]:
    opinions = {one.feature: one for one in report.second_opinion.features} if report.second_opinion else {}
    listed = report.features[:LISTED]
    names = escape([drift.feature for drift in listed])
    return [
        (
            name,
            drift.verdict,
            f"{drift.method} {drift.effect_size:.3g}",
            _number(drift.threshold),
            *_second(opinions.get(drift.feature)),
            _number(drift.q_value),
            _number(drift.mean_shift_sigma),
            _number(drift.prediction_shift),
            *(f"{share:.1%}" for share in (drift.null_share, drift.reference_null_share, drift.unseen_share)),
        )
        for name, drift in zip(names, listed, strict=True)
    ]


def _second(opinion: FeatureOpinion | None) -> tuple[str, str, str]:
    if opinion is None:
        return "not measured", "", ""
    effect = f"{opinion.method} {opinion.effect:.3g}"
    if opinion.low is not None:
        effect += f" ({opinion.low:.3g} to {opinion.high:.3g})"
    apart = "disagree beyond sampling error" if opinion.is_beyond_sampling_error else "disagree"
    return opinion.verdict, effect, apart if opinion.disagrees else "agree"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
