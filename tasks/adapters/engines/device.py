"""Whether this machine can train on the device that a model's file names."""

import json
import warnings
from functools import cache

import numpy as np
import xgboost

from tasks.policy.records.errors import EstimatorError


def require(device: str, model: str) -> None:
    """Raise EstimatorError if there is no such device here; XGBoost alone would train on the CPU with a warning."""
    if device == "cuda" and not _has_cuda():
        built = (
            "a build of XGBoost for CUDA" if xgboost.build_info().get("USE_CUDA") else "a build of XGBoost without CUDA"
        )
        raise EstimatorError(
            f"{model}: training.device is cuda, found {built} and no CUDA device on this machine; expected one; run the retrain "
            "on a work pool whose workers have a GPU (schedule.work_pool), or set training.device: cpu"
        )


@cache
def _has_cuda() -> bool:
    if not xgboost.build_info().get("USE_CUDA"):
        return False
    rows = xgboost.DMatrix(np.zeros((2, 1), np.float32), label=np.array([0.0, 1.0]))
    with warnings.catch_warnings(action="ignore"):  # of the change to the CPU
        booster = xgboost.train({"device": "cuda"}, rows, 1)
    used = json.loads(booster.save_config())["learner"]["generic_param"]["device"]
    return str(used).startswith("cuda")
