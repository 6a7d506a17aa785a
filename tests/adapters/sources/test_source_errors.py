"""Source errors: one sentence with the remedy, without secrets."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.adapters.orchestration.server import free_port
from tasks.adapters.sources.read import read_labels, read_window
from tasks.adapters.sources.sql import _chunk
from tasks.policy.records.base import Window
from tasks.policy.records.errors import SourceEmpty, SourceError, SourceUnreachable
from tests.support.monitored_model import WINDOW
from tests.support.source_tables import (
    QUERY,
    TABLE,
    database,
    parquet,
    replaced,
    source,
)


def give_rows(start: datetime, end: datetime, missing: bool = False) -> object:
    """A source function; it returns more than was asked for, as lazy functions do."""
    return None if missing else TABLE


def fail(start: datetime, end: datetime) -> pa.Table:
    raise KeyError("no such tariff")


# --- columns and types


def test_missing_column_is_named_with_suggestion(tmp_path: Path) -> None:
    table = TABLE.rename_columns({"amount": "ammount"})
    with pytest.raises(SourceError, match="column 'amount' is missing; did you mean 'ammount'"):
        read_window(parquet(tmp_path, table), WINDOW)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("amount", ["1.5"] * 120, "is string, expected numbers; text that looks like numbers is not converted"),
        ("amount", [True] * 120, "is bool, expected numbers; list it under features.boolean"),
        (
            "country",
            [1.5] * 120,
            "is double and holds fractions, .* expected text or integers for a category; store it as",
        ),
        ("country", [True] * 120, "is bool, expected text or integers for a category; list it under features.boolean"),
        ("member", [0, 2] * 60, "is int64 and holds values other than true and false"),
        ("member", [0.5] * 120, "is double and holds values other than true and false"),
        ("member", ["perhaps"] * 120, "is string and holds values other than true and false"),
        ("id", [1.5] * 120, "is double and holds fractions, .* expected text or integers to identify rows by"),
        ("at", [1_706_784_000] * 120, r"is int64, expected times; .*source.options: {time_unit: s}"),
        ("at", [1_706_784_000_000] * 120, r"is int64, expected times; .*source.options: {time_unit: ms}"),
        ("at", ["01.02.2024 10:00"] * 120, "is text that is not all ISO 8601, .*time_format"),
    ],
)
def test_wrong_type_is_not_cast(tmp_path: Path, name: str, values: list[Any], message: str) -> None:
    with pytest.raises(SourceError, match=f"column '{name}' {message}"):
        read_window(parquet(tmp_path, replaced(name, values)), WINDOW)


def test_lossless_types_are_accepted(tmp_path: Path) -> None:
    table = replaced("amount", pa.array([1] * 119 + [None], pa.int32()))
    table = table.set_column(4, "country", pa.array(["DE", "FR"] * 60).dictionary_encode())
    table = table.set_column(5, "member", pa.array([0, 1] * 60))
    table = table.set_column(3, "age", pa.array([float("nan")] * 120))
    read = read_window(parquet(tmp_path, table), WINDOW)
    assert set(read["amount"].to_pylist()) == {1.0}
    assert read["age"].null_count == 50, "NaN is missing"
    assert read["country"].type == pa.string()
    assert set(read["member"].to_pylist()) == {False, True}


def test_fractional_label_is_not_a_class(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="column 'churned' holds fractions, or numbers past"):
        read_labels(parquet(tmp_path, replaced("churned", [0.5] * 120)), WINDOW)


# --- sources that are not there, broken or empty


def test_empty_window_has_its_own_error(tmp_path: Path) -> None:
    later = Window(WINDOW.end + timedelta(days=30), WINDOW.end + timedelta(days=35))
    with pytest.raises(
        SourceEmpty, match=r"no rows in window 2024-03-07..2024-03-12 .*run again once they have arrived"
    ):
        read_window(parquet(tmp_path), later)
    assert read_labels(parquet(tmp_path), later).num_rows == 0


def test_single_row_is_a_window(tmp_path: Path) -> None:
    assert read_window(parquet(tmp_path, TABLE.slice(40, 1)), WINDOW).num_rows == 1


def test_truncated_and_missing_files_differ(tmp_path: Path) -> None:
    config = parquet(tmp_path)
    content = (tmp_path / "rows.parquet").read_bytes()
    for size in (len(content) - 10, 100, 0):
        (tmp_path / "rows.parquet").write_bytes(content[:size])
        with pytest.raises(
            SourceError, match=r"cannot be read as parquet .*truncated or still being written"
        ) as caught:
            read_window(config, WINDOW)
        assert not isinstance(caught.value, SourceUnreachable)
    (tmp_path / "rows.parquet").unlink()
    with pytest.raises(SourceError, match="not found, expected a parquet source"):
        read_window(config, WINDOW)


def test_invalid_csv_number_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,at,amount,age,country,member\na,2024-02-01T10:00:00Z,Erika,1,DE,true\n")
    with pytest.raises(
        SourceError, match=r"column 3 of the file holds values that are not double, .*null_values"
    ) as caught:
        read_window(source("csv", tmp_path / "rows.csv"), WINDOW)
    assert "Erika" not in str(caught.value)


def test_unreachable_source_is_retryable(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    signed = f"http://bob:hunter2@{nobody}/rows.parquet?signature=s3cr3t"
    with pytest.raises(SourceUnreachable, match="cannot be fetched") as caught:
        read_window(source("parquet", signed), WINDOW)
    assert nobody in str(caught.value)
    assert "hunter2" not in str(caught.value) and "s3cr3t" not in str(caught.value)

    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{nobody}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with pytest.raises(SourceUnreachable, match="check host, bucket and credentials"):
        read_window(source("parquet", "s3://data/rows.parquet"), WINDOW)


def test_database_errors_never_show_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = database(monkeypatch, tmp_path, QUERY.replace("rows", "no_such_table"))
    with pytest.raises(SourceError, match=r"the query failed .*no such table: no_such_table"):
        read_window(config, WINDOW)

    monkeypatch.setenv(
        "ROWS_URL", f"postgresql+psycopg://bob:hunter2@127.0.0.1:{free_port()}/rows?application_name=s3cr3t"
    )
    with pytest.raises(SourceUnreachable, match="source ROWS_URL: cannot connect") as caught:
        read_window(config, WINDOW)
    assert "hunter2" not in str(caught.value) and "s3cr3t" not in str(caught.value)

    for unusable in ("bob:hunter2 at nowhere", "nosuchdialect://bob:hunter2@host/db"):
        monkeypatch.setenv("ROWS_URL", unusable)
        with pytest.raises(SourceError, match="holds no usable SQLAlchemy URL") as caught:
            read_window(config, WINDOW)
        assert "hunter2" not in str(caught.value)

    monkeypatch.delenv("ROWS_URL")
    with pytest.raises(SourceError, match="environment variable ROWS_URL is not set"):
        read_window(config, WINDOW)


def test_query_must_be_bound_to_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = database(monkeypatch, tmp_path, "select * from rows where at >= :start")
    with pytest.raises(SourceError, match="the query has no :end"):
        read_window(config, WINDOW)


def test_broken_source_function_is_named() -> None:
    here = "tests.adapters.sources.test_source_errors"
    with pytest.raises(SourceError, match=f"{here}:no_such: cannot be imported"):
        read_window(source("python", function=f"{here}:no_such"), WINDOW)
    with pytest.raises(
        SourceError,
        match=r"the function raised KeyError: 'no such tariff' on window .* \(in fail, test_source_errors.py line \d+\)",
    ):
        read_window(source("python", function=f"{here}:fail"), WINDOW)
    with pytest.raises(SourceError, match=r"returned NoneType, expected a pyarrow, pandas or Polars table"):
        read_window(source("python", function=f"{here}:give_rows", options={"missing": True}), WINDOW)


@pytest.mark.parametrize("values", [["a", 1], [1, 2**63], [2**70]])
def test_unrepresentable_query_column_is_named(values: list[object]) -> None:
    """Databases have integers beyond 64 bits, and SQLite accepts any value in a column."""
    with pytest.raises(SourceError, match="orders: column 'price' mixes types or has one that Arrow lacks"):
        _chunk([[value] for value in values], ["price"], [0], "orders")


def test_unknown_option_lists_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError,
        match="option 'delimeter' is unknown for kind csv, expected time_zone, time_format, time_unit, delimiter",
    ):
        read_window(source("csv", tmp_path / "rows.csv", options={"delimeter": ";"}), WINDOW)


def test_ids_beyond_64_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"column 'id' is uint64 .* store it as text"):
        read_window(parquet(tmp_path, replaced("id", pa.array([2**63 + 5] * 120, pa.uint64()))), WINDOW)
    with pytest.raises(SourceError, match="column 'churned' holds fractions, or numbers past"):
        read_labels(parquet(tmp_path, replaced("churned", [float("inf")] * 120)), WINDOW)
    read = read_labels(parquet(tmp_path, replaced("churned", [2**53, 2**53 + 1] * 60)), WINDOW)
    assert set(read["churned"].to_pylist()) == {2**53, 2**53 + 1}
