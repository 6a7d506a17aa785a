"""Cache of recently read tables, bounded in bytes because a bound on the number of tables would not bound memory."""

from collections.abc import Callable
from threading import Lock

import pyarrow as pa
from cachetools import LRUCache


class KeptTables:
    """Thread-safe LRU cache of tables. The table under a key must be immutable."""

    def __init__(self, most_bytes: int) -> None:
        self._kept: LRUCache[object, pa.Table] = LRUCache(most_bytes, getsizeof=lambda table: table.nbytes)
        self._alone = Lock()

    def get(self, key: object, read: Callable[[], pa.Table]) -> pa.Table:
        """Return the cached table, or read and cache it. A table larger than the cache is read each time."""
        with self._alone:
            kept = self._kept.get(key)
        if kept is None:
            kept = read()
            with self._alone:
                if kept.nbytes <= self._kept.maxsize:
                    self._kept[key] = kept
        return kept

    def clear(self) -> None:
        with self._alone:
            self._kept.clear()
