"""LightGBM: stored as the text of its own model format. Installed with the extra `lightgbm`.

LightGBM takes any of several names for a parameter (`num_iterations`, `n_estimators`, …); those that its scikit-learn
class knows under a name of its own are given to it under that one, so no setting is made twice.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tasks.adapters.boosters.library import (
    BoostingLibrary,
    EncodedInputs,
    FitOptions,
    Floats,
    Setup,
    import_extra,
)
from tasks.adapters.engines.row_batches import Matrix, Target
from tasks.policy.records.errors import ModelFileError

WITHOUT_EARLY_STOPPING = ("dart", "rf", "random_forest")


def objective_of(booster: Any) -> str:
    """Return the name of the objective that a booster was trained with; empty for one of the user's own."""
    return str(booster.dump_model(num_iteration=1).get("objective", "")).split(" ")[0]


class StoredLightGBM:
    """A LightGBM booster read from its text, with the methods that scoring needs."""

    def __init__(self, model: Any, threads: int) -> None:
        self.model = model
        self.threads = threads

    def predict(self, matrix: Matrix) -> Floats:
        return np.asarray(self.model.predict(matrix, num_threads=self.threads), float)

    def predict_proba(self, matrix: Matrix) -> Floats:
        shares = self.predict(matrix)
        return np.column_stack([1 - shares, shares]) if shares.ndim == 1 else shares


class LightGBMLibrary(BoostingLibrary):
    """LightGBM with native categories; its result depends on rows, seed and threads only."""

    package, file, refused_in_names = "lightgbm", "model.lightgbm.txt", '[]{}":,'

    def owns(self, kind: type) -> bool:
        return issubclass(kind, StoredLightGBM) or super().owns(kind)

    def accepted(self, kind: Any) -> Iterable[str]:
        names = _synonyms()
        return {*names, *names.values(), *kind().get_params()}

    def build(self, kind: Any, setup: Setup, given: Mapping[str, Any]) -> Any:
        known, names = set(kind().get_params()), _synonyms()
        own = {names[name]: name for name in known if name in names}
        chosen = {own.get(names.get(name, name), name): value for name, value in given.items()}
        ours = {name: value for name, value in _settings(setup).items() if not _is_among(name, chosen, names)}
        if "force_col_wise" in chosen:
            del ours["force_row_wise"]
        return kind(**ours | chosen)

    def can_stop_early(self, estimator: Any) -> bool:
        return estimator.get_params()["boosting_type"] not in WITHOUT_EARLY_STOPPING

    def allowed_rounds(self, estimator: Any) -> int:
        return int(estimator.get_params()["n_estimators"])

    def with_rounds(self, estimator: Any, rounds: int) -> Any:
        return estimator.set_params(n_estimators=rounds)

    def stop_early(
        self, estimator: Any, fitted: tuple[Matrix, Target], held_back: tuple[Matrix, Target], options: FitOptions
    ) -> int:
        stop = import_extra(self.package).early_stopping(options.patience, verbose=False)
        estimator.fit(
            *fitted, sample_weight=options.weights, eval_X=held_back[0], eval_y=held_back[1], callbacks=[stop]
        )
        return int(estimator.best_iteration_ or estimator.n_estimators_)

    def dump(self, estimator: Any, names: tuple[str, ...]) -> bytes:
        booster = estimator.model if isinstance(estimator, StoredLightGBM) else estimator.booster_
        text = booster.model_to_string()
        if names and not any(sign in self.refused_in_names or sign.isspace() for sign in "".join(names)):
            # it was fitted on a matrix, without names; its format separates them by blanks
            before, after = (f"\nfeature_names={' '.join(each)}\n" for each in (booster.feature_name(), names))
            text = text.replace(before, after, 1)
        return text.encode()

    def load(self, content: bytes, task: str, threads: int) -> StoredLightGBM:
        booster = import_extra(self.package).Booster(model_str=content.decode())
        if task != "regression" and not objective_of(booster):
            raise ModelFileError(
                "LightGBM was trained with an objective of your own, which its file does not hold, so its scores are no "
                "probabilities; expected one of LightGBM's"
            )
        return StoredLightGBM(booster, threads)

    def rounds(self, estimator: Any) -> int:
        return int(estimator.model.current_iteration())

    def gains(self, estimator: Any) -> Floats:
        return np.asarray(estimator.model.feature_importance("gain"), float)

    def contributions(self, estimator: Any, matrix: Matrix, inputs: EncodedInputs, approximate: bool) -> Floats:
        found = np.asarray(estimator.model.predict(matrix, pred_contrib=True, num_threads=estimator.threads), float)
        width = len(inputs.names) + 1
        return found if found.shape[1] == width else found.reshape(len(matrix), -1, width)

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        return (import_extra(self.package).basic.LightGBMError,)


def _settings(setup: Setup) -> dict[str, Any]:
    loss = "multi_logloss" if setup.classes > 2 else "binary_logloss" if setup.classes else "l2"
    auc = "auc" if setup.classes == 2 else loss  # LightGBM's is for two classes
    watched = {"mae": "l1", "rmse": "l2", "pinball": "quantile", "roc_auc": auc}.get(setup.metric, loss)
    settings: dict[str, Any] = {
        "random_state": setup.seed,
        "n_jobs": setup.threads,
        "verbosity": -1,
        "deterministic": True,
        "force_row_wise": True,  # else it measures which of two ways is faster, and their sums differ in the last bits
        "metric": watched,
        "categorical_column": list(
            setup.inputs.categorical
        ),  # its fit() has an argument of the name categorical_feature
    }
    if setup.metric == "pinball":
        settings |= {"objective": "quantile", "alpha": setup.quantile}
    return settings


def _synonyms() -> dict[str, str]:
    """Return LightGBM's name for each parameter by every other name of it, and by itself."""
    listed = import_extra("lightgbm").basic._ConfigAliases._get_all_param_aliases()  # only this knows of all parameters
    return {name: main for main, names in listed.items() for name in (main, *names)}


def _is_among(name: str, chosen: Mapping[str, Any], names: Mapping[str, str]) -> bool:
    return any(names.get(other, other) == names.get(name, name) for other in chosen)
