"""Does the stream change? Two answers from losses of models on the same windows, each in σ of what chance alone would show.

Order: if nothing changes, the windows on which given models are compared could as well have come in any other order. So
the pattern of who is better on a window is no more like the next windows' pattern than like any other's: Mantel's test
(1967, Cancer Research 27), exact under shuffling, whatever the noise and however unlike the models. Lead: a fresher
model beats the champion by more than the noise of windows and the luck of one training explain.
"""

import math
from dataclasses import dataclass

import numpy as np

from tasks.policy.statistics.metrics import Floats

# Chosen, as in policy.py, on generated streams.
NEARBY_WINDOWS = 3.0
"""How far apart windows may lie to count as neighbours: the weight falls by e with every so many."""
MIN_WINDOWS = 5
MIN_MODELS = 3
MEDIAN_SQUARE = 0.455
"""Median of the square of a standard normal variable (χ² with one degree of freedom)."""


def order_sigmas(losses: Floats) -> float:
    """How far neighbouring windows resemble each other, in σ over all orders of the windows; 0 where too few are known.

    `losses` [model, window]: windows that not every model was scored on are left out.
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
    """Σ alike · near over pairs of windows, less its mean over all orders, by its σ over them (Mantel 1967)."""
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
    """Variance of the difference of two models of nearly the same age: of one window, and lasting, from their training."""

    window: float
    luck: float


def paired_noise(losses: Floats) -> PairedNoise:
    """From each model and the next one, on the windows that both know, where these are at least half as many as any two know.

    Medians, as a change between two is no noise.
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
    """The most significant sum of the latest leads, in σ; infinite where there is a lead and no noise at all."""
    known = leads[np.isfinite(leads)][::-1]
    if not len(known):
        return 0.0
    count, sums = np.arange(1, len(known) + 1), np.cumsum(known)
    spread = np.sqrt(count * noise.window + count**2 * noise.luck)
    if spread[0] > 0:
        return float((sums / spread).max())
    return math.copysign(math.inf, sums.max()) if sums.max() else 0.0
