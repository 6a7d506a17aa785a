"""Labels beside predictions of the same rows, as metrics read them: a class that no model knows is a miss of all.

Of several classes it is one more, one past the last, to which nobody gave any probability. Two classes have no third:
there such rows count by turns as the one and the other class, each with the opposite predicted for certain. So every
metric takes them for what they are among several: no hit, the largest log loss, a Brier score of 1, pairs out of order.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from tasks.adapters.models.encoding import encode_labels
from tasks.policy.statistics.metrics import Floats

Answer = tuple[tuple[str, ...], Floats]
"""A model's classes, none for a regression, and its predictions."""


def encode_truth(labels: pa.ChunkedArray, answers: Sequence[Answer]) -> tuple[Floats, list[Floats]]:
    """(truth, each answer's predictions), all of one length and in one order of classes; NaN where no label is known."""
    classes = all_classes(own for own, _ in answers)
    aligned = [in_order(own, predicted, classes) for own, predicted in answers]
    return with_misses(encode_labels(labels, classes, unknown=len(classes)), aligned, len(classes))


def with_misses(truth: Floats, predicted: Sequence[Floats], classes: int) -> tuple[Floats, list[Floats]]:
    """The same where the code `classes` stands for a class that is not among as many; see the module's first lines."""
    unseen = truth == classes
    if not classes or not unseen.any():
        return truth, list(predicted)
    if predicted[0].ndim == 2:
        return truth, [np.column_stack([own, np.zeros(len(own))]) for own in predicted]
    turns = (np.arange(unseen.sum()) % 2).astype(float)
    missed = [own.copy() for own in (truth, *predicted)]
    for own, values in zip(missed, (turns, *[1 - turns] * len(predicted)), strict=True):
        own[unseen] = values
    return missed[0], missed[1:]


def in_order(own: tuple[str, ...], predicted: Floats, classes: tuple[str, ...]) -> Floats:
    """Probabilities (n, own classes) with a column for each of `classes`, 0 for those that are not among `own`.

    Of two classes (n,): P of the last of `own` in, P of the last of `classes` out. Where two models know different
    two, so that `classes` are more, both are given as if of several.
    """
    if predicted.ndim == 1:
        if len(classes) <= 2:
            return predicted if own[-1:] == classes[-1:] else 1 - predicted
        predicted = np.column_stack([1 - predicted, predicted])
    if own == classes:
        return predicted
    aligned = np.zeros((len(predicted), len(classes)))
    aligned[:, [classes.index(name) for name in own]] = predicted
    return aligned


def all_classes(known: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """The classes of the first in its order, then those that only the others know."""
    return tuple(dict.fromkeys(name for classes in known for name in classes))
