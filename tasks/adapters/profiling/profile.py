"""Compute profiles in one pass over Arrow batches. Memory does not grow with the rows of the window.

A reference profile is computed one column at a time, from rows that training already holds in memory.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deployments.config.model import ModelConfig
from tasks.adapters.lake.row_identity import window_indices
from tasks.adapters.models.eligibility import classes_of
from tasks.adapters.models.encoding import encode_labels
from tasks.adapters.profiling.columns import (
    constant_share,
    count_categories,
    hash_ids,
    presence,
    read_numbers,
    time_bounds,
    type_name,
)
from tasks.adapters.profiling.feature_counter import counter_of, hash_names
from tasks.adapters.profiling.leakage import find_leaks
from tasks.adapters.profiling.sample import WindowSample, write_sample
from tasks.policy.data_quality.duplicates import IdSketch
from tasks.policy.data_quality.label_jumps import label_levels
from tasks.policy.records.base import Window
from tasks.policy.records.profile import (
    FeatureCounts,
    FeatureReference,
    Floats,
    LabelProfile,
    ReferenceProfile,
    WindowProfile,
    choose_categories,
    choose_edges,
    with_missing,
)
from tasks.policy.records.reports import FeatureKind
from tasks.policy.reference.robust_reference import broken_days, find_sentinel, robust_scale
from tasks.policy.statistics.binning import BinGuide, count_values

Days = NDArray[np.datetime64]
USUAL, GAPS_NEEDED = 0.9, 3
LARGEST_CLASSES = 50
DAY_SAMPLE = 500
"""Rows of a day that its quartiles are computed from: they err by 0.06 σ, where a broken day differs by 2 σ or more."""
ORDERED = 250_000
"""Values that the edges of a reference are chosen from: their ranks err by 0.1 % of the rows. All rows are counted."""
COLUMNS_AT_ONCE = 16  # a Parquet reader holds a page of each column in memory


def kind_of(config: ModelConfig, feature: str) -> FeatureKind:
    features = config.columns.features
    if feature in features.numeric or feature in features.other:
        return "numeric" if feature in features.numeric else "other"
    return "boolean" if feature in features.boolean else "categorical"


def freeze_reference(
    batches: Iterable[pa.RecordBatch], config: ModelConfig, window: Window, content_hash: str
) -> ReferenceProfile:
    """Return the profile of a model's training rows, to be stored with its version.

    `batches` have the features, and the label if leakage is to be checked. Raises ValueError if a feature is missing or
    there is no batch.
    """
    table = pa.Table.from_batches(batches)
    missing = [name for name in config.columns.features.names if name not in table.column_names]
    if missing:
        raise ValueError(
            f"reference of {config.name}: column {', '.join(missing)} is missing, "
            f"found {', '.join(table.column_names)}; "
            "expected every feature of the model; fix the source or columns.features"
        )
    days = _days(table, config.columns.time)
    drawn = _draw_per_day(days)
    windows = config.grid.between(window.start, window.end)
    places = window_indices(table[config.columns.time], windows) if len(days) else np.empty(0, np.int32)
    return ReferenceProfile(
        model=config.name,
        window=window,
        rows=table.num_rows,
        content_hash=content_hash,
        features=tuple(
            replace(
                _freeze_feature(table, name, config, (days, drawn)),
                constant_windows=constant_share(table.column(name), places),
            )
            for name in config.columns.features.names
        ),
        columns=_column_types(table.schema),
        leaking=find_leaks(table, config),
        usual_gap_days=_usual_gap_days(days),
        labels=_freeze_labels(table, config),
    )


def _freeze_labels(table: pa.Table, config: ModelConfig) -> LabelProfile | None:
    if config.columns.label not in table.column_names:
        return None
    labels = table[config.columns.label].drop_null()
    if config.task == "regression":
        values = encode_labels(labels, ())
        values = values[np.isfinite(values)]
        span = (float(values.min()), float(values.max())) if len(values) else None
        return LabelProfile(len(labels), levels=label_levels(values), span=span)
    classes = classes_of(config, labels)
    codes, counts = np.unique(encode_labels(labels, classes, unknown=len(classes)), return_counts=True)
    largest = [place for place in np.argsort(-counts, kind="stable")[:LARGEST_CLASSES] if codes[place] < len(classes)]
    shares = tuple((classes[int(codes[place])], int(counts[place]) / len(labels)) for place in largest)
    return LabelProfile(len(labels), shares=shares)


def _usual_gap_days(days: Days) -> int:
    """Return the 90% quantile of the gaps between days with rows, in days; 1 with fewer than `GAPS_NEEDED` gaps.

    The quantile includes weekends and excludes outages and quarantined windows.
    """
    gaps = np.diff(np.unique(days[~np.isnat(days)])).astype(int)
    return int(np.quantile(gaps, USUAL, method="higher")) if len(gaps) >= GAPS_NEEDED else 1


def _freeze_feature(
    table: pa.Table, feature: str, config: ModelConfig, times: tuple[Days, NDArray[np.int64] | None]
) -> FeatureReference:
    (days, drawn), kind = times, kind_of(config, feature)
    column = table.column(feature).combine_chunks()
    column = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
    name = type_name(column.type)
    if kind == "numeric":
        left_out = _broken_days(column, days, drawn)
        if left_out:
            column = column.filter(pa.array(~np.isin(days, np.array(left_out, days.dtype))))
        numbers = read_numbers(column)
        values = _ordered(numbers.values)
        sentinel = find_sentinel(values)
        if sentinel:
            numbers = numbers.without(sentinel.value)
            values = _ordered(numbers.values)
        edges = choose_edges(values)
        counts = count_values(feature, name, numbers.values, BinGuide.of(np.asarray(edges)), (-np.inf, np.inf))
        return FeatureReference(
            feature,
            kind,
            with_missing(counts, numbers.nulls, numbers.non_finite, numbers.unreadable),
            edges,
            scale=robust_scale(values),
            sentinel=sentinel.value if sentinel else None,
            sentinel_share=sentinel.share if sentinel else 0.0,
            left_out=left_out,
        )
    column = presence(column) if kind == "other" else column
    rows, nulls, unreadable = count_categories(column, kind == "boolean")
    rows = hash_names(rows) if feature in config.columns.personal and kind != "other" else rows
    categories, more = choose_categories(tuple(rows.items()))
    listed = [rows[category] for category in categories]
    counts = FeatureCounts(feature, name, sum(rows.values()), (*listed, sum(rows.values()) - sum(listed)))
    return FeatureReference(
        feature, kind, with_missing(counts, nulls, unreadable=unreadable), categories=categories, more_categories=more
    )


def _ordered(values: Floats) -> Floats:
    """Return the values in order; of more than `ORDERED`, that many random ones with the least and the largest value."""
    if len(values) <= ORDERED:
        return np.sort(values)
    drawn = values[np.random.default_rng(0).integers(0, len(values), ORDERED)]
    return np.sort(np.concatenate([drawn, [values.min(), values.max()]]))


def _draw_per_day(days: Days) -> NDArray[np.int64] | None:
    """Return the places of at most `DAY_SAMPLE` random rows of each day, in order; None if no day has more."""
    if not len(days) or np.unique(days, return_counts=True)[1].max() <= DAY_SAMPLE:
        return None
    shuffled = np.random.default_rng(0).permutation(len(days))
    order = shuffled[np.argsort(days[shuffled], kind="stable")]
    starts = np.flatnonzero(np.r_[True, days[order][1:] != days[order][:-1]])
    ranks = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return np.sort(order[ranks < DAY_SAMPLE])


def _broken_days(column: pa.Array, days: Days, drawn: NDArray[np.int64] | None) -> tuple[str, ...]:
    if not len(days) or not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return ()
    if drawn is not None:
        column, days = column.take(pa.array(drawn)), days[drawn]
    values = pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return tuple(broken_days(values, days))


def _days(table: pa.Table, name: str) -> Days:
    """Return the day of each row, shape (n,), NaT where unknown; empty if the table has no times of this name."""
    if name not in table.column_names or not pa.types.is_timestamp(table.schema.field(name).type):
        return np.empty(0, "datetime64[D]")
    days: Days = table[name].cast(pa.date32()).to_numpy()
    return days


def _column_types(schema: pa.Schema) -> tuple[tuple[str, str], ...]:
    return tuple((item.name, type_name(item.type)) for item in schema)


def profile_batches(
    batches: Iterable[pa.RecordBatch],
    reference: ReferenceProfile,
    config: ModelConfig,
    window: Window,
    sample_path: Path | None = None,
) -> WindowProfile:
    """Count a window into its reference in one pass; with `sample_path`, write a random sample of rows there (Parquet).

    No column, type or value raises an error. The profile records problems, and the quality gate evaluates them.
    """
    sample = WindowSample.of(config, window, reference.content_hash) if sample_path else None
    profile = _count(batches, reference, config, window, sample)
    written = write_sample([sample], sample_path) if sample and sample_path else None
    return replace(profile, sample_uri=written)


def profile_columns(
    read: Callable[[tuple[str, ...]], Iterable[pa.RecordBatch]],
    reference: ReferenceProfile,
    config: ModelConfig,
    window: Window,
    sample_path: Path | None = None,
) -> WindowProfile:
    """Count a window as `profile_batches` does, with bounded memory for wide tables.

    `read` is called with at most `COLUMNS_AT_ONCE` features (plus id and time once) and reads each column once. Every
    call must return the same rows in the same order.
    """
    ids = (config.columns.key, config.columns.time)
    parts: list[WindowProfile] = []
    samples: list[WindowSample] = []
    for first in range(0, len(reference.features), COLUMNS_AT_ONCE):
        some = replace(reference, features=reference.features[first : first + COLUMNS_AT_ONCE])
        names = tuple(frozen.feature for frozen in some.features)
        sample = WindowSample.of(config, window, reference.content_hash) if sample_path else None
        parts.append(_count(read(names if parts else ids + names), some, config, window, sample))
        samples += [sample] if sample else []
    return replace(
        parts[0],
        features=tuple(counts for part in parts for counts in part.features),
        columns=tuple(column for part in parts for column in part.columns),
        sample_uri=write_sample(samples, sample_path) if sample_path else None,
    )


def _count(
    batches: Iterable[pa.RecordBatch],
    reference: ReferenceProfile,
    config: ModelConfig,
    window: Window,
    sample: WindowSample | None,
) -> WindowProfile:
    counters = [counter_of(frozen, config) for frozen in reference.features]
    columns: tuple[tuple[str, str], ...] = ()
    ids, times, rows, null_ids = IdSketch(), [], 0, 0
    for batch in batches:
        rows, columns = rows + batch.num_rows, columns or _column_types(batch.schema)
        present = {name: index for index, name in enumerate(batch.schema.names)}
        for counter in counters:
            index = present.get(counter.reference.feature)
            if index is None:
                counter.add_absent(batch.num_rows)
            else:
                counter.add(batch.column(index))
        null_ids += _take_ids(batch, config.columns.key, ids)
        times += _take_times(batch, config.columns.time)
        if sample:
            sample.add(batch)
    return WindowProfile(
        window=window,
        rows=rows,
        features=tuple(counter.counts for counter in counters),
        columns=columns,
        null_ids=null_ids,
        duplicate_ids=ids.duplicates(),
        duplicates_exact=ids.is_exact,
        oldest=min(times, default=None),
        newest=max(times, default=None),
        reference_hash=reference.content_hash,
    )


def _take_ids(batch: pa.RecordBatch, name: str, ids: IdSketch) -> int:
    """Add the batch's ids to the sketch and return the number of rows without an id."""
    if name not in batch.schema.names:
        return batch.num_rows
    column = batch.column(batch.schema.names.index(name))
    if not pa.types.is_nested(column.type) and not pa.types.is_null(column.type):
        ids.add(hash_ids(column))
    return int(column.null_count)


def _take_times(batch: pa.RecordBatch, name: str) -> list[datetime]:
    return list(time_bounds(batch.column(batch.schema.names.index(name)))) if name in batch.schema.names else []
