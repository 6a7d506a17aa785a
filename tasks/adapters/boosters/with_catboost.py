"""CatBoost: stored as .cbm. Installed with the extra `catboost`.

CatBoost reads categories as integers or text, so the codes of the matrix become integers, and a missing value the code −1,
a category like the others. A number that is missing is treated as the smallest one, CatBoost's default.
"""

import tempfile
from collections.abc import Iterable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from tasks.adapters.boosters.library import (
    BoostingLibrary,
    EncodedInputs,
    FitOptions,
    Floats,
    Setup,
    import_extra,
)
from tasks.adapters.engines.row_batches import Matrix, Target

MISSING = -1
SYNONYMS = {
    "n_estimators": "iterations", "num_boost_round": "iterations", "num_trees": "iterations", "random_state": "random_seed",
    "objective": "loss_function", "max_depth": "depth", "eta": "learning_rate", "reg_lambda": "l2_leaf_reg",
    "colsample_bylevel": "rsm", "max_bin": "border_count", "min_child_samples": "min_data_in_leaf",
    "num_leaves": "max_leaves",
}  # fmt: skip
"""CatBoost's names for parameters that it also takes under another one, but not under both."""
LOG_LINK_LOSSES = ("Poisson", "Tweedie", "LogLinQuantile")
VERBOSITY = ("verbose", "silent", "verbose_eval", "logging_level")
DIFFERENT_EACH_TIME = ("model_guid", "train_finish_time")
"""Entries of a model's metadata that would make two equal fits two files."""


def has_log_link(loss: str) -> bool:
    """Whether a prediction in the label's unit is the exponent of the formula's value, for a loss such as Poisson."""
    return loss.split(":")[0] in LOG_LINK_LOSSES


class CodedCatBoost:
    """A CatBoost model, fitted or not, that reads the encoded matrix."""

    def __init__(self, model: Any, categorical: tuple[int, ...], threads: int) -> None:
        self.model = model
        self.categorical = categorical
        self.threads = threads

    def fit(self, matrix: Matrix, target: Target, **options: Any) -> Self:
        self.model.fit(self.table(matrix), target, **options)
        return self

    def predict(self, matrix: Matrix) -> Floats:
        table = self.table(matrix)
        loss = str(self.model.get_all_params().get("loss_function", ""))
        kind = {"prediction_type": "Exponent"} if has_log_link(loss) else {}  # CatBoost leaves out LogLinQuantile
        return np.asarray(self.model.predict(table, thread_count=self.threads, **kind), float)

    def predict_proba(self, matrix: Matrix) -> Floats:
        return np.asarray(self.model.predict_proba(self.table(matrix), thread_count=self.threads), float)

    def table(self, matrix: Matrix) -> pd.DataFrame | Matrix:
        """Return the matrix with integers for codes, and its columns named as those of the model; as it is without any."""
        if not self.categorical:
            return matrix  # which a pipeline of the user's may have made sparse
        names = self.model.feature_names_ if self.model.is_fitted() else map(str, range(matrix.shape[1]))
        columns = [_codes(column) if place in self.categorical else column for place, column in enumerate(matrix.T)]
        return pd.concat([pd.Series(column, copy=False) for column in columns], axis=1, keys=list(names))


class CatBoostLibrary(BoostingLibrary):
    """CatBoost with native categories; it writes no folder beside the process."""

    package, file, refused_in_names = "catboost", "model.cbm", ""

    def owns(self, kind: type) -> bool:
        return issubclass(kind, CodedCatBoost) or super().owns(kind)

    def accepted(self, kind: Any) -> Iterable[str]:
        return set(signature(kind.__init__).parameters) - {"self", "kwargs"}

    def build(self, kind: Any, setup: Setup, given: Mapping[str, Any]) -> CodedCatBoost:
        chosen = {SYNONYMS.get(name, name): _listed(value) for name, value in given.items()}
        ours = _settings(setup)
        if any(name in chosen for name in VERBOSITY):
            del ours["verbose"]
        if has_log_link(str(chosen.get("loss_function", ""))):  # CatBoost would compare the logarithm with the label
            ours.pop("eval_metric", None)
        return CodedCatBoost(kind(**ours | chosen), setup.inputs.categorical, setup.threads)

    def can_stop_early(self, estimator: Any) -> bool:
        return True

    def allowed_rounds(self, estimator: Any) -> int:
        return int(estimator.model.get_params().get("iterations") or 1000)

    def with_rounds(self, estimator: Any, rounds: int) -> Any:
        estimator.model.set_params(iterations=rounds)
        return estimator

    def stop_early(
        self, estimator: Any, fitted: tuple[Matrix, Target], held_back: tuple[Matrix, Target], options: FitOptions
    ) -> int:
        beside = (estimator.table(held_back[0]), held_back[1])
        estimator.fit(
            *fitted,
            eval_set=beside,
            early_stopping_rounds=options.patience,
            use_best_model=True,
            sample_weight=options.weights,
        )
        return int(estimator.model.tree_count_)

    def dump(self, estimator: Any, names: tuple[str, ...]) -> bytes:
        model = estimator.model
        if names:
            model.set_feature_names(list(names))
        metadata = model.get_metadata()
        for entry in DIFFERENT_EACH_TIME:
            metadata[entry] = ""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self.file
            model.save_model(str(path), format="cbm")
            return path.read_bytes()

    def load(self, content: bytes, task: str, threads: int) -> CodedCatBoost:
        library = import_extra(self.package)
        model = (library.CatBoostRegressor if task == "regression" else library.CatBoostClassifier)()
        model.load_model(blob=content)
        return CodedCatBoost(model, tuple(model.get_cat_feature_indices()), threads)

    def rounds(self, estimator: Any) -> int:
        return int(estimator.model.tree_count_)

    def gains(self, estimator: Any) -> Floats:
        return np.asarray(estimator.model.get_feature_importance(type="PredictionValuesChange"), float)

    def contributions(self, estimator: Any, matrix: Matrix, inputs: EncodedInputs, approximate: bool) -> Floats:
        pool = import_extra(self.package).Pool(estimator.table(matrix), cat_features=list(estimator.categorical))
        way = "Approximate" if approximate else "Regular"
        found = estimator.model.get_feature_importance(
            pool, type="ShapValues", thread_count=estimator.threads, shap_calc_type=way
        )
        return np.asarray(found, float)

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        return (import_extra(self.package).CatBoostError,)


def _settings(setup: Setup) -> dict[str, Any]:
    quantile = f"Quantile:alpha={setup.quantile:g}"
    watched = {"mae": "MAE", "rmse": "RMSE", "pinball": quantile, "roc_auc": "AUC"}.get(setup.metric)
    settings: dict[str, Any] = {
        "random_seed": setup.seed,
        "thread_count": setup.threads,
        "verbose": False,
        "allow_writing_files": False,
        "cat_features": list(setup.inputs.categorical),
    }
    if watched and setup.classes <= 2:
        settings["eval_metric"] = watched
    if setup.metric == "pinball":
        settings["loss_function"] = quantile
    return settings


def _codes(column: Matrix) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.where(np.isnan(column), MISSING, column).astype(np.int32)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value  # CatBoost refuses tuples
