"""Rows reduced to the bins of a reference: what is kept of single training rows, for comparisons that counts cannot make.

A profile's counts forget when a row came and which values stood together in it. A bounded number of rows, each feature
as the number of its bin and the time as its hour, is enough to compare a window with the same phase of the calendar
and to see whether features move together. No value is kept, and nothing of a personal feature.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.policy.records.profile import FeatureReference, Floats

Codes = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class CodedRows:
    """`hours` (n,) since 1970, UTC, -1 where there is no time; `codes` (n,) by feature.

    A code is a place in the feature's counts; `len(counts)` is a row without a value, the next one an infinite value.
    """

    hours: NDArray[np.int64]
    codes: Mapping[str, Codes]

    def __len__(self) -> int:
        return len(self.hours)

    def take(self, places: NDArray[np.int64]) -> "CodedRows":
        return CodedRows(self.hours[places], {name: codes[places] for name, codes in self.codes.items()})


def counts_of(reference: FeatureReference, codes: Codes, weights: Floats) -> Floats:
    """Weighted rows by code: the feature's counts, then rows without a value, then infinite ones."""
    found: Floats = np.bincount(codes, weights, minlength=len(reference.counts.counts) + 2).astype(float)
    return found
