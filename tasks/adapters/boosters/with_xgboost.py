"""XGBoost: stored as UBJ. The default estimator of every model."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from xgboost import DMatrix, XGBClassifier, XGBModel, XGBRegressor, XGBRFClassifier, XGBRFRegressor
from xgboost.core import XGBoostError

from tasks.adapters.boosters import xgboost_batches, xgboost_rounds
from tasks.adapters.boosters.library import BoostingLibrary, EncodedInputs, FitOptions, Floats, Setup
from tasks.adapters.engines.row_batches import Matrix, RowBatches, Target


class XGBoostLibrary(BoostingLibrary):
    """XGBoost with the histogram method and native categories."""

    package, file, refused_in_names = "xgboost", "model.ubj", "[]<"

    def accepted(self, kind: Any) -> Iterable[str]:
        return set(kind().get_params())

    def build(self, kind: Any, setup: Setup, given: Mapping[str, Any]) -> Any:
        groups = given.get("interaction_constraints")
        if isinstance(groups, list):  # as text, because the matrix has no names to look positions up by
            given = {**given, "interaction_constraints": json.dumps(groups)}
        ours = {"random_state": setup.seed, "n_jobs": setup.threads, **_settings(setup)}
        return kind(**ours | dict(given))

    def can_stop_early(self, estimator: Any) -> bool:
        return not isinstance(estimator, XGBRFClassifier | XGBRFRegressor)

    def allowed_rounds(self, estimator: Any) -> int:
        return int(estimator.get_params().get("n_estimators") or 100)

    def with_rounds(self, estimator: Any, rounds: int) -> Any:
        return estimator.set_params(n_estimators=rounds)

    def stop_early(
        self, estimator: Any, fitted: tuple[Matrix, Target], held_back: tuple[Matrix, Target], options: FitOptions
    ) -> int:
        if isinstance(fitted[0], RowBatches):
            xgboost_batches.fit(estimator, fitted[0], options.phase, held_back[0], options.patience)
            return int(estimator.best_iteration) + 1
        if xgboost_rounds.can_continue(estimator, options):
            xgboost_rounds.fit(estimator, fitted, options, held_back)
            return int(estimator.best_iteration) + 1
        estimator.set_params(early_stopping_rounds=options.patience)
        estimator.fit(*fitted, sample_weight=options.weights, eval_set=[held_back], verbose=False)
        return int(estimator.best_iteration) + 1

    def fit(self, estimator: Any, fitted: tuple[Matrix, Target], options: FitOptions) -> Any:
        if isinstance(fitted[0], RowBatches):
            xgboost_batches.fit(estimator, fitted[0], options.phase, None)
            return estimator
        if xgboost_rounds.can_continue(estimator, options):
            xgboost_rounds.fit(estimator, fitted, options)
            return estimator
        return super().fit(estimator, fitted, options)

    def dump(self, estimator: Any, names: tuple[str, ...]) -> bytes:
        booster = estimator.get_booster()
        if names:
            booster.feature_names = list(_names(names))
        return bytes(booster.save_raw("ubj"))

    def load(self, content: bytes, task: str, threads: int) -> XGBModel:
        estimator = (XGBRegressor if task == "regression" else XGBClassifier)(n_jobs=threads)
        estimator.load_model(bytearray(content))
        estimator.get_booster().set_param({"nthread": threads})
        return estimator

    def rounds(self, estimator: Any) -> int:
        return int(estimator.get_booster().num_boosted_rounds())

    def gains(self, estimator: Any) -> Floats:
        booster = estimator.get_booster()
        gains = booster.get_score(importance_type="total_gain")
        return np.array([float(gains.get(name, 0.0)) for name in booster.feature_names])

    def contributions(self, estimator: Any, matrix: Matrix, inputs: EncodedInputs, approximate: bool) -> Floats:
        booster, types = estimator.get_booster(), _types(inputs)
        names, threads = booster.feature_names, estimator.n_jobs
        data = DMatrix(matrix, feature_names=names, feature_types=types, enable_categorical=True, nthread=threads)
        return np.asarray(booster.predict(data, pred_contribs=True, approx_contribs=approximate), float)

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        return (XGBoostError,)


def _settings(setup: Setup) -> dict[str, Any]:
    """Native categories; early stopping on the primary metric if XGBoost has it, else on log loss."""
    loss = "mlogloss" if setup.classes > 2 else "logloss"
    watched = {"mae": "mae", "rmse": "rmse", "pinball": "quantile", "roc_auc": "auc"}.get(setup.metric, loss)
    settings: dict[str, Any] = {
        "tree_method": "hist",
        "enable_categorical": True,
        "feature_types": _types(setup.inputs),
        "eval_metric": watched,
    }
    if setup.device != "cpu":
        settings["device"] = setup.device
    if setup.metric == "pinball":
        settings |= {"objective": "reg:quantileerror", "quantile_alpha": setup.quantile}
    return settings


def _types(inputs: EncodedInputs) -> list[str] | None:
    """Return feature types in XGBoost's notation: c for categorical, q for quantitative; None without features."""
    if not inputs.names:
        return None
    return ["c" if place in inputs.categorical else "q" for place in range(len(inputs.names))]


def _names(names: tuple[str, ...]) -> tuple[str, ...]:
    """If XGBoost refuses one of the names, all are named by position."""
    if any(sign in name for name in names for sign in XGBoostLibrary.refused_in_names):
        return tuple(f"feature {index}" for index in range(len(names)))
    return names
