"""Convert Arrow rows to codes of a reference's bins, and store those of training as Parquet with a model version."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deployments.config.model import ModelConfig
from tasks.adapters.profiling.columns import category_name, decode, is_number, presence
from tasks.policy.records.binned_rows import CodedRows, Codes
from tasks.policy.records.profile import FeatureReference, ReferenceProfile

ROWS, CELLS = 80_000, 4_000_000
"""Maximum number of stored training rows and of values; a wide table stores fewer rows."""
HOUR_US = 3_600_000_000


def draw_rows(config: ModelConfig, reference: ReferenceProfile, rows: pa.Table) -> CodedRows:
    """Sample training rows at even intervals and code them, without personal features."""
    return code_rows(config, reference, rows.take(sample_indices(reference, len(rows))))


def sample_indices(reference: ReferenceProfile, count: int) -> NDArray[np.int64]:
    """Return the indices of the sampled rows among `count` training rows."""
    return spread(count, min(ROWS, max(1, CELLS // max(1, len(reference.features)))))


def spread(count: int, most: int) -> NDArray[np.int64]:
    """Return at most `most` indices, evenly spread over `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def code_rows(config: ModelConfig, reference: ReferenceProfile, rows: pa.Table) -> CodedRows:
    """Code the rows of a table; missing and personal features are left out."""
    codes = {
        frozen.feature: code_feature(_array(rows, frozen.feature), frozen)
        for frozen in reference.features
        if frozen.feature not in config.columns.personal and rows.column_names.count(frozen.feature) == 1
    }
    return CodedRows(hours_of(config, rows), codes)


def _array(rows: pa.Table, name: str) -> pa.Array:
    column = rows.column(name).combine_chunks()
    return column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)


def hours_of(config: ModelConfig, rows: pa.Table) -> NDArray[np.int64]:
    """Return each row's hour since 1970 (UTC), shape (n,); -1 for rows without a time."""
    if config.columns.time not in rows.column_names:
        return np.full(len(rows), -1, np.int64)
    return _hours(_array(rows, config.columns.time))


def _hours(column: pa.Array) -> NDArray[np.int64]:
    if not pa.types.is_timestamp(column.type):
        return np.full(len(column), -1, np.int64)
    moments = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    micros: NDArray[np.int64] = pc.fill_null(moments, -1).to_numpy(zero_copy_only=False)
    return micros // HOUR_US


def code_feature(column: pa.Array, frozen: FeatureReference) -> Codes:
    """Return each value's bin index in the feature's counts, by the same rules as counting, shape (n,).

    If the feature has k counts, a missing value has code k and an infinite number has code k + 1.
    """
    missing, plain = len(frozen.counts.counts), presence(column) if frozen.kind == "other" else decode(column)
    codes = np.full(len(plain), missing, np.uint16)
    if frozen.kind == "numeric":
        if is_number(plain.type) or pa.types.is_boolean(plain.type):
            values = pc.fill_null(plain.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
            finite = np.isfinite(values)
            codes[finite] = np.searchsorted(np.asarray(frozen.edges), values[finite], side="left")
            codes[np.isinf(values)] = missing + 1
        return codes
    if pa.types.is_nested(plain.type) or pa.types.is_null(plain.type):
        return codes
    encoded = plain.dictionary_encode()
    place = {name: index for index, name in enumerate(frozen.categories)}
    names = [
        missing if value is None or value != value else place.get(category_name(value, frozen.kind == "boolean"), -1)
        for value in encoded.dictionary.to_pylist()
    ]
    known = np.array([missing - 1 if index == -1 else index for index in names] or [missing], np.uint16)
    indices = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
    return np.where(encoded.indices.is_valid().to_numpy(zero_copy_only=False), known[indices], missing).astype(
        np.uint16
    )


def to_parquet(rows: CodedRows) -> bytes:
    """Serialize coded rows as Parquet: the hours first, then the features in order."""
    columns = [pa.array(rows.hours), *(pa.array(codes) for codes in rows.codes.values())]
    target = io.BytesIO()
    pq.write_table(
        pa.table(columns, names=["hour", *(f"code {name}" for name in rows.codes)]), target, compression="zstd"
    )
    return target.getvalue()


def from_parquet(content: bytes) -> CodedRows:
    table = pq.read_table(io.BytesIO(content))
    names = [name.removeprefix("code ") for name in table.column_names[1:]]
    codes = {name: table.column(place + 1).to_numpy().astype(np.uint16) for place, name in enumerate(names)}
    return CodedRows(table.column(0).to_numpy(), codes)
