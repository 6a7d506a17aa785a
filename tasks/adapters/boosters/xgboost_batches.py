"""Fit an XGBoost estimator to rows that are encoded batch by batch: in external memory, or on a Dask cluster."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from xgboost import Booster, XGBClassifier

from tasks.adapters.boosters.xgboost_rounds import Continuation, samples
from tasks.adapters.checkpoints.training import Phase
from tasks.adapters.engines import dask_cluster, external_memory
from tasks.adapters.engines.row_batches import RowBatches


def fit(
    estimator: Any, fitted: RowBatches, phase: Phase | None, held_back: RowBatches | None, patience: int = 0
) -> None:
    """Fit the estimator as `XGBModel.fit` does; with `held_back`, stop once these rows improve no more for `patience` rounds.

    In external memory, the fit continues from the phase's checkpoint and writes others; a Dask cluster has none.
    """
    parameters = native_parameters(estimator, fitted)
    if fitted.engine.kind == "dask":
        booster = dask_cluster.train(
            fitted,
            held_back,
            {
                **parameters,
                "n_estimators": estimator.get_num_boosting_rounds(),
                "early_stopping_rounds": patience or None,
            },
            estimator.feature_types,
        )
    else:
        fits = _External(parameters, estimator.feature_types, estimator.get_num_boosting_rounds(), patience, phase)
        with external_memory.cache_folder() as folder:
            booster = fits.train(folder, fitted, held_back)
    estimator.load_model(bytearray(booster.save_raw("ubj")))


def native_parameters(estimator: Any, fitted: RowBatches) -> dict[str, Any]:
    """Return the parameters of `xgboost.train` that `XGBModel.fit` would use for these rows."""
    given = {**estimator.get_xgb_params(), "eval_metric": estimator.eval_metric}
    classes = len(np.unique(fitted.target[fitted.chosen])) if isinstance(estimator, XGBClassifier) else 0
    if classes > 2:
        given |= {"objective": "multi:softprob", "num_class": classes}
    return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class _External:
    """One fit in external memory."""

    parameters: dict[str, Any]
    feature_types: list[str] | None
    allowed: int
    patience: int
    phase: Phase | None

    def train(self, folder: Path, fitted: RowBatches, held_back: RowBatches | None) -> Booster:
        """Return the booster. The matrices are gone when it is returned, so that their files can be deleted."""
        training, beside = external_memory.matrices(folder, fitted, held_back, self.parameters, self.feature_types)
        evals = [] if beside is None else [(beside, "validation_0")]
        if self.phase is None:
            return xgboost.train(
                self.parameters,
                training,
                self.allowed,
                evals=evals,
                early_stopping_rounds=self.patience or None,
                verbose_eval=False,
            )
        parameters = self.parameters | ({"seed_per_iteration": True} if samples(self.parameters) else {})
        settings = {"rounds": self.allowed, "patience": self.patience, "engine": "external"}
        self.phase.identify(
            parameters | settings, [fitted.chosen, fitted.target, *([held_back.chosen] if held_back else [])]
        )
        going = Continuation.of(self.phase, parameters, self.allowed, self.patience if held_back else None)
        with going.interruptible():
            return xgboost.train(
                parameters,
                training,
                going.rounds_left,
                evals=evals,
                callbacks=going.callbacks,
                verbose_eval=False,
                xgb_model=going.booster,
            )
