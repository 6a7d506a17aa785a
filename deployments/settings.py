"""The parts of a model's YAML file that say where its data is and how it is watched and trained.

Each policy owns its own settings (`tasks.policy`); what no policy owns stands here. Every field has bounds, a
description and a safe default, because these models are also what people see when they make a mistake.
"""

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
ColumnName = Annotated[str, Field(min_length=1, max_length=200)]
Share = Annotated[float, Field(gt=0, le=1)]
MetricName = Literal["accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss", "brier", "mae", "rmse", "pinball"]


class Settings(BaseModel):
    """Strict and frozen: an unknown key is an error, not a surprise later."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Source(Settings):
    """Where new production rows come from."""

    kind: Literal["parquet", "csv", "delta", "sql", "python"]
    """What reads it: files or a folder (parquet, csv), a Delta table, a SQL query, or a function of yours (python)."""
    path: str | None = Field(None, min_length=1)
    """File, folder or table: a path relative to the YAML file, or s3://, gs://, http(s)://."""
    url_env: str | None = Field(None, pattern=r"^[A-Z][A-Z0-9_]*$")
    """sql: the environment variable that holds the SQLAlchemy URL, so that no secret stands in the file."""
    query: str | None = None
    """sql: a query with :start and :end, bound as UTC times; returns the rows of one window."""
    function: ImportPath | None = None
    """python: `module:function`, called as function(start, end, **options) and returning a pyarrow.Table."""
    options: dict[str, str | int | float | bool] = {}
    """Passed to the reader (csv: delimiter, …) or to your function."""

    @model_validator(mode="after")
    def _names_what_its_kind_needs(self) -> Self:
        needed = {"sql": ("url_env", "query"), "python": ("function",)}.get(self.kind, ("path",))
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"{name} is missing, a source of kind {self.kind} needs {' and '.join(needed)}")
        return self


class Features(Settings):
    """The model's inputs by kind; order is kept."""

    numeric: tuple[ColumnName, ...] = ()
    categorical: tuple[ColumnName, ...] = ()
    boolean: tuple[ColumnName, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.numeric + self.categorical + self.boolean

    @model_validator(mode="after")
    def _are_named_once(self) -> Self:
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed more than once, expected each feature under one kind")
        if not self.names:
            raise ValueError("no feature is listed, expected at least one under numeric, categorical or boolean")
        return self


class Columns(Settings):
    """The roles that columns play. Labels may come in the same source; they land apart and when they are due."""

    id: ColumnName
    """Unique per row; labels and predictions are joined on it."""
    time: ColumnName
    """When the prediction was due (UTC, or with a zone); decides a row's window."""
    label: ColumnName
    """What came true; null while unknown, and for good where there is none."""
    label_unit: str = Field("", max_length=40)
    """Regression: what the label is counted in (minutes, USD), for the reports that people read."""
    positive_label: str | None = Field(None, min_length=1)
    """Binary: the class that F1 and predicted probabilities are of (fraud, churned); else the last by size or alphabet."""
    label_time: ColumnName | None = None
    """When the label became known, if the source says so; label_delay_hours is added to it, else to `time`."""
    label_delay_hours: float = Field(0.0, ge=0, le=24 * 365)
    """Hours until a label can be read."""
    features: Features
    protected: tuple[ColumnName, ...] = ()
    """Columns whose groups are compared for fairness; never features unless listed as such."""
    personal: tuple[ColumnName, ...] = ()
    """Columns that identify people; reports and logs never show their values."""

    @model_validator(mode="after")
    def _keep_roles_apart(self) -> Self:
        for role in ("id", "label", "label_time"):
            if getattr(self, role) in self.features.names:
                raise ValueError(
                    f"{role} column {getattr(self, role)!r} is also a feature, which leaks what is to be predicted; "
                    "expected it under its role only"
                )
        roles = [self.id, self.time, self.label]
        if len(set(roles)) < len(roles):
            raise ValueError(f"id, time and label are {roles}, expected three different columns")
        return self

    @property
    def label_delay(self) -> timedelta:
        return timedelta(hours=self.label_delay_hours)


class Period(Settings):
    """Recorded data that the first model may learn from, and how far a replay may go."""

    start: datetime
    """First moment of recorded data (UTC)."""
    history_until: datetime
    """The first model is trained on [start, history_until); replay serves from there."""
    end: datetime | None = None
    """Where recorded data ends; none while it keeps coming."""

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        for name in ("start", "history_until", "end"):
            moment = getattr(self, name)
            if moment is not None and moment.utcoffset() != timedelta(0):
                raise ValueError(f"{name} is {moment.isoformat()}, expected a UTC time such as 2013-01-01T00:00:00Z")
        if not self.start < self.history_until or (self.end is not None and self.end < self.history_until):
            raise ValueError("expected start < history_until <= end")
        return self


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
    """What one column must keep to; what is left out is learned from the reference."""

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
    max_age_hours: float = Field(24.0, gt=0)
    """The newest row may lie this long before the window's end."""
    columns: dict[str, ColumnQuality] = {}
    """Per column, what overrides the above."""

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
    """Which metric speaks for the model, and when its labels are complete enough."""

    metric: MetricName
    """The primary metric."""
    maturing_at: Share = 0.3
    """Label completeness from which a value is worth showing; below it the window is open."""
    closed_at: Share = 0.98
    """Label completeness at which a window is closed, if the label delay has not already passed for all rows."""
    quantile: float = Field(0.5, gt=0, lt=1)
    """Quantile of the pinball loss (regression)."""
    slices: tuple[ColumnName, ...] = ()
    """Categorical columns by whose values the metric is also shown and guarded."""

    @model_validator(mode="after")
    def _matures_before_it_closes(self) -> Self:
        if self.maturing_at > self.closed_at:
            raise ValueError(
                f"maturing_at {self.maturing_at:g} lies above closed_at {self.closed_at:g}; expected maturing_at <= closed_at"
            )
        return self


class Training(Settings):
    """How a challenger is made."""

    estimator: ImportPath | None = None
    """`module:Class` of a scikit-learn estimator; XGBoost when left out."""
    parameters: dict[str, str | int | float | bool | None] = {}
    """Passed to the estimator; for XGBoost n_estimators, max_depth, learning_rate, …"""
    window_days: float | None = Field(None, gt=0)
    """Train on this many trailing days; all history when left out."""
    validation_share: float = Field(0.15, gt=0, lt=0.5)
    """The latest share of the training rows, held back for early stopping."""
    early_stopping_rounds: int | None = Field(20, ge=1)
    """Stop when the validation slice has not improved for so many rounds."""
    min_rows: int = Field(1000, ge=10)
    """Fewer labelled rows than this and training refuses."""
    seed: int = Field(7, ge=0)
    """Same seed and rows, same model."""
