"""What a drift report draws: the worst columns of the window's sample, and their reference as its profile tells it."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from tasks.adapters.profiling.columns import category_name, decode, is_number
from tasks.policy.records.profile import FeatureReference
from tasks.policy.records.reports import DriftReport


def drawable(
    report: DriftReport, frozen: dict[str, FeatureReference], sample_uri: str | None, plots: int
) -> dict[str, tuple[pd.Series, pd.Series]]:
    """Current and reference values of the worst columns; a column all null has nothing to draw."""
    if sample_uri is None:
        return {}
    held = set(pq.read_schema(sample_uri).names)
    names = [drift.feature for drift in report.features if drift.feature in held][: 2 * plots]
    sample = pq.read_table(sample_uri, columns=names, use_threads=False)
    columns: dict[str, tuple[pd.Series, pd.Series]] = {}
    for name in names:
        current = _values(sample.column(name), frozen[name])
        before = draw_reference(frozen[name], len(current))  # as many rows, so that counts compare at a look
        if current.notna().any() and before.notna().any() and len(columns) < plots:
            columns[name] = (current, before)
    return columns


def _values(column: Any, reference: FeatureReference) -> pd.Series:
    """A sampled column as Evidently can draw it: finite floats, or category names."""
    plain = decode(column.combine_chunks())
    if reference.kind != "numeric":
        boolean = reference.kind == "boolean"
        names = [None if value is None else _label(category_name(value, boolean)) for value in plain.to_pylist()]
        return pd.Series(names, dtype=object)
    if not is_number(plain.type):
        return pd.Series(np.full(len(plain), np.nan))
    values = plain.cast("float64", safe=False).to_numpy(zero_copy_only=False)
    return pd.Series(np.where(np.isfinite(values), values, np.nan))


def _label(name: str) -> str:
    """A category as Plotly shows it as text: it would make a live link of an `<a href=…>` in a label."""
    return name.replace("<", "&lt;")


def draw_reference(reference: FeatureReference, rows: int) -> pd.Series:
    """About `rows` values spread over the profile's bins or categories as the reference was."""
    counts = np.asarray(reference.counts.counts[: -1 if reference.edges else None], dtype=np.float64)
    if not counts.sum():
        return pd.Series(dtype=np.float64)
    ends = np.floor(np.cumsum(counts) / counts.sum() * rows + 0.5).astype(np.int64)
    times = np.diff(ends, prepend=0)
    if reference.kind == "numeric":
        return pd.Series(np.repeat(np.asarray(reference.edges), times))
    names = np.array([*map(_label, reference.categories), "(other)"], dtype=object)
    return pd.Series(np.repeat(names, times), dtype=object)
