"""Convert Arrow columns of any type to countable values: numbers, category names, id hashes, times.

Values whose type does not fit the feature's kind are counted as unreadable and never raise, because the quality gate
checks column types. NaN is a missing value, as in pandas.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.policy.records.profile import ROUNDING, Floats

LONGEST_HASHED = 512  # bytes with distinct hash multipliers; longer ids reuse them


@dataclass(frozen=True)
class Numbers:
    """Finite values of a numeric column, and counts of null, infinite and unreadable rows."""

    values: Floats
    nulls: int
    non_finite: int
    unreadable: int

    def without(self, sentinel: float | None) -> "Numbers":
        """Return a copy in which the sentinel value counts as null; `self` if there is no sentinel."""
        if sentinel is None:
            return self
        known = ~np.isclose(self.values, sentinel, rtol=ROUNDING, atol=0.0)
        return replace(self, values=self.values[known], nulls=self.nulls + len(known) - int(known.sum()))


def type_name(kind: pa.DataType) -> str:
    """Return an Arrow type's name, equal for plain and dictionary-encoded columns."""
    return str(kind.value_type) if pa.types.is_dictionary(kind) else str(kind)


def read_numbers(column: pa.Array) -> Numbers:
    """Return the column's finite values in row order, and the counts of other rows."""
    column = decode(column)
    kind, nulls = column.type, column.null_count
    if pa.types.is_null(kind):
        return Numbers(np.empty(0), len(column), 0, 0)
    if not (is_number(kind) or pa.types.is_boolean(kind)):
        return Numbers(np.empty(0), nulls, 0, len(column) - nulls)
    values = to_floats(column.drop_null() if nulls else column)
    finite = np.isfinite(values)
    if finite.all():
        return Numbers(values, nulls, 0, 0)
    nans = int(np.isnan(values).sum())
    return Numbers(values[finite], nulls + nans, len(values) - nans - int(finite.sum()), 0)


def to_floats(column: pa.Array) -> Floats:
    """Convert a column without nulls to floats. The result may share the column's memory; do not modify it."""
    if not pa.types.is_floating(column.type):
        column = column.cast(pa.float64(), safe=False)
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def decode(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


PRESENT = "present"
"""The one category of a feature that is text, a date or a list: only missing values are counted."""


def presence(column: pa.Array) -> pa.Array:
    """Return PRESENT for each value and null for each missing one, whatever the column's type."""
    return pc.if_else(column.is_valid(), pa.scalar(PRESENT), pa.scalar(None, pa.string()))


def constant_share(column: pa.ChunkedArray, places: NDArray[np.int32]) -> float:
    """Return the share of windows in which all values of a column are the same; `places` (n,): each row's window, or -1.

    Windows with fewer than two values do not count. 0 without windows.
    """
    if not len(places) or pa.types.is_nested(column.type) or pa.types.is_null(column.type):
        return 0.0
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    if pa.types.is_dictionary(column.type):
        chunks = [chunk.indices.cast(pa.int32()) for chunk in column.unify_dictionaries().chunks]
        column = pa.chunked_array(chunks, pa.int32())
    known = (places >= 0) & column.is_valid().to_numpy()
    at, values = places[known], column if known.all() else column.filter(pa.array(known))
    if not len(at):
        return 0.0
    if (np.diff(at) < 0).any():
        order = np.argsort(at, kind="stable")
        at, values = at[order], values.take(pa.array(order))
    rows = np.bincount(at)
    if _change_early(at, values, rows):
        return 0.0
    changes = _differ(values.slice(1), values.slice(0, len(values) - 1)) & (at[1:] == at[:-1])
    constant, several = np.bincount(at[1:][changes], minlength=len(rows)) == 0, rows > 1
    return float(constant[several].mean()) if several.any() else 0.0


def _change_early(at: NDArray[np.int32], values: pa.ChunkedArray, rows: NDArray[np.intp]) -> bool:
    """Return whether the first two values of each window of several rows differ: then no window is constant."""
    first = np.searchsorted(at, np.flatnonzero(rows > 1))
    if not len(first) or len(first) > len(at) // 10:  # few rows per window: looking at all is as fast
        return False
    one, other = (values.take(pa.array(places)) for places in (first, first + 1))
    return bool(_differ(one, other).all())


def _differ(one: pa.ChunkedArray, other: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Return whether values without nulls differ, position by position; NaN equals NaN."""
    differ: NDArray[np.bool_] = pc.not_equal(one, other).to_numpy()
    if pa.types.is_floating(one.type):
        differ &= ~(pc.is_nan(one).to_numpy() & pc.is_nan(other).to_numpy())
    return differ


def count_categories(column: pa.Array, boolean: bool = False) -> tuple[dict[str, int], int, int]:
    """Return (rows per category name, nulls, rows whose value is not a category, such as a list or a struct)."""
    if pa.types.is_null(column.type):
        return {}, len(column), 0
    if pa.types.is_nested(column.type):
        return {}, column.null_count, len(column) - column.null_count
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.string())  # value counts of string views count null as empty text (pyarrow 25)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    indices = column.indices.drop_null() if column.indices.null_count else column.indices
    rows = np.bincount(indices.to_numpy(zero_copy_only=False), minlength=len(column.dictionary)).tolist()
    counts: dict[str, int] = {}
    for value, count in zip(column.dictionary.to_pylist(), rows, strict=True):
        if count and value is not None and value == value:
            name = category_name(value, boolean)
            counts[name] = counts.get(name, 0) + count
    return counts, len(column) - sum(counts.values()), 0


def category_name(value: object, boolean: bool = False) -> str:
    """Return a category's name, equal across types: 3 and 3.0, or true and 1 in a boolean feature."""
    if boolean and value in (0, 1):
        return "true" if value else "false"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)


def hash_ids(column: pa.Array) -> NDArray[np.uint64]:
    """Return 64-bit hashes of the non-null ids; equal ids have equal hashes in all batches and processes."""
    column = decode(column)
    column = column.drop_null() if column.null_count else column
    if pa.types.is_integer(column.type):
        return _scramble(column.cast(pa.int64(), safe=False).to_numpy().view(np.uint64))
    if not (pa.types.is_binary(column.type) or pa.types.is_fixed_size_binary(column.type)):
        column = column.cast(pa.large_string())
    text = column.cast(pa.large_binary())
    return _scramble(_hash_bytes(text))


def _hash_bytes(column: pa.LargeBinaryArray) -> NDArray[np.uint64]:
    """Return the multilinear hash of each value: the sum of each byte times a random odd number for its position."""
    _, offsets_buffer, bytes_buffer = column.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[column.offset : column.offset + len(column) + 1]
    if not len(column) or bytes_buffer is None:
        return np.zeros(len(column), np.uint64)
    content = np.frombuffer(bytes_buffer, np.uint8)[offsets[0] : offsets[-1]]
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    width = int(lengths[0])
    if 0 < width <= LONGEST_HASHED and (lengths == width).all():  # same sums, four times faster
        square = content.reshape(-1, width).astype(np.uint64) + np.uint64(1)
        return square @ _multipliers()[:width] + np.uint64(width)
    position = np.arange(len(content)) - np.repeat(starts, lengths)
    terms = (content.astype(np.uint64) + np.uint64(1)) * _multipliers()[position % LONGEST_HASHED]
    hashes = lengths.astype(np.uint64)
    filled = np.flatnonzero(lengths)
    if len(filled):
        hashes[filled] += np.add.reduceat(terms, starts[filled])
    return hashes


@cache
def _multipliers() -> NDArray[np.uint64]:
    drawn = np.random.default_rng(20261122).integers(0, 2**63, LONGEST_HASHED, dtype=np.uint64)
    return drawn * np.uint64(2) + np.uint64(1)


def _scramble(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix values over all 64 bits, bijectively (splitmix64, Steele, Lea and Flood 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def time_bounds(column: pa.Array) -> Iterator[datetime]:
    """Yield the oldest and the newest time in UTC, or nothing without times. Times without a zone are read as UTC."""
    if not pa.types.is_timestamp(column.type) and not pa.types.is_date(column.type):
        return
    zone = column.type.tz if pa.types.is_timestamp(column.type) else None
    bounds = pc.min_max(column.cast(pa.timestamp("us", zone), safe=False))
    for side in ("min", "max"):
        moment = bounds[side].as_py()
        if moment is not None:
            yield moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
