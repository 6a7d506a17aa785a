"""Label leakage: features that are the label under another name, or whose value determines the label.

Names are always compared; values are compared if the rows have labels. A model trained on such a feature looks perfect
until it serves, when the label does not exist yet.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.profiling.columns import decode, is_number, to_floats
from tasks.policy.records.profile import Floats

MIN_ROWS = 50  # fewer labelled rows give no evidence
MIN_ROWS_PER_GROUP = 10  # a category with fewer rows may be pure by chance
SETTLED_CORRELATION = 0.99999
FIRST_ROWS = 2000


def normalised_name(name: str) -> str:
    """Return a column name without case and punctuation; a name of only punctuation is unchanged."""
    return re.sub(r"[\W_]+", "", name).casefold() or name


def leaks_by_name(config: ModelConfig) -> tuple[str, ...]:
    """Return messages for features whose name equals the label's except for case and punctuation."""
    label = config.columns.label
    return tuple(
        f"{feature} has the name of the label {label}: expected no label among the features"
        for feature in config.columns.features.names
        if normalised_name(feature) == normalised_name(label)
    )


def find_leaks(table: pa.Table, config: ModelConfig) -> tuple[str, ...]:
    """Return messages for features that leak the label, by name and, if the table has labels, by value."""
    by_name, label_name = leaks_by_name(config), config.columns.label
    if label_name not in table.column_names:
        return by_name
    label_column = table.column(label_name)
    labelled = table.filter(pc.is_valid(label_column)) if label_column.null_count else table  # a copy of all rows
    if labelled.num_rows < MIN_ROWS:
        return by_name
    label = labelled.column(label_name).combine_chunks()
    return by_name + tuple(
        f"{feature} determines the label {label_name} in all {labelled.num_rows:,} labelled rows: "
        "expected a feature that is known before the label"
        for feature in config.columns.features.names
        if feature in labelled.column_names
        and not pa.types.is_nested(labelled.schema.field(feature).type)
        and determines(labelled.column(feature), label, config.task == "regression")
    )


def determines(feature: pa.ChunkedArray, label: pa.Array, regression: bool) -> bool:
    """Return whether the feature determines the label.

    In a regression, the absolute correlation reaches `SETTLED_CORRELATION`. In a classification, each class is one
    range of a numeric feature, or each category has one class. False with fewer than `MIN_ROWS` known values or
    a single label value.
    """
    if not regression:  # most features fail here, before all rows are looked at
        first, of_first = _known(feature.slice(0, FIRST_ROWS), label.slice(0, FIRST_ROWS))
        if _is_numeric(first) and len(first) and not _runs(to_floats(first), _codes(of_first)):
            return False
    column, label = _known(feature, label)
    if len(column) < MIN_ROWS or pc.count_distinct(label).as_py() < 2:
        return False
    if regression:
        return _is_numeric(column) and _correlated(to_floats(column), to_floats(label))
    codes = _codes(label)
    return _separates(to_floats(column), codes) if _is_numeric(column) else _pure(column, codes)


def _known(feature: pa.ChunkedArray, label: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """Return the feature's values that are not null, and their labels."""
    column, labels = (decode(_joined(values)) for values in (feature, label))
    known = column.is_valid()
    return (column.filter(known), labels.filter(known)) if column.null_count else (column, labels)


def _joined(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    return values.chunk(0) if values.num_chunks == 1 else pa.concat_arrays(values.chunks)


def _is_numeric(column: pa.Array) -> bool:
    return is_number(column.type) or pa.types.is_boolean(column.type)


def _codes(label: pa.Array) -> np.ndarray:
    codes: np.ndarray = label.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return codes


def _correlated(values: Floats, labels: Floats) -> bool:
    if not np.isfinite(values).all() or values.std() == 0 or labels.std() == 0:
        return False
    return abs(float(np.corrcoef(values, labels)[0, 1])) >= SETTLED_CORRELATION


def _separates(values: Floats, classes: np.ndarray) -> bool:
    """Return whether, sorted by the feature, each class is one run, runs share no value and no class is too small."""
    return _runs(values, classes) and int(np.bincount(classes)[np.unique(classes)].min()) >= MIN_ROWS_PER_GROUP


def _runs(values: Floats, classes: np.ndarray) -> bool:
    order = np.argsort(values, kind="stable")
    values, classes = values[order], classes[order]
    changes = np.flatnonzero(np.diff(classes))
    return len(changes) + 1 == len(np.unique(classes)) and bool((np.diff(values)[changes] > 0).all())


def _pure(column: pa.Array, classes: np.ndarray) -> bool:
    groups = column.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    if len(groups) < MIN_ROWS_PER_GROUP * (groups.max() + 1):
        return False
    pairs = np.bincount(groups * (classes.max() + 1) + classes)
    return int((pairs > 0).sum()) == groups.max() + 1
