"""Row identity: repeated ids, composite ids, and histories with ambiguous ids."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import sqlalchemy
from deltalake import write_deltalake
from hypothesis import given, settings, strategies as st

from deployments.config.model import ModelConfig
from tasks.adapters import lake
from tasks.adapters.lake.row_identity import joined_key, matches, remedy_for_repeated_ids, repeats, window_indices
from tasks.adapters.sources.read import read_labels, read_window
from tasks.policy.records.base import Window
from tasks.policy.records.errors import LakeError, SourceError
from tests.support.landed_model import CONFIG, DAY, SECOND, SPAN, label_of, labels
from tests.support.monitored_model import HISTORY, WINDOW, model, rows


def texts(values: list[str | None]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, pa.string())])


# --- one text for several columns


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(*[st.text(alphabet="a|\\b", max_size=4)] * 2), min_size=2, max_size=2, unique=True))
def test_composite_ids_are_unambiguous(pairs: list[tuple[str, str]]) -> None:
    key = joined_key([texts([one for one, _ in pairs]), texts([other for _, other in pairs])])
    assert key[0] != key[1]


def test_composite_id_is_null_if_a_part_is() -> None:
    key = joined_key([texts(["a", None, "a|b", "a"]), texts(["x", "x", "c", "b|c"])])
    assert key.to_pylist() == ["a|x", None, "a\\|b|c", "a|b\\|c"]


# --- what joins and what does not


def test_null_id_joins_nothing_and_shared_labels_are_marked() -> None:
    places, shared = matches(texts(["b", None, "a", "z", "a"]), texts(["a", None, "b"]))
    assert places.tolist() == [2, -1, 0, -1, 0]
    assert shared.tolist() == [False, False, True, False, True]


def test_repeats_count_ambiguous_rows() -> None:
    found = repeats(texts(["a", "b", "a", None, "c", "c", "c"]))
    assert (found.rows, found.repeated, found.distinct, found.missing) == (7, 5, 3, 1)
    assert str(found) == "5 of 7 rows share their id with another row (3 distinct ids) and 1 of 7 rows have no id"
    assert not repeats(texts(["a", "b"]))


def test_overlapping_times_belong_to_the_first_window() -> None:
    """As a row-by-row search finds it, with overlapping windows and times in any order."""
    later = Window(WINDOW.start + 2 * DAY, SECOND.end)
    windows = (WINDOW, later, HISTORY)
    moments = [HISTORY.start + timedelta(hours=7 * int(n)) for n in np.random.default_rng(1).permutation(160)]
    found = window_indices(pa.chunked_array([pa.array(moments, pa.timestamp("us", "UTC"))]), windows)
    wanted = [next((n for n, own in enumerate(windows) if own.start <= at < own.end), -1) for at in moments]
    assert found.tolist() == wanted and {-1, 0, 1, 2} == set(wanted)


# --- the history


def history(folder: Path, table: pa.Table, **columns: Any) -> ModelConfig:
    pq.write_table(table.append_column("churned", pa.array(np.arange(len(table)) % 2)), folder / "rows.parquet")
    return model(source={"kind": "parquet", "path": str(folder / "rows.parquet")}, columns=columns)


def customers(count: int = 600, each: int = 9) -> list[str]:
    return [f"c{number // each}" for number in range(count)]


def test_history_with_repeated_ids_is_refused(tmp_path: Path) -> None:
    table = rows(600, 1, HISTORY, id=customers())
    config = history(tmp_path, table)
    with pytest.raises(
        SourceError, match=r"columns\.id is id: 600 of 600 rows share .* \(67 distinct ids\)"
    ) as refusal:
        read_window(config, HISTORY)
    assert "columns.id: [id, at] does. Nothing has landed" in str(refusal.value)
    assert "c1" not in str(refusal.value).replace("churn", ""), "no id is quoted"
    weekly = history(tmp_path, table, id=["id", "at"])
    assert repeats(read_window(weekly, HISTORY).column(0)).distinct == 600


def test_single_repeated_id_is_refused(tmp_path: Path) -> None:
    table = rows(600, 1, HISTORY)
    twice = pa.concat_tables([table, table.slice(0, 1)])
    with pytest.raises(
        SourceError, match=r"2 of 601 rows .*; 1 rows are copies of other rows in all columns that are read"
    ):
        read_window(history(tmp_path, twice), HISTORY)
    ids = table["id"].to_pylist()
    missing = table.set_column(0, "id", pa.array([None, *ids[1:]]))
    with pytest.raises(SourceError, match="1 of 600 rows have no id"):
        read_window(history(tmp_path, missing), HISTORY)
    assert read_window(history(tmp_path, table), HISTORY).num_rows == 600


def test_duplicate_rows_get_another_remedy() -> None:
    table = rows(4, id=["a", "a", "b", "c"], at=pa.array([WINDOW.start] * 4, pa.timestamp("us", "UTC")))
    assert "id, at together do not" in remedy_for_repeated_ids(table, ["id"])


def test_repeated_ids_in_a_window_are_left_to_the_quality_gate(tmp_path: Path) -> None:
    config = history(tmp_path, rows(600, 1, WINDOW, id=customers()))
    assert read_window(config, WINDOW).num_rows == 600


def test_ambiguous_rows_of_old_history_are_not_trained_on() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(4, id=["a", "b", "a", "c"]))
    lake.land_labels(CONFIG, labels(["a", "b", "c"], [1, 0, 1], [WINDOW.end] * 3), WINDOW.end)
    with pytest.raises(LakeError, match="2 of 4 rows share their id with another row"):
        lake.labelled_snapshot(CONFIG, WINDOW, WINDOW.end)
    measured = lake.labelled_rows(CONFIG, WINDOW, WINDOW.end, ["id", "churned"])
    assert measured.to_pydict() == {"id": ["b", "c"], "churned": [0, 1]}, "a's label is ambiguous"


# --- ids that come again in later windows


def test_repeated_id_in_another_window_keeps_both_labels() -> None:
    """Also labels with unchanged values, which used to be skipped as known."""
    again = rows(3, 1, SECOND, id=["0-0", "0-1", "0-2"])
    lake.land_rows(CONFIG, WINDOW, rows(3))
    lake.land_rows(CONFIG, SECOND, again)
    ids, late = ["0-0", "0-1", "0-2"], SECOND.end
    assert lake.land_labels(CONFIG, labels(ids, [1, 0, 1], [WINDOW.end] * 3), WINDOW.end) == 3
    both = pa.concat_tables(
        [labels(ids, [1, 0, 1], [WINDOW.end] * 3), labels(ids, [1, 1, 0], [late] * 3, SECOND.start)]
    )
    assert lake.land_labels(CONFIG, both, late) == 3
    assert lake.land_labels(CONFIG, both, late + DAY) == 0
    assert label_of(late) == {"0-0": 1, "0-1": 0, "0-2": 1}
    assert label_of(late, SECOND) == {"0-0": 1, "0-1": 1, "0-2": 0}
    assert lake.labelled_rows(CONFIG, SPAN, late, ["churned"])["churned"].to_pylist() == [1, 0, 1, 1, 1, 0]


def test_labels_without_id_are_not_stored() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(3))
    found = labels(["0-0", None, None], [1, 0, 1], [WINDOW.end] * 3)
    assert [lake.land_labels(CONFIG, found, WINDOW.end) for _ in range(2)] == [1, 0]


# --- labels that are taken back


def test_retracted_label_is_unknown_afterwards() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(3))
    first, seen, again = WINDOW.end, WINDOW.end + DAY, WINDOW.end + 2 * DAY
    ids, known = ["0-0", "0-1"], [first] * 2
    lake.land_labels(CONFIG, labels(ids, [1, 0], known), first)
    taken_back = labels(ids, [None, 0], known)
    assert lake.land_labels(CONFIG, taken_back, seen) == 1
    assert lake.land_labels(CONFIG, taken_back, seen + DAY) == 0
    assert label_of(seen - DAY / 2) == {"0-0": 1, "0-1": 0}, "it was known then"
    assert label_of(seen) == {"0-1": 0}
    assert lake.labelled_snapshot(CONFIG, WINDOW, seen).labelled_rows == 1
    assert lake.labels_arrived(CONFIG, WINDOW, first, seen), "so the window is measured again"
    assert lake.land_labels(CONFIG, labels(ids, [1, 0], known), again) == 1
    assert (label_of(seen), label_of(again)) == ({"0-1": 0}, {"0-0": 1, "0-1": 0})


def test_unknown_labels_and_removed_rows_are_not_retractions() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(3))
    assert lake.land_labels(CONFIG, labels(["0-0", "0-1"], [None, None], [WINDOW.end] * 2), WINDOW.end) == 0
    lake.land_labels(CONFIG, labels(["0-0", "0-1"], [1, 0], [WINDOW.end] * 2), WINDOW.end)
    assert lake.land_labels(CONFIG, labels(["0-0"], [1], [WINDOW.end]), SECOND.end) == 0
    assert label_of(SECOND.end) == {"0-0": 1, "0-1": 0}


def test_empty_label_column_retracts_all_labels(tmp_path: Path) -> None:
    table = rows(40)
    lake.land_rows(CONFIG, WINDOW, table)
    source = {"source": {"kind": "parquet", "path": str(tmp_path / "rows.parquet")}}
    config = CONFIG.model_copy(update={"source": model(**source).source})
    for churned in (pa.array(["yes", "no"] * 20), pa.nulls(40)):
        pq.write_table(table.append_column("churned", churned), tmp_path / "rows.parquet")
        found = read_labels(config, WINDOW, with_unknown=True)
        assert lake.land_labels(config, found, WINDOW.end + DAY) == 40
    assert label_of(WINDOW.end + 2 * DAY) == {}


# --- ids of several columns, whatever the source


PARTS = ["customer", "shop", "day"]


def visits(window: Window, seed: int) -> pa.Table:
    """Return 600 rows of 12 customers in 50 shops; the shop is also a feature."""
    table = rows(600, seed, window)
    names = [["a|b", "a", "b\\", "c,d", "ü"][place % 5] + str(place // 50) for place in range(600)]
    table = table.set_column(0, "customer", pa.array(names)).append_column("shop", pa.array(np.arange(600) % 50))
    table = table.append_column("day", pa.array([date(2024, 1, 1)] * 600))
    return table.append_column("churned", pa.array(np.arange(600) % 2))


def visiting(**source: Any) -> ModelConfig:
    features = {"numeric": ["amount", "age", "shop"], "categorical": ["country"], "boolean": ["member"]}
    return model(features, source=source, columns={"id": PARTS, "label_delay_hours": 1})


def written(kind: str, folder: Path, table: pa.Table, monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    path = str(folder / "rows")
    if kind == "sql":
        monkeypatch.setenv("ROWS_URL", f"sqlite:///{path}")
        frame = table.to_pandas()
        frame["at"] = frame["at"].dt.tz_convert("UTC").dt.tz_localize(None)
        frame["day"] = frame["day"].astype(str)
        engine = sqlalchemy.create_engine(f"sqlite:///{path}")
        frame.to_sql("rows", engine, index=False)
        engine.dispose()
        query = "select * from rows where at >= :start and at < :end"
        return visiting(kind=kind, url_env="ROWS_URL", query=query, options={"time_zone": "UTC"})
    {"parquet": pq.write_table, "csv": pa_csv.write_csv, "delta": lambda rows, at: write_deltalake(at, rows)}[kind](
        table, path
    )
    return visiting(kind=kind, path=path)


@pytest.mark.parametrize("kind", ["parquet", "csv", "delta", "sql"])
def test_composite_id_joins_labels_from_every_source(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = written(kind, tmp_path, pa.concat_tables([visits(HISTORY, 1), visits(WINDOW, 2)]), monkeypatch)
    for window in (HISTORY, WINDOW):
        lake.land_rows(config, window, read_window(config, window))
        assert lake.land_labels(config, read_labels(config, window), window.end + DAY) == 600
    found = lake.labelled_rows(config, WINDOW, SECOND.end)
    assert found.column_names[:5] == ["customer+shop+day", "at", "amount", "age", "shop"]
    assert found.column(0)[0].as_py() == "a\\|b0|0|2024-01-01"
    assert found["churned"].cast(pa.int64()).to_pylist() == [number % 2 for number in range(600)], (
        "each row has its own label"
    )


def test_time_may_be_part_of_the_id(tmp_path: Path) -> None:
    pq.write_table(visits(HISTORY, 1), tmp_path / "rows")
    config = model(columns={"id": ["customer", "at"]}, source={"kind": "parquet", "path": str(tmp_path / "rows")})
    found = read_window(config, HISTORY)
    assert found.column_names[:2] == ["customer+at", "at"] and repeats(found.column(0)).distinct == 600
    assert read_labels(config, HISTORY).column(0).equals(found.column(0))


def test_invalid_id_column_is_named(tmp_path: Path) -> None:
    pq.write_table(visits(HISTORY, 1), tmp_path / "rows")
    source = {"kind": "parquet", "path": str(tmp_path / "rows")}
    with pytest.raises(
        SourceError, match=r"column 'amount' is double and holds fractions, .* expected text or integers"
    ):
        read_window(model(columns={"id": ["customer", "amount"]}, source=source), HISTORY)
    with pytest.raises(SourceError, match=r"column 'custmer' is missing; did you mean 'customer'\?"):
        read_window(model(columns={"id": ["custmer", "at"]}, source=source), HISTORY)


def test_changed_id_columns_are_refused() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(3))
    other = model(columns={"id": ["id", "at"]})
    with pytest.raises(LakeError, match=r"identified by 'id', found columns.id 'id\+at'; .* a new name"):
        lake.land_rows(other, SECOND, rows(3, 1, SECOND))
