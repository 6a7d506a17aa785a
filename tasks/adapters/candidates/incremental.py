"""Train by going on from an earlier XGBoost model: boost it further on new rows, or refresh the values of its leaves.

XGBoost's maintainers know of no robust incremental training of trees (dmlc/xgboost #8821), so these are entrants of a race
and never the default.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import xgboost
from sklearn.pipeline import Pipeline
from xgboost.core import XGBoostError

from deployments.config.model import ModelConfig
from tasks.adapters.boosters.known import library_of
from tasks.adapters.boosters.with_xgboost import XGBoostLibrary
from tasks.adapters.models import estimators
from tasks.adapters.models.encoding import encode_labels
from tasks.adapters.models.estimators import Fitted
from tasks.adapters.models.files import Floats, Scorer
from tasks.adapters.models.resources import threads
from tasks.policy.records.errors import EstimatorError
from tasks.policy.training.race import Strategy

OF_THE_BASE = ("objective", "base_score", "num_class", "feature_types", "enable_categorical", "missing")
SAMPLING = ("subsample", "colsample_bytree", "colsample_bylevel", "colsample_bynode")
RISING = ("auc", "aucpr", "map", "ndcg", "pre")
"""Metrics of XGBoost of which more is better."""
REFRESH = {"verbosity": 0, "process_type": "update", "updater": "refresh", "refresh_leaf": True}


def is_possible(config: ModelConfig) -> bool:
    """Return whether the model's file trains XGBoost on the plain features."""
    training = config.training
    plain = not (training.function or training.pipeline or training.is_foreign)
    return plain and isinstance(library_of(estimators.estimator_class(config)), XGBoostLibrary)


def fit(
    config: ModelConfig, strategy: Strategy, base: Scorer, rows: pa.Table, validated: Fitted | None = None
) -> Fitted:
    """Continue or refresh the base model on these rows, oldest first; with a `validated` model, with as many rounds.

    Raises EstimatorError if the base is another kind of model, or XGBoost cannot go on from it.
    """
    if (
        not isinstance(library_of(base.estimator), XGBoostLibrary)
        or base.encoding.names != config.columns.features.names
    ):
        raise EstimatorError(
            f"{config.name}: version {strategy.version} is no XGBoost model of these features, so it cannot be continued"
        )
    y = encode_labels(rows.column(config.columns.label), base.classes)
    known = np.isfinite(y)
    X, y = base.encoding.encode(rows)[known], y[known]
    try:
        if strategy.kind == "refresh_leaves":
            model, rounds = _refreshed(config, base, X, y), None
        else:
            rounds = validated.chosen_rounds if validated else _choose_rounds(config, base, X, y)
            model = _continued(config, base, X, y, rounds or 1)
    except XGBoostError as error:
        reason = str(error).strip().splitlines()[0]
        raise EstimatorError(f"{config.name}: version {strategy.version} cannot be continued: {reason}") from error
    library = XGBoostLibrary()
    estimator = library.load(bytes(model.save_raw("ubj")), config.task, threads())
    scorer = Scorer(
        Pipeline([base.pipeline.steps[0], ("estimator", estimator)]), base.encoding, config.task, base.classes
    )
    given = {name: str(value) for name, value in sorted(config.training.parameters.items())}
    importance = estimators.importance_of(estimator, base.encoding)
    total = library.rounds(estimator)
    return Fitted(scorer, given, {}, importance, total, len(y), 0, len(rows), chosen_rounds=rounds)


def _parameters(config: ModelConfig, base: Scorer) -> dict[str, Any]:
    """Return the file's parameters in XGBoost's own names; objective and intercept are those of the base model."""
    kind = estimators.estimator_class(config)
    estimator = estimators.build(config, kind, base.encoding, len(base.classes))
    given = {name: value for name, value in estimator.get_xgb_params().items() if value is not None}
    return {name: value for name, value in given.items() if name not in OF_THE_BASE}


def _data(base: Scorer, X: Any, y: Floats) -> xgboost.DMatrix:
    booster = base.estimator.get_booster()
    return xgboost.DMatrix(
        X, y, feature_names=booster.feature_names, feature_types=booster.feature_types, enable_categorical=True,
        nthread=threads(),
    )  # fmt: skip


def _choose_rounds(config: ModelConfig, base: Scorer, X: Any, y: Floats) -> int:
    """Return the number of further rounds that the latest rows support, by early stopping; at least one."""
    patience, first = config.training.early_stopping_rounds or 20, int(len(y) * (1 - config.training.validation_share))
    allowed = int(
        estimators.build(config, estimators.estimator_class(config), base.encoding, len(base.classes)).n_estimators
        or 100
    )
    history: dict[str, dict[str, list[float]]] = {}
    xgboost.train(
        _parameters(config, base), _data(base, X[:first], y[:first]), allowed, xgb_model=base.estimator.get_booster(),
        evals=[(_data(base, X[first:], y[first:]), "held_back")], early_stopping_rounds=patience, evals_result=history,
        verbose_eval=False,
    )  # fmt: skip
    watched = list(history["held_back"].items())[-1]
    best = np.argmax if watched[0].startswith(RISING) else np.argmin
    return int(best(watched[1])) + 1


def _continued(config: ModelConfig, base: Scorer, X: Any, y: Floats, rounds: int) -> xgboost.Booster:
    return xgboost.train(_parameters(config, base), _data(base, X, y), rounds, xgb_model=base.estimator.get_booster())


def _refreshed(config: ModelConfig, base: Scorer, X: Any, y: Floats) -> xgboost.Booster:
    """Return the base model's trees with the values that these rows give their leaves."""
    booster = base.estimator.get_booster()
    own = {name: value for name, value in _parameters(config, base).items() if name not in ("tree_method", *SAMPLING)}
    return xgboost.train(own | REFRESH, _data(base, X, y), booster.num_boosted_rounds(), xgb_model=booster)
