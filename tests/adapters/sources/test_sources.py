"""Each kind of source yields a window's rows and labels, with UTC times and only the requested columns."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zoneinfo import ZoneInfo

import obstore
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import sqlalchemy
from deltalake import write_deltalake

from tasks.adapters.sources.read import read_labels, read_window
from tasks.adapters.storage.object_store import store_at
from tasks.policy.records.base import Window, WindowGrid
from tasks.policy.records.errors import SourceError
from tests.support.monitored_model import WINDOW, model, rows
from tests.support.object_store import object_store, on_each_store
from tests.support.source_tables import (
    BEFORE,
    HOUR,
    QUERY,
    TABLE,
    assert_is_the_window,
    clock,
    database,
    parquet,
    replaced,
    source,
)

# --- each kind


def test_a_parquet_file(tmp_path: Path) -> None:
    assert_is_the_window(read_window(parquet(tmp_path), WINDOW))


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"day={number}").mkdir()
        pq.write_table(TABLE.slice(number * 40, 40), tmp_path / f"day={number}" / "part.parquet")
    assert_is_the_window(read_window(source("parquet", tmp_path), WINDOW))


def test_csv_in_the_types_of_the_yaml(tmp_path: Path) -> None:
    pa_csv.write_csv(TABLE.set_column(1, "at", pc.strftime(TABLE["at"], "%Y-%m-%dT%H:%M:%SZ")), tmp_path / "rows.csv")
    assert_is_the_window(read_window(source("csv", tmp_path / "rows.csv"), WINDOW))


def test_csv_keeps_zeros_and_na_and_reads_empty_as_null(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        "id;at;amount;age;country;member\n"
        "007;2024-02-01T10:00:00+02:00;1,5;;NA;true\n"
        "008;2024-02-01T10:00:00+02:00;;40;;false\n",
        encoding="utf-8",
    )
    config = source("csv", tmp_path / "rows.csv", options={"delimiter": ";", "decimal_point": ","})
    assert read_window(config, WINDOW).to_pydict() == {
        "id": ["007", "008"],
        "at": [datetime(2024, 2, 1, 8, tzinfo=UTC)] * 2,
        "amount": [1.5, None],
        "age": [None, 40.0],
        "country": ["NA", None],
        "member": [True, False],
    }


def test_a_delta_table(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "table", TABLE)
    assert_is_the_window(read_window(source("delta", tmp_path / "table"), WINDOW))


def test_a_sql_query_bound_to_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_is_the_window(read_window(database(monkeypatch, tmp_path, QUERY), WINDOW))


def give_rows(start: datetime, end: datetime, missing: bool = False) -> object:
    """A source function; it returns more than was asked for, as lazy functions do."""
    return None if missing else TABLE


def test_user_function() -> None:
    assert_is_the_window(
        read_window(source("python", function="tests.adapters.sources.test_sources:give_rows"), WINDOW)
    )


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_over_http(tmp_path: Path, web: str) -> None:
    parquet(tmp_path)
    assert_is_the_window(read_window(source("parquet", f"{web}/rows.parquet"), WINDOW))
    with pytest.raises(SourceError, match="not found"):
        read_window(source("parquet", f"{web}/other.parquet"), WINDOW)


@on_each_store
def test_files_folders_and_tables_in_an_object_store(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet(tmp_path)
    with object_store(scheme, monkeypatch) as bucket:
        obstore.put(store_at(bucket), "in/rows.parquet", tmp_path / "rows.parquet")
        for path in (f"{bucket}/in/rows.parquet", f"{bucket}/in"):
            assert_is_the_window(read_window(source("parquet", path), WINDOW))
        write_deltalake(f"{bucket}/table", TABLE)
        assert_is_the_window(read_window(source("delta", f"{bucket}/table"), WINDOW))
        for path in (f"{bucket}/in/other.parquet", f"{scheme}://nobucket/rows.parquet"):
            with pytest.raises(SourceError, match="not found"):
                read_window(source("parquet", path), WINDOW)


# --- labels


def test_labels_have_their_known_time(tmp_path: Path) -> None:
    table = replaced("churned", [1, None] * 60)
    config = parquet(tmp_path, table).model_copy(update={"columns": model(columns={"label_delay_hours": 24}).columns})

    labels = read_labels(config, WINDOW)

    assert labels.num_rows == 25
    assert labels.column_names == ["id", "at", "churned", "label_at"]
    assert labels["label_at"][3].as_py() == labels["at"][3].as_py() + 24 * HOUR


def test_label_time_column_sets_the_known_time(tmp_path: Path) -> None:
    settled = pa.array([None, datetime(2024, 3, 1, tzinfo=UTC)] * 60, pa.timestamp("us", "UTC"))
    table = TABLE.append_column("settled", settled)
    config = parquet(tmp_path, table).model_copy(
        update={"columns": model(columns={"label_time": "settled", "label_delay_hours": 1}).columns}
    )
    labels = read_labels(config, WINDOW)
    assert (labels.num_rows, set(labels["label_at"].to_pylist())) == (25, {datetime(2024, 3, 1, 1, tzinfo=UTC)})


# --- clocks


def test_another_zone_is_converted_to_utc(tmp_path: Path) -> None:
    config = parquet(tmp_path, clock(pa.timestamp("ms", "America/New_York")))
    assert_is_the_window(read_window(config, WINDOW))


def test_naive_times_need_a_zone(tmp_path: Path) -> None:
    naive = clock(pa.timestamp("us"))  # the same digits without the zone
    with pytest.raises(SourceError, match=r"column 'at' has times without a zone.*time_zone: UTC"):
        read_window(parquet(tmp_path, naive), WINDOW)

    assert_is_the_window(read_window(parquet(tmp_path, naive, options={"time_zone": "UTC"}), WINDOW))
    berlin = parquet(tmp_path, naive, options={"time_zone": "Europe/Berlin"})
    assert read_window(berlin, Window(WINDOW.start - HOUR, WINDOW.end - HOUR)).num_rows == 50
    with pytest.raises(SourceError, match="time_zone is 'Mars/Base', expected an IANA name"):
        read_window(parquet(tmp_path, naive, options={"time_zone": "Mars/Base"}), WINDOW)


def test_invalid_text_times_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="column 'at' is text that is not all ISO 8601"):
        read_window(parquet(tmp_path, replaced("at", ["yesterday"] * 120)), WINDOW)
    with pytest.raises(SourceError, match="column 'at' is int64, expected times"):
        read_window(parquet(tmp_path, replaced("at", [1] * 120)), WINDOW)


def test_other_row_groups_and_columns_are_not_read(tmp_path: Path) -> None:
    """Shown by overwriting with zeros the unused column, and the row groups of other windows."""
    config = parquet(tmp_path, TABLE)
    layout = pq.ParquetFile(tmp_path / "rows.parquet").metadata
    content = bytearray((tmp_path / "rows.parquet").read_bytes())
    for group in range(layout.num_row_groups):
        for place in range(layout.num_columns):
            chunk = layout.row_group(group).column(place)
            outside = group in (0, 1, 5)  # rows 0-39 lie before the window, 100-119 after it
            if outside or chunk.path_in_schema in ("unused", "churned"):
                start = chunk.dictionary_page_offset or chunk.data_page_offset
                content[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    (tmp_path / "rows.parquet").write_bytes(content)

    assert_is_the_window(read_window(config, WINDOW))
    with pytest.raises(SourceError, match="cannot be read as parquet"):
        read_window(config, BEFORE)


@pytest.mark.parametrize("kind", ["parquet", "sql"])
def test_no_row_is_lost_in_the_repeated_hour(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of New York local times, a row every ten minutes of 3 November 2013 UTC, read in windows of six hours."""
    start, zone = datetime(2013, 11, 3, tzinfo=UTC), ZoneInfo("America/New_York")
    moments = [start + timedelta(minutes=10 * step) for step in range(144)]
    walls = [moment.astimezone(zone).replace(tzinfo=None) for moment in moments]
    table = rows(144).set_column(1, "at", pa.array(walls, pa.timestamp("us")))
    if kind == "parquet":
        pq.write_table(table, tmp_path / "rows.parquet")
        config = source("parquet", tmp_path / "rows.parquet", options={"time_zone": zone.key})
    else:
        address = f"sqlite:///{tmp_path / 'rows.db'}"
        monkeypatch.setenv("ROWS_URL", address)
        engine = sqlalchemy.create_engine(address)
        table.to_pandas().to_sql("rows", engine, index=False)
        engine.dispose()
        query = "SELECT * FROM rows WHERE at >= :start AND at < :end"
        config = source("sql", url_env="ROWS_URL", query=query, options={"time_zone": zone.key})
    windows = WindowGrid(start, 0.25).between(start, start + timedelta(days=1))
    found = [row for window in windows for row in read_window(config, window)["id"].to_pylist()]
    assert len(found) == len(set(found)) == 144, "both hours from 01:00 to 02:00 are read as the first"


def test_csv_labels_further_down_are_read(tmp_path: Path) -> None:
    """The latest rows come first and have no label yet, so types must not be inferred from the file's first block."""
    count = 40_000
    late = [""] * (count - 50) + ["1"] * 25 + ["stay"] * 25
    lines = [f"r{row},{WINDOW.start:%Y-%m-%dT%H:%M:%S}Z,1.0,2.0,DE,true,{label}" for row, label in enumerate(late)]
    (tmp_path / "rows.csv").write_text("\n".join(["id,at,amount,age,country,member,churned", *lines]))
    read = read_labels(source("csv", tmp_path / "rows.csv"), WINDOW)
    assert sorted(read["churned"].to_pylist()) == ["1"] * 25 + ["stay"] * 25
