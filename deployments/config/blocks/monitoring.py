"""Settings of a model's monitoring: the blocks `quality`, `drift` and `performance` of its YAML file."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, model_validator

from deployments.config.blocks.data import IMPORT_PATH, ColumnName, ImportPath, Share
from tasks.policy.data_quality.label_rules import LabelRules
from tasks.policy.records.base import Settings

EvidentlyName = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$", max_length=100)]
COMPARED, LISTED = ("eq", "not_eq", "gt", "gte", "lt", "lte"), ("is_in", "not_in")


def _check_tests(tests: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for name, limit in tests.items():
        if name not in COMPARED + LISTED:
            raise ValueError(f"{name} is not a test, expected one of {', '.join(COMPARED + LISTED)}")
        if name in LISTED and not isinstance(limit, list):
            raise ValueError(f"{name} is {limit!r}, expected a list of values")
        if name in COMPARED and not _is_limit(limit, text=name in ("eq", "not_eq")):
            raise ValueError(
                f"{name} is {limit!r}, expected a number, or a distance from the reference: {{relative: 0.1}} or {{absolute: 5}}"
            )
    return tests


def _is_limit(limit: JsonValue, text: bool) -> bool:
    if isinstance(limit, dict):
        return bool(limit) and set(limit) <= {"relative", "absolute"} and all(map(_is_number, limit.values()))
    return _is_number(limit) or (text and isinstance(limit, str))


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


Tests = Annotated[dict[str, JsonValue], AfterValidator(_check_tests)]


class EvidentlyItem(Settings):
    """One metric, preset or report that Evidently computes on the samples of the window and of the reference."""

    metric: EvidentlyName | None = Field(None, examples=["MeanValue"])
    """A class of evidently.metrics, such as MeanValue."""
    preset: EvidentlyName | None = Field(None, examples=["DataSummaryPreset"])
    """A class of evidently.presets, such as DataSummaryPreset."""
    report: ImportPath | None = Field(None, examples=["churn.reports:weekly"])
    """`module:function`, called with `parameters` and returning an evidently.Report, which Perennial runs."""
    parameters: dict[str, JsonValue] = Field({}, examples=[{"column": "amount"}])
    """Passed to the metric, the preset or the function, such as {column: amount}."""
    tests: Tests = Field({}, examples=[{"lte": {"relative": 0.1}}])
    """Metric: tests of its value by Evidently's names, such as {gt: 25} or {lte: {relative: 0.1}}."""
    share_tests: Tests = Field({}, examples=[{"lte": 0.01}])
    """The same for metrics that count: tests of the share instead of the count."""
    default_tests: bool = False
    """Whether Evidently adds its default tests against the reference to metrics without a test. They are two-sided and strict."""
    fails_as: Literal["warn", "drifted"] = "warn"
    """What a failed test does: `warn` only reports it, `drifted` makes the window drifted. If a test that counts as drift
    cannot be computed, the window is not called stable: its drift is `insufficient`, which triggers nothing."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        named = [kind for kind in ("metric", "preset", "report") if getattr(self, kind) is not None]
        if len(named) != 1:
            raise ValueError(
                f"names {' and '.join(named) or 'nothing to compute'}, expected one of metric, preset and report"
            )
        if (self.tests or self.share_tests) and self.metric is None:
            raise ValueError(
                f"tests belong to a metric, found a {named[0]}; expected default_tests, or tests in the function"
            )
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the parameters name; empty for a function, which selects its own."""
        if self.report is not None:
            return ()
        own, several = self.parameters.get("column"), self.parameters.get("columns")
        keyed = [keys for name, keys in self.parameters.items() if name.startswith("per_column_")]
        parts: list[JsonValue] = [own] if own is not None else []
        parts += several if isinstance(several, list) else []
        parts += [key for keys in keyed if isinstance(keys, dict) for key in keys]
        return tuple(map(str, parts))

    @property
    def name(self) -> str:
        """Display name: the metric, preset or function, and its column."""
        column = self.parameters.get("column")
        return f"{self.metric or self.preset or self.report}{f' of {column}' if column else ''}"


MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class Range(Settings):
    """Accepted values of a numeric feature, including both ends."""

    min: float | None = Field(None, examples=[0.0])
    """Smallest accepted value."""
    max: float | None = Field(None, examples=[130.0])
    """Largest accepted value."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} lies above max {self.max:g}, so no value fits; expected min <= max")
        return self


class ColumnQuality(Settings):
    """Limits of one feature, by its name. Limits that are left out are learned from the reference."""

    max_null_share: float | None = Field(None, ge=0, le=1, examples=[0.5])
    """Largest accepted share of nulls."""
    range: Range | None = None
    """Accepted values of a numeric feature."""
    categories: tuple[str, ...] | None = Field(None, examples=[["basic", "plus", "pro"]])
    """Accepted values of a categorical feature."""
    on_failure: Literal["warn", "fail"] = Field("fail", examples=["warn"])
    """What a violation does: `fail` quarantines the window; `warn` only reports it, and the diagnosis finds no fault in it."""


def _file_or_function(value: str) -> str:
    if not value.endswith(".json") and not re.match(IMPORT_PATH, value):
        raise ValueError("expected the path of a suite, such as expectations.json, or module:function")
    return value


class Quality(Settings):
    """The data gate. A window that fails is quarantined: no metric, training or decision uses it."""

    max_null_share_increase: float = Field(0.1, ge=0, le=1, examples=[0.05])
    """How far a feature's null share may exceed the reference's."""
    range_slack: float = Field(0.5, ge=0, examples=[0.2])
    """How far numeric values may leave the reference's range, as a share of the range's width."""
    max_out_of_range_share: float = Field(0.01, ge=0, le=1, examples=[0.02])
    """Share of rows that may lie outside the range."""
    max_unseen_category_share: float = Field(0.1, ge=0, le=1, examples=[0.05])
    """Share of rows that may hold a category that the reference does not have."""
    min_rows: int = Field(50, ge=1, examples=[500])
    """A window with fewer rows fails."""
    row_count_ratio: tuple[float, float] = Field((0.4, 2.5), examples=[[0.5, 2.0]])
    """Lowest and highest accepted ratio of the window's rows to the median of recent windows."""
    max_age_hours: float | None = Field(None, gt=0, examples=[48.0])
    """Largest accepted time between the newest row and the window's end. Default: the usual gap between the days of the
    reference's rows, which is 24 h for daily rows and 168 h for a weekly batch."""
    columns: dict[str, ColumnQuality] = Field({})
    """Limits per feature; they override the limits above."""
    suite: Annotated[str, AfterValidator(_file_or_function)] | None = Field(None, examples=["churn_suite.json"])
    """Your own expectations, in addition to those learned from the reference: a Great Expectations suite as JSON, by a path
    relative to the YAML file, or `module:function` that returns one. Severity critical fails the window, warning and info
    warn. The suite sees id, time, features, protected and extra columns as they are stored. Expectations that read the label
    are validated with the labels (`quality.labels`): row by row as labels arrive, aggregates once the labels are due."""
    rows_in_memory: int = Field(1_000_000, ge=1000, examples=[200_000])
    """Up to this many rows, Great Expectations validates a window in one piece. That takes about 8 bytes per value for 8
    columns at a time, and for all columns that `suite` names. A larger window is validated in parts. Expectations that
    cannot be combined over parts, such as a mean, are then validated on a random sample of a tenth as many rows."""
    labels: LabelRules = LabelRules()
    """Limits for labels, which arrive later than their rows and pass a separate gate."""

    @model_validator(mode="after")
    def _check_row_count_ratio(self) -> Self:
        low, high = self.row_count_ratio
        if not 0 <= low < high:
            raise ValueError(
                f"row_count_ratio is [{low:g}, {high:g}], expected 0 <= lowest < highest; [0.4, 2.5] is a common start"
            )
        return self


class Drift(Settings):
    """When a feature counts as drifted: its effect size is past a limit, and the corrected p-value confirms it."""

    method: Literal["ks", "psi", "wasserstein", "kl"] = Field("wasserstein", examples=["ks"])
    """Effect size of numeric features (`wasserstein` in reference σ). Categories always use `psi`."""
    threshold: float = Field(0.1, gt=0, le=10, examples=[0.2])
    """Effect size from which a numeric feature counts as drifted."""
    categorical_threshold: float = Field(0.1, gt=0, le=10, examples=[0.25])
    """Population stability index from which a categorical or boolean feature counts as drifted."""
    calibrated: bool = Field(True, examples=[False])
    """Raise each limit to at least the drift between windows of the training rows. A known season is then not drift."""
    alpha: float = Field(0.01, gt=0, lt=1, examples=[0.05])
    """Largest corrected p-value that confirms drift."""
    power: float = Field(0.8, ge=0.5, lt=1, examples=[0.9])
    """Power that a window needs to detect an effect at the limit. With less, the verdict is `insufficient`."""
    min_rows: int = Field(200, ge=10, examples=[1000])
    """With fewer rows the verdict is `insufficient`, which never triggers a retrain."""
    max_share: Share = Field(0.3, examples=[0.5])
    """Share of drifted features from which the whole window counts as drifted."""
    calendar: tuple[Literal["day", "week", "season"], ...] = Field(("season",), examples=[["week", "season"]])
    """Compare a window with the same part of the calendar, if the history covers it: hours of the day (`day`, for windows
    shorter than a day), hours of the week (`week`), the time of year in earlier years (`season`)."""
    joint: bool = Field(True, examples=[False])
    """Also test on a sample, with a domain classifier, whether the features moved together. For information only."""
    joint_threshold: float = Field(0.55, gt=0.5, lt=1, examples=[0.6])
    """AUC of that classifier from which the features count as drifted together; 0.5 is chance."""
    sample_rows: int = Field(5000, ge=100, le=100_000, examples=[10_000])
    """Rows sampled from the window and from the reference for Evidently, the domain classifier and plots."""
    plots: int = Field(4, ge=0, le=50, examples=[10])
    """Features plotted in the report, worst first."""
    evidently: tuple[EvidentlyItem, ...] = Field(
        (),
        max_length=50,
        examples=[[{"metric": "MissingValueCount", "parameters": {"column": "age"}, "tests": {"lte": 0}}]],
    )
    """Your own metrics, presets and reports, computed by Evidently on the samples, which contain no personal columns."""


class Performance(Settings):
    """The metric that judges the model, and when a window has enough labels."""

    metric: MetricName = Field(examples=["roc_auc"])
    """The primary metric: mae, rmse or pinball for regression; accuracy, balanced_accuracy, f1, roc_auc, log_loss or brier for
    classes; or a name under `metrics`."""
    maturing_at: Share = Field(0.3, examples=[0.5])
    """Share of labels from which a window is maturing and its metric is shown; below it the window is open."""
    closed_at: Share = Field(0.98, examples=[0.9])
    """Share of labels at which a window closes. It also closes once the label delay has passed for all rows."""
    quantile: float = Field(0.5, gt=0, lt=1, examples=[0.9])
    """Quantile of the pinball loss."""
    slices: tuple[ColumnName, ...] = Field((), examples=[["region"]])
    """Features by whose values the metric is also reported: of each, the 20 largest groups with at least
    `validation.slice_min_rows` labels. For information only; slices in `validation.slices` can refuse a challenger."""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.maturing_at > self.closed_at:
            raise ValueError(
                f"maturing_at {self.maturing_at:g} lies above closed_at {self.closed_at:g}; expected maturing_at <= closed_at"
            )
        return self
