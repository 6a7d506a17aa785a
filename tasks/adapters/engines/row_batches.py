"""Rows that are encoded batch by batch, for a fit or a prediction that never holds the encoded matrix of all rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Target = NDArray[np.float64] | NDArray[np.int64]
ROWS_PER_BATCH = 131_072
"""Rows of one batch: 128k rows × 35 features are 18 MB as float32."""


@dataclass(frozen=True)
class Engine:
    """What trains a model, other than this process in its memory; `scheduler` is the address of a Dask cluster."""

    model: str
    kind: Literal["external", "dask"]
    scheduler: str | None = None


@dataclass(frozen=True)
class RowBatches:
    """Chosen rows of a table and their targets, encoded on demand."""

    rows: pa.Table
    target: Target
    chosen: NDArray[np.bool_]
    encode: Callable[[pa.Table], Matrix]
    engine: Engine

    def __getitem__(self, key: slice | NDArray[np.bool_]) -> "RowBatches":
        """Return these of all rows."""
        chosen = np.zeros(len(self.chosen), bool)
        chosen[key] = True
        return replace(self, chosen=chosen & self.chosen)

    def __len__(self) -> int:
        return int(self.chosen.sum())

    def __iter__(self) -> Iterator[tuple[Matrix, Target]]:
        """Yield (matrix, target) of consecutive rows, without empty batches."""
        for first in range(0, len(self.chosen), ROWS_PER_BATCH):
            part = slice(first, first + ROWS_PER_BATCH)
            chosen = self.chosen[part]
            if not chosen.any():
                continue
            rows = self.rows.slice(first, len(chosen))
            rows = rows if chosen.all() else rows.filter(pa.array(chosen))
            yield self.encode(rows), self.target[part][chosen]

    def predict(self, predict: Callable[[Matrix], Any]) -> Any:
        """Return the predictions of all chosen rows, in their order."""
        return np.concatenate([np.asarray(predict(matrix)) for matrix, _ in self])
