"""The parts of a model's YAML file that say how it is watched: its data, its drift, its performance."""

from typing import Literal, Self

from pydantic import Field, model_validator

from deployments.config.settings import ColumnName, Share
from tasks.policy.data_quality.label_quality import LabelRules
from tasks.policy.records.base import Settings

MetricName = Literal["accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss", "brier", "mae", "rmse", "pinball"]


class Range(Settings):
    """Accepted values of a numeric feature, both ends included."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} lies above max {self.max:g}, so no value fits; expected min <= max")
        return self


class ColumnQuality(Settings):
    """Limits of one column; those left out are learned from the reference."""

    max_null_share: float | None = Field(None, ge=0, le=1)
    range: Range | None = None
    categories: tuple[str, ...] | None = None
    on_failure: Literal["warn", "fail"] = "fail"
    """What a violation does: fail quarantines the window, warn only tells."""


class Quality(Settings):
    """The gate in front of everything: a failed window is quarantined and nothing learns from it."""

    max_null_share_increase: float = Field(0.1, ge=0, le=1)
    """A feature's null share may exceed the reference's by this much."""
    range_slack: float = Field(0.5, ge=0)
    """Numeric values may leave the reference's range by this share of its width."""
    max_out_of_range_share: float = Field(0.01, ge=0, le=1)
    """Share of rows that may lie outside the range before the window fails."""
    max_unseen_category_share: float = Field(0.1, ge=0, le=1)
    """Share of rows that may hold a category the reference never had."""
    min_rows: int = Field(50, ge=1)
    """A window with fewer rows fails: too little arrived to judge anything."""
    row_count_ratio: tuple[float, float] = (0.4, 2.5)
    """Rows against the median of recent windows, lowest and highest accepted ratio."""
    max_age_hours: float | None = Field(None, gt=0)
    """The newest row may lie this long before the window's end; left out, the days by which the reference's rows usually
    follow each other: 24 h where they come daily, 168 h for a batch a week."""
    columns: dict[str, ColumnQuality] = Field({})
    """Per column, what overrides the above."""
    labels: LabelRules = LabelRules()
    """What labels must keep to, which come later than their rows and pass a gate of their own."""

    @model_validator(mode="after")
    def _accepts_some_row_count(self) -> Self:
        low, high = self.row_count_ratio
        if not 0 <= low < high:
            raise ValueError(
                f"row_count_ratio is [{low:g}, {high:g}], expected 0 <= lowest < highest; [0.4, 2.5] is a common start"
            )
        return self


class Drift(Settings):
    """When a feature counts as drifted. The effect size decides, the corrected p-value confirms."""

    method: Literal["ks", "psi", "wasserstein", "kl"] = "wasserstein"
    """Effect size of numeric features (wasserstein: in reference σ); categories use the population stability index."""
    threshold: float = Field(0.1, gt=0, le=10)
    """Effect size from which a numeric feature counts as drifted."""
    categorical_threshold: float = Field(0.1, gt=0, le=10)
    """Population stability index from which a category or boolean counts as drifted."""
    calibrated: bool = True
    """Limits are at least what windows of the training rows show by themselves, so that a known season is no drift."""
    alpha: float = Field(0.01, gt=0, lt=1)
    """Largest corrected p-value that confirms a drift."""
    power: float = Field(0.8, ge=0.5, lt=1)
    """Chance with which a window must be able to show an effect at the limit, or what shows nothing is `insufficient`."""
    min_rows: int = Field(200, ge=10)
    """Below this many rows the verdict is `insufficient`, which never triggers anything."""
    max_share: Share = 0.3
    """Share of drifted features from which the whole window counts as drifted."""
    calendar: tuple[Literal["day", "week", "season"], ...] = ("season",)
    """Phases in which the reference must match the window, where history holds them: hours of the day (windows shorter
    than a day), hours of the week (shorter than a week), the time of year in earlier years."""
    joint: bool = True
    """Whether a small classifier looks, on a bounded sample, at whether the features moved together; it decides nothing."""
    joint_threshold: float = Field(0.55, gt=0.5, lt=1)
    """AUC of that classifier from which the features have drifted together; 0.5 is chance."""
    sample_rows: int = Field(5000, ge=100, le=100_000)
    """Rows drawn for the report's plots; the numbers come from all rows."""
    plots: int = Field(4, ge=0, le=50)
    """Features drawn in the report, worst first."""


class Performance(Settings):
    """The metric that decides, and when a window's labels are complete enough."""

    metric: MetricName
    """The primary metric."""
    maturing_at: Share = 0.3
    """Label completeness from which a value is worth showing; below it the window is open."""
    closed_at: Share = 0.98
    """Label completeness at which a window is closed, if the label delay has not already passed for all rows."""
    quantile: float = Field(0.5, gt=0, lt=1)
    """Quantile of the pinball loss (regression)."""
    slices: tuple[ColumnName, ...] = ()
    """Features by whose values the primary metric is also shown and the worst named: the 20 largest groups of each, with
    at least `validation.slice_min_rows` labels. It decides nothing; `validation.slices` guards them against a challenger."""

    @model_validator(mode="after")
    def _matures_before_it_closes(self) -> Self:
        if self.maturing_at > self.closed_at:
            raise ValueError(
                f"maturing_at {self.maturing_at:g} lies above closed_at {self.closed_at:g}; expected maturing_at <= closed_at"
            )
        return self
