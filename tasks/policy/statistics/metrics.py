"""The metrics by name: their values, their direction, and their row losses if they are means of rows.

All stages share one definition, so training, validation, monitoring and decisions use the same number.
numpy only. Tests compare the values with scikit-learn's (`sklearn.metrics`, model evaluation).

Shapes: `y_true` is (n,). For classes it holds codes 0 … k-1; `y_pred` is P(code 1) of shape (n,) for two classes and
(n, k) probabilities for more. For regression both are (n,) in the label's unit. An undefined value (no rows, the AUC
of a single class) is NaN; callers turn it into None, never into a number.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

HIGHER_IS_BETTER: dict[str, bool] = {
    "accuracy": True,
    "balanced_accuracy": True,
    "f1": True,
    "roc_auc": True,
    "log_loss": False,
    "brier": False,
    "mae": False,
    "rmse": False,
    "pinball": False,
}
CLASS_METRICS = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss", "brier")
REGRESSION_METRICS = ("mae", "rmse", "pinball")
UNBOUNDED = ("log_loss", "mae", "rmse", "pinball")
"""Unbounded losses. They are divided by five times their typical level, to make costs comparable between models."""


LEAST_OF_A_CLASS = 5
"""Labels per class below which a metric that compares classes depends more on single rows than on the model."""


FEW_CLASSES = 10
"""Number of classes up to which a window must hold each of them; with more classes some are always missing."""


def undefined(
    name: str, y_true: ArrayLike, classes: int, least: int = LEAST_OF_A_CLASS, each: bool = False
) -> str | None:
    """Why these labels (codes) do not define the metric, else None. `classes` is the number of classes the model knows.

    F1 needs positives; balanced accuracy and AUC need both of two classes, or at least two of several. With `each`,
    used for comparisons with other rows, all of up to FEW_CLASSES classes are needed: a mean without the hardest class
    is not comparable.

    >>> undefined("f1", [0, 0, 0], classes=2)
    'f1 is undefined: 0 of 3 labels are positive, expected at least 5'
    """
    if name not in ("balanced_accuracy", "f1", "roc_auc"):
        return None
    counts = np.bincount(np.asarray(y_true).astype(np.int64), minlength=max(2, classes))
    total = int(counts.sum())
    if classes > 2:
        enough, wanted = int((counts >= least).sum()), classes if each and classes <= FEW_CLASSES else 2
        if enough >= wanted:
            return None
        return f"{name} is undefined: {enough} classes have at least {least} labels, expected {wanted}"
    needed = {"positive": int(counts[1:].sum())} | ({} if name == "f1" else {"negative": int(counts[0])})
    few = next((side for side, count in needed.items() if count < least), None)
    if few is None:
        return None
    return f"{name} is undefined: {needed[few]} of {total} labels are {few}, expected at least {least}"


def as_loss(name: str, value: float) -> float:
    """The metric's value, converted if necessary so that lower is better."""
    return 1 - value if HIGHER_IS_BETTER[name] else value


def compute(name: str, y_true: ArrayLike, y_pred: ArrayLike, quantile: float = 0.5) -> float:
    """The metric on these rows; NaN if undefined. Raises ValueError for an unknown name or unequal lengths."""
    truth, predicted = _checked(name, y_true, y_pred)
    if not len(truth):
        return float("nan")
    rows = row_losses(name, truth, predicted, quantile)
    if rows is not None:
        return float(rows.mean())
    if name == "rmse":
        return float(np.sqrt(np.mean((truth - predicted) ** 2)))
    codes = truth.astype(np.int64)
    if undefined(name, codes, _classes(predicted), least=1):
        return float("nan")
    if name == "roc_auc":
        return _roc_auc(codes, predicted)
    return float(from_confusion(name, confusion(codes, predicted)))


def _classes(predicted: Floats) -> int:
    return 2 if predicted.ndim == 1 else predicted.shape[1]


def constant_prediction(name: str, y_true: ArrayLike, classes: int, quantile: float = 0.5) -> Floats:
    """The best constant prediction for these rows: (n,), or (n, classes) probabilities for more than two classes.

    Regression: median, mean or quantile. Classes: their shares for metrics of probabilities, the most frequent class
    for accuracy, the positive class for F1, and no preference for balanced accuracy and AUC.
    """
    truth = np.asarray(y_true, float)
    if name in REGRESSION_METRICS:
        best = np.mean(truth) if name == "rmse" else np.quantile(truth, 0.5 if name == "mae" else quantile)
        return np.full(len(truth), float(best))
    counts = np.bincount(truth.astype(np.int64), minlength=max(2, classes))
    shares = counts / (
        len(truth) + len(counts) - 1
    )  # share of each row's class without that row, with Laplace smoothing: a row must not predict itself
    if name == "accuracy":
        shares = np.eye(len(shares))[shares.argmax()]
    if name == "f1" and len(shares) == 2:
        shares = np.array([0.0, 1.0])
    return np.full(len(truth), shares[1]) if len(shares) == 2 else np.tile(shares, (len(truth), 1))


def row_losses(name: str, y_true: ArrayLike, y_pred: ArrayLike, quantile: float = 0.5) -> Floats | None:
    """Each row's contribution (n,) to a metric that is a mean of rows, else None: `row_losses(…).mean() == compute(…)`.

    They have the direction of the metric: 1 is a hit for accuracy; for all others lower is better.
    """
    truth, predicted = _checked(name, y_true, y_pred)
    rule = _ROWS.get(name)
    return None if rule is None else rule(truth, predicted, quantile)


def predicted_codes(y_pred: ArrayLike) -> Codes:
    """Predicted classes from probabilities: P ≥ 0.5 for two classes, the most probable class for more."""
    predicted = np.asarray(y_pred, float)
    return (predicted >= 0.5).astype(np.int64) if predicted.ndim == 1 else predicted.argmax(axis=1)


def confusion(y_true: ArrayLike, y_pred: ArrayLike) -> Codes:
    """Counts (k, k): rows are labels, columns predictions; k is the number of classes predicted for, at least 2."""
    truth, decided = np.asarray(y_true).astype(np.int64), predicted_codes(y_pred)
    shape = np.shape(y_pred)
    classes = max(2 if len(shape) == 1 else shape[1], int(truth.max(initial=0)) + 1)
    return np.bincount(truth * classes + decided, minlength=classes**2).reshape(classes, classes)


def from_confusion(name: str, counts: ArrayLike) -> Floats:
    """Balanced accuracy or F1 from confusion counts of shape (…, k, k), one value per leading index.

    Balanced accuracy is the mean recall over the classes that occur (Brodersen et al. 2010). F1 is that of class 1
    for two classes, else the mean over the classes that occur or were predicted.
    """
    table = np.asarray(counts, float)
    hits = np.diagonal(table, axis1=-2, axis2=-1)
    actual, decided = table.sum(-1), table.sum(-2)
    with np.errstate(invalid="ignore", divide="ignore"):
        if name == "balanced_accuracy":
            return _mean_known(hits / actual)
        f1 = 2 * hits / (actual + decided)
    return f1[..., 1] if table.shape[-1] == 2 else _mean_known(f1)


def _mean_known(values: Floats) -> Floats:
    known = ~np.isnan(values)
    count = known.sum(-1)
    total = np.where(known, values, 0.0).sum(-1)
    mean: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean


def _checked(name: str, y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Floats, Floats]:
    if name not in HIGHER_IS_BETTER:
        raise ValueError(f"metric is {name!r}, expected one of {', '.join(HIGHER_IS_BETTER)}")
    truth, predicted = np.asarray(y_true, float), np.asarray(y_pred, float)
    if truth.ndim != 1 or predicted.ndim not in (1, 2) or len(truth) != len(predicted):
        raise ValueError(
            f"{name}: labels have shape {truth.shape} and predictions {predicted.shape}, expected as many of both"
        )
    if name in CLASS_METRICS and np.isnan(truth).any():
        raise ValueError(
            f"{name}: {int(np.isnan(truth).sum())} of {len(truth)} labels are unknown, expected codes of classes"
        )
    if predicted.ndim == 2 and name in REGRESSION_METRICS:
        raise ValueError(f"{name}: predictions of shape {predicted.shape}, expected one number a row")
    return truth, predicted


def _hits(truth: Floats, predicted: Floats, _: float) -> Floats:
    hits: Floats = (predicted_codes(predicted) == truth).astype(float)
    return hits


def _log_losses(truth: Floats, predicted: Floats, _: float) -> Floats:
    if predicted.ndim == 1:
        chosen = np.where(truth == 1, predicted, 1 - predicted)
    else:
        chosen = predicted[np.arange(len(truth)), truth.astype(np.int64)]
    bound = np.finfo(float).eps
    losses: Floats = -np.log(np.clip(chosen, bound, 1 - bound))
    return losses


def _brier(truth: Floats, predicted: Floats, _: float) -> Floats:
    """Squared error of P(code 1) for two classes; summed over the classes for more (Brier 1950)."""
    if predicted.ndim == 1:
        return (predicted - truth) ** 2
    actual = np.arange(predicted.shape[1]) == truth[:, None]
    squares: Floats = ((predicted - actual) ** 2).sum(axis=1)
    return squares


def _absolute_errors(truth: Floats, predicted: Floats, _: float) -> Floats:
    return np.abs(truth - predicted)


def _pinball(truth: Floats, predicted: Floats, quantile: float) -> Floats:
    """Pinball loss of Koenker & Bassett (1978): `quantile` per unit below the label, 1 - `quantile` per unit above."""
    gap = truth - predicted
    return np.maximum(quantile * gap, (quantile - 1) * gap)


_ROWS: dict[str, Callable[[Floats, Floats, float], Floats]] = {
    "accuracy": _hits,
    "log_loss": _log_losses,
    "brier": _brier,
    "mae": _absolute_errors,
    "pinball": _pinball,
}


def _roc_auc(codes: Codes, predicted: Floats) -> float:
    """Two classes: the Mann-Whitney statistic. More: the mean of one-versus-rest AUCs over the classes that occur."""
    if predicted.ndim == 1:
        return _auc_of(codes == 1, predicted)
    areas = [_auc_of(codes == code, predicted[:, code]) for code in range(predicted.shape[1])]
    return float(_mean_known(np.array(areas)))


def _auc_of(positive: NDArray[np.bool_], score: Floats) -> float:
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return float("nan")
    rank_sum = float(mid_ranks(score)[positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def mid_ranks(values: Floats) -> Floats:
    """Ranks from 1; ties get the mean of their ranks."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Floats = (last - (counts - 1) / 2)[where]
    return ranks
