"""Configuration of a model: `ModelConfig` defines the content of its YAML file, which `loading.py` reads."""

from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from deployments.config.blocks.alerts import Alerts
from deployments.config.blocks.data import Columns, Period, Source
from deployments.config.blocks.labels import LabelSource, with_label_time
from deployments.config.blocks.metrics import CustomMetric, with_directions
from deployments.config.blocks.monitoring import Drift, MetricName, Performance, Quality
from deployments.config.blocks.predictions import PredictionSource, with_advice_only
from deployments.config.blocks.schedule import Schedule
from deployments.config.blocks.training import Training
from deployments.config.blocks.triggers import with_own_triggers
from deployments.config.consistency import check_consistency
from deployments.config.folders import model_folders
from deployments.config.risk import with_risk_defaults
from tasks.policy.decision.retraining import RetrainingPolicy
from tasks.policy.economics.costs import Budget
from tasks.policy.economics.placement import PlacementPolicy
from tasks.policy.governance.access import AccessPolicy
from tasks.policy.governance.binding import FileBinding
from tasks.policy.monitoring.diagnosis import DiagnosisLimits
from tasks.policy.records.base import MODEL_NAME, Settings, Window, WindowGrid, digest
from tasks.policy.records.errors import ModelConfigError
from tasks.policy.rollout.stages import RolloutPolicy
from tasks.policy.rollout.validation import PromotionPolicy, ValidationPolicy
from tasks.policy.rollout.versions import RegistryRules
from tasks.policy.statistics.metrics import Metric, metric_names

MONTH_DAYS = 365.2425 / 12
"""Mean length of a month in the Gregorian calendar, for rates and forecasts; boundaries follow the calendar."""


class WindowLength(Settings):
    """The length of a window by itself, as an option of a command."""

    window_days: float = Field(ge=0.01, le=366)


class ModelConfig(Settings):
    """Everything Perennial needs to know about one model."""

    name: Annotated[str, Field(pattern=MODEL_NAME, examples=["churn"])]
    """Lower case with underscores or hyphens. It names the registered model, tables, schedules and runs."""
    owner: Annotated[str, Field(min_length=1, examples=["crm@example.com"])]
    """Who is asked when a decision or an incident requires a person."""
    purpose: Annotated[str, Field(min_length=1, examples=["Choose the customers who get a call next week."])]
    """What the prediction is used for, in one sentence."""
    risk: Literal["low", "medium", "high"] = Field(examples=["low"])
    """What a wrong model costs. It sets defaults for retraining, approval and evidence."""
    task: Literal["binary", "multiclass", "regression"] = Field(examples=["binary"])
    """What the model predicts."""
    source: Source
    columns: Columns
    labels: LabelSource | None = None
    predictions: PredictionSource | None = Field(None, exclude_if=lambda own: own is None)
    window_days: float = Field(ge=0.01, le=366, examples=[7.0])
    """Length of a window of production time, in days. Each window is judged once. Not needed with `window`."""
    window: Literal["month"] | None = Field(None, examples=["month"])
    """Calendar months in UTC as windows, instead of `window_days`; `period.history_until` must begin one."""
    period: Period
    schedule: Schedule | None = None
    """When a new window is scored and then monitored. Default: the schedule in `prefect.yaml`, daily at 5:45 and 6:00 UTC."""
    quality: Quality = Quality()
    drift: Drift = Drift()
    performance: Performance
    metrics: dict[MetricName, CustomMetric] = Field({})
    """Metrics of your own, by name; `performance.metric` and triggers may name them."""
    diagnosis: DiagnosisLimits = DiagnosisLimits()
    retraining: RetrainingPolicy
    training: Training = Training()
    validation: ValidationPolicy = ValidationPolicy()
    rollout: RolloutPolicy = RolloutPolicy()
    promotion: PromotionPolicy = PromotionPolicy()
    budget: Budget = Budget()
    access: AccessPolicy = AccessPolicy()
    alerts: Alerts = Field(Alerts(), exclude_if=lambda alerts: bool(alerts == Alerts()))
    placement: PlacementPolicy = PlacementPolicy()
    registry: RegistryRules = Field(RegistryRules(), exclude_if=lambda rules: bool(rules == RegistryRules()))
    _file: Path | None = PrivateAttr(None)

    @model_validator(mode="before")
    @classmethod
    def _apply_risk_defaults(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        if content.get("window") == "month":
            if content.get("window_days", MONTH_DAYS) != MONTH_DAYS:
                raise ValueError(f"window is month and window_days is {content['window_days']}, expected one of them")
            content = {**content, "window_days": MONTH_DAYS}
        content = with_advice_only(with_label_time(with_directions(with_risk_defaults(content))))
        return {key: with_own_triggers(value) if key == "retraining" else value for key, value in content.items()}

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        check_consistency(self)
        return self

    def metric(self, name: str) -> Metric:
        """Return a metric by name. Raises MetricError if its function cannot be imported."""
        own = self.metrics.get(name)
        return Metric(name, self.performance.quantile, own.rule(name, self.task) if own else None)

    @property
    def primary_metric(self) -> Metric:
        """The metric that judges the model."""
        return self.metric(self.performance.metric)

    @property
    def measured_metrics(self) -> tuple[Metric, ...]:
        """The metrics that are measured: those of the task, and the user's own."""
        return tuple(map(self.metric, (*metric_names(self.task), *self.metrics)))

    @property
    def metric_columns(self) -> tuple[str, ...]:
        """Columns that metrics of the user's own read."""
        return tuple(dict.fromkeys(column for metric in self.metrics.values() for column in metric.columns))

    @property
    def excluded_from_training(self) -> timedelta:
        """Length of the latest time span that is not trained on: the label delay plus the holdout."""
        return self.columns.label_delay + timedelta(days=self.validation.holdout_days)

    @property
    def withheld(self) -> str:
        """Describe the time span that is not trained on, for messages."""
        return (
            f"are not trained on (columns.label_delay_hours: {self.columns.label_delay_hours:g} and "
            f"validation.holdout_days: {self.validation.holdout_days:g})"
        )

    @property
    def needs_approval(self) -> bool:
        """Whether a person must approve a challenger before it serves."""
        return self.promotion.mode == "approval" or self.risk == "high"

    def with_stand_in(self) -> Self:
        """Return a copy in which XGBoost stands in for a command or flow that trains the model elsewhere."""
        if not self.training.is_foreign:
            return self
        return self.model_copy(update={"training": self.training.stand_in()})

    def read_from(self, file: Path) -> Self:
        """Return a copy that knows the file it was read from."""
        copy = self.model_copy()
        copy._file = file
        return copy

    @property
    def folder(self) -> Path:
        """The folder of the model's file; the current one for a configuration that was not read from a file."""
        return self._file.parent if self._file else Path.cwd()

    def accepting_warnings(self) -> Self:
        """Return a copy that also promotes a challenger validated with a warning; a failed one is never promoted."""
        return self.model_copy(update={"promotion": self.promotion.model_copy(update={"accept_warnings": True})})

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all settings except `access` and `alerts`, which affect neither decisions nor training. Part of ids."""
        return digest(self.model_dump_json(exclude={"access", "alerts"}))

    @property
    def binding(self) -> FileBinding | None:
        """The binding of the model's ledger to this file; None for a configuration that was not read from a file."""
        if self._file is None:
            return None
        in_models_folder = self._file.parent in [folder.resolve() for folder in model_folders()]
        access = self.access
        governance = digest(
            self.risk, access.model_dump_json(), self.promotion.model_dump_json(exclude={"probation_windows"})
        )
        file = self._file.name if in_models_folder else str(self._file)
        return FileBinding(file, self.risk, governance, access.override or access.approve)

    @property
    def grid(self) -> WindowGrid:
        """The windows of production time, counted from the start of service."""
        return WindowGrid(self.period.history_until, None if self.window else self.window_days)

    @property
    def window_length(self) -> str:
        """The length of a window, for messages: `7 days` or `a calendar month`."""
        return "a calendar month" if self.window else f"{self.window_days:g} days"

    def windows(self, start: datetime | None = None, end: datetime | None = None) -> tuple[Window, ...]:
        """Return the complete windows from `start` (default: end of history) to `end` (default: end of recorded data).

        Raises ModelConfigError if neither `end` nor `period.end` is set.
        """
        first, last = start or self.period.history_until, end or self.period.end
        if last is None:
            raise ModelConfigError(f"{self.name}: period.end is not set, expected an end to list windows up to")
        return replace(self.grid, anchor=first if self.grid.days else self.grid.anchor).between(first, last)

    def history(self) -> Window:
        """Return the time span of the first model's data: [period.start, period.history_until)."""
        return Window(self.period.start, self.period.history_until)

    def history_windows(self) -> tuple[Window, ...]:
        """Return the complete windows of the history, cut backwards from the start of service."""
        return self.grid.between(self.period.start, self.period.history_until)

    def window_at(self, moment: datetime) -> Window:
        """Return the window that contains `moment`, complete or not; before `period.history_until` one of the history."""
        return self.grid.window(self.grid.number_at(moment))

    def window_until(self, moment: datetime) -> Window:
        """Return the latest window that may be read at `moment`. Raises ModelConfigError if none is complete yet."""
        settled = moment - self.settling
        complete = self.windows(end=min(settled, self.period.end) if self.period.end else settled)
        if not complete:
            first = self.read_at(self.grid.window(0))
            raise ModelConfigError(
                f"{self.name}: no window of {self.window_length} is complete by {moment:%Y-%m-%d %H:%M} UTC; expected "
                f"a time from {first:%Y-%m-%d %H:%M} UTC on"
            )
        return complete[-1]

    def read_at(self, window: Window) -> datetime:
        """Return when a window may be read: its end plus `source.settle_hours`."""
        return window.end + self.settling

    @property
    def settling(self) -> timedelta:
        return timedelta(hours=self.source.settle_hours)
