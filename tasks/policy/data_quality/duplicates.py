"""Count duplicated ids in memory that does not grow with the rows.

The count is exact while the distinct ids fit. Beyond that only ids whose hash falls into a share of the hash space are
stored. Both rows of a duplicated id have the same hash and are stored or dropped together, so the count in the sample
divided by the share estimates the count in all rows. Sketches of parts can be merged. The method is adaptive sampling:
Flajolet (1990), On adaptive sampling, Computing 43.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
CAPACITY = 1 << 21  # 16 MB of hashes; about two million ids are counted exactly


@dataclass
class IdSketch:
    """64-bit hashes of ids: `stored` are distinct and sorted; `repeated` occurred again, `surplus` times each."""

    capacity: int = CAPACITY
    level: int = 0
    stored: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))
    repeated: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))
    surplus: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    _pending: list[Hashes] = field(default_factory=list)
    _pending_rows: int = 0

    def add(self, hashes: Hashes) -> None:
        """Add the ids of some rows; hashes (n,) must be uniform over 64 bits."""
        inside = hashes[self._inside(hashes)]
        self._pending.append(inside)
        self._pending_rows += len(inside)
        if self._pending_rows >= self.capacity // 2:
            self._settle()

    def merge(self, other: "IdSketch") -> None:
        """Add the rows of another sketch of the same capacity."""
        other._settle()
        self._settle()
        self._shrink_to(max(self.level, other.level))
        self.add(other.stored)
        self._settle()
        inside = self._inside(other.repeated)
        self._repeat(other.repeated[inside], other.surplus[inside])

    def duplicates(self) -> int:
        """Number of rows whose id occurs in an earlier row; an estimate if `is_exact` is false."""
        self._settle()
        return int(self.surplus.sum()) << self.level

    @property
    def is_exact(self) -> bool:
        self._settle()
        return self.level == 0

    def _inside(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Mask of hashes in the stored share of the hash space, 1 / 2^level."""
        if self.level == 0:
            return np.ones(len(hashes), dtype=bool)
        share: NDArray[np.bool_] = (hashes >> np.uint64(64 - self.level)) == 0
        return share

    def _settle(self) -> None:
        if not self._pending_rows:
            return
        arrived = np.concatenate([self.stored, *self._pending])
        self._pending, self._pending_rows = [], 0
        arrived.sort()
        again = np.zeros(len(arrived), dtype=bool)
        np.equal(arrived[1:], arrived[:-1], out=again[1:])
        if again.any():
            self._repeat(*np.unique(arrived[again], return_counts=True))
            arrived = arrived[~again]
        self.stored = arrived
        while len(self.stored) > self.capacity:
            self._shrink_to(self.level + 1)

    def _repeat(self, hashes: Hashes, times: NDArray[np.int64]) -> None:
        self.repeated, place = np.unique(np.concatenate([self.repeated, hashes]), return_inverse=True)
        self.surplus = np.bincount(place, np.concatenate([self.surplus, times]), len(self.repeated)).astype(np.int64)

    def _shrink_to(self, level: int) -> None:
        if level > self.level:
            self.level = level
            self.stored = self.stored[self._inside(self.stored)]
            inside = self._inside(self.repeated)
            self.repeated, self.surplus = self.repeated[inside], self.surplus[inside]
