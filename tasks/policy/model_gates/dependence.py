"""Allow for rows that are alike because they are close in time: widen an interval that takes them as independent.

The rows of a holdout come from few days, and what is hard about a day is hard for all its rows. The width of the bootstrap
interval is multiplied by the square root of the design effect (Kish 1965): the standard error over blocks of time, relative
to that of independent rows; and by Student's t for the few blocks.
"""

from dataclasses import replace

import numpy as np
import scipy  # its submodules load on first use, so that reading a model's file does not wait for them
from numpy.typing import ArrayLike

from tasks.policy.evidence.validation import MetricDifference
from tasks.policy.statistics.metrics import Codes
from tasks.policy.statistics.resampling import cluster_uncertainty

BLOCKS = 20
"""Blocks of time that a holdout is cut into; with fewer a standard error says little, with more they are alike themselves."""


def time_blocks(times: ArrayLike, blocks: int = BLOCKS) -> Codes:
    """The block (n,) of each row: successive blocks of about equally many rows.

    >>> time_blocks([3, 1, 2, 4], blocks=2).tolist()
    [1, 0, 0, 1]
    """
    order = np.argsort(np.asarray(times), kind="stable")
    found = np.empty(len(order), np.int64)
    found[order] = np.arange(len(order)) * blocks // max(1, len(order))
    return found


def widened(found: MetricDifference, row_gains: ArrayLike, blocks: ArrayLike, confidence: float) -> MetricDifference:
    """The difference with the interval that rows related within their block allow; `row_gains` (n,) and `blocks` (n,)."""
    values = np.asarray(row_gains, float)
    influences = (values - values.mean()) / len(values)
    uncertainty = cluster_uncertainty(influences, blocks)
    independent = float(np.sqrt(influences @ influences))
    if not independent > 0 or not np.isfinite(uncertainty.standard_error):
        return found
    tail = (1 + confidence) / 2
    stretch = float(scipy.stats.t.ppf(tail, uncertainty.degrees_of_freedom) / scipy.stats.norm.ppf(tail))
    stretch *= max(1.0, uncertainty.standard_error / independent)
    return replace(
        found,
        low=found.gain - stretch * (found.gain - found.low),
        high=found.gain + stretch * (found.high - found.gain),
    )
