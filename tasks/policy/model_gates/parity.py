"""Differences between protected groups by fairlearn's definitions, from counts, so that they can be resampled cheaply.

The differences are the largest less the smallest value over the groups (Agarwal et al. 2018, "A reductions approach to fair
classification"; Hardt et al. 2016, "Equality of opportunity"). Tests compare them with fairlearn's own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tasks.policy.evidence.validation import GateMeasure
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Codes, Floats, predicted_codes
from tasks.policy.statistics.resampling import Resampling, bootstrap_means, percentile_interval

Differences = Callable[[ArrayLike], Floats]


@dataclass(frozen=True)
class Groups:
    """The protected column of these rows: its name, and the group (n,) of each row as a number from 0."""

    column: str
    codes: Codes
    blocks: Codes
    """The block (n,) of time of each row; blocks are resampled, as rows close in time are alike."""


def demographic_parity(counts: ArrayLike) -> Floats:
    """Difference of the selection rates, from counts (…, groups, 2 labels, 2 predictions)."""
    table = np.asarray(counts, float)
    rates = table[..., 1].sum(-1) / table.sum((-1, -2))
    return _spread(rates)


def equalized_odds(counts: ArrayLike) -> Floats:
    """The larger of the differences of true and false positive rates, from counts (…, groups, 2 labels, 2 predictions)."""
    table = np.asarray(counts, float)
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may lack a group's positives: unknown, left out
        rates = table[..., 1] / table.sum(-1)
    return np.fmax(_spread(rates[..., 0]), _spread(rates[..., 1]))


def accuracy_difference(counts: ArrayLike) -> Floats:
    """Difference of the accuracies, from counts (…, groups, k labels, k predictions)."""
    table = np.asarray(counts, float)
    return _spread(np.trace(table, axis1=-2, axis2=-1) / table.sum((-1, -2)))


def compare_parity(pairs: PairedPredictions, groups: Groups, resampling: Resampling) -> tuple[GateMeasure, ...]:
    """The increase of each difference over the champion's, with its paired bootstrap interval; of predicted classes."""
    binary = pairs.champion.ndim == 1
    labels = np.asarray(pairs.y_true).astype(np.int64)
    old, new = (predicted_codes(one) for one in (pairs.champion, pairs.challenger))
    classes = int(max(1, labels.max(), old.max(), new.max())) + 1
    number = int(groups.codes.max()) + 1
    cells = ((groups.codes * classes + labels) * classes + old) * classes + new
    shape = (number, classes, classes, classes)
    joint = np.bincount(cells, minlength=number * classes**3).reshape(shape)
    drawn = _drawn_counts(cells, groups.blocks, resampling, joint.size).reshape(-1, *shape)
    definitions: dict[str, Differences] = {"accuracy": accuracy_difference}
    if binary:
        definitions = {"demographic parity": demographic_parity}
        if joint.sum((2, 3)).min() > 0:  # else a group has no positive, or no negative, rows
            definitions["equalized odds"] = equalized_odds
    return tuple(
        _measure(f"{name} difference of {groups.column}", function, (joint, drawn), resampling.confidence)
        for name, function in definitions.items()
    )


def compare_errors(pairs: PairedPredictions, groups: Groups, resampling: Resampling) -> GateMeasure:
    """The increase of the difference of the groups' mean absolute errors, as a share of the champion's mean absolute error."""
    y_true = np.asarray(pairs.y_true, float)
    errors = np.stack([np.abs(one - y_true) for one in (pairs.champion, pairs.challenger)], axis=1)
    inside = np.eye(int(groups.codes.max()) + 1)[groups.codes]
    columns = np.concatenate([errors[:, :1] * inside, errors[:, 1:] * inside, inside], axis=1)
    names, codes = np.unique(groups.blocks, return_inverse=True)
    sums = np.stack([np.bincount(codes, column, len(names)) for column in columns.T], axis=1)
    means = np.vstack([sums.mean(axis=0), bootstrap_means(sums, resampling)])
    old, new, shares = np.split(means, 3, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        before, after = _spread(old / shares), _spread(new / shares)
        before, after = (values * shares.sum(1) / old.sum(1) for values in (before, after))
    low, high = percentile_interval(after[1:] - before[1:], resampling.confidence)
    subject = f"mean error difference of {groups.column}"
    increase = float(after[0] - before[0])
    return GateMeasure("fairness", subject, float(before[0]), float(after[0]), increase, low, high, len(pairs))


def _drawn_counts(cells: Codes, blocks: Codes, resampling: Resampling, width: int) -> Floats:
    """Counts (draws, cells) of resampled blocks."""
    names, codes = np.unique(blocks, return_inverse=True)
    table = np.zeros((len(names), width))
    np.add.at(table, (codes, cells), 1.0)
    return len(names) * bootstrap_means(table, resampling)


def _measure(
    subject: str, function: Differences, tables: tuple[NDArray[np.int64], Floats], confidence: float
) -> GateMeasure:
    """The measure of one difference from the joint counts and their resamples, both (…, groups, k labels, k old, k new)."""
    joint, drawn = tables
    before, after = float(function(joint.sum(-1))), float(function(joint.sum(-2)))
    low, high = percentile_interval(function(drawn.sum(-2)) - function(drawn.sum(-1)), confidence)
    return GateMeasure("fairness", subject, before, after, after - before, low, high, int(joint.sum()))


def _spread(values: Floats) -> Floats:
    found: Floats = values.max(-1) - values.min(-1)
    return found
