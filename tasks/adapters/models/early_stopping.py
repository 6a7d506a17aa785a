"""Choose the number of rounds on the latest training rows, and the training range where those contradict the rest.

Early stopping holds back the latest rows; the model is then refitted on all rows with the number of rounds found. A
model thus stops where it stops generalising forward in time. Where the latest rows contradict the earlier ones, as after
a concept change, early stopping would end almost at once. Then the training range is chosen too, from all rows down to
the latest `min_rows`, by the loss on every other block of the latest rows, and `remarks` reports it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from deployments.config.model import ModelConfig
from tasks.adapters.boosters.known import library_of
from tasks.adapters.boosters.library import FitOptions
from tasks.adapters.checkpoints.training import TrainingCheckpoints
from tasks.adapters.engines.row_batches import RowBatches
from tasks.adapters.models.encoding import Codes, Encoding
from tasks.policy.statistics import metrics
from tasks.policy.statistics.metrics import Floats

FEW_ROUNDS, FEW_SHARE = 10, 0.05
"""Rounds, and share of the allowed rounds, below which early stopping counts as premature."""
BLOCKS = 10
"""Blocks of the latest rows; after premature early stopping, every other block serves to choose the training range."""


class SplitEncoder(Protocol):
    """Encodes rows by features of the user's own, which must be fitted to the rows that the model is fitted to, no others."""

    encoding_: Encoding

    def fit_transform(self, rows: pa.Table, y: Any) -> Any: ...
    def transform(self, rows: pa.Table) -> Any: ...


@dataclass(frozen=True)
class TrainingData:
    """Training rows, oldest first; `classes` is the number of classes, 0 in a regression.

    `labels` are the target for metrics, with the columns that metrics of the user's own read. `matrix` holds all rows
    encoded; with an `encoder` it is None, and the rows are encoded anew for each fit. `weights` are those of the rows, (n,).
    Fits continue from `checkpoints`, if given.
    """

    rows: pa.Table
    matrix: Any
    target: Floats | Codes
    labels: Floats
    classes: int
    encoder: SplitEncoder | None = None
    weights: Floats | None = None
    checkpoints: TrainingCheckpoints | None = None

    def options(self, fitted: NDArray[np.bool_] | slice, phase: str, patience: int = 1) -> FitOptions:
        """Return how to fit to these rows, in the phase of this name."""
        weights = None if self.weights is None else self.weights[fitted]
        return FitOptions(patience, weights, self.checkpoints.phase(phase) if self.checkpoints else None)

    def since(self, first: int) -> Any:
        """Return the encoded rows from `first`."""
        if self.encoder is not None:
            return self.encoder.fit_transform(self.rows.slice(first), self.target[first:])
        return self.matrix[first:]

    def split(self, fitted: NDArray[np.bool_], held_back: NDArray[np.bool_]) -> tuple[Any, Any]:
        """Return the encoded rows to fit to, and those held back."""
        if self.encoder is not None:
            X = self.encoder.fit_transform(self.rows.filter(pa.array(fitted)), self.target[fitted])
            return X, self.encoder.transform(self.rows.filter(pa.array(held_back)))
        return self.matrix[_range(fitted)], self.matrix[_range(held_back)]


@dataclass(frozen=True)
class Stopped:
    """The result of early stopping: rounds to fit (None for the estimator's own), held-back rows, predictions of these.

    Rows before `first` are not used for fitting.
    """

    rounds: int | None
    held_back: NDArray[np.bool_]
    y_pred: Floats
    first: int = 0
    remarks: tuple[str, ...] = ()


def choose_rounds(config: ModelConfig, unfitted: Callable[[], Any], data: TrainingData) -> Stopped:
    """Choose the rounds by early stopping on the latest rows; if it ends prematurely, choose the training range too.

    `unfitted` builds the estimator. One that cannot stop early, or a file without `early_stopping_rounds`, holds back
    no rows.
    """
    count, share = len(data.target), config.training.validation_share
    latest = np.arange(count) >= int(count * (1 - share))
    stops = config.training.early_stopping_rounds is not None and _can_stop_early(unfitted())
    if not stops or not _is_learnable(data, latest):
        return Stopped(None, np.zeros(count, bool), np.empty(0))
    forward = _stop(config, unfitted(), data, latest)
    if forward.rounds is None or forward.rounds >= max(FEW_ROUNDS, FEW_SHARE * _allowed(unfitted())):
        return forward
    remark = (
        f"early stopping ended after {forward.rounds} rounds on the latest {share:.0%} of the training rows: they contradict "
        "the earlier ones, or there is little to learn"
    )
    held_back = latest & _every_other_block(latest)
    tried = [
        _stop(config, unfitted(), data, held_back, first)
        for first in _first_rows(count, config.training.min_rows)
        if _is_learnable(data, held_back, first)
    ]
    if not tried:
        return replace(forward, remarks=(remark,))
    best = min(tried, key=lambda each: _loss(config, data.labels[each.held_back], each.y_pred))
    rest = f"; {count - best.first:,} of {count:,} rows, the latest, predict them best: fitted on these, {best.rounds} rounds"
    return replace(best, remarks=(remark + rest,))


def _range(chosen: NDArray[np.bool_]) -> NDArray[np.bool_] | slice:
    """Return the chosen rows as a slice, which copies nothing, if they are consecutive."""
    first, count = int(chosen.argmax()), int(chosen.sum())
    return slice(first, first + count) if chosen[first : first + count].all() else chosen


def with_rounds(estimator: Any, rounds: int | None) -> Any:
    """Set the number of rounds and disable the estimator's own early stopping."""
    if rounds is None:
        return estimator
    if library := library_of(estimator):
        return library.with_rounds(estimator, rounds)
    return estimator.set_params(max_iter=rounds, early_stopping=False)


def _first_rows(count: int, min_rows: int) -> list[int]:
    """Return the first row of each candidate training range: all rows, the latest half, quarter, …, `min_rows` rows."""
    sizes = [count >> halvings for halvings in range(20) if count >> halvings > min_rows]
    return [count - size for size in (*sizes, *([min_rows] if min_rows <= count else []))]


def _every_other_block(latest: NDArray[np.bool_]) -> NDArray[np.bool_]:
    order = np.cumsum(latest) - 1
    chosen: NDArray[np.bool_] = (order * BLOCKS // max(1, int(latest.sum()))) % 2 == 1
    return chosen


def _loss(config: ModelConfig, y_true: ArrayLike, y_pred: Floats) -> float:
    metric = config.primary_metric
    value = metrics.compute(metric, y_true, y_pred)
    return metrics.as_loss(metric, value) if np.isfinite(value) else np.inf


def _is_learnable(data: TrainingData, held_back: NDArray[np.bool_], first: int = 0) -> bool:
    """Return whether the rows from `first` hold both parts, and those not held back include every class."""
    held_back = held_back[first:]
    fitted = data.target[first:][~held_back]
    has_every_class = not data.classes or len(np.unique(fitted)) == data.classes
    return bool(held_back.any()) and len(fitted) > 0 and has_every_class


def _allowed(estimator: Any) -> int:
    if library := library_of(estimator):
        return library.allowed_rounds(estimator)
    return int(estimator.get_params().get("max_iter") or 100)


def _can_stop_early(estimator: Any) -> bool:
    """Whether it can stop early on given rows: boosting libraries, scikit-learn's gradient boosting since 1.7."""
    if library := library_of(estimator):
        return library.can_stop_early(estimator)
    return "X_val" in inspect.signature(estimator.fit).parameters and "n_iter_no_change" in estimator.get_params()


def _stop(
    config: ModelConfig, estimator: Any, data: TrainingData, held_back: NDArray[np.bool_], first: int = 0
) -> Stopped:
    """Fit on the rows from `first` that are not held back; stop when the held-back rows improve no more."""
    fitted, patience = ~held_back & (np.arange(len(data.target)) >= first), config.training.early_stopping_rounds or 1
    X, X_val = data.split(fitted, held_back)
    y, y_val = data.target[fitted], data.target[held_back]
    if library := library_of(estimator):
        options = data.options(fitted, f"early-stopping-{first}-{len(y_val)}", patience)
        rounds = library.stop_early(estimator, (X, y), (X_val, y_val), options)
    else:
        estimator.set_params(early_stopping=True, n_iter_no_change=patience)
        estimator.fit(X, y, X_val=X_val, y_val=y_val, sample_weight=data.options(fitted, "early-stopping").weights)
        rounds = int(estimator.n_iter_)
    predict = estimator.predict if config.task == "regression" else estimator.predict_proba
    y_pred = np.asarray(X_val.predict(predict) if isinstance(X_val, RowBatches) else predict(X_val), float)
    if y_pred.ndim == 1:
        return Stopped(rounds, held_back, y_pred, first)
    return Stopped(rounds, held_back, y_pred[:, 1] if y_pred.shape[1] == 2 else y_pred, first)
