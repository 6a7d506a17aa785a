"""Encode table rows as model input; categories and feature order are frozen at training.

Unseen categories, nulls and non-finite numbers all become missing (NaN), which XGBoost routes along the default
direction it learned. The quality gate counts them; scoring never fails because of a row. Scoring fails if a column is
absent or of another type, which breaks the contract; the error names column and type only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from deployments.config.blocks.data import Features
from tasks.adapters.boosters.library import EncodedInputs
from tasks.adapters.lake import label_spellings
from tasks.adapters.recipes.calendar_parts import utc_times
from tasks.adapters.recipes.derived import DerivedFeatures, TrainingRows, fit_derived
from tasks.policy.records.errors import FeatureError
from tasks.policy.records.reports import FeatureKind
from tasks.policy.training.recipe import FeatureRecipe

Matrix = NDArray[np.float32]
Codes = NDArray[np.int64]
Rows: TypeAlias = pa.Table | pd.DataFrame

EXPECTED: dict[FeatureKind, str] = {
    "numeric": "an integer or decimal number",
    "categorical": "text, a dictionary of text, an integer or a boolean",
    "boolean": "a boolean",
    "other": "text, a date, a time or a list, as in training",
}
STORED: dict[str, pa.DataType] = {
    "text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(),
    "date": pa.date32(), "time": pa.timestamp("us", "UTC"),
}  # fmt: skip
"""Types of `columns.features.other`, as a model's description names them; a list is `list of` one of them."""
LIST = "list of "
BLOCK = 32_768
"""Rows that are encoded at a time: their part of the matrix stays in the processor's cache while its columns are written."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """The frozen encoding: features in order with their kind, the sorted categories seen in training, derived features."""

    features: tuple[tuple[str, FeatureKind], ...]
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    derived: DerivedFeatures = field(default=DerivedFeatures(), kw_only=True)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.features)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that rows must have: the features, and the time if features are derived from it."""
        return (*self.names, *([self.derived.time] if self.derived.time else []))

    @property
    def inputs(self) -> EncodedInputs:
        """The columns of the matrix as gradient boosting libraries need them: the features, then the derived ones."""
        categorical = tuple(place for place, (_, kind) in enumerate(self.features) if kind == "categorical")
        return EncodedInputs((*self.names, *self.derived.names), categorical)

    def encode(self, rows: Rows) -> Matrix:
        """Encode rows as float32 of shape (rows, inputs). Raises FeatureError on a missing column or another type."""
        table = as_table(rows, self.columns)
        encoded, time = self._encode_features(table), self.derived.time
        if self.derived == DerivedFeatures():
            return encoded
        times = utc_times(table.column(time), time) if time else None
        return self.derived.applied(self.names, encoded, times)

    def _encode_features(self, table: pa.Table) -> Matrix:
        matrix = np.empty((table.num_rows, len(self.features)), np.float32)
        for first in range(0, max(1, table.num_rows), BLOCK):  # no rows are checked too
            self._encode_block(table.slice(first, BLOCK), matrix[first : first + BLOCK])
        return matrix

    def _encode_block(self, table: pa.Table, matrix: Matrix) -> None:
        for position, (name, kind) in enumerate(self.features):
            column = typed(table, name, kind)
            if kind == "categorical":
                matrix[:, position] = _codes(column, self.categories[name])
            else:
                with np.errstate(over="ignore"):
                    matrix[:, position] = _floats(column)
        matrix[np.isinf(matrix)] = np.nan  # finite as float64, but beyond float32: treated as infinite


class FeatureEncoder(TransformerMixin, BaseEstimator):
    """First step of every pipeline: `fit` freezes the categories of the training rows, `transform` applies them."""

    def __init__(self, features: Features) -> None:
        self.features = features

    def fit(self, rows: Rows, y: object = None) -> Self:  # scikit-learn passes y
        table = as_table(rows, self.features.tabular)
        self.encoding_ = Encoding(
            kinds(self.features),
            {name: _seen(typed(table, name, "categorical")) for name in self.features.categorical},
        )
        return self

    def transform(self, rows: Rows) -> Matrix:
        return self.encoding_.encode(rows)

    def derive(self, recipe: FeatureRecipe, time: str, rows: pa.Table, y: NDArray[np.float64]) -> Matrix:
        """Fit a recipe to the training rows after `fit`, and return their matrix; they are in order of `time`.

        Unlike `transform`, no row's matrix depends on its own label or a later one.
        """
        encoding = self.encoding_
        sizes = {name: len(categories) for name, categories in encoding.categories.items()}
        times = utc_times(rows.column(time), time)
        given = TrainingRows(encoding.names, encoding.encode(rows), times, y, sizes)
        derived, matrix = fit_derived(recipe, time, given)
        self.encoding_ = replace(encoding, derived=derived)
        return matrix


@dataclass(frozen=True, slots=True)
class RawEncoding(Encoding):
    """Rows for a model of the user's own: a data frame of the values as stored, through the user's fitted transformer.

    Numbers and booleans are float64 with NaN for null, categories and text are text, dates and times datetimes, lists arrays.
    `types` are those of features that are text, dates or lists, `nullable` the features that had nulls in training.
    """

    types: dict[str, str] = field(default_factory=dict)
    nullable: tuple[str, ...] = ()
    transformer: Any = None

    @property
    def inputs(self) -> EncodedInputs:
        """Nothing: the columns that the transformer makes are known to the fitted estimator alone."""
        return EncodedInputs((), ())

    def encode(self, rows: Rows) -> Any:
        """Return the transformed data frame. Raises FeatureError on a missing column or another type."""
        frame = self.frame(rows)
        return frame if self.transformer is None else self.transformer.transform(frame)

    def frame(self, rows: Rows) -> pd.DataFrame:
        """Return the features as a data frame with one column each, in order."""
        table = as_table(rows, self.names)
        columns = {name: self._values(table, name, kind) for name, kind in self.features}
        frame: pd.DataFrame = pa.table(columns).to_pandas(date_as_object=False)
        return frame

    def _values(self, table: pa.Table, name: str, kind: FeatureKind) -> pa.ChunkedArray:
        if kind == "categorical":
            return category_texts(typed(table, name, kind))
        if kind != "other":
            return typed(table, name, kind).cast(pa.float64())
        column = table.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        found, expected = stored_type(column.type), self.types[name]
        same = found == expected or {found, expected} <= {"integer", "number"} or pa.types.is_null(column.type)
        if not same and not (found == LIST + "text" and pa.types.is_null(column.type.value_type)):
            raise FeatureError(
                f"column {name}: is of type {column.type}, expected {expected} as in training; cast it in the source"
            )
        return column.cast(arrow_type(expected))


def raw_encoding(features: Features, rows: pa.Table) -> RawEncoding:
    """Return the encoding of a model of the user's own, as these training rows have it, without a transformer."""
    table = as_table(rows, features.names)
    return RawEncoding(
        (*kinds(features), *((name, "other") for name in features.other)),
        {name: _seen(typed(table, name, "categorical")) for name in features.categorical},
        types={name: stored_type(table.column(name).type) for name in features.other},
        nullable=tuple(name for name in features.names if table.column(name).null_count),
    )


def stored_type(found: pa.DataType) -> str:
    """Name an Arrow type as in STORED."""
    if pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found):
        return LIST + stored_type(found.value_type)
    if pa.types.is_integer(found):
        return "integer"
    if is_number(found) or pa.types.is_boolean(found):
        return "number" if is_number(found) else "boolean"
    if pa.types.is_date(found) or pa.types.is_timestamp(found):
        return "date" if pa.types.is_date(found) else "time"
    return "text"


def arrow_type(name: str) -> pa.DataType:
    """Return the Arrow type that `stored_type` names."""
    return pa.list_(arrow_type(name.removeprefix(LIST))) if name.startswith(LIST) else STORED[name]


def fitted_encoder(encoding: Encoding) -> FeatureEncoder:
    """Restore the pipeline step of a stored encoding."""
    by_kind: dict[str, list[str]] = {"numeric": [], "categorical": [], "boolean": [], "other": []}
    for name, kind in encoding.features:
        by_kind[kind].append(name)
    encoder = FeatureEncoder(Features(**{kind: tuple(names) for kind, names in by_kind.items()}))
    encoder.encoding_ = encoding
    return encoder


def kinds(features: Features) -> tuple[tuple[str, FeatureKind], ...]:
    listed: tuple[tuple[FeatureKind, tuple[str, ...]], ...] = (
        ("numeric", features.numeric),
        ("categorical", features.categorical),
        ("boolean", features.boolean),
    )
    return tuple((name, kind) for kind, names in listed for name in names)


def as_table(rows: Rows, names: tuple[str, ...]) -> pa.Table:
    """Return the named columns as an Arrow table. Raises FeatureError with the names of missing columns."""
    present = rows.column_names if isinstance(rows, pa.Table) else list(rows.columns)
    missing = [name for name in names if name not in present]
    if missing:
        raise FeatureError(
            f"column {', '.join(missing)}: not among the {len(present)} columns of the rows, "
            f"expected all {len(names)} features of the model; check the source or features in the YAML"
        )
    if isinstance(rows, pa.Table):
        return rows.select(list(names))
    try:
        return pa.Table.from_pandas(rows[list(names)], preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        mixed = [name for name in names if rows[name].dtype == object and _is_mixed(rows[name])]
        raise FeatureError(
            f"column {', '.join(mixed) or ', '.join(names)}: holds values of several types, expected one type per column"
        ) from None  # Arrow's message quotes the value, which may identify a person


def encode_labels(labels: pa.ChunkedArray, classes: tuple[str, ...], unknown: float = np.nan) -> NDArray[np.float64]:
    """Encode labels for metrics and models: codes into `classes`, or numbers if `classes` is empty (regression).

    NaN for a null label, `unknown` for a class that is not listed. A class is matched by any unambiguous spelling.
    """
    if not classes:
        return np.asarray(_floats(labels), np.float64)
    return label_spellings.as_codes(label_spellings.class_indices(category_texts(labels), classes), unknown)


def label_classes(
    labels: pa.ChunkedArray, positive: str | None = None, named: Sequence[str] = (), binary: bool = False
) -> tuple[str, ...]:
    """Return the classes in order: integers by value, else text alphabetically; `positive` comes last.

    In a binary task the last class is the positive one. `named` are the classes listed in the model's file; these may
    be spelled like a marker of a missing value.
    """
    seen = label_spellings.seen_classes(category_texts(labels), named, binary)
    last = label_spellings.matching_class(positive, seen) if positive is not None else None
    return tuple(sorted(sorted_classes(seen), key=lambda name: name == last))  # sort is stable


def sorted_classes(names: Sequence[str]) -> tuple[str, ...]:
    """Return classes in sorted order, whole numbers by value."""
    return tuple(sorted(names, key=float) if all(_is_whole_text(name) for name in names) else sorted(names))


def _is_whole_text(text: str) -> bool:
    return text.lstrip("-").isdigit()


def _is_mixed(column: "pd.Series[Any]") -> bool:
    return len({type(value) for value in column if value is not None}) > 1


def typed(table: pa.Table, name: str, kind: FeatureKind) -> pa.ChunkedArray:
    """Return a column, decoded if it is a dictionary. Raises FeatureError for a type that does not fit the kind."""
    column = table.column(name)
    found = column.type
    if pa.types.is_dictionary(found):
        column, found = column.cast(found.value_type), found.value_type
    if not _is_accepted(column, found, kind) and not pa.types.is_null(found):
        raise FeatureError(
            f"column {name}: is of type {found}, expected {EXPECTED[kind]} for a {kind} feature; "
            "cast it in the source or list it under another kind"
        )
    return column


def _is_accepted(column: pa.ChunkedArray, found: pa.DataType, kind: FeatureKind) -> bool:
    if kind == "numeric":
        return is_number(found)
    if kind == "boolean":
        return bool(pa.types.is_boolean(found))
    return bool(_is_text(found) or pa.types.is_integer(found) or pa.types.is_boolean(found)) or _is_whole(column)


def is_number(found: pa.DataType) -> bool:
    return bool(pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_decimal(found))


def _is_text(found: pa.DataType) -> bool:
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found))


def _is_whole(column: pa.ChunkedArray) -> bool:
    """Whether a column holds integers that pandas converted to floats because of nulls."""
    if not pa.types.is_floating(column.type):
        return False
    known = pc.drop_null(pc.if_else(pc.is_finite(column), column, None))
    return bool(pc.all(pc.equal(known, pc.floor(known)), min_count=0).as_py())


def category_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type) and _is_whole(column):
        column = pc.if_else(pc.is_finite(column), column, None).cast(pa.int64())
    return column.cast(pa.string())


def _seen(column: pa.ChunkedArray) -> tuple[str, ...]:
    return tuple(sorted(pc.unique(category_texts(column)).drop_null().to_pylist()))


def _codes(column: pa.ChunkedArray, categories: tuple[str, ...]) -> Matrix:
    """Return each value's position among the categories; NaN if it is null or unseen."""
    if not categories:
        return np.full(len(column), np.nan, np.float32)
    found = pc.index_in(category_texts(column), value_set=pa.array(categories, pa.string()), skip_nulls=True)
    codes: Matrix = pc.fill_null(found.cast(pa.float32()), np.nan).to_numpy()
    return codes


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    values: NDArray[np.float64] = pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy()
    return np.where(np.isfinite(values), values, np.nan) if np.isinf(values).any() else values
