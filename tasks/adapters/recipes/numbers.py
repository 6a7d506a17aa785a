"""Numbers from numbers: interactions of two features, and values without outliers.

Additions, products, quotients and square roots are exact to the last bit in every batch size (IEEE 754), so a single row of
a request gets the same numbers as a batch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.policy.training.recipe import Interaction

Floats = NDArray[np.float64]
BOUND = 3.0
"""Largest value of a squashed feature, as in skrub's SquashingScaler."""


def interaction_column(interaction: Interaction, left: Floats, right: Floats) -> Floats:
    """Return the interaction of two columns (n,); NaN where one is missing or the divisor is 0."""
    if interaction.kind == "product":
        return left * right
    if interaction.kind == "difference":
        return left - right
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = np.where(right != 0, left / right, np.nan)
    return ratio


@dataclass(frozen=True, slots=True)
class Squash:
    """Centre and scale of a feature, and the smooth bound of skrub's SquashingScaler: z / √(1 + (z / 3)²)."""

    feature: str
    centre: float
    scale: float

    def column(self, values: Floats) -> Floats:
        """Return values (n,) between -3 and 3; missing values stay missing."""
        z = (values - self.centre) * self.scale
        with np.errstate(over="ignore"):
            squashed: Floats = z / np.sqrt(1 + (z / BOUND) ** 2)
        return squashed


def fit_squash(feature: str, values: Floats) -> Squash:
    """Centre by the median and scale by the quartiles; by half of the range where the quartiles are equal."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Squash(feature, 0.0, 0.0)
    low, centre, high = np.quantile(known, (0.25, 0.5, 0.75))
    spread = high - low if high > low else (known.max() - known.min()) / 2
    return Squash(feature, float(centre), float(1 / spread) if spread > 0 else 0.0)
