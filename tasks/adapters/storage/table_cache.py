"""Cache of recently read tables, bounded in bytes because a bound on the number of tables would not bound memory."""

from collections.abc import Callable
from threading import Lock

import pyarrow as pa
from cachetools import LRUCache


class TableCache:
    """Thread-safe LRU cache of tables. The table under a key must be immutable."""

    def __init__(self, max_bytes: int) -> None:
        self._tables: LRUCache[object, pa.Table] = LRUCache(max_bytes, getsizeof=lambda table: table.nbytes)
        self._lock = Lock()

    def get(self, key: object, read: Callable[[], pa.Table]) -> pa.Table:
        """Return the cached table, or read and cache it. A table larger than the cache is read each time."""
        with self._lock:
            table = self._tables.get(key)
        if table is None:
            table = read()
            with self._lock:
                if table.nbytes <= self._tables.maxsize:
                    self._tables[key] = table
        return table

    def clear(self) -> None:
        with self._lock:
            self._tables.clear()
