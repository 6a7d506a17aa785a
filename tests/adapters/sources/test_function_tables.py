"""Tables that functions return land like the same table from a Parquet file, whichever library made them."""

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tasks.adapters.sources.read import read_labels, read_window
from tasks.policy.records.base import Window
from tasks.policy.records.errors import SourceError
from tests.support.monitored_model import WINDOW, model, rows
from tests.support.source_tables import parquet

COUNT = 120
TABLE = rows(COUNT).append_column("churned", pa.array([0, 1] * 60))
returned: Any = None


def give(start: dt.datetime, end: dt.datetime) -> Any:
    """The source function of these tests."""
    return returned(start, end) if callable(returned) else returned


def lazily(start: dt.datetime, end: dt.datetime) -> pl.LazyFrame:
    return pl.from_arrow(TABLE).lazy().filter((pl.col("at") >= start) & (pl.col("at") < end))


CONFIG = model(source={"kind": "python", "function": f"{__name__}:give"})


def read(found: Any, window: Window = WINDOW) -> pa.Table:
    global returned
    returned = found
    return read_window(CONFIG, window)


FORMS: dict[str, Callable[[], Any]] = {
    "pyarrow table": lambda: TABLE,
    "record batch": lambda: TABLE.combine_chunks().to_batches()[0],
    "record batch reader": lambda: TABLE.to_reader(max_chunksize=50),
    "pandas": TABLE.to_pandas,
    "pandas of Arrow types": lambda: TABLE.to_pandas(types_mapper=pd.ArrowDtype),
    "pandas with another index": lambda: TABLE.to_pandas().iloc[::-1],
    "pandas with the id as index": lambda: TABLE.to_pandas().set_index("id"),
    "pandas with id and time as index": lambda: TABLE.to_pandas().set_index(["id", "at"]),
    "pandas with an index that is a column too": lambda: TABLE.to_pandas().set_index("id", drop=False),
    "polars": lambda: pl.from_arrow(TABLE),
    "lazy polars": lambda: lazily,
    "polars of several chunks": lambda: pl.concat([pl.from_arrow(TABLE[:50]), pl.from_arrow(TABLE[50:])], rechunk=False),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_any_table_lands_as_the_same_rows(tmp_path, form):
    expected = read_window(parquet(tmp_path, TABLE), WINDOW)
    found = read(FORMS[form]())
    assert found.sort_by("id").equals(expected.sort_by("id"))
    assert read_labels(CONFIG, WINDOW).num_rows == COUNT if form != "record batch reader" else True


def column(name: str, values: Any) -> pa.Table:
    return TABLE.set_column(TABLE.column_names.index(name), name, values)


MOMENTS = TABLE["at"].to_pylist()
ZONED = pl.Series("at", MOMENTS, dtype=pl.Datetime("us", "UTC"))
TYPES: dict[str, tuple[str, Callable[[], Any], pa.Array]] = {
    "polars text": ("country", lambda: pl.Series(["DE", None, "FR"] * 40), pa.array(["DE", None, "FR"] * 40)),
    "polars categories": ("country", lambda: pl.Series(["DE", None, "FR"] * 40, dtype=pl.Categorical), pa.array(["DE", None, "FR"] * 40)),
    "polars enum": ("country", lambda: pl.Series(["DE", None, "FR"] * 40, dtype=pl.Enum(["FR", "DE", "IT"])), pa.array(["DE", None, "FR"] * 40)),
    "polars integers as categories": ("country", lambda: pl.Series([1, None, 3] * 40, dtype=pl.Int16), pa.array(["1", None, "3"] * 40)),
    "polars integers with nulls": ("age", lambda: pl.Series([1, None, 3] * 40, dtype=pl.UInt8), pa.array([1.0, None, 3.0] * 40)),
    "polars NaN and null": ("age", lambda: pl.Series([1.5, float("nan"), None] * 40, dtype=pl.Float32), pa.array([1.5, None, None] * 40)),
    "polars decimals": ("amount", lambda: pl.Series([Decimal("1.25"), None, Decimal("3")] * 40), pa.array([1.25, None, 3.0] * 40)),
    "polars booleans": ("member", lambda: pl.Series([True, None, False] * 40), pa.array([True, None, False] * 40)),
    "polars null column of numbers": ("amount", lambda: pl.Series([None] * COUNT), pa.nulls(COUNT, pa.float64())),
    "polars null column of text": ("country", lambda: pl.Series([None] * COUNT), pa.nulls(COUNT, pa.string())),
    "polars null column of booleans": ("member", lambda: pl.Series([None] * COUNT), pa.nulls(COUNT, pa.bool_())),
    "polars ms in UTC": ("at", lambda: ZONED.cast(pl.Datetime("ms", "UTC")), pa.array([moment.replace(microsecond=moment.microsecond // 1000 * 1000) for moment in MOMENTS], pa.timestamp("us", "UTC"))),
    "polars ns in Berlin": ("at", lambda: ZONED.dt.convert_time_zone("Europe/Berlin").cast(pl.Datetime("ns", "Europe/Berlin")), TABLE["at"].combine_chunks()),
    "pandas text": ("country", lambda: pd.Series(["DE", None, "FR"] * 40, dtype="str"), pa.array(["DE", None, "FR"] * 40)),
    "pandas categories": ("country", lambda: pd.Series(pd.Categorical(["DE", None, "FR"] * 40)), pa.array(["DE", None, "FR"] * 40)),
    "pandas nullable integers": ("age", lambda: pd.Series([1, None, 3] * 40, dtype="Int64"), pa.array([1.0, None, 3.0] * 40)),
    "pandas integers turned to floats": ("country", lambda: pd.Series([1.0, np.nan, 3.0] * 40), pa.array(["1", None, "3"] * 40)),
    "pandas nullable booleans": ("member", lambda: pd.Series([True, None, False] * 40, dtype="boolean"), pa.array([True, None, False] * 40)),
    "pandas objects": ("member", lambda: pd.Series([True, None, False] * 40, dtype=object), pa.array([True, None, False] * 40)),
    "pandas decimals": ("amount", lambda: pd.Series([Decimal("1.25"), None, Decimal("3")] * 40), pa.array([1.25, None, 3.0] * 40)),
    "pandas null column": ("amount", lambda: pd.Series([None] * COUNT, dtype=object), pa.nulls(COUNT, pa.float64())),
    "pandas ns in New York": ("at", lambda: pd.Series(MOMENTS).dt.tz_convert("America/New_York").dt.as_unit("ns"), TABLE["at"].combine_chunks()),
    "pandas s in UTC": ("at", lambda: pd.Series(MOMENTS).dt.as_unit("s"), TABLE["at"].combine_chunks().cast(pa.timestamp("s", "UTC"), safe=False).cast(pa.timestamp("us", "UTC"))),
    "arrow string views": ("country", lambda: pa.array(["DE", None, "FR"] * 40, pa.string_view()), pa.array(["DE", None, "FR"] * 40)),
}  # fmt: skip


def with_column(name: str, values: Any) -> Any:
    if isinstance(values, pl.Series):
        return pl.from_arrow(TABLE).with_columns(values.alias(name))
    return TABLE.to_pandas().assign(**{name: values}) if isinstance(values, pd.Series) else column(name, values)


@pytest.mark.parametrize("form", TYPES)
def test_any_type_lands_as_the_same_column(tmp_path, form):
    """The expected column is written by hand; a Parquet file of it lands as the same rows."""
    name, make, expected = TYPES[form]
    found = read(with_column(name, make()))
    assert found[name].combine_chunks().equals(expected)
    assert found.equals(read_window(parquet(tmp_path, column(name, expected)), WINDOW))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([1, 2], "returned list, expected a pyarrow, pandas or Polars table"),
        ({"id": [1]}, "returned dict, expected a pyarrow, pandas or Polars table"),
        (None, "returned NoneType, expected a pyarrow, pandas or Polars table"),
        (pl.Series([1]), "returned a Series that Arrow cannot read"),
        (with_column("age", pl.Series([1] * COUNT, dtype=pl.Int128)), "returned a DataFrame that Arrow cannot read .* cast or drop"),
        (with_column("age", pd.Series([1, "4711"] * 60, dtype=object)), "column 'age' of the pandas table is object and holds mixed types"),
        (with_column("age", pd.Series([1j] * COUNT)), "column 'age' of the pandas table is complex128"),
        (pd.concat([TABLE.to_pandas(), TABLE.to_pandas()[["age"]]], axis=1), "a column's name occurs twice"),
        (with_column("age", pl.Series([dt.timedelta(days=1)] * COUNT)), r"column 'age' is duration\[us\], expected numbers; derive numbers"),
        (with_column("age", pd.Series(MOMENTS)), "column 'age' is timestamp.*, expected numbers; derive numbers"),
        (with_column("country", pl.Series([["DE"]] * COUNT)), "column 'country' is large_list.*, expected text or integers for a category"),
        (with_column("at", pl.Series([moment.replace(tzinfo=None) for moment in MOMENTS])), "without a zone, expected UTC or a zone; return times with a zone"),
        (with_column("at", pd.Series(range(COUNT))), "is int64, expected times; return times with a zone"),
        (with_column("at", pd.Series(["01.02.2024"] * COUNT)), "not all ISO 8601.* return times with a zone"),
    ],
)  # fmt: skip
def test_what_cannot_land_is_refused_with_the_accepted_form(found, message):
    with pytest.raises(SourceError, match=message) as caught:
        read(found)
    assert "4711" not in str(caught.value), "values may identify a person"
    assert "source.options" not in str(caught.value), "those are the function's own"


def test_a_lazy_query_that_fails_is_the_functions_fault(tmp_path: Path):
    with pytest.raises(SourceError, match=r"the function raised FileNotFoundError: .* on window .*expected a pyarrow"):
        read(lambda start, end: pl.scan_parquet(tmp_path / "none.parquet"))
