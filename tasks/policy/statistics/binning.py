"""Count numbers into frozen edges, in any order and with the same cost for each value.

Most values find their bin without a search. A guide table cuts the range of the edges into equal cells, and an edge
separates values of one cell only if the edge is inside it (Chen and Asau 1974, On generating random variates from an
empirical distribution; Devroye 1986, chapter III.2.4). Sorting each batch is as fast where NumPy sorts well, but six
times slower on processors whose AVX-512 compress is slow (numpy/x86-simd-sort issue 6).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.policy.records.profile import FeatureCounts, Floats, bounded, bounded_each

CELLS = 16_384
TAIL = 0.01
"""Share of the edges at either end outside the cells' range; otherwise a few distant edges would use most cells."""

Bins = NDArray[np.intp]


@dataclass(frozen=True)
class BinGuide:
    """Frozen edges, and for each cell of their range its first bin and the edge inside it.

    Bin i holds the values in (edge[i-1], edge[i]], the last one those above every edge. A cell with several edges has
    the marker `searched` as its bin: its values are looked up among all edges.
    """

    edges: Floats
    low: float
    high: float
    scale: float
    first_bins: Bins
    inner_edges: Floats

    @classmethod
    def of(cls, edges: Floats) -> "BinGuide":
        """Build the guide for ascending finite edges, at most a few hundred."""
        tail = int(len(edges) * TAIL)
        low, high = (edges[tail], edges[-1 - tail]) if len(edges) else (np.float64(0), np.float64(0))
        with np.errstate(over="ignore", divide="ignore"):
            scale = (CELLS - 1) / (high - low)
        if not 0 < scale < np.inf:  # one edge, or edges too near or too far apart for floats: one cell for all
            low, high, scale = 0.0, 0.0, 0.0
        guide = cls(edges, low, high, scale, np.zeros(CELLS, np.intp), np.full(CELLS, np.inf))
        cells = guide._cells(edges)
        inside = np.bincount(cells, minlength=CELLS)
        guide.first_bins[:] = np.where(inside > 1, guide.searched, np.cumsum(inside) - inside)
        guide.inner_edges[cells] = np.where(inside[cells] > 1, np.inf, edges)
        return guide

    @property
    def searched(self) -> int:
        return len(self.edges) + 1

    def bins(self, values: Floats) -> Bins:
        """The bin of each finite value (n,)."""
        cells = self._cells(values)
        bins = self.first_bins.take(cells)
        bins += values > self.inner_edges.take(cells)
        searched = np.flatnonzero(bins == self.searched)
        bins[searched] = np.searchsorted(self.edges, values[searched])
        return bins

    def _cells(self, values: Floats) -> NDArray[np.int32]:
        """Cell of each value, monotonic even with rounding, so no value counts as past an edge that it is not past."""
        places = np.clip(values, self.low, self.high)
        places -= self.low
        places *= self.scale
        return places.astype(np.int32)


def count_values(
    feature: str, arrow_type: str, values: Floats, guide: BinGuide, accepted: tuple[float, float]
) -> FeatureCounts:
    """Count finite values (n,) into bins; those below or above `accepted` are also counted as outside."""
    edges, size = guide.edges, len(guide.edges) + 1
    if not len(values):
        return FeatureCounts(feature, arrow_type, 0, (0,) * size, gaps=(0.0,) * size)
    bins, least, most = guide.bins(values), float(values.min()), float(values.max())
    counts = np.bincount(bins, minlength=size)
    centre = float(edges[len(edges) // 2]) if len(edges) else 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        distances = values - centre
        sums = np.bincount(bins, weights=distances, minlength=size)
        offset = sums.sum() / len(values)
        ends = np.append(edges, edges[-1] if len(edges) else 0.0) - centre
        gaps = np.abs(counts * ends - sums)
        distances -= offset
        squares = np.einsum("i,i->", distances, distances)  # not BLAS: its threads cost more than they save here
    is_inside = accepted[0] <= least and most <= accepted[1]
    return FeatureCounts(
        feature=feature,
        arrow_type=arrow_type,
        rows=len(values),
        counts=tuple(counts.tolist()),
        outside=0 if is_inside else int(np.count_nonzero((values < accepted[0]) | (values > accepted[1]))),
        mean=bounded(centre + offset),
        squares=bounded(squares),
        minimum=least,
        maximum=most,
        gaps=bounded_each(tuple(gaps.tolist())),
    )
