"""Evidently as the gate's second voice and as the page people look at; the numbers are ours, counted on all rows.

Evidently would compute each statistic three times on all rows, drop nulls and infinities first, and draw every
column. Here a registered `StatTest` hands it the score and verdict that the profiles gave, it draws the worst columns
from a bounded sample, and its test statuses must agree with our verdicts. The reference is drawn from its frozen
profile, since no reference row is stored. Names and values are escaped in the page, which Evidently does not do.
"""

import gc
import re
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.core.container import MetricContainer
from evidently.core.metric_types import Metric, MetricTestResult, SingleValueCalculation
from evidently.core.report import Context, Snapshot
from evidently.legacy.calculations.stattests.registry import StatTest, get_registered_stattest, register_stattest
from evidently.legacy.core import ColumnType
from evidently.legacy.model.widget import BaseWidgetInfo
from evidently.legacy.renderers.html_widgets import CounterData, counter, table_data
from evidently.legacy.tests.base_test import TestStatus
from evidently.metrics.column_statistics import ValueDrift, ValueDriftBoundTest, ValueDriftTest

from tasks.adapters.gates.report_sample import drawable
from tasks.policy.monitoring.joint_drift import describe_joint
from tasks.policy.records.profile import FeatureReference, ReferenceProfile
from tasks.policy.records.reports import DriftReport, FeatureDrift

LISTED = 100  # rows of the table at the top
gc.freeze()  # Evidently's modules hold a million objects; searching them again costs 0.3 s of the first report
_measured: ContextVar[dict[str, FeatureDrift]] = ContextVar("measured")


class CountedDrift(ValueDrift):
    """Evidently's `ValueDrift` of a column that is judged and listed but not drawn."""


class CountedDriftCalculation(SingleValueCalculation[CountedDrift]):
    def calculate(self, context: Context, current_data: Dataset, reference_data: Dataset | None) -> Any:
        metric = self.metric
        test = get_registered_stattest(metric.method, ColumnType.Numerical)
        found = test(pd.Series(name=metric.column), pd.Series(name=metric.column), "num", metric.threshold)
        result = self.result(found.drift_score)
        result.widget = []
        status = TestStatus.FAIL if found.drifted else TestStatus.SUCCESS
        result.set_tests(
            [
                MetricTestResult(
                    id="drift",
                    name=f"Value Drift for column {metric.column}",
                    description=f"Drift score is {found.drift_score:0.2f}. The drift detection method is "
                    f"{test.display_name}. The drift threshold is {found.actual_threshold:0.2f}.",
                    status=status,
                    metric_config=self.to_metric_config(),
                    test_config={},
                    bound_test=ValueDriftBoundTest(test=ValueDriftTest(), metric_fingerprint=metric.metric_id),
                )
            ]
        )
        return result

    def display_name(self) -> str:
        return f"Value drift for {self.metric.column}"


class MeasuredDrift(MetricContainer):
    """All columns of a drift report, worst first: a table of them, then the drawn ones."""

    drawn: list[str]
    note: str

    def generate_metrics(self, context: Context) -> Sequence[Metric]:
        return [
            (ValueDrift if name in self.drawn else CountedDrift)(
                column=name, method=_stat_test(drift.method), threshold=drift.threshold
            )
            for name, drift in _measured.get().items()
        ]

    def render(self, context: Context, child_widgets: Any = None) -> list[BaseWidgetInfo]:
        drifts = list(_measured.get().values())
        moved = sum(drift.verdict == "drifted" for drift in drifts)
        summary = counter(counters=[CounterData(self.note, f"{moved} of {len(drifts)} columns drifted")], title="")
        return [summary, _table(drifts[:LISTED]), *super().render(context, child_widgets)]


def _table(drifts: Sequence[FeatureDrift]) -> BaseWidgetInfo:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    return table_data(
        title="Columns, worst first (numbers from all rows)",
        column_names=[
            "column",
            "verdict",
            "score",
            "limit",
            "q",
            "mean σ",
            "moved prediction",
            "nulls",
            "before",
            "unseen",
        ],
        data=[
            (
                drift.feature,
                drift.verdict,
                f"{drift.method} {drift.effect_size:.3g}",
                number(drift.threshold),
                number(drift.q_value),
                number(drift.mean_shift_sigma),
                number(drift.prediction_shift),
                *(f"{share:.1%}" for share in (drift.null_share, drift.reference_null_share, drift.unseen_share)),
            )
            for drift in drifts
        ],
    )


@cache
def _stat_test(method: str) -> str:
    """Name under which Evidently's registry, one per process, hands over the measured score of `method`."""
    name = f"perennial_{method.replace(' ', '_')}"
    kinds = [ColumnType.Numerical, ColumnType.Categorical]

    def hand_over(reference: pd.Series, *_: Any) -> tuple[float, bool]:
        drift = _measured.get()[str(reference.name)]
        return drift.effect_size, drift.verdict == "drifted"

    register_stattest(StatTest(name, f"{method}, all rows", kinds), default_impl=hand_over)
    return name


@dataclass(frozen=True)
class DrawnReport:
    """Evidently's page, the columns whose tests failed there, and what its own UI can keep."""

    html: str
    failed: frozenset[str]
    snapshot: Snapshot


def draw_report(
    report: DriftReport, reference: ReferenceProfile, sample_uri: str | None, plots: int, title: str
) -> DrawnReport:
    """Evidently's report on measured drift, with the worst `plots` columns drawn. Raises OSError for a lost sample."""
    frozen = {feature.feature: feature for feature in reference.features}
    columns = drawable(report, frozen, sample_uri, plots)
    sampled = max((len(current) for current, _ in columns.values()), default=0)
    note = (
        f"{title}. Numbers come from all {report.rows:,} rows and {report.reference_rows:,} of the reference; "
        f"plots show {sampled:,} rows drawn at random, and the reference as drawn from its profile."
    )
    if report.joint:
        together = describe_joint(report.joint, any(drift.verdict == "drifted" for drift in report.features))
        note += f" {together[0].upper()}{together[1:]}."
    if report.explanation:
        note += f" {report.explanation[0].upper()}{report.explanation[1:]}."
    token = _measured.set({drift.feature: drift for drift in report.features})
    try:
        snapshot = _run(columns, frozen, note, report)
        html = without_markup(snapshot.get_html_str(as_iframe=False))
    finally:
        _measured.reset(token)
    failed = frozenset(
        result.metric_config.params["column"] for result in snapshot.tests_results if result.status == TestStatus.FAIL
    )
    return DrawnReport(html, failed, snapshot)


def _run(
    columns: dict[str, tuple[pd.Series, pd.Series]], frozen: dict[str, FeatureReference], note: str, report: DriftReport
) -> Snapshot:
    kinds = {name: frozen[name].kind == "numeric" for name in columns}
    definition = DataDefinition(
        numerical_columns=[name for name, numeric in kinds.items() if numeric],
        categorical_columns=[name for name, numeric in kinds.items() if not numeric],
        datetime_columns=[], text_columns=[], unknown_columns=[], list_columns=[],
    )  # fmt: skip
    current, before = (
        Dataset.from_pandas(
            pd.DataFrame({name: pair[side] for name, pair in columns.items()}), data_definition=definition
        )
        for side in (0, 1)
    )
    container = MeasuredDrift(drawn=list(columns), note=note)
    return Report([container], include_tests=True).run(current, before, timestamp=report.window.end)


def without_markup(page: str) -> str:
    """The page with every `<` in its data written as an escape, so that no column name or category ends the script."""
    start = re.search(r"var (metric_[0-9a-f]{32}) = ", page)
    if start is None:
        raise RuntimeError("Evidently's page has no data block where 0.7.23 has one; its names would not be escaped")
    end = page.rindex("</script>", start.end(), page.index(f'<div id="root_{start[1]}">', start.end()))
    return page[: start.end()] + page[start.end() : end].replace("<", "\\u003c") + page[end:]
