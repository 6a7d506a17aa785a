"""Align labels with predictions of the same rows for metrics; a class that no model knows counts as a miss for all.

In a multiclass task the unknown class gets one more code, past the last, with probability 0 from every model. In a
binary task there is no third code: such rows are labelled alternately as either class, and the opposite class is
predicted with certainty. Every metric then treats these rows as in the multiclass task: no hit, the largest log loss, a
Brier score of 1, misordered pairs.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from deployments.config.model import ModelConfig
from tasks.adapters.models.encoding import encode_labels
from tasks.policy.custom_metrics.labels import Labels
from tasks.policy.statistics.metrics import Floats

ModelPredictions = tuple[tuple[str, ...], Floats]
"""A model's classes (empty for a regression) and its predictions."""


def align_labels(labels: pa.ChunkedArray, answers: Sequence[ModelPredictions]) -> tuple[Floats, list[Floats]]:
    """Return (labels, predictions per answer), encoded for metrics; the label is NaN where none is known.

    All have one length and one order of classes.
    """
    classes = all_classes(own for own, _ in answers)
    aligned = [in_order(own, predicted, classes) for own, predicted in answers]
    return with_misses(encode_labels(labels, classes, unknown=len(classes)), aligned, len(classes))


def with_misses(labels: Floats, predictions: Sequence[Floats], classes: int) -> tuple[Floats, list[Floats]]:
    """Apply the module's rule for unknown classes to rows with the code `classes`, one past the last known class."""
    unseen = labels == classes
    if not classes or not unseen.any():
        return labels, list(predictions)
    if predictions[0].ndim == 2:
        return labels, [np.column_stack([own, np.zeros(len(own))]) for own in predictions]
    turns = (np.arange(unseen.sum()) % 2).astype(float)
    missed = [own.copy() for own in (labels, *predictions)]
    for own, values in zip(missed, (turns, *[1 - turns] * len(predictions)), strict=True):
        own[unseen] = values
    return missed[0], missed[1:]


def with_columns(config: ModelConfig, y_true: Floats, rows: pa.Table) -> Floats:
    """Attach the columns that metrics of the user's own read to the labels of these rows; null is NaN or None."""
    names = [name for name in config.metric_columns if name in rows.column_names]
    return Labels.of(y_true, {name: rows[name].to_pandas().to_numpy() for name in names}) if names else y_true


def in_order(own: tuple[str, ...], predicted: Floats, classes: tuple[str, ...]) -> Floats:
    """Reorder probabilities of shape (n, own classes) to one column per class; 0 for a class that is not among `own`.

    Binary probabilities have shape (n,): the input is P(last of `own`), the output P(last of `classes`). If two binary
    models know different classes, `classes` has more than two, and the output has one column per class.
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
    """Return the classes of the first model in its order, then those that only later ones know."""
    return tuple(dict.fromkeys(name for classes in known for name in classes))
