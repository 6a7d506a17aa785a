"""Configuration of a model: `ModelConfig` defines the content of its YAML file, `load_model_config` reads the file.

Users meet this module mainly through errors in their files. Every error states the file, the field, the value found and
what is accepted.
"""

import difflib
import json
import os
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from deployments.config.blocks.alerts import Alerts
from deployments.config.blocks.data import Columns, Period, Source
from deployments.config.blocks.labels import LabelSource, with_label_time
from deployments.config.blocks.metrics import CustomMetric, with_directions
from deployments.config.blocks.monitoring import Drift, MetricName, Performance, Quality
from deployments.config.blocks.predictions import PredictionSource, with_advice_only
from deployments.config.blocks.schedule import Schedule
from deployments.config.blocks.training import Training
from deployments.config.blocks.triggers import with_own_triggers
from deployments.config.messages import explain_all, open_questions
from deployments.config.risk import with_risk_defaults
from deployments.config.yaml_file import UnreadableYaml, read_yaml
from tasks.policy.data_quality.expectations import condition_columns, named_columns
from tasks.policy.decision.retraining import RetrainingPolicy
from tasks.policy.economics.costs import Budget
from tasks.policy.economics.placement import PlacementPolicy
from tasks.policy.governance.access import AccessPolicy
from tasks.policy.governance.binding import FileBinding
from tasks.policy.monitoring.diagnosis import DiagnosisLimits
from tasks.policy.records.base import MODEL_NAME, Settings, Window, WindowGrid, digest
from tasks.policy.records.errors import ModelConfigError, NoModels
from tasks.policy.rollout.stages import RolloutPolicy
from tasks.policy.rollout.validation import PromotionPolicy, ValidationPolicy
from tasks.policy.rollout.versions import RegistryRules
from tasks.policy.statistics.metrics import HIGHER_IS_BETTER, Metric, metric_names

DEPLOYMENTS = Path(__file__).parent.parent
MONTH_DAYS = 365.2425 / 12
"""Mean length of a month in the Gregorian calendar, for rates and forecasts; boundaries follow the calendar."""
DEMO_MODELS = ("air_time", "flight_delay")
FLEET = "fleet"
"""Name of the file with the settings that models share (`fleet.py`)."""


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
    def _check_labels(self) -> Self:
        own = self.labels
        if own is not None and own.id is not None:
            count = 1 if isinstance(own.id, str) else len(own.id)
            if count != len(self.columns.id_columns):
                raise ValueError(
                    f"labels.id is {own.id!r}, expected as many columns as columns.id has: {', '.join(self.columns.id_columns)}"
                )
        return self

    @model_validator(mode="after")
    def _check_predictions(self) -> Self:
        if self.predictions is None:
            return self
        if refusal := self.predictions.why_not(self.task, self.columns):
            raise ValueError(refusal)
        if self.rollout.control is not None:
            raise ValueError(
                "rollout.control is given beside predictions, expected one of them: your own service decides who answers"
            )
        return self

    @model_validator(mode="after")
    def _check_task(self) -> Self:
        self._check_metrics()
        if self.columns.positive_label is not None and self.task != "binary":
            raise ValueError(
                f"columns.positive_label does not fit task {self.task}, expected it with task: binary only"
            )
        self._check_classes()
        for section, slices in (("performance", self.performance.slices), ("validation", self.validation.slices)):
            unknown = [name for name in slices if name not in self.columns.features.tabular]
            if unknown:
                raise ValueError(f"{section}.slices has {', '.join(unknown)}, expected names of features")
            personal = [name for name in slices if name in self.columns.personal]
            if personal:
                raise ValueError(
                    f"{section}.slices has {', '.join(personal)}, which columns.personal lists: reports, ledger and logs "
                    "name a slice by its value; expected features that identify no one"
                )
        unknown = [name for name in self.quality.columns if name not in self.columns.features.names]
        if unknown:
            raise ValueError(f"quality.columns has {', '.join(unknown)}, expected names of features")
        self._check_evidently_columns()
        self._check_rollout_unit()
        self._check_other_features()
        return self

    def _check_other_features(self) -> None:
        """Check that something can read features that are no numbers, categories or booleans."""
        other, training = self.columns.features.other, self.training
        if other and not training.reads_other:
            raise ValueError(
                f"columns.features.other has {other[0]!r}, which {training.trainer or 'XGBoost'} cannot read, expected "
                "training.pipeline, which turns it into numbers, or training.function; else list it under columns.extra"
            )
        if training.registered_model == self.name:
            raise ValueError(
                f"training.registered_model is {self.name!r}, where Perennial registers its own versions, expected another name"
            )

    def _check_metrics(self) -> None:
        accepted = (*metric_names(self.task), *self.metrics)
        for metric in (self.performance.metric, *self.retraining.metrics()):
            place = "performance.metric" if metric == self.performance.metric else "retraining: metric"
            if metric in HIGHER_IS_BETTER and metric not in accepted:
                raise ValueError(
                    f"metric {metric!r} does not fit task {self.task}, expected one of {', '.join(accepted)}"
                )
            if metric not in accepted:
                raise ValueError(
                    f"{place} is {metric!r}, expected one of {', '.join(accepted)}, or a name under metrics"
                )
        stored = {*self.columns.features.names, *self.columns.protected, *self.columns.extra}
        for name, own in self.metrics.items():
            if refusal := own.why_not(name, self.task):
                raise ValueError(refusal)
            unknown = [column for column in own.columns if column not in stored]
            if unknown:
                raise ValueError(
                    f"metrics.{name}.columns has {unknown[0]!r}, expected columns that are stored with the rows; list it under "
                    "columns.extra"
                )

    def _check_rollout_unit(self) -> None:
        unit = self.rollout.unit
        if unit == self.columns.time:
            raise ValueError(
                f"rollout.unit is {unit!r}, the time column, expected a column that names who gets the answers, such as customer"
            )
        if unit is not None and unit in (self.columns.label, self.columns.label_time):
            raise ValueError(f"rollout.unit is {unit!r}, which comes with the label, expected a column that rows have")

    def _check_evidently_columns(self) -> None:
        sampled = set(self.columns.features.tabular) - set(self.columns.personal)
        for number, item in enumerate(self.drift.evidently):
            for name in item.columns:
                if name not in sampled:
                    raise ValueError(
                        f"drift.evidently.{number} reads {name!r}, expected a feature that columns.personal does not list"
                    )

    def _check_classes(self) -> None:
        listed, positive = self.columns.classes, self.columns.positive_label
        if not listed:
            return
        if self.task == "regression":
            raise ValueError("columns.classes does not fit task regression, expected it with classes only")
        if self.task == "binary" and len(set(listed)) != 2:
            raise ValueError(f"columns.classes lists {len(set(listed))} classes, expected 2 for task binary")
        if positive is not None and positive not in listed:
            raise ValueError(
                f"columns.positive_label is {positive!r}, expected one of columns.classes: {', '.join(listed)}"
            )

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if self.name == FLEET:
            raise ValueError(f"name is {FLEET!r}, which {FLEET}.yaml uses for what models share, expected another one")
        return self

    @model_validator(mode="after")
    def _check_approvers(self) -> Self:
        if self.risk == "high" and not self.access.approve:
            raise ValueError("risk is high and access.approve names no one, expected who may approve a promotion")
        if self.needs_approval and self.registry.outside_moves == "record":
            why = "risk is high" if self.risk == "high" else "promotion.mode is approval"
            raise ValueError(
                f"registry.outside_moves is record, but {why}: whoever moves the alias champion in MLflow would promote a "
                "version without the approval; expected registry.outside_moves: refuse"
            )
        return self

    @model_validator(mode="after")
    def _check_months(self) -> Self:
        until = self.period.history_until
        if self.window == "month" and until != until.replace(day=1, hour=0, minute=0, second=0, microsecond=0):
            raise ValueError(
                f"window is month and period.history_until is {until.isoformat()}, expected the first of a month, such as "
                f"{until:%Y-%m}-01T00:00:00Z"
            )
        return self

    @model_validator(mode="after")
    def _check_history(self) -> Self:
        history = self.period.history_until - self.period.start
        if history <= self.excluded_from_training:
            raise ValueError(
                f"period.history_until is {history.days} days after period.start, expected more than the "
                f"{self.excluded_from_training.days} that {self.withheld}: nothing would be left to train the first model on"
            )
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


def model_folders() -> tuple[Path, ...]:
    """Return the folders of models' files: deployments/, and the folder named by PERENNIAL_MODELS if it is set.

    Raises ModelConfigError if that folder does not exist.
    """
    own = os.environ.get("PERENNIAL_MODELS")
    if not own:
        return (DEPLOYMENTS,)
    folder = Path(own).expanduser()
    if not folder.is_dir():
        raise ModelConfigError(
            f"PERENNIAL_MODELS names {own}, expected an existing folder; create it, or fix or unset the variable"
        )
    return (DEPLOYMENTS, folder)


def available_models() -> tuple[str, ...]:
    """Return the names of the YAML files in the models' folders, sorted, without `fleet.yaml`.

    A folder named by PERENNIAL_MODELS replaces the demo's models: they are not offered, scheduled or surveyed any more, but
    a command that names one still finds it.
    """
    folders = model_folders()
    shipped = set() if len(folders) == 1 else {DEPLOYMENTS / f"{name}.yaml" for name in DEMO_MODELS}
    files = {path.stem for folder in folders for path in folder.glob("*.yaml") if path not in shipped}
    return tuple(sorted(files - {FLEET}))


def require_models() -> tuple[str, ...]:
    """Return the names of the models. Raises NoModels if there are none."""
    names = available_models()
    if not names:
        raise NoModels(f"{model_folders()[-1]}: holds no model's file, expected at least one; see perennial new --help")
    return names


def model_path(name_or_path: str | Path) -> Path:
    """Return a model's YAML file, given its name in a models' folder or a path. Raises ModelConfigError if missing."""
    path = Path(name_or_path)
    named = path.suffix not in (".yaml", ".yml")
    for candidate in [folder / f"{name_or_path}.yaml" for folder in model_folders()] if named else [path]:
        if candidate.is_file():
            return candidate.resolve()
    known = available_models()
    near = difflib.get_close_matches(str(name_or_path), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the models here are {', '.join(known) or 'none'}."
    raise ModelConfigError(
        f"{name_or_path}: no such model; expected a name under deployments/ or the path of a YAML file; {hint}"
    )


def load_model_config(name_or_path: str | Path) -> ModelConfig:
    """Read and check one model's YAML file.

    Raises ModelConfigError with the file, the field, the value found and what is accepted.
    """
    path = model_path(name_or_path)
    try:
        content = read_yaml(path)
    except UnreadableYaml as error:
        raise ModelConfigError(f"{path.name}: {error}") from None
    except OSError as error:
        raise ModelConfigError(f"{path.name}: cannot be read ({error.strerror}); expected a YAML file") from None
    if not isinstance(content, dict):
        raise ModelConfigError(
            f"{path.name}: holds {type(content).__name__}, expected a mapping that starts with name:"
        )
    if questions := open_questions(path.name, content, ModelConfig):
        raise ModelConfigError("\n".join(questions))
    try:
        config = ModelConfig.model_validate(content, context={"folder": path.parent})
    except ValidationError as error:
        raise ModelConfigError("\n".join(explain_all(path.name, error.errors(), ModelConfig))) from None
    config = config.model_copy(update={"source": _located(path, "source", config.source)})
    if config.labels:
        own = config.labels.model_copy(update={"source": _located(path, "labels.source", config.labels.source)})
        config = config.model_copy(update={"labels": own})
    if config.predictions:
        place = _located(path, "predictions.source", config.predictions.source)
        config = config.model_copy(update={"predictions": config.predictions.model_copy(update={"source": place})})
    if config.quality.suite and config.quality.suite.endswith(".json"):
        suite = (path.parent / config.quality.suite).resolve()
        _check_suite(path.name, config, suite)
        config = config.model_copy(update={"quality": config.quality.model_copy(update={"suite": str(suite)})})
    config._file = path
    return config


def _located(file: Path, setting: str, source: Source) -> Source:
    """Return the source with its path relative to the model's file made absolute."""
    if not source.path or "://" in source.path:
        return source
    try:
        absolute = str((file.parent / source.path).resolve())
    except (OSError, RuntimeError):  # from Python 3.13 on, a loop of links is only detected on opening the path
        raise ModelConfigError(
            f"{file.name}: {setting}.path is {source.path}, a loop of links, expected a file or folder; fix the link"
        ) from None
    return source.model_copy(update={"path": absolute})


def _check_suite(file: str, config: ModelConfig, suite: Path) -> None:
    """Check a suite file. Raises ModelConfigError if it is not a suite or names a column that it cannot be given."""
    at = f"{file}: quality.suite is {config.quality.suite}"
    try:
        listed = json.loads(suite.read_text(encoding="utf-8"))["expectations"]
        named = [(str(one.get("type", "")), _columns_of(one)) for one in listed]
    except OSError as error:
        raise ModelConfigError(
            f"{at}, which cannot be read ({error.strerror}); expected a file beside {file}"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelConfigError(
            f"{at}, which holds no suite; expected the output of json.dumps(suite.to_json_dict()) of Great Expectations"
        ) from None
    columns = config.columns
    landed = {columns.key, columns.time, *columns.features.names, *columns.protected, *columns.extra}
    for number, (kind, names) in enumerate(named, start=1):
        on_table = kind.startswith("expect_table_")
        if strange := sorted(names - landed - ({columns.label} if not on_table else set())):
            raise ModelConfigError(
                f"{at}, which names column {strange[0]!r} in expectation {number} ({kind}); expected columns that are "
                f"stored with the rows: {', '.join(sorted(landed))}; {_remedy(config, strange[0])}"
            )


def _remedy(config: ModelConfig, name: str) -> str:
    """What to do about a column that an expectation names and that is not stored with the rows."""
    if name == config.columns.label:
        return "labels come later than their rows, so leave the label out of this list of columns"
    if name == config.columns.label_time:
        return "the time of a label comes with the label and is not stored with its row; remove this expectation"
    return "list it under columns.extra"


def _columns_of(expectation: dict[str, Any]) -> frozenset[str]:
    """The columns that an expectation of Great Expectations names, those of its row condition and its lists included."""
    arguments = expectation["kwargs"]
    lists = (*(arguments.get("column_list") or ()), *(arguments.get("column_set") or ()))
    read = named_columns(str(expectation.get("type", "")), arguments)
    return condition_columns(arguments.get("row_condition")).union(read, lists)
