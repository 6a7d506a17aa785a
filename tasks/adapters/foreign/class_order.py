"""Match the classes of a model that others trained with those of the labels: by name, else as codes.

One rule for every way in: a model that was trained on codes 0, 1, 2, … means the classes in the order of `columns.classes`,
else in sorted order, whole numbers by value. The positive label does not change the codes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy.optimize import linear_sum_assignment

from deployments.config.model import ModelConfig
from tasks.adapters.lake.label_spellings import canonical_spelling, class_indices
from tasks.adapters.models import eligibility
from tasks.adapters.models.encoding import sorted_classes
from tasks.adapters.models.files import Floats, Scorer
from tasks.policy.statistics.resampling import thin

CHECKED_ROWS = 2_000
"""Labelled rows on which the order of a model's classes is checked."""
CLEARLY = 4.0
"""Standard errors by which a model is worse, and another order of its classes better, than a constant."""


def coded_classes(config: ModelConfig, labels: pa.ChunkedArray) -> tuple[str, ...]:
    """Return the classes of these labels in the order of the codes 0, 1, 2, … of a model; empty for a regression."""
    classes = sorted_classes(eligibility.classes_of(config, labels))
    listed = class_indices(pa.chunked_array([pa.array(classes, pa.string())]), config.columns.classes).to_pylist()
    if any(place is None or place < 0 for place in listed):
        return classes
    return tuple(name for _, name in sorted(zip(listed, classes, strict=True)))


@dataclass(frozen=True, slots=True)
class ClassOrder:
    """The model's column for each class, and whether its classes were read as codes."""

    columns: tuple[int, ...]
    are_codes: bool

    def named(self, classes: Sequence[str], order: Sequence[int]) -> str:
        """Return the classes in the order of the model's columns, if `order` is our column for each class."""
        place_of = {self.columns[column]: name for column, name in zip(order, classes, strict=True)}
        return ", ".join(place_of[column] for column in sorted(place_of))


def are_codes(own: Sequence[str] | None, count: int) -> bool:
    """Whether a model's classes are the codes 0, 1, 2, …, or are not named."""
    return own is None or [canonical_spelling(name) for name in own] == [str(code) for code in range(count)]


def class_order(own: Sequence[str] | None, classes: Sequence[str], coded: Sequence[str]) -> ClassOrder | None:
    """Return how a model's classes stand for `classes`: by name, else by code; None if they differ.

    `own` are the model's classes, None if it does not name them. `coded` are `classes` in the order of its codes.
    """
    codes = are_codes(own, len(classes))
    named = [str(code) for code in range(len(classes))] if own is None else list(own)
    for meant, by_code in ((named, False), (list(coded) if codes else [], True)):
        places = class_indices(pa.chunked_array([pa.array(meant, pa.string())]), classes).to_pylist()
        if None not in places and sorted(places) == list(range(len(classes))):
            return ClassOrder(tuple(places.index(place) for place in range(len(classes))), by_code)
    return None


def order_fault(scorer: Scorer, order: ClassOrder, rows: pa.Table, label: str) -> str | None:
    """Say that a classifier fits the labels only with its classes in another order; None if it does not seem so.

    `rows` hold the scorer's features and `label`. At most about `CHECKED_ROWS` of them are predicted.
    """
    drawn = rows.take(thin(len(rows), max(1, len(rows) // CHECKED_ROWS), seed=0))
    if len(drawn) == 0:
        return None
    predicted = scorer.predict(drawn)
    shares = np.column_stack([1 - predicted, predicted]) if predicted.ndim == 1 else predicted
    better = better_order(scorer.labels(drawn.column(label)), shares)
    if better is None:
        return None
    taken, fitting = (order.named(scorer.classes, found) for found in (range(len(better)), better))
    advice = (
        f"list them in columns.classes: [{fitting}]"
        if order.are_codes
        else "give the probabilities in the order of the labels"
    )
    return (
        f"its classes seem to be in another order: read as {taken} it predicts worse than a constant on {len(drawn):,} "
        f"labelled rows, and read as {fitting} better than it; {advice}"
    )


def better_order(y_true: Floats, shares: Floats) -> tuple[int, ...] | None:
    """Return the column for each class in the order that fits the labels, if the given one is worse than a constant.

    `y_true` (n,) are codes of classes and `shares` (n, k) their probabilities. By the Brier score, the model must be
    clearly worse than the constant of these rows, and the best order clearly better; a mirrored binary model is better
    only if its probabilities fall where the labels rise.
    """
    known = np.isfinite(y_true) & (y_true >= 0)
    codes, shares = y_true[known].astype(int), shares[known]
    classes = shares.shape[1]
    present = np.bincount(codes, minlength=classes)
    if (present > 0).sum() < 2:
        return None
    gains = np.array([[shares[codes == each, column].sum() for column in range(classes)] for each in range(classes)])
    best = linear_sum_assignment(gains, maximize=True)[1]
    rates = present / len(codes)
    constant = np.square(rates).sum() + 1 - 2 * rates[codes]
    if _is_clearly_less(constant, _brier(codes, shares)) and _is_clearly_less(_brier(codes, shares[:, best]), constant):
        return tuple(int(column) for column in best)
    return None


def _brier(codes: "np.ndarray[tuple[int], np.dtype[np.int64]]", shares: Floats) -> Floats:
    losses: Floats = np.square(shares).sum(axis=1) + 1 - 2 * shares[np.arange(len(codes)), codes]
    return losses


def _is_clearly_less(first: Floats, second: Floats) -> bool:
    differences = second - first
    error = differences.std() / np.sqrt(len(differences))
    return bool(differences.mean() > CLEARLY * max(error, 1e-12))
