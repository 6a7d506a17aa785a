"""Target encoding: a category's mean label, shrunk towards the mean of all rows (scikit-learn's TargetEncoder).

Micci-Barreca 2001 (SIGKDD Explorations 3:27), with the empirical Bayes shrinkage of scikit-learn's `smooth="auto"`.
A row must not see its own label, nor a later one: the training rows are encoded block after block in time order, each by
the rows before it, and the first block is missing. Predictions use the means of all training rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import TargetEncoder

Floats = NDArray[np.float64]

BLOCKS = 10
"""Blocks of the training rows; the first tenth of the rows stays without an encoding."""


@dataclass(frozen=True, slots=True)
class TargetMeans:
    """The mean label of each category of a feature, by its code; `prior` stands for a missing or unseen one."""

    feature: str
    means: tuple[float, ...]
    prior: float

    def column(self, codes: NDArray[np.float32]) -> Floats:
        """Return the means of codes (n,), NaN for an unseen category."""
        table = np.array([*self.means, self.prior])
        places = np.where(np.isnan(codes), len(self.means), codes).astype(np.int64)
        return table[places]


def fit_means(feature: str, codes: NDArray[np.float32], y: Floats, categories: int) -> TargetMeans:
    """Return the shrunken mean label (codes 0 and 1, or numbers) of each of the categories in these rows."""
    known = ~np.isnan(codes)
    prior = float(y.mean()) if len(y) else float("nan")
    means = np.full(categories, prior)
    if known.any() and len(np.unique(y[known])) > 1:
        encoder = TargetEncoder(target_type="continuous", smooth="auto").fit(
            codes[known].astype(np.int64).reshape(-1, 1), y[known]
        )
        means[np.asarray(encoder.categories_[0], np.int64)] = encoder.encodings_[0]
    return TargetMeans(feature, tuple(means.tolist()), prior)


def forward_column(feature: str, codes: NDArray[np.float32], y: Floats, categories: int) -> Floats:
    """Return the encoding of training rows (n,) in time order, each block by the rows before it; NaN in the first."""
    encoded = np.full(len(codes), np.nan)
    for start, end in _blocks(len(codes)):
        encoded[start:end] = fit_means(feature, codes[:start], y[:start], categories).column(codes[start:end])
    return encoded


def _blocks(rows: int) -> Sequence[tuple[int, int]]:
    edges = [rows * number // BLOCKS for number in range(BLOCKS + 1)]
    return [(start, end) for start, end in pairwise(edges) if 0 < start < end]
