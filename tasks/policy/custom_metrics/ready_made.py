"""Ready-made metrics that need a setting of the user: costs, a precision, a number of rows that can be acted on.

Shapes as in `metrics`: `y_true` (n,) holds codes or numbers, `y_pred` (n,) P(code 1) or numbers, (n, k) for more classes.
Tests compare them with scikit-learn where it has them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from tasks.policy.records.base import Settings
from tasks.policy.statistics.metrics import Floats, mid_ranks, predicted_codes


class NoParameters(Settings):
    """The metric has no parameters."""


class LeastPrecision(Settings):
    precision: float = Field(0.9, gt=0, le=1)


class RowsShare(Settings):
    share: float = Field(0.1, gt=0, le=1)


class QuantileLevel(Settings):
    quantile: float = Field(0.5, gt=0, lt=1)


class RankedRows(Settings):
    k: int | None = Field(None, ge=1)


def _rows(value: Any) -> Any:
    """Read `10 %` of the rows as 0.1. All rows are no number below 1, so that share is refused."""
    if not isinstance(value, str):
        return value
    number = value.strip().removesuffix("%").strip()
    if not value.strip().endswith("%") or not number.replace(".", "", 1).isdecimal() or not 0 < float(number) < 100:
        raise ValueError("expected a number of rows, or a share of them below 100 %, such as 10 %")
    return float(number) / 100


class HighestRows(Settings):
    k: Annotated[float, BeforeValidator(_rows)] = Field(100, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.k > 1 and not self.k.is_integer():
            raise ValueError(f"k is {self.k:g}, expected a whole number of rows, or a share of them below 1")
        return self


class DecisionCosts(Settings):
    costs: tuple[tuple[float, ...], ...]
    threshold: float = Field(0.5, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.costs) < 2 or any(len(row) != len(self.costs) for row in self.costs):
            raise ValueError(
                "costs needs a row for each label and in it a column for each decision, such as [[0, 5], [100, 0]]"
            )
        return self


@dataclass(frozen=True, slots=True)
class ReadyMade:
    """A metric by name, and what it is for."""

    function: Callable[..., Any]
    higher_is_better: bool
    tasks: tuple[Literal["binary", "multiclass", "regression"], ...]
    per_row: bool = False
    needs_positives: bool = False
    parameters: type[Settings] = NoParameters


def recall_at_precision(y_true: Floats, y_pred: Floats, /, precision: float = 0.9) -> float:
    """The largest recall at which the precision is at least this high; 0 if no threshold reaches it.

    >>> recall_at_precision(np.array([1, 1, 0, 1.0]), np.array([0.9, 0.8, 0.7, 0.6]), precision=0.8)
    0.6666666666666666
    """
    order = np.argsort(-y_pred, kind="stable")
    hits, score = np.cumsum(y_true[order] == 1), y_pred[order]
    ends = (
        np.append(score[1:] != score[:-1], True) if len(score) else np.zeros(0, bool)
    )  # rows of one score go together
    reached = ends & (hits >= precision * np.arange(1, len(hits) + 1))
    return float(hits[reached].max(initial=0) / hits[-1]) if len(hits) and hits[-1] else float("nan")


def precision_at_k(y_true: Floats, y_pred: Floats, /, k: float = 100) -> float:
    """The share of positives among the k rows with the highest predictions; below 1, k is a share of the rows.

    Rows of one prediction at the cut count in part, as if drawn at random.
    """
    count = max(1, round(k * len(y_true))) if k < 1 else min(int(k), len(y_true))
    if not count or not len(y_true):
        return float("nan")
    cut = np.partition(y_pred, len(y_pred) - count)[len(y_pred) - count]
    above, at = y_pred > cut, y_pred == cut
    positive = y_true == 1
    return float((positive[above].sum() + (count - above.sum()) * positive[at].mean()) / count)


def lift(y_true: Floats, y_pred: Floats, /, share: float = 0.1) -> float:
    """Precision among the share of rows with the highest predictions, divided by that of all rows."""
    usual = float((y_true == 1).mean()) if len(y_true) else 0.0
    return precision_at_k(y_true, y_pred, k=min(share, 1 - 1e-12)) / usual if usual else float("nan")


def mape(y_true: Floats, y_pred: Floats, /) -> float:
    """Mean absolute percentage error, as a share, of the rows whose label is not 0; NaN without any."""
    known = y_true != 0
    return float(np.mean(np.abs((y_true - y_pred)[known] / y_true[known]))) if known.any() else float("nan")


def wape(y_true: Floats, y_pred: Floats, /) -> float:
    """Weighted absolute percentage error: the sum of absolute errors by that of absolute labels (Kolassa & Schütz 2007)."""
    total = float(np.abs(y_true).sum())
    return float(np.abs(y_true - y_pred).sum()) / total if total else float("nan")


def quantile_loss(y_true: Floats, y_pred: Floats, /, quantile: float = 0.5) -> Floats:
    """Pinball loss of each row (Koenker & Bassett 1978)."""
    gap = y_true - y_pred
    return np.maximum(quantile * gap, (quantile - 1) * gap)


def cost_matrix(y_true: Floats, y_pred: Floats, /, costs: Sequence[Sequence[float]], threshold: float = 0.5) -> Floats:
    """The cost of each row's decision: `costs[label][decision]`. Two classes decide by `threshold`, more by the likeliest.

    Raises ValueError if the matrix does not have a row and a column for each class.
    """
    table, classes = np.asarray(costs, float), 2 if y_pred.ndim == 1 else y_pred.shape[1]
    if table.shape != (classes, classes):
        raise ValueError(
            f"costs has shape {table.shape}, expected a row for each of {classes} labels and a column a decision"
        )
    decided = (y_pred >= threshold).astype(int) if y_pred.ndim == 1 else predicted_codes(y_pred)
    labels = np.minimum(y_true.astype(int), classes - 1)
    found: Floats = table[labels, decided]
    return found


def ndcg(y_true: Floats, y_pred: Floats, /, k: int | None = None) -> float:
    """Normalised discounted cumulative gain of the rows as one ranking (Järvelin & Kekäläinen 2002); ties share their gain."""
    ranks = np.arange(1, len(y_true) + 1)
    discount = np.where(ranks <= (k or len(ranks)), 1 / np.log2(ranks + 1), 0.0)
    best = float(np.sort(y_true)[::-1] @ discount)
    if not best > 0:
        return float("nan")
    order = np.argsort(-y_pred, kind="stable")
    _, group = np.unique(-mid_ranks(y_pred)[order], return_inverse=True)
    gains = np.bincount(group, y_true[order]) / np.bincount(group)
    return float(gains[group] @ discount) / best


READY_MADE: Mapping[str, ReadyMade] = {
    "recall_at_precision": ReadyMade(
        recall_at_precision, True, ("binary",), needs_positives=True, parameters=LeastPrecision
    ),
    "precision_at_k": ReadyMade(precision_at_k, True, ("binary",), parameters=HighestRows),
    "lift": ReadyMade(lift, True, ("binary",), needs_positives=True, parameters=RowsShare),
    "mape": ReadyMade(mape, False, ("regression",)),
    "wape": ReadyMade(wape, False, ("regression",)),
    "quantile_loss": ReadyMade(quantile_loss, False, ("regression",), per_row=True, parameters=QuantileLevel),
    "cost_matrix": ReadyMade(cost_matrix, False, ("binary", "multiclass"), per_row=True, parameters=DecisionCosts),
    "ndcg": ReadyMade(ndcg, True, ("binary", "regression"), parameters=RankedRows),
}
