"""Group-sequential boundaries: a test that is repeated as data arrives and keeps its level over all looks.

The level is spent as information grows (Lan & DeMets 1983, Biometrika 70:659), in the shape of O'Brien and Fleming or
of Pocock. Boundaries are one-sided, in standard errors, for any spacing of the looks. They are found by recursive
numerical integration (Armitage, McPherson & Rowe 1969, JRSS A 132:235; Jennison & Turnbull 2000, ch. 19).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import scipy  # its submodules load on first use, so that reading a model's file does not wait for them
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Shape = Literal["obrien_fleming", "pocock"]

WIDEST = 8.0
"""Largest boundary in standard errors; beyond it the normal distribution has 6e-16, less than the integration resolves."""
LEAST_STEP = 0.01
"""Information, as a share of the planned, that must arrive before the next test; the integration is exact down to it."""
NODES = 200
"""Nodes of the Gauss-Legendre rule over the values at which a trial continues."""


def spent(shape: Shape, alpha: float, information: float) -> float:
    """Level that may be spent up to this share of the planned information; all of `alpha` from 1 on.

    >>> round(spent("obrien_fleming", 0.025, 0.5), 5), round(spent("pocock", 0.025, 0.5), 5), spent("pocock", 0.025, 1.2)
    (0.00153, 0.0155, 0.025)
    """
    if information <= 0:
        return 0.0
    if information >= 1:
        return alpha
    if shape == "pocock":
        return alpha * math.log1p((math.e - 1) * information)
    return float(2 * scipy.special.ndtr(scipy.special.ndtri(alpha / 2) / math.sqrt(information)))


def spending_looks(information: Sequence[float]) -> tuple[int, ...]:
    """Positions of the looks at which a test is made, given the information at each look in order of time.

    A look with less than `LEAST_STEP` more information than the last tested one spends nothing, except that the
    first look with information 1 or more is always tested. It spends what is left, so no later look is tested.

    >>> spending_looks([0.2, 0.2, 0.205, 0.5, 1.1, 1.3])
    (0, 3, 4)
    """
    tested: list[int] = []
    last = 0.0
    for place, now in enumerate(information):
        if last < 1 and now > last and (now >= 1 or now - last >= LEAST_STEP):
            tested.append(place)
            last = now
    return tuple(tested)


@lru_cache(maxsize=4096)
def boundaries(information: tuple[float, ...], alpha: float, shape: Shape) -> tuple[float, ...]:
    """One-sided boundaries in standard errors, one per look, for information that increases from look to look.

    Raises ValueError for information that does not increase.

    >>> [round(bound, 3) for bound in boundaries((0.2, 0.4, 0.6, 0.8, 1.0), 0.025, "obrien_fleming")]
    [4.877, 3.357, 2.68, 2.29, 2.031]
    """
    walk, found = _Walk(0.0), []
    for share in information:
        found.append(walk.bound(share, spent(shape, alpha, share) - sum(walk.above)))
        walk.look(share, found[-1])
    return tuple(found)


def crossing_probabilities(
    information: Sequence[float], upper: Sequence[float], lower: Sequence[float], drift: float
) -> tuple[float, float]:
    """Probabilities of leaving above `upper` and below `lower` first, for a statistic with mean drift · √information.

    `drift` is thus the expected statistic, in standard errors, at information 1.
    """
    walk = _Walk(drift)
    for share, high, low in zip(information, upper, lower, strict=True):
        walk.look(share, high, low)
    return sum(walk.above), sum(walk.below)


@lru_cache(maxsize=256)
def drift_for_power(looks: int, alpha: float, power: float) -> float:
    """Expected statistic at the planned end, in standard errors, with which a test at equally spaced looks has `power`.

    The test is for non-inferiority of an equal challenger: O'Brien-Fleming boundaries on the margin's side, and
    Pocock boundaries against harm, which stop an equal challenger by chance; both one-sided at `alpha`. The ratio of its
    square to that of one fixed test is the inflation factor of the sample size (Jennison & Turnbull 2000, ch. 7).

    >>> round((drift_for_power(5, 0.025, 0.8) / (1.959964 + 0.841621)) ** 2, 2)
    1.03
    """
    information = tuple((np.arange(1, looks + 1) / looks).tolist())
    efficacy, harm = (boundaries(information, alpha, shape) for shape in ("obrien_fleming", "pocock"))

    def missing(drift: float) -> float:
        lower = [drift * math.sqrt(share) - bound for share, bound in zip(information, harm, strict=True)]
        return crossing_probabilities(information, efficacy, lower, drift)[0] - power

    return float(scipy.optimize.brentq(missing, 0.5, 15.0, xtol=1e-6))


class _Walk:
    """The statistic from look to look: probabilities of leaving, and the density of those that continue.

    The density is held as masses at the nodes of a quadrature rule, one rule per look.
    """

    def __init__(self, drift: float) -> None:
        self.drift, self.information = drift, 0.0
        self.nodes, self.masses = np.zeros(1), np.ones(1)
        self.above: list[float] = []
        self.below: list[float] = []

    def bound(self, information: float, level: float) -> float:
        """The boundary at the next look that is crossed with probability `level`."""

        def excess(bound: float) -> float:
            return self._leaving(information, bound) - level

        return float(scipy.optimize.brentq(excess, -WIDEST, WIDEST, xtol=1e-10)) if excess(WIDEST) < 0 else WIDEST

    def _leaving(self, information: float, bound: float, sign: int = 1) -> float:
        """Probability of first crossing this bound at the next look: above it, or below it with the sign -1."""
        mean, spread = self._moved(information)
        return float(self.masses @ scipy.special.ndtr(sign * (mean - bound * math.sqrt(information)) / spread))

    def _moved(self, information: float) -> tuple[Floats, float]:
        """Mean and standard deviation of the next score, statistic · √information, from each node."""
        step = information - self.information
        if step <= 0:
            raise ValueError(f"information goes from {self.information:g} to {information:g}, expected an increase")
        return self.nodes * math.sqrt(self.information) + self.drift * step, math.sqrt(step)

    def look(self, information: float, high: float, low: float = -math.inf) -> None:
        """Go to the next look, and continue only between the two bounds."""
        self.above.append(self._leaving(information, high))
        self.below.append(self._leaving(information, low, -1) if low > -math.inf else 0.0)
        mean, spread = self._moved(information)
        root, centre = math.sqrt(information), self.drift * math.sqrt(information)
        start, end = max(low, centre - WIDEST), min(high, centre + WIDEST)
        points, weights = _rule()
        nodes = start + (max(end, start) - start) * points
        z = (nodes[:, None] * root - mean) / spread
        density = np.exp(-z * z / 2) @ self.masses * (root / (spread * math.sqrt(2 * math.pi)))
        self.nodes, self.masses = nodes, density * weights * (max(end, start) - start)
        self.information = information


@lru_cache(maxsize=1)
def _rule() -> tuple[Floats, Floats]:
    """Nodes and weights of the Gauss-Legendre rule on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(NODES)
    return (points + 1) / 2, weights / 2
