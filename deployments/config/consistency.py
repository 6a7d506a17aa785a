"""Check that the blocks of a model's file agree. What one block says by itself is checked by its own class."""

from typing import TYPE_CHECKING

from deployments.config.folders import FLEET
from tasks.policy.statistics.metrics import HIGHER_IS_BETTER, metric_names
from tasks.policy.training.search import cost_of_search

if TYPE_CHECKING:
    from deployments.config.model import ModelConfig


def check_consistency(config: "ModelConfig") -> None:
    """Raise ValueError with the first contradiction: the setting, the value found and what is expected."""
    for check in (
        _check_labels,
        _check_predictions,
        _check_metrics,
        _check_classes,
        _check_slices,
        _check_quality_columns,
        _check_evidently_columns,
        _check_rollout_unit,
        _check_training,
        _check_online,
        _check_name,
        _check_approvers,
        _check_months,
        _check_history,
    ):
        check(config)


def _check_labels(config: "ModelConfig") -> None:
    own = config.labels
    for name in ("labels", "predictions"):
        if config.columns.id == config.columns.time and getattr(config, name) is not None:
            raise ValueError(
                f"columns.id is the time {config.columns.time!r} and {name} has a source of its own, whose times are others; "
                "expected an id column that both sources have"
            )
    if own is not None and own.id is not None:
        count = 1 if isinstance(own.id, str) else len(own.id)
        if count != len(config.columns.id_columns):
            raise ValueError(
                f"labels.id is {own.id!r}, expected as many columns as columns.id has: {', '.join(config.columns.id_columns)}"
            )


def _check_predictions(config: "ModelConfig") -> None:
    if config.predictions is None:
        return
    if refusal := config.predictions.why_not(config.task, config.columns):
        raise ValueError(refusal)
    if config.rollout.control is not None:
        raise ValueError(
            "rollout.control is given beside predictions, expected one of them: your own service decides who answers"
        )


def _check_metrics(config: "ModelConfig") -> None:
    accepted = (*metric_names(config.task), *config.metrics)
    for metric in (config.performance.metric, *config.retraining.metrics()):
        place = "performance.metric" if metric == config.performance.metric else "retraining: metric"
        if metric in HIGHER_IS_BETTER and metric not in accepted:
            raise ValueError(
                f"metric {metric!r} does not fit task {config.task}, expected one of {', '.join(accepted)}"
            )
        if metric not in accepted:
            raise ValueError(f"{place} is {metric!r}, expected one of {', '.join(accepted)}, or a name under metrics")
    stored = {*config.columns.features.names, *config.columns.protected, *config.columns.extra}
    for name, own in config.metrics.items():
        if refusal := own.why_not(name, config.task):
            raise ValueError(refusal)
        unknown = [column for column in own.columns if column not in stored]
        if unknown:
            raise ValueError(
                f"metrics.{name}.columns has {unknown[0]!r}, expected columns that are stored with the rows; list it under "
                "columns.extra"
            )


def _check_classes(config: "ModelConfig") -> None:
    listed, positive = config.columns.classes, config.columns.positive_label
    if positive is not None and config.task != "binary":
        raise ValueError(f"columns.positive_label does not fit task {config.task}, expected it with task: binary only")
    if not listed:
        return
    if config.task == "regression":
        raise ValueError("columns.classes does not fit task regression, expected it with classes only")
    if config.task == "binary" and len(set(listed)) != 2:
        raise ValueError(f"columns.classes lists {len(set(listed))} classes, expected 2 for task binary")
    if positive is not None and positive not in listed:
        raise ValueError(
            f"columns.positive_label is {positive!r}, expected one of columns.classes: {', '.join(listed)}"
        )


def _check_slices(config: "ModelConfig") -> None:
    for section, slices in (("performance", config.performance.slices), ("validation", config.validation.slices)):
        unknown = [name for name in slices if name not in config.columns.features.tabular]
        if unknown:
            raise ValueError(f"{section}.slices has {', '.join(unknown)}, expected names of features")
        personal = [name for name in slices if name in config.columns.personal]
        if personal:
            raise ValueError(
                f"{section}.slices has {', '.join(personal)}, which columns.personal lists: reports, ledger and logs "
                "name a slice by its value; expected features that identify no one"
            )


def _check_quality_columns(config: "ModelConfig") -> None:
    unknown = [name for name in config.quality.columns if name not in config.columns.features.names]
    if unknown:
        raise ValueError(f"quality.columns has {', '.join(unknown)}, expected names of features")


def _check_evidently_columns(config: "ModelConfig") -> None:
    sampled = set(config.columns.features.tabular) - set(config.columns.personal)
    for number, item in enumerate(config.drift.evidently):
        for name in item.columns:
            if name not in sampled:
                raise ValueError(
                    f"drift.evidently.{number} reads {name!r}, expected a feature that columns.personal does not list"
                )


def _check_rollout_unit(config: "ModelConfig") -> None:
    unit = config.rollout.unit
    if unit == config.columns.time:
        raise ValueError(
            f"rollout.unit is {unit!r}, the time column, expected a column that names who gets the answers, such as customer"
        )
    if unit is not None and unit in (config.columns.label, config.columns.label_time):
        raise ValueError(f"rollout.unit is {unit!r}, which comes with the label, expected a column that rows have")


def _check_online(config: "ModelConfig") -> None:
    if config.training.online is None:
        return
    if config.task == "multiclass":
        raise ValueError("training.online does not fit task multiclass, expected it with task: binary or regression")
    if config.predictions is not None:
        raise ValueError(
            "training.online is given beside predictions, expected one of them: your own service answers, so nothing here can "
            "correct it"
        )
    own = config.training.pipeline or not str(config.training.estimator or "xgboost").startswith("xgboost")
    if own or config.training.function or config.training.is_foreign:
        raise ValueError(
            f"training.online is given with {config.training.trainer}, expected XGBoost, whose leaves it corrects; remove one"
        )
    if config.performance.metric == "pinball":
        raise ValueError(
            "training.online does not fit metric pinball: a leaf's mean residual says nothing about a quantile"
        )


def _check_training(config: "ModelConfig") -> None:
    other, training = config.columns.features.other, config.training
    if other and not training.reads_other:
        raise ValueError(
            f"columns.features.other has {other[0]!r}, which {training.trainer or 'XGBoost'} cannot read, expected "
            "training.pipeline, which turns it into numbers, or training.function; else list it under columns.extra"
        )
    if training.search and not training.is_estimator:
        raise ValueError(
            f"training.search is given with {training.trainer}, expected it with an estimator; your own code searches by itself"
        )
    if training.search and training.search.usd is not None and cost_of_search(config.budget, 1.0, 1.0) == 0:
        raise ValueError(
            "training.search.usd limits nothing where budget.compute_usd_per_hour and cpu_usd_per_hour are 0, expected minutes"
        )
    _check_recipe(config)
    if training.registered_model == config.name:
        raise ValueError(
            f"training.registered_model is {config.name!r}, where Perennial registers its own versions, expected another name"
        )


def _check_recipe(config: "ModelConfig") -> None:
    recipe, features = config.training.recipe, config.columns.features
    if recipe is None:
        return
    if not config.training.is_estimator or config.training.pipeline:
        raise ValueError(
            "training.recipe derives features for an estimator without a pipeline, expected neither beside it"
        )
    if config.training.engine != "memory":
        raise ValueError(
            f"training.recipe is given with training.engine {config.training.engine}, expected engine: memory; remove one of them"
        )
    for name in recipe.sources:
        expected = "categorical" if name in recipe.target_encoded else "numeric"
        if name not in getattr(features, expected):
            raise ValueError(f"training.recipe has {name!r}, expected one of columns.features.{expected}")
    if recipe.target_encoded and config.task == "multiclass":
        raise ValueError(
            "training.recipe.target_encoded does not fit task multiclass, expected a number or two classes"
        )


def _check_name(config: "ModelConfig") -> None:
    if config.name == FLEET:
        raise ValueError(f"name is {FLEET!r}, which {FLEET}.yaml uses for what models share, expected another one")


def _check_approvers(config: "ModelConfig") -> None:
    if config.risk == "high" and not config.access.approve:
        raise ValueError("risk is high and access.approve names no one, expected who may approve a promotion")
    if config.needs_approval and config.registry.outside_moves == "record":
        why = "risk is high" if config.risk == "high" else "promotion.mode is approval"
        raise ValueError(
            f"registry.outside_moves is record, but {why}: whoever moves the alias champion in MLflow would promote a "
            "version without the approval; expected registry.outside_moves: refuse"
        )


def _check_months(config: "ModelConfig") -> None:
    until = config.period.history_until
    if config.window == "month" and until != until.replace(day=1, hour=0, minute=0, second=0, microsecond=0):
        raise ValueError(
            f"window is month and period.history_until is {until.isoformat()}, expected the first of a month, such as "
            f"{until:%Y-%m}-01T00:00:00Z"
        )


def _check_history(config: "ModelConfig") -> None:
    history = config.period.history_until - config.period.start
    if history <= config.excluded_from_training:
        raise ValueError(
            f"period.history_until is {history.days} days after period.start, expected more than the "
            f"{config.excluded_from_training.days} that {config.withheld}: nothing would be left to train the first model on"
        )
