"""Bounded random sample of a window's rows, for plots and for methods that need rows. Other numbers use all rows.

Each row draws a random key, and the rows with the smallest keys are retained (Efraimidis and Spirakis 2006, with equal
weights), so memory is bounded by the sample and not by the window. The sample contains features, and the time if hours
are to be matched, but no personal columns, text, dates or lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deployments.config.model import ModelConfig
from tasks.adapters.storage.atomic_files import atomic_file
from tasks.policy.records.base import Window, digest
from tasks.policy.records.errors import WorkspaceError
from tasks.policy.records.profile import Floats


@dataclass
class WindowSample:
    """Uniform sample of at most `rows` rows of a window; equal seeds and batches give equal rows."""

    columns: tuple[str, ...]
    rows: int
    seed: int
    _parts: list[pa.RecordBatch] = field(default_factory=list)
    _keys: Floats = field(default_factory=lambda: np.empty(0))
    _limit: float = 1.0

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    @classmethod
    def of(cls, config: ModelConfig, window: Window, content_hash: str) -> "WindowSample":
        by_hour = {"day", "week"} & set(config.drift.calendar)
        wanted = dict.fromkeys((*config.columns.features.tabular, *([config.columns.time] if by_hour else [])))
        shown = tuple(name for name in wanted if name not in config.columns.personal)
        seed = int(digest(config.name, window.name, content_hash, length=8), 16)
        return cls(shown, config.drift.sample_rows, seed)

    def add(self, batch: pa.RecordBatch) -> None:
        keys = self._random.random(batch.num_rows)
        chosen = np.flatnonzero(keys < self._limit)
        if len(chosen) > self.rows:
            chosen = np.sort(chosen[np.argpartition(keys[chosen], self.rows - 1)[: self.rows]])
        if not len(chosen):
            return
        names = [name for name in self.columns if batch.schema.names.count(name) == 1]
        part = batch.select(names).take(pa.array(chosen))
        if self._parts and part.schema != self._parts[0].schema:
            return  # plots can omit rows of another schema; the counts include them
        self._parts.append(part)
        self._keys = np.concatenate([self._keys, keys[chosen]])
        if len(self._keys) > 2 * self.rows:
            self._compact()

    def table(self) -> pa.Table | None:
        """Return the sample, or None if there were no rows."""
        self._compact()
        return pa.Table.from_batches(self._parts) if self._parts else None

    def _compact(self) -> None:
        if len(self._keys) <= self.rows:
            return
        chosen = np.sort(np.argpartition(self._keys, self.rows - 1)[: self.rows])
        self._parts = pa.Table.from_batches(self._parts).take(pa.array(chosen)).combine_chunks().to_batches()
        self._keys = self._keys[chosen]
        self._limit = float(self._keys.max())


def write_sample(samples: Sequence[WindowSample], path: Path) -> str | None:
    """Write samples of the same rows with different columns as one Parquet file and return its path.

    Returns None without rows. Raises WorkspaceError.
    """
    tables = [table for table in (sample.table() for sample in samples) if table is not None]
    if not tables:
        return None
    columns = {name: table.column(name) for table in tables for name in table.column_names}
    try:
        with atomic_file(path) as own:  # a manual run may read it while a scheduled run writes it
            pq.write_table(pa.table(columns), own, compression="none", use_dictionary=False, write_statistics=False)
    except OSError as error:
        raise WorkspaceError(f"{path}: cannot be written ({error.strerror}); expected a writable workspace") from error
    return str(path)
