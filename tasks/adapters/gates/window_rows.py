"""Read the rows of a window as frames for Great Expectations.

Learned expectations see values as the profile reads them: numbers as floats, the sentinel as null, categories by name,
personal categories and ids as digests. A model owner's suite sees the columns as landed, as `pyarrow` converts them.
Both bound the number of rows in memory.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.types as kinds

from tasks.adapters.profiling.columns import category_name, decode, hash_ids, is_number, presence
from tasks.adapters.profiling.sample import WindowSample
from tasks.policy.data_quality.expectations import Roles
from tasks.policy.records.base import digest
from tasks.policy.records.profile import ROUNDING, FeatureReference

Reader = Callable[[Sequence[str] | None], Iterable[pa.RecordBatch]]
"""Read some or all columns of a window's rows in batches; each call gives the same rows in the same order."""
BOOLEANS = {"true": True, "false": False}


def parts(batches: Iterable[pa.RecordBatch], most_rows: int) -> Iterator[pa.Table]:
    """Join batches to tables of at most `most_rows` rows, or of one larger batch; yield at least one table."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if held and rows + batch.num_rows > most_rows:
            yield pa.Table.from_batches(held)
            held, rows = [], 0
        held.append(batch)
        rows += batch.num_rows
    yield pa.Table.from_batches(held) if held else pa.table({})


def sampled(batches: Iterable[pa.RecordBatch], columns: Sequence[str], rows: int) -> pd.DataFrame:
    """Draw a uniform random sample of at most `rows` rows, as landed."""
    sample = WindowSample(tuple(columns), rows, seed=rows)
    for batch in batches:
        sample.add(batch)
    table = sample.table()
    return pd.DataFrame() if table is None else as_landed(table)


def as_landed(table: pa.Table) -> pd.DataFrame:
    once = [name for name in table.column_names if table.column_names.count(name) == 1]
    frame: pd.DataFrame = table.select(once).to_pandas(date_as_object=False)
    return frame


def with_numbers(table: pa.Table, name: str) -> pa.Table:
    """Replace text that spells numbers or booleans by its values: a CSV file's labels are stored as text."""
    column = table.column(name)
    if not (kinds.is_string(column.type) or kinds.is_large_string(column.type)):
        return table
    for kind in (pa.int64(), pa.float64(), pa.bool_()):
        try:
            return table.set_column(table.column_names.index(name), name, column.cast(kind))
        except pa.ArrowInvalid:
            continue
    return table


def as_read(table: pa.Table, features: Sequence[FeatureReference], roles: Roles) -> pd.DataFrame:
    """Convert the columns as the profile reads them. Leave out unreadable columns: they are a separate finding."""
    known = {feature.feature: feature for feature in features}
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(table.column_names):
        if table.column_names.count(name) > 1:
            continue
        column = table.column(name).combine_chunks()
        column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
        columns[name] = _values(name, column, known.get(name), roles)
    readable = {name: values for name, values in columns.items() if values is not None}
    return pd.DataFrame(readable, index=pd.RangeIndex(table.num_rows), copy=False)


def _values(name: str, column: pa.Array, feature: FeatureReference | None, roles: Roles) -> Any:
    """Convert one column for pandas or NumPy; None if none of it can be read as the expected type."""
    if feature is None:
        return _ids(column) if name == roles.id else _times(column)
    if feature.kind == "numeric":
        return _numbers(column, feature.sentinel)
    if feature.kind == "other":
        return _categories(presence(column), boolean=False, personal=False)
    if kinds.is_nested(column.type):
        return None
    return _categories(column, feature.kind == "boolean", name in roles.personal)


def _numbers(column: pa.Array, sentinel: float | None) -> np.ndarray | None:
    column = decode(column)
    if column.null_count == len(column):
        return np.full(len(column), np.nan)
    if not (is_number(column.type) or kinds.is_boolean(column.type)):
        return None
    if not kinds.is_float64(column.type):
        column = column.cast(pa.float64(), safe=False)
    values = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    if sentinel is None:
        return values
    return np.where(np.isclose(values, sentinel, rtol=ROUNDING, atol=0.0), np.nan, values)


def _categories(column: pa.Array, boolean: bool, personal: bool) -> Any:
    if kinds.is_null(column.type):
        return pd.Categorical([None] * len(column))
    if kinds.is_string_view(column.type):
        column = column.cast(pa.string())
    if not kinds.is_dictionary(column.type):
        column = column.dictionary_encode()
    values = column.dictionary.to_pylist()
    unknown = [value is None or value != value for value in values]
    names: list[object] = [
        None if absent else category_name(value, boolean) for value, absent in zip(values, unknown, strict=True)
    ]
    if boolean:
        names = [BOOLEANS.get(str(name), name) for name in names]
    elif personal:
        names = [None if name is None else digest(str(name)) for name in names]
    distinct = list(dict.fromkeys(name for name in names if name is not None))
    places = {name: place for place, name in enumerate(distinct)}
    codes = np.array([*(places.get(name, -1) for name in names), -1])
    return pd.Categorical.from_codes(codes[column.indices.fill_null(len(names)).to_numpy()], pd.Index(distinct))


def _ids(column: pa.Array) -> pd.arrays.IntegerArray | None:
    """Replace ids by hashes: equal for equal ids, without revealing them."""
    if kinds.is_nested(column.type):
        return None
    unknown = np.asarray(column.is_null())
    hashes = np.zeros(len(column), np.uint64)
    if not kinds.is_null(column.type):
        hashes[~unknown] = hash_ids(column)
    return pd.arrays.IntegerArray(hashes, unknown)


def _times(column: pa.Array) -> Any:
    if not (kinds.is_timestamp(column.type) or kinds.is_date(column.type)):
        return None
    zone = column.type.tz if kinds.is_timestamp(column.type) else None
    return column.cast(pa.timestamp("us", zone), safe=False).cast(pa.timestamp("us", "UTC")).to_pandas()
