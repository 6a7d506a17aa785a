"""The lake: stored windows read back identically, and storing is idempotent."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Barrier as ThreadBarrier

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from tasks.adapters import lake
from tasks.adapters.delta.content_hash import column_hashes
from tasks.adapters.delta.table import CommitConflict, LandedTable
from tasks.policy.records.base import from_json, to_json
from tasks.policy.records.errors import LakeError, SourceError, WorkspaceError
from tasks.policy.records.reports import Snapshot
from tests.support.landed_model import CONFIG, SECOND, SPAN, labels, parquet_files, row_folder
from tests.support.monitored_model import WINDOW, model, rows


def test_snapshot_reads_back_identically_after_later_writes() -> None:
    shuffled = rows(500).take(pa.array(list(range(499, -1, -1))))
    snapshot = lake.land_rows(CONFIG, WINDOW, shuffled)
    before = lake.read_rows(snapshot)
    later = SECOND
    for _ in range(15):  # past a checkpoint of the log
        lake.land_rows(CONFIG, later, rows(5, window=later))
        later = later.next()

    again = lake.read_rows(from_json(Snapshot, to_json(snapshot)))

    assert again.equals(before)
    assert column_hashes(again) == column_hashes(before)
    assert again["at"].to_pylist() == sorted(shuffled["at"].to_pylist())
    assert set(again["id"].to_pylist()) == set(shuffled["id"].to_pylist())
    assert (snapshot.rows, snapshot.version) == (500, 1)


def test_landing_a_window_twice_changes_nothing() -> None:
    first = lake.land_rows(CONFIG, WINDOW, rows(100))
    files = parquet_files(row_folder())

    assert lake.land_rows(CONFIG, WINDOW, rows(100)) == first
    assert parquet_files(row_folder()) == files
    assert lake.landed_rows(CONFIG, WINDOW) == first
    assert lake.landed_rows(CONFIG, SECOND) is None


def test_different_rows_for_a_stored_window_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    first = lake.land_rows(CONFIG, WINDOW, rows(100))
    assert not caplog.records

    assert lake.land_rows(CONFIG, WINDOW, rows(90, seed=1)) == first

    assert "landed before with 100 rows" in caplog.text and "90 different rows" in caplog.text


def _land_in_a_process(home: str, seed: int, gate: Barrier, answers: "Queue[str]") -> None:
    os.environ["PERENNIAL_HOME"] = home
    table = rows(200, seed=seed)
    gate.wait()
    answers.put(to_json(lake.land_rows(CONFIG, WINDOW, table)))


@pytest.mark.slow("starts processes that write at once")
def test_concurrent_writers_of_one_window_get_one_snapshot(workspace: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    gate, answers = spawn.Barrier(3), spawn.Queue()
    processes = [spawn.Process(target=_land_in_a_process, args=(str(workspace), n, gate, answers)) for n in range(3)]
    for process in processes:
        process.start()
    snapshots = {answers.get(timeout=120) for _ in processes}
    for process in processes:
        process.join(60)

    assert len(snapshots) == 1
    assert len(DeltaTable(str(row_folder())).file_uris()) == 1
    assert lake.read_rows(from_json(Snapshot, snapshots.pop())).num_rows == 200
    assert len(parquet_files(row_folder())) == 1, "the other writers' files are removed"


def test_concurrent_table_creation_creates_one_table(tmp_path: Path) -> None:
    schema, together = pa.schema([pa.field("id", pa.string())]), ThreadBarrier(3)

    def make(uri: str) -> int:
        together.wait()
        return LandedTable.open_or_create(uri, schema).version

    with ThreadPoolExecutor(3) as pool:
        for number in range(20):
            uri = str(tmp_path / str(number))
            assert list(pool.map(make, [uri] * 3)) == [0, 0, 0]
            assert DeltaTable(uri).version() == 0


def test_table_is_readable_during_writes(tmp_path: Path) -> None:
    """A replay's baselines read labels while the loop adds some; both may hold the same open table."""
    uri, schema = str(tmp_path / "table"), pa.schema([("id", pa.string())])
    LandedTable.open_or_create(uri, schema)

    def land() -> None:
        for day in range(10, 40):
            table = LandedTable.open(uri)
            assert table is not None
            table.append({f"2024-01-01..2024-02-{day}": pa.table({"id": [str(day)]}, schema=schema)}, {}, {})

    seen = [0]
    with ThreadPoolExecutor(1) as writer:
        landing = writer.submit(land)
        while not landing.done():
            table = LandedTable.open(uri)
            assert table is not None
            files = table.files()
            assert all(table.opened(file).table().num_rows == 1 for file in files[-1:])
            seen.append(len(files))
        landing.result()
    assert seen == sorted(seen), "a stored file never disappears"
    assert len(LandedTable.open(uri).files()) == 30


def test_commit_conflict_does_not_store_twice() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(10))
    one, other = (LandedTable.open(str(row_folder())) for _ in range(2))
    assert one is not None and other is not None
    landing = lake.read_rows(lake.land_rows(model(name="elsewhere"), SECOND, rows(10, window=SECOND)))
    one.append({SECOND.name: landing}, {SECOND.name: None}, {"label": "churned"})

    with pytest.raises(CommitConflict):
        other.append({SECOND.name: landing}, {SECOND.name: None}, {"label": "churned"})


def test_changed_missing_and_swapped_files_are_detected() -> None:
    snapshot = lake.land_rows(CONFIG, WINDOW, rows(2000))
    (file,) = parquet_files(row_folder())
    content = file.read_bytes()

    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(LakeError, match="changed or lost after it landed"):
        lake.read_rows(snapshot)

    other = lake.land_rows(CONFIG, SECOND, rows(2000, seed=1, window=SECOND))
    (swapped,) = (path for path in parquet_files(row_folder()) if SECOND.name in str(path))
    file.write_bytes(swapped.read_bytes())
    with pytest.raises(LakeError, match=r"has content hash .* expected"):
        lake.read_rows(snapshot)

    file.unlink()
    with pytest.raises(LakeError, match="cannot be read"):
        list(lake.read_batches(snapshot))
    assert lake.read_rows(other).num_rows == 2000


def test_changed_values_under_intact_footer_are_detected() -> None:
    import pyarrow.parquet as pq

    snapshot = lake.land_rows(CONFIG, WINDOW, rows(1000))
    (file,) = parquet_files(row_folder())
    stored = pq.read_table(file)
    place = stored.column_names.index("amount")
    forged = stored.set_column(place, "amount", pc.add(stored["amount"], 1.0))
    pq.write_table(forged.replace_schema_metadata(stored.schema.metadata), file)

    for read in (lake.read_rows, lambda *args: list(lake.read_batches(*args))):
        with pytest.raises(LakeError, match="column 'amount' has hash"):
            read(snapshot, ["id", "amount"])
    assert lake.read_rows(snapshot, ["country"]).num_rows == 1000, "unchanged columns still verify"


def test_snapshot_does_not_read_a_replaced_table() -> None:
    snapshot = lake.land_rows(CONFIG, WINDOW, rows(100))
    with pytest.raises(LakeError, match=r"did not land window .* expected the table"):
        lake.read_rows(replace(snapshot, content_hash="0" * 64))
    with pytest.raises(LakeError, match="version 9"):
        lake.read_rows(replace(snapshot, version=9))


def test_batches_are_bounded_and_ordered() -> None:
    snapshot = lake.land_rows(CONFIG, WINDOW, rows(150_000))
    batches = list(lake.read_batches(snapshot, ["id", "age"]))

    assert [batch.num_rows for batch in batches] == [65_536, 65_536, 18_928]
    assert pa.Table.from_batches(batches).equals(lake.read_rows(snapshot, ["id", "age"]))


def test_streaming_memory_is_one_batch() -> None:
    """65,536 rows of 8 + 8 + 8 + 8 + about 10 + 2/8 bytes are 3 MB; twelve times as many rows are streamed."""
    snapshot = lake.land_rows(CONFIG, WINDOW, rows(800_000, id=pa.array(range(800_000))))
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in lake.read_batches(snapshot)]
    assert len(held) == 13
    assert max(held) < 12_000_000


def test_old_versions_stay_readable() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(10))
    settings = DeltaTable(str(row_folder())).metadata().configuration
    assert (settings["delta.appendOnly"], settings["delta.enableExpiredLogCleanup"]) == ("true", "false")


def test_rows_outside_their_window_are_refused() -> None:
    with pytest.raises(LakeError, match="10 of 10 rows lie outside window"):
        lake.land_rows(CONFIG, SECOND, rows(10, window=WINDOW))
    assert not row_folder().exists()


def test_rows_are_stored_without_labels() -> None:
    snapshot = lake.land_rows(CONFIG, WINDOW, rows(10).append_column("churned", pa.array([1] * 10)))
    assert "churned" not in lake.read_rows(snapshot).column_names


def test_numeric_text_is_not_cast() -> None:
    with pytest.raises(SourceError, match="column 'amount' is string, expected numbers"):
        lake.land_rows(CONFIG, WINDOW, rows(3, amount=["1", "2", "3"]))


def test_new_feature_is_null_in_earlier_rows() -> None:
    first = lake.land_rows(CONFIG, WINDOW, rows(10))
    features = {"numeric": ["amount", "age", "tenure"], "categorical": ["country"], "boolean": ["member"]}
    grown = model(features, columns={"label_delay_hours": 24})
    lake.land_rows(grown, SECOND, rows(10, 1, SECOND, tenure=[1.0] * 10))
    lake.land_labels(
        grown,
        pa.concat_tables([labels(["0-0"], [1], [WINDOW.end]), labels(["1-0"], [0], [SECOND.end], SECOND.start)]),
        SECOND.end,
    )

    both = lake.read_labelled(lake.labelled_snapshot(grown, SPAN, SECOND.end), ["id", "tenure"])

    assert both.to_pydict() == {"id": ["0-0", "1-0"], "tenure": [None, 1.0]}
    assert "tenure" not in lake.read_rows(first).column_names


def test_changed_column_type_is_refused() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(3))
    with pytest.raises(LakeError, match="'id' is stored as string, found int64"):
        lake.land_rows(CONFIG, SECOND, rows(3, window=SECOND, id=[1, 2, 3]))


def predictions(values: list[object], seed: int = 0) -> pa.Table:
    table = rows(len(values), seed)
    return pa.table({"id": table["id"], "time": table["at"], "prediction": values})


def test_predictions_are_stored_once_per_window_and_version() -> None:
    assert lake.read_predictions(CONFIG, WINDOW).num_rows == 0
    first = lake.land_predictions(CONFIG, WINDOW, "1", predictions([0.1, 0.2]))
    assert lake.land_predictions(CONFIG, WINDOW, "1", predictions([0.1, 0.2])) == first
    lake.land_predictions(CONFIG, WINDOW, "2", predictions([0.3, 0.4]))

    table = lake.read_predictions(CONFIG, WINDOW)

    assert table.column_names == ["id", "time", "prediction", "model_version"]
    assert table["id"].to_pylist() == ["0-0", "0-0", "0-1", "0-1"]
    assert table["prediction"].to_pylist() == [0.1, 0.3, 0.2, 0.4]
    assert table["model_version"].to_pylist() == ["1", "2", "1", "2"]
    assert lake.read_rows(first)["prediction"].to_pylist() == [0.1, 0.2]
    assert lake.read_predictions(CONFIG, SECOND).num_rows == 0


def test_class_probabilities_are_stored_as_lists() -> None:
    snapshot = lake.land_predictions(CONFIG, WINDOW, "1", predictions([[0.2, 0.8], [0.5, 0.5]]))
    assert lake.read_rows(snapshot)["prediction"].to_pylist() == [[0.2, 0.8], [0.5, 0.5]]
    with pytest.raises(LakeError, match="'prediction' is stored as list<element: double>, found double"):
        lake.land_predictions(CONFIG, SECOND, "1", predictions([0.5]).set_column(1, "time", rows(1, 0, SECOND)["at"]))


@pytest.mark.parametrize("error", [OSError("operation timed out"), CommitFailedError("version already exists")])
def test_commit_with_lost_response_is_complete(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.land_rows(CONFIG, WINDOW, rows(10))
    committed = DeltaTable.create_write_transaction

    def answer_is_lost(*arguments: object, **named: object) -> None:
        committed(*arguments, **named)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "create_write_transaction", answer_is_lost)
        snapshot = lake.land_rows(CONFIG, SECOND, rows(10, window=SECOND))
    assert lake.read_rows(snapshot).num_rows == snapshot.rows == 10
    assert lake.land_rows(CONFIG, SECOND, rows(10, window=SECOND)) == snapshot


def test_failed_commit_leaves_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    lake.land_rows(CONFIG, WINDOW, rows(10))

    def refuse(*arguments: object, **named: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "create_write_transaction", refuse)
        with pytest.raises(WorkspaceError, match="nothing was landed"):
            lake.land_rows(CONFIG, SECOND, rows(10, window=SECOND))
    assert len(parquet_files(row_folder())) == 1
    assert lake.land_rows(CONFIG, SECOND, rows(10, window=SECOND)).rows == 10


def test_files_of_an_unknown_commit_outcome_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    lake.land_rows(CONFIG, WINDOW, rows(10))
    committed = DeltaTable.create_write_transaction

    def store_goes_away(*arguments: object, **named: object) -> None:
        committed(*arguments, **named)
        patch.setattr(LandedTable, "open", unreadable)
        raise OSError("operation timed out")

    def unreadable(*arguments: object, **named: object) -> None:
        raise LakeError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(DeltaTable, "create_write_transaction", store_goes_away)
        with pytest.raises(WorkspaceError, match="run this again: no row lands twice"):
            lake.land_rows(CONFIG, SECOND, rows(10, window=SECOND))
    assert lake.read_rows(lake.land_rows(CONFIG, SECOND, rows(10, window=SECOND))).num_rows == 10
