"""Resampling intervals: the bootstrap of means, of series in blocks, and of confusion tables.

Seeds are passed in, so the same evidence always gives the same decision. NaN means that the rows do not define a
result.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
import scipy  # its submodules load on first use, so that reading a model's file does not wait for them
from numpy.typing import ArrayLike, NDArray

from tasks.policy.statistics.metrics import Floats

_CELLS_AT_ONCE = 2**22
_POISSON_FROM = 500
_ROUNDED_TO = 1024
"""Numbers of rows are rounded up to a multiple of this, so that windows of similar size share cached weights."""


@cache
def _poisson_counts() -> NDArray[np.float32]:
    """Poisson counts of mean 1, indexed by a random 16-bit number."""
    counts: NDArray[np.float32] = scipy.stats.poisson.ppf((np.arange(2**16) + 0.5) / 2**16, 1).astype(np.float32)
    return counts


@lru_cache(maxsize=4)
def _cached_weights(seed: int, draws: int, rows: int) -> NDArray[np.float32]:
    picks = np.random.default_rng(seed).integers(0, len(_poisson_counts()), (draws, rows), dtype=np.uint16)
    weights: NDArray[np.float32] = _poisson_counts()[picks]
    return weights


def _poisson_weights(seed: int, draws: int, rows: int) -> Iterator[NDArray[np.float32]]:
    """Weights of `rows` rows for `draws` draws, in blocks of draws; weights that fit into one block are cached."""
    padded = -(-rows // _ROUNDED_TO) * _ROUNDED_TO
    if draws * padded <= _CELLS_AT_ONCE:
        yield _cached_weights(seed, draws, padded)[:, :rows]
        return
    random, step = np.random.default_rng(seed), max(1, _CELLS_AT_ONCE // rows)
    for start in range(0, draws, step):
        shape = (min(step, draws - start), rows)
        yield _poisson_counts()[random.integers(0, len(_poisson_counts()), shape, dtype=np.uint16)]


@dataclass(frozen=True, slots=True)
class Resampling:
    """Settings of an interval: its confidence level, and the number of bootstrap draws and their seed.

    An interval from a formula, such as Wilson's or DeLong's, uses the confidence level only.
    """

    confidence: float = 0.95
    draws: int = 1000
    seed: int = 0


DEFAULT = Resampling()
BLOCKS = Resampling(draws=2000, seed=7)
"""Resampling of a series in blocks."""


class Interval(NamedTuple):
    """Bounds in the unit of the statistic; both NaN if undefined."""

    low: float
    high: float


def bootstrap_means(rows: ArrayLike, resampling: Resampling = DEFAULT) -> Floats:
    """Means of resamples of the rows: shape (draws,) for rows (n,), (draws, m) for rows (n, m).

    Fewer than 500 rows are drawn with replacement (Efron & Tibshirani 1993, ch. 6). From 500 on each row is weighted by
    a Poisson count of mean 1, which is equivalent and costs a tenth (Chamandy et al. 2012, "Estimating uncertainty for
    massive data streams"). The columns of one draw share their rows, so differences stay paired.
    """
    values, draws, seed = np.asarray(rows, float), resampling.draws, resampling.seed
    table = values.reshape(len(values), -1)
    if len(values) < _POISSON_FROM:
        means = table[np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))].mean(axis=1)
    else:
        centre = table.mean(axis=0)
        rows_and_one = np.column_stack([table - centre, np.ones(len(table))]).astype(np.float32)
        weights = _poisson_weights(seed, draws, len(values))
        sums = np.concatenate([block @ rows_and_one for block in weights]).astype(float)
        means = centre + sums[:, :-1] / sums[:, -1:]
    found: Floats = means if values.ndim == 2 else means[:, 0]
    return found


def percentile_interval(draws: ArrayLike, confidence: float = 0.95) -> Interval:
    """Efron's percentile interval of bootstrap draws; NaN draws are dropped, and without any other it is NaN."""
    values = np.asarray(draws, float)
    known = values[~np.isnan(values)]
    if not len(known):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def moving_block_interval(series: ArrayLike, resampling: Resampling = BLOCKS) -> Interval:
    """Interval of the mean of a series with correlated neighbours, by resampling overlapping blocks of about 2n^(1/3).

    Künsch (1989), Annals of Statistics 17:1217. The mean of few blocks varies too little, so the percentiles are
    widened to Student's t with n/block - 1 degrees of freedom and by √(n/(n - block)). With blocks of n^(1/3) and
    without widening, the coverage of a 95 % interval is 84 % for 40 values with a correlation of 0.4.
    `series` (n,); values that are not finite are dropped. NaN with fewer than two values.
    """
    values = np.asarray(series, float)
    values = values[np.isfinite(values)]
    count = len(values)
    if count < 2:
        return Interval(float("nan"), float("nan"))
    block = max(1, min(round(2 * count ** (1 / 3)), count // 4))
    shape = (resampling.draws, -(-count // block))
    starts = np.random.default_rng(resampling.seed).integers(0, count - block + 1, size=shape)
    rows = (starts[:, :, None] + np.arange(block)).reshape(resampling.draws, -1)[:, :count]
    means, tail = values[rows].mean(axis=1), (1 + resampling.confidence) / 2
    stretch = float(scipy.stats.t.ppf(tail, count / block - 1) / scipy.stats.norm.ppf(tail))
    stretch *= (count / (count - block)) ** 0.5
    return percentile_interval(values.mean() + stretch * (means - means.mean()), resampling.confidence)


def resampled_confusions(counts: ArrayLike, resampling: Resampling) -> NDArray[np.int64]:
    """Confusion tables (draws, …) of resampled rows: resampling rows of few kinds is a multinomial draw."""
    table = np.asarray(counts)
    shares = table.ravel() / table.sum()
    drawn = np.random.default_rng(resampling.seed).multinomial(int(table.sum()), shares, size=resampling.draws)
    return drawn.reshape(resampling.draws, *table.shape)


class Uncertainty(NamedTuple):
    """Standard error of an estimate, the degrees of freedom of it, and the skewness of the estimate's distribution."""

    standard_error: float
    degrees_of_freedom: float
    skewness: float


SHRINKAGE = 50
"""Number of clusters with which an estimated skewness counts half. The skewness of few rows with heavy tails is mostly
noise: without shrinkage, a correction by it doubles the error of a test of 10 to 60 days of the flights."""
UNKNOWN = Uncertainty(float("nan"), 0.0, 0.0)
MOST_GROUPS = 40
"""Groups of the jackknife; the standard error then has 39 degrees of freedom."""


def cluster_uncertainty(influences: ArrayLike, clusters: ArrayLike) -> Uncertainty:
    """Uncertainty of an estimate from the influence (n,) of each row on it, where rows of one cluster are related.

    Liang & Zeger (1986), Biometrika 73:13, with the factor G/(G - 1) for G clusters. Unknown with fewer than two.
    """
    _, codes = np.unique(np.asarray(clusters), return_inverse=True)
    totals = np.asarray(np.bincount(codes, np.asarray(influences, float)), float)
    count = len(totals)
    if count < 2:
        return UNKNOWN
    return Uncertainty(float(np.sqrt(count / (count - 1) * (totals @ totals))), count - 1.0, _skewness(totals))


def jackknife_uncertainty(clusters: ArrayLike, estimate: Callable[[NDArray[np.bool_]], float]) -> Uncertainty:
    """Uncertainty of any estimate by deleting groups of clusters in turn.

    `estimate` gets a mask (n,) of the rows to use. Shao & Tu (1995), The Jackknife and Bootstrap, section 2.3. Unknown
    with fewer than two clusters, and if the estimate is undefined without some group.
    """
    _, codes = np.unique(np.asarray(clusters), return_inverse=True)
    groups = min(int(codes.max(initial=-1)) + 1, MOST_GROUPS)
    if groups < 2:
        return UNKNOWN
    found = np.array([estimate(codes % groups != group) for group in range(groups)])
    influences = found.mean() - found
    error = float(np.sqrt((groups - 1) / groups * (influences @ influences)))
    return Uncertainty(error, groups - 1.0, _skewness(influences)) if np.isfinite(error) else UNKNOWN


def _skewness(influences: Floats) -> float:
    """Skewness of a sum of independent influences, shrunk by `SHRINKAGE`; 0 without variance."""
    squares, shrunk = float(influences @ influences), len(influences) / (len(influences) + SHRINKAGE)
    return shrunk * float((influences**3).sum() / squares**1.5) if squares > 0 else 0.0


def skewed_quantile(normal: ArrayLike, skewness: ArrayLike) -> Floats:
    """Quantile of a studentized estimate with this skewness, from that of one without.

    An estimate that happens to be low has a standard error that is too low, or too high, if its rows are skewed. Hall
    (1992), JRSS B 54:221: the inverse of his cubic transformation, which is monotonic.

    >>> [round(float(skewed_quantile(z, 0.2)), 2) for z in (-2, 0, 2)]
    [-2.37, -0.03, 1.72]
    """
    z, skew = np.asarray(normal, float), np.asarray(skewness, float)
    straight = np.abs(skew) < 1e-6  # the formula is 0/0 at 0
    skew = np.where(straight, 1.0, skew)
    return np.where(straight, z, 3 / skew * (np.cbrt(1 + skew * (z - skew / 6)) - 1))


def thin(count: int, step: int, seed: int) -> NDArray[np.int64]:
    """Return ascending places of one row in each `step` successive rows of `count`, drawn at random.

    Every `step`-th row would meet the same hours of each day, where rows come at regular times.

    >>> thin(10, 4, seed=0).tolist(), thin(3, 1, seed=0).tolist()
    ([3, 6, 9], [0, 1, 2])
    """
    starts = np.arange(0, count, step)
    drawn = np.random.default_rng(seed).integers(0, step, len(starts))
    found: NDArray[np.int64] = np.minimum(starts + drawn, count - 1)
    return found
