"""Failing stores, and the lake on S3 and GCS."""

import multiprocessing
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from datetime import timedelta
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import obstore
import pyarrow as pa
import pytest
from deltalake import DeltaTable

from tasks.adapters import lake
from tasks.adapters.delta.table import CommitConflict, LandedTable
from tasks.adapters.storage.object_store import store_at
from tasks.policy.records.base import Window, from_json, to_json, utc
from tasks.policy.records.errors import LakeError, WorkspaceError
from tasks.policy.records.reports import Snapshot
from tests.support.landed_model import CONFIG, SECOND, label_of, labels, parquet_files, row_folder
from tests.support.monitored_model import WINDOW, rows
from tests.support.object_store import object_store


def test_unwritable_lake_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PERENNIAL_LAKE", str(tmp_path / "file" / "lake"))
    with pytest.raises(WorkspaceError, match=r"cannot be written to .*; nothing was landed; expected a writable store"):
        lake.land_rows(CONFIG, WINDOW, rows(3))


FULL_DISK = textwrap.dedent(
    """
    import resource, signal, sys
    from tasks.adapters.lake import tables as lake
    from tasks.adapters.storage.workspace import WorkspaceError
    from tests.support.landed_model import CONFIG, SECOND
    from tests.support.monitored_model import rows
    table = rows(20_000, 1, SECOND)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
    try:
        lake.land_rows(CONFIG, SECOND, table)
    except WorkspaceError as error:
        print(error)
    """
)


def _on_a_full_disk(most_bytes: int) -> str:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(most_bytes)], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.slow("starts processes whose files may not grow")
@pytest.mark.parametrize("most_bytes", [4096, 200])
def test_full_disk_is_a_clear_error(most_bytes: int) -> None:
    """4096 bytes: the rows do not fit. With less space than a commit, the log does not fit either."""
    first = lake.land_rows(CONFIG, WINDOW, rows(10))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY

    message = _on_a_full_disk(most_bytes)

    assert "nothing was landed" in message and "free disk space" in message
    assert lake.landed_rows(CONFIG, SECOND) is None
    assert len(parquet_files(row_folder())) == 1
    assert lake.land_rows(CONFIG, SECOND, rows(20_000, 1, SECOND)).rows == 20_000, "it is stored once there is space"
    assert lake.read_rows(first).num_rows == 10


@pytest.fixture(params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A lake in an object store with conditional writes."""
    with object_store(request.param, monkeypatch) as uri:
        monkeypatch.setenv("PERENNIAL_LAKE", f"{uri}/perennial")
        yield uri


def test_lake_works_in_an_object_store(bucket: str) -> None:
    first = lake.land_rows(CONFIG, WINDOW, rows(100))
    one, other = (LandedTable.open(first.uri) for _ in range(2))
    assert one is not None and other is not None
    table = lake.read_rows(first)
    one.append({SECOND.name: table}, {SECOND.name: None}, {"label": "churned"})
    with pytest.raises(CommitConflict):
        other.append({SECOND.name: table}, {SECOND.name: None}, {"label": "churned"})

    assert first.uri == f"{bucket}/perennial/churn/rows"
    assert lake.land_rows(CONFIG, WINDOW, rows(90)) == first
    assert lake.land_labels(CONFIG, labels(["0-0"], [1], [WINDOW.end]), WINDOW.end) == 1
    assert label_of(WINDOW.end) == {"0-0": 1}
    assert lake.read_rows(first).equals(table)


def test_time_travel_in_an_object_store_passes_checkpoints(bucket: str) -> None:
    snapshots, window = [lake.land_rows(CONFIG, WINDOW, rows(50))], SECOND
    for number in range(1, 13):
        snapshots.append(lake.land_rows(CONFIG, window, rows(5, number, window)))
        window = window.next()

    assert [snapshot.version for snapshot in snapshots] == list(range(1, 14))
    assert [lake.read_rows(snapshot).num_rows for snapshot in snapshots] == [50, *[5] * 12]
    assert len(DeltaTable(snapshots[0].uri, version=4).file_uris()) == 4


def test_predictions_and_labels_in_an_object_store_are_stored_once(bucket: str) -> None:
    lake.land_rows(CONFIG, WINDOW, rows(2))
    scored = pa.table({"id": ["0-0", "0-1"], "time": rows(2)["at"], "prediction": [0.1, 0.2]})
    first = lake.land_predictions(CONFIG, WINDOW, "1", scored)
    assert lake.land_predictions(CONFIG, WINDOW, "1", scored) == first
    lake.land_predictions(CONFIG, WINDOW, "2", scored)
    assert lake.read_predictions(CONFIG, WINDOW)["model_version"].to_pylist() == ["1", "2", "1", "2"]

    came = labels(["0-0", "0-1"], [1, 0], [WINDOW.end, SECOND.end])
    assert [lake.land_labels(CONFIG, came, moment) for moment in (WINDOW.end, SECOND.end, SECOND.end)] == [1, 1, 0]
    assert (label_of(WINDOW.end), label_of(SECOND.end)) == ({"0-0": 1}, {"0-0": 1, "0-1": 0})


def test_multipart_window_reads_back(bucket: str) -> None:
    """Multipart uploads have parts of at least 5 MiB."""
    snapshot = lake.land_rows(CONFIG, WINDOW, rows(400_000))
    (file,) = DeltaTable(snapshot.uri).get_add_actions(flatten=True).column("size_bytes").to_pylist()
    assert file > 6 * 2**20
    assert lake.read_rows(snapshot)["id"].to_pylist() == rows(400_000)["id"].to_pylist()


def _land_in_a_process(window: Window, seed: int, gate: Barrier, answers: "Queue[str]") -> None:
    table = rows(200, seed, window)
    gate.wait()
    answers.put(to_json(lake.land_rows(CONFIG, window, table)))


def _landed_at_once(windows: Sequence[Window]) -> list[Snapshot]:
    spawn = multiprocessing.get_context("spawn")
    gate, answers = spawn.Barrier(len(windows)), spawn.Queue()
    processes = [
        spawn.Process(target=_land_in_a_process, args=(window, seed, gate, answers))
        for seed, window in enumerate(windows)
    ]
    for process in processes:
        process.start()
    snapshots = [from_json(Snapshot, answers.get(timeout=120)) for _ in processes]
    for process in processes:
        process.join(60)
    return snapshots


@pytest.mark.slow("starts a store and processes that write at once")
def test_concurrent_writers_in_an_object_store_get_one_snapshot(bucket: str) -> None:
    first, *others = _landed_at_once([WINDOW] * 3)

    assert others == [first, first]
    assert lake.read_rows(first).num_rows == 200
    assert len(DeltaTable(first.uri).file_uris()) == 1
    listed = [found["path"] for found in obstore.list(store_at(first.uri)).collect()]
    assert len([path for path in listed if path.endswith(".parquet")]) == 1, "the other writers' files are removed"


@pytest.mark.slow("starts a store and processes that write at once")
def test_concurrent_windows_in_an_object_store_are_all_stored(bucket: str) -> None:
    """One commit wins each version; the others retry with the next."""
    third = SECOND.next()
    snapshots = _landed_at_once([WINDOW, SECOND, third])

    assert sorted(snapshot.version for snapshot in snapshots) == [1, 2, 3]
    assert {snapshot.window for snapshot in snapshots} == {WINDOW, SECOND, third}
    assert all(lake.read_rows(snapshot).num_rows == 200 for snapshot in snapshots)


def test_window_with_fractional_seconds_is_refused() -> None:
    odd = Window(utc("2024-01-01"), utc("2024-01-01") + timedelta(seconds=1, microseconds=5))
    with pytest.raises(LakeError, match="fractions of seconds"):
        lake.land_rows(CONFIG, odd, rows(1, window=odd))
