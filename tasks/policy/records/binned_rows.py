"""Training rows reduced to bin numbers, for comparisons that counts alone cannot make.

A profile's counts lose the time of a row and the combination of its values. A bounded number of rows, with the bin
number of each feature and the hour of each row, is enough to compare a window with the same phase of the calendar and
to detect joint drift. No raw values are stored, and personal features are excluded.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.policy.records.profile import FeatureReference, Floats

Codes = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class CodedRows:
    """`hours` (n,) since 1970 in UTC, -1 where the time is unknown; `codes` (n,) for each feature.

    A code is an index into the feature's counts; `len(counts)` means a missing value, `len(counts) + 1` an infinite
    one.
    """

    hours: NDArray[np.int64]
    codes: Mapping[str, Codes]

    def __len__(self) -> int:
        return len(self.hours)

    def take(self, places: NDArray[np.int64]) -> "CodedRows":
        return CodedRows(self.hours[places], {name: codes[places] for name, codes in self.codes.items()})


def counts_of(reference: FeatureReference, codes: Codes, weights: Floats) -> Floats:
    """Weighted row counts by code: the feature's bins, then missing values, then infinite values."""
    found: Floats = np.bincount(codes, weights, minlength=len(reference.counts.counts) + 2).astype(float)
    return found
