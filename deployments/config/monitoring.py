"""The blocks of a model's YAML file that describe its monitoring: data quality, drift and performance."""

from typing import Literal, Self

from pydantic import Field, model_validator

from deployments.config.settings import ColumnName, Share
from tasks.policy.data_quality.label_quality import LabelRules
from tasks.policy.records.base import Settings

MetricName = Literal["accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss", "brier", "mae", "rmse", "pinball"]


class Range(Settings):
    """Accepted values of a numeric feature, both ends included."""

    min: float | None = Field(None, examples=[0.0])
    """Smallest accepted value."""
    max: float | None = Field(None, examples=[130.0])
    """Largest accepted value."""

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} lies above max {self.max:g}, so no value fits; expected min <= max")
        return self


class ColumnQuality(Settings):
    """Limits of one feature, by its name. What is left out is learned from the reference."""

    max_null_share: float | None = Field(None, ge=0, le=1, examples=[0.5])
    """Largest accepted share of nulls."""
    range: Range | None = None
    """Accepted values of a numeric feature."""
    categories: tuple[str, ...] | None = Field(None, examples=[["basic", "plus", "pro"]])
    """Accepted values of a categorical feature."""
    on_failure: Literal["warn", "fail"] = Field("fail", examples=["warn"])
    """What a violation does: `fail` quarantines the window, `warn` only reports it."""


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
    labels: LabelRules = LabelRules()
    """Limits for labels, which arrive later than their rows and pass a gate of their own."""

    @model_validator(mode="after")
    def _accepts_some_row_count(self) -> Self:
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
    """Raise each limit to at least what windows of the training rows show, so that a known season is not drift."""
    alpha: float = Field(0.01, gt=0, lt=1, examples=[0.05])
    """Largest corrected p-value that confirms drift."""
    power: float = Field(0.8, ge=0.5, lt=1, examples=[0.9])
    """Power that a window needs to detect an effect at the limit. With less, the verdict is `insufficient`."""
    min_rows: int = Field(200, ge=10, examples=[1000])
    """With fewer rows the verdict is `insufficient`, which never triggers a retrain."""
    max_share: Share = Field(0.3, examples=[0.5])
    """Share of drifted features from which the whole window counts as drifted."""
    calendar: tuple[Literal["day", "week", "season"], ...] = Field(("season",), examples=[["week", "season"]])
    """Compare a window with the same part of the calendar, where history holds it: hours of the day (`day`, for windows
    shorter than a day), hours of the week (`week`), the time of year in earlier years (`season`)."""
    joint: bool = Field(True, examples=[False])
    """Also test on a sample, by a domain classifier, whether the features moved together. It informs and never decides."""
    joint_threshold: float = Field(0.55, gt=0.5, lt=1, examples=[0.6])
    """AUC of that classifier from which the features have drifted together; 0.5 is chance."""
    sample_rows: int = Field(5000, ge=100, le=100_000, examples=[10_000])
    """Rows sampled for the report's plots. The numbers come from all rows."""
    plots: int = Field(4, ge=0, le=50, examples=[10])
    """Features plotted in the report, worst first."""


class Performance(Settings):
    """The metric that judges the model, and when a window has enough labels."""

    metric: MetricName = Field(examples=["roc_auc"])
    """The primary metric. mae, rmse and pinball are for regression, the others for classes."""
    maturing_at: Share = Field(0.3, examples=[0.5])
    """Share of labels from which a window is maturing and its metric is shown; below it the window is open."""
    closed_at: Share = Field(0.98, examples=[0.9])
    """Share of labels at which a window closes. It also closes once the label delay has passed for all rows."""
    quantile: float = Field(0.5, gt=0, lt=1, examples=[0.9])
    """Quantile of the pinball loss."""
    slices: tuple[ColumnName, ...] = Field((), examples=[["region"]])
    """Features for whose values the metric is also reported, the 20 largest groups of each with at least
    `validation.slice_min_rows` labels. They inform; `validation.slices` lets them refuse a challenger."""

    @model_validator(mode="after")
    def _matures_before_it_closes(self) -> Self:
        if self.maturing_at > self.closed_at:
            raise ValueError(
                f"maturing_at {self.maturing_at:g} lies above closed_at {self.closed_at:g}; expected maturing_at <= closed_at"
            )
        return self
