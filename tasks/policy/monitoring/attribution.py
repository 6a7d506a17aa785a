"""Attribute changes of the mean prediction and of the mean loss to features, with SHAP values of window and training.

A row's prediction is a constant plus one contribution per feature (Lundberg et al. 2020, Nature Machine Intelligence
2:56), so the change of the mean prediction is exactly the sum of the changes of the mean contributions. Predictions are
on the margin: log-odds for classes, the label's unit for regression.
Loss: the deciles of a feature's contribution have other shares now than in training. Σ (share now - share then) · mean
loss now of the decile is the amount by which the mean loss would fall if the feature were distributed as in training
and nothing else changed (Blinder 1973; Oaxaca 1973: the composition part).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tasks.policy.statistics.metrics import Floats

DECILES = 10


@dataclass(frozen=True, slots=True)
class FeatureAttribution:
    """One feature's contributions in training: mean, standard deviation, inner decile edges, decile shares."""

    feature: str
    mean: float
    std: float
    edges: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AttributionProfile:
    """Contributions of a version, frozen at registration from a bounded sample of `rows` training rows."""

    rows: int
    features: tuple[FeatureAttribution, ...]


@dataclass(frozen=True, slots=True)
class Shift:
    """Change of a mean since training due to one feature, and its standard error."""

    feature: str
    moved: float
    error: float


def freeze(names: Sequence[str], contributions: ArrayLike) -> AttributionProfile:
    """Profile of contributions (n, features); names in the order of the columns."""
    table = np.asarray(contributions, float)
    features = []
    for name, column in zip(names, table.T, strict=True):
        edges = np.unique(np.quantile(column, np.arange(1, DECILES) / DECILES))
        features.append(
            FeatureAttribution(
                name, float(column.mean()), float(column.std()), tuple(edges.tolist()), tuple(_shares(column, edges))
            )
        )
    return AttributionProfile(len(table), tuple(features))


def prediction_shifts(profile: AttributionProfile, contributions: ArrayLike) -> tuple[Shift, ...]:
    """Change of the mean prediction due to each feature, largest first; the sum is the total change."""
    table = np.asarray(contributions, float)
    shifts = []
    for frozen, column in zip(profile.features, table.T, strict=True):
        error = math.sqrt(frozen.std**2 / profile.rows + float(column.var()) / len(column))
        shifts.append(Shift(frozen.feature, float(column.mean()) - frozen.mean, error))
    return tuple(sorted(shifts, key=lambda shift: -abs(shift.moved)))


def loss_shifts(profile: AttributionProfile, contributions: ArrayLike, losses: ArrayLike) -> tuple[Shift, ...]:
    """Change of these rows' mean loss since training due to each feature's distribution, worst first."""
    table, rows = np.asarray(contributions, float), np.asarray(losses, float)
    shifts = []
    for frozen, column in zip(profile.features, table.T, strict=True):
        edges = np.asarray(frozen.edges)
        bins = np.searchsorted(edges, column, side="left")
        counts = np.bincount(bins, minlength=len(edges) + 1)
        level = np.bincount(bins, weights=rows, minlength=len(edges) + 1) / np.maximum(counts, 1)
        change = np.where(counts > 0, counts / len(column) - np.asarray(frozen.shares), 0.0)
        # centred on the mean loss: else deciles that hold no rows now would bias the sum
        moved = float((change * (level - rows.mean())).sum())
        variance = float((change**2 * rows.var() / np.maximum(counts, 1)).sum())
        shifts.append(Shift(frozen.feature, moved, math.sqrt(variance)))
    return tuple(sorted(shifts, key=lambda shift: -shift.moved))


def _shares(column: Floats, edges: Floats) -> list[float]:
    bins = np.searchsorted(edges, column, side="left")
    return [float(share) for share in np.bincount(bins, minlength=len(edges) + 1) / len(column)]


def explain_predictions(shifts: Sequence[Shift], drifted: Sequence[str], unit: str) -> str | None:
    """A sentence on the drifted features that moved the mean prediction; None if none did beyond chance."""
    parts = _significant(shifts, drifted)
    total = sum(shift.moved for shift in shifts)
    return (
        f"the mean prediction moved by {total:+.3g} {unit} since training; by SHAP values: {parts}" if parts else None
    )


def explain_loss(shifts: Sequence[Shift], drifted: Sequence[str], name: str) -> str | None:
    """A sentence on the drifted features that moved the mean loss, each on its own; None if none did beyond chance."""
    parts = _significant(shifts, drifted)
    return f"drift of single features moved the {name}; by SHAP values: {parts}" if parts else None


def _significant(shifts: Sequence[Shift], drifted: Sequence[str]) -> str:
    """At most four drifted features whose shift exceeds twice its error."""
    significant = [shift for shift in shifts if shift.feature in drifted and abs(shift.moved) > 2 * shift.error]
    return ", ".join(f"{shift.feature} {shift.moved:+.3g}" for shift in significant[:4])
