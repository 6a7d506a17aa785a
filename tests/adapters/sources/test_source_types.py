"""Types and times written by other tools: read correctly, or refused with cause and remedy."""

import re
import sqlite3
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.adapters.sources.read import read_window
from tasks.policy.records.errors import SourceError
from tests.support.monitored_model import WINDOW, model, rows
from tests.support.source_tables import parquet

COUNT = 120
TABLE = rows(COUNT).append_column("churned", pa.array([0, 1] * 60))
SECONDS = [int(moment.timestamp()) for moment in TABLE["at"].to_pylist()]


def read(folder: Path, name: str, values: Any, **options: Any) -> list[Any]:
    column = values if isinstance(values, pa.Array) else pa.array(values)
    config = parquet(folder, TABLE.set_column(TABLE.column_names.index(name), name, column))
    if options:
        config = config.model_copy(update={"source": config.source.model_copy(update={"options": options})})
    return read_window(config, WINDOW)[name].to_pylist()


def test_nullable_integers_are_the_same_categories(tmp_path):
    assert read(tmp_path, "country", [1.0, 2.0, np.nan] * 40)[:3] == ["1", "2", None]
    assert read(tmp_path, "country", [1, 2, 3] * 40)[:3] == ["1", "2", "3"]


@pytest.mark.parametrize(
    "values",
    [[1.0, 0.0, None], [1, 0, None], ["Y", "N", None], ["t", "f", ""], ["TRUE", "false", None], [" yes", "No ", None]],
)
def test_booleans_as_other_tools_write_them(tmp_path, values):
    assert read(tmp_path, "member", pa.array(values * 40))[:3] == [True, False, None]


def test_uuids_are_read_as_text(tmp_path):
    ids = [uuid.UUID(int=number) for number in range(COUNT)]
    texts = [str(one) for one in ids]
    assert read(tmp_path, "id", pa.array([one.bytes for one in ids], pa.binary(16))) == texts
    assert read(tmp_path, "id", pa.array([one.bytes for one in ids], pa.uuid())) == texts


def test_integral_floats_match_integer_ids(tmp_path):
    assert read(tmp_path, "id", [float(number) for number in range(COUNT)]) == list(range(COUNT))
    with pytest.raises(SourceError, match="numbers past 2"):
        read(tmp_path, "id", [float(2**60 + 1024 * number) for number in range(COUNT)])


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_epoch_times_need_their_unit(tmp_path, unit, factor):
    expected = [moment.replace(microsecond=0) for moment in TABLE["at"].to_pylist()]
    assert read(tmp_path, "at", [second * factor for second in SECONDS], time_unit=unit) == expected
    assert read(tmp_path, "at", [float(second) * factor for second in SECONDS], time_unit=unit) == expected
    with pytest.raises(SourceError, match=rf"expected times; .*\{{time_unit: {unit}\}}"):
        read(tmp_path, "at", [second * factor for second in SECONDS])


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("%d.%m.%Y %H:%M:%S", {"time_format": "%d.%m.%Y %H:%M:%S", "time_zone": "UTC"}),
        ("%m/%d/%Y %I:%M:%S %p", {"time_format": "%m/%d/%Y %I:%M:%S %p", "time_zone": "UTC"}),
        ("%Y-%d-%m %H:%M:%S", {"time_format": "%Y-%d-%m %H:%M:%S", "time_zone": "UTC"}),
        ("%Y-%m-%d %H:%M:%S UTC", {}),
        ("%Y-%m-%d %H:%M:%S+00", {}),
        ("%Y-%m-%dT%H:%M:%S+0000", {}),
    ],
)
def test_text_times_are_read_as_they_are_written(tmp_path, form, options):
    expected = [moment.replace(microsecond=0) for moment in TABLE["at"].to_pylist()]
    assert read(tmp_path, "at", [moment.strftime(form) for moment in expected], **options) == expected


def test_time_in_wrong_format_is_not_quoted(tmp_path):
    texts = ["01.02.2024 10:00"] * (COUNT - 1) + ["soon"]
    with pytest.raises(SourceError, match=r"1 of 120 values do not match .*time_format") as caught:
        read(tmp_path, "at", texts, time_format="%d.%m.%Y %H:%M", time_zone="UTC")
    assert "soon" not in str(caught.value)


@pytest.mark.parametrize(
    "form", ["%d.%m.%Y %H:%M", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %I:%M %p", "%d %b %Y", "%Y%m%d %H:%M"]
)
def test_an_unknown_time_format_is_suggested(tmp_path, form):
    """Days past the 12th tell US order from the other; what is suggested reads them."""
    moments = [WINDOW.start.replace(day=13 + row % 15, hour=row % 24) for row in range(COUNT)]
    with pytest.raises(SourceError, match=re.escape(f'source.options: {{time_format: "{form}", time_zone: UTC}}')):
        read(tmp_path, "at", [moment.strftime(form) for moment in moments])


@pytest.mark.parametrize(
    "values",
    [pa.array([1] * COUNT, pa.duration("s")), pa.array([1] * COUNT, pa.date32()), TABLE["at"].combine_chunks()],
)
def test_times_as_numbers_are_refused_with_a_way_out(tmp_path, values):
    with pytest.raises(SourceError, match="expected numbers; derive numbers from it in the source, such as an hour"):
        read(tmp_path, "amount", values)


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d %H:%M:%S+00:00", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d", "%Y-%m-%d %H:%M:%S.000000"]
)
def test_sqlite_midnight_rows_belong_to_their_day(tmp_path, monkeypatch, form):
    """SQLite compares times as text, where midnight may sort before its own day."""
    days = [WINDOW.start + timedelta(days=day) for day in range(-3, 9)]
    with sqlite3.connect(tmp_path / "rows.db") as base:
        base.execute("create table r (id, at, amount, age, country, member, churned)")
        for number, day in enumerate(days):
            base.execute("insert into r values (?, ?, 1.0, 1.0, 'DE', 1, 0)", (f"r{number}", day.strftime(form)))
    monkeypatch.setenv("ROWS_URL", f"sqlite:///{tmp_path / 'rows.db'}")
    zone = {} if form.endswith(("Z", "+00:00")) else {"options": {"time_zone": "UTC"}}
    query = "select * from r where at >= :start and at < :end"
    config = model(source={"kind": "sql", "url_env": "ROWS_URL", "query": query, **zone})
    assert read_window(config, WINDOW)["at"].to_pylist() == [day for day in days if WINDOW.start <= day < WINDOW.end]


def test_csv_booleans_and_codes_for_missing_values_are_read(tmp_path):
    (tmp_path / "rows.csv").write_text(
        "id,at,amount,age,country,member,churned\n"
        "a,2024-02-01T10:00:00Z,-,1,DE,Y,0\n"
        "b,2024-02-01T11:00:00Z,2.5,?,FR,n,1\n"
    )
    source = {"kind": "csv", "path": str(tmp_path / "rows.csv")}
    with pytest.raises(SourceError, match=r"column 3 of the file holds values that are not double, .*null_values"):
        read_window(model(source=source), WINDOW)
    found = read_window(model(source={**source, "options": {"null_values": "-,?"}}), WINDOW)
    assert found["amount"].to_pylist() == [None, 2.5]
    assert found["age"].to_pylist() == [1.0, None]
    assert found["member"].to_pylist() == [True, False]
