"""Read what an XGBoost booster computes for each row, and write a copy of it with other leaf values.

The copy has the same splits, so it is as fast as the original, and whatever reads boosters reads it too.
"""

import json
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from xgboost import Booster, DMatrix

from tasks.adapters.boosters.known import library_of
from tasks.adapters.models.encoding import Matrix, RawEncoding
from tasks.adapters.models.files import Scorer
from tasks.adapters.online.leaves import ScoredWindow
from tasks.policy.records.errors import ModelFileError
from tasks.policy.statistics.metrics import Floats

LOGISTIC, SQUARED = "binary:logistic", "reg:squarederror"


def why_not(scorer: Scorer) -> str | None:
    """Return why this model's leaves cannot be corrected; None if they can."""
    if isinstance(scorer.encoding, RawEncoding) or not hasattr(scorer.estimator, "get_booster"):
        return "the champion is not XGBoost on the model's own features, expected leaves to correct"
    settings = json.loads(scorer.estimator.get_booster().save_config())["learner"]
    kind, objective = settings["gradient_booster"]["name"], settings["objective"]["name"]
    if kind != "gbtree" or objective not in (LOGISTIC, SQUARED):
        return f"the champion is a {kind} with {objective}, expected gbtree with {LOGISTIC} or {SQUARED}"
    return None


def score_window(booster: Booster, matrix: Matrix, labels: Floats, threads: int = 1) -> ScoredWindow:
    """Return the margin and the leaf of every row in each tree that predicts."""
    if not len(labels):
        return ScoredWindow(np.empty(0), np.empty((0, 0), np.int32), labels)
    data = DMatrix(
        matrix,
        feature_names=booster.feature_names,
        feature_types=booster.feature_types,
        enable_categorical=True,
        nthread=threads,
    )
    best = booster.attr("best_iteration")  # set by early stopping: the trees after it do not predict
    rounds = (0, int(best) + 1 if best is not None else 0)
    margins = booster.predict(data, output_margin=True, iteration_range=rounds)
    leaves = booster.predict(data, pred_leaf=True, iteration_range=rounds)
    return ScoredWindow(margins.astype(float), leaves.astype(np.int32).reshape(len(labels), -1), labels)


def node_count(booster: Booster) -> int:
    """Return the largest number of nodes of a tree."""
    return max(len(tree["split_conditions"]) for tree in _trees(_content(booster)))


def with_changes(scorer: Scorer, changes: NDArray[np.float32]) -> Scorer:
    """Return the scorer with these changes (trees, nodes) added to its leaves. Raises ModelFileError for another shape."""
    booster = scorer.estimator.get_booster()
    content = _content(booster)
    trees = _trees(content)
    if len(changes) > len(trees) or changes.shape[1] < node_count(booster):
        raise ModelFileError(
            f"the online state changes {len(changes)} trees of {changes.shape[1]} nodes, expected at most {len(trees)} trees of "
            f"{node_count(booster)}; it belongs to another model"
        )
    for tree, own in zip(trees, changes, strict=False):
        values = np.array(tree["split_conditions"], np.float32)
        leaves = np.array(tree["left_children"]) < 0
        values[leaves] += own[: len(values)][leaves]
        tree["split_conditions"] = values.tolist()
    library = library_of(scorer.estimator)
    if library is None:
        raise ModelFileError(f"{type(scorer.estimator).__name__} has no file of its own, expected XGBoost")
    estimator = library.load(json.dumps(content).encode(), scorer.task, scorer.estimator.n_jobs or 1)
    return replace(scorer, pipeline=Pipeline([("encoder", scorer.pipeline[0]), ("estimator", estimator)]))


def _content(booster: Booster) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(bytes(booster.save_raw("json")))
    return content


def _trees(content: dict[str, Any]) -> list[dict[str, Any]]:
    trees: list[dict[str, Any]] = content["learner"]["gradient_booster"]["model"]["trees"]
    return trees
