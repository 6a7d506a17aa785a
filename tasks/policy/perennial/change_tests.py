"""Two tests for change, from losses of several models on the same windows, each in σ under chance alone.

Order: without change, the windows on which given models are compared are exchangeable. The pattern of which model is
better on a window is then no more similar to that of its neighbours than to any other window's. This is Mantel's test
(1967, Cancer Research 27), exact under permutation, whatever the noise and however different the models. Lead: a
fresher model beats the champion by more than the noise of windows and the random variation of one training explain.
"""

import math
from dataclasses import dataclass

import numpy as np

from tasks.policy.statistics.metrics import Floats

# Chosen, as in policy.py, on generated streams.
NEARBY_WINDOWS = 3.0
"""Distance, in windows, over which the weight of a neighbour falls by a factor of e."""
MIN_WINDOWS = 5
MIN_MODELS = 3
MEDIAN_SQUARE = 0.455
"""Median of the square of a standard normal variable (χ² with one degree of freedom)."""


def order_sigmas(losses: Floats) -> float:
    """Similarity of neighbouring windows, in σ over all orders of the windows; 0 with too few windows or models.

    `losses` [model, window]; windows without a loss of every model are dropped.
    """
    known = losses[:, np.isfinite(losses).all(axis=0)]
    models, count = known.shape
    if count < MIN_WINDOWS or models < MIN_MODELS:
        return 0.0
    pattern = known - known.mean(axis=0)
    pattern = pattern - pattern.mean(axis=1, keepdims=True)
    apart = np.abs(np.arange(count)[:, None] - np.arange(count))
    return _mantel(pattern.T @ pattern, np.exp(-apart / NEARBY_WINDOWS))


def _mantel(alike: Floats, near: Floats) -> float:
    """Σ alike · near over pairs of windows, standardised by its mean and σ over all orders (Mantel 1967)."""
    n = len(alike)
    pairs = ~np.eye(n, dtype=bool)
    alike, near = np.where(pairs, alike, 0.0), np.where(pairs, near, 0.0)
    (a1, a2, a3), (b1, b2, b3) = ((x.sum(), 2 * (x**2).sum(), 4 * (x.sum(axis=1) ** 2).sum()) for x in (alike, near))
    mean = a1 * b1 / (n * (n - 1))
    square = a2 * b2 / (2 * n * (n - 1))
    square += (a3 - 2 * a2) * (b3 - 2 * b2) / (4 * n * (n - 1) * (n - 2))
    square += (a1**2 + a2 - a3) * (b1**2 + b2 - b3) / (n * (n - 1) * (n - 2) * (n - 3))
    variance = float(square - mean**2)
    return float(((alike * near).sum() - mean) / math.sqrt(variance)) if variance > 0 else 0.0


@dataclass(frozen=True, slots=True)
class PairedNoise:
    """Variance of the loss difference of two models of nearly the same age: per window, and lasting, from training."""

    window: float
    training: float


def paired_noise(losses: Floats) -> PairedNoise:
    """Noise from pairs of consecutive models on their common windows, with at least half the largest number of them.

    `losses` [model, window]. Medians are used, because a change between two models is not noise.
    """
    models = losses[np.isfinite(losses).any(axis=1)]
    differences = models[:-1] - models[1:]
    known = np.isfinite(differences)
    count = known.sum(axis=1)
    enough = (count >= 2) & (2 * count >= count.max(initial=0))
    if not enough.any():
        return PairedNoise(0.0, 0.0)
    differences, known, count = np.where(known, differences, 0.0)[enough], known[enough], count[enough]
    means = differences.sum(axis=1) / count
    squares = np.where(known, (differences - means[:, None]) ** 2, 0.0).sum(axis=1) / (count - 1)
    return PairedNoise(float(np.median(squares)), float(np.median(means**2) / MEDIAN_SQUARE))


def lead_sigmas(leads: Floats, noise: PairedNoise) -> float:
    """The most significant sum of the latest leads, in σ; infinite for a lead without any noise."""
    known = leads[np.isfinite(leads)][::-1]
    if not len(known):
        return 0.0
    count, sums = np.arange(1, len(known) + 1), np.cumsum(known)
    spread = np.sqrt(count * noise.window + count**2 * noise.training)
    if spread[0] > 0:
        return float((sums / spread).max())
    return math.copysign(math.inf, sums.max()) if sums.max() else 0.0
