"""A store that fails says so and keeps nothing half-written; S3 keeps the same promises as a disk."""

import os
import resource
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path

import pytest

from tasks.adapters import lake
from tasks.adapters.delta_table import LandedTable, Outrun
from tasks.adapters.workspace import WorkspaceError
from tasks.policy.records import Window, utc
from tests.landed_model import CONFIG, SECOND, label_of, labels, parquet_files, row_folder
from tests.monitored_model import WINDOW, rows
from tests.object_store import s3


def test_a_lake_that_cannot_be_written_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PERENNIAL_LAKE", str(tmp_path / "file" / "lake"))
    with pytest.raises(WorkspaceError, match=r"cannot be written to .*; nothing was landed; expected a writable store"):
        lake.land_rows(CONFIG, WINDOW, rows(3))


FULL_DISK = textwrap.dedent(
    """
    import resource, signal, sys
    from tasks.adapters import lake
    from tasks.adapters.workspace import WorkspaceError
    from tests.landed_model import CONFIG, SECOND
    from tests.monitored_model import rows
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
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(most_bytes)], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("most_bytes", [4096, 200])
def test_a_full_disk_is_a_clear_error_and_leaves_nothing_half_written(most_bytes: int) -> None:
    """4096 bytes: the rows do not fit. Below the size of a commit: the log does not fit either."""
    first = lake.land_rows(CONFIG, WINDOW, rows(10))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY

    said = _on_a_full_disk(most_bytes)

    assert "nothing was landed" in said and "free disk space" in said
    assert lake.landed_rows(CONFIG, SECOND) is None
    assert len(parquet_files(row_folder())) == 1
    assert lake.land_rows(CONFIG, SECOND, rows(20_000, 1, SECOND)).rows == 20_000, "with space again it lands"
    assert lake.read_rows(first).num_rows == 10


def test_the_lake_keeps_its_promises_on_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3(monkeypatch, "lake"):
        monkeypatch.setenv("PERENNIAL_LAKE", "s3://lake/perennial")
        first = lake.land_rows(CONFIG, WINDOW, rows(100))
        one, other = (LandedTable.open(first.uri) for _ in range(2))
        assert one is not None and other is not None
        table = lake.read_rows(first)
        one.append({SECOND.name: table}, {SECOND.name: None}, {"label": "churned"})
        with pytest.raises(Outrun):
            other.append({SECOND.name: table}, {SECOND.name: None}, {"label": "churned"})

        assert first.uri == "s3://lake/perennial/churn/rows"
        assert lake.land_rows(CONFIG, WINDOW, rows(90)) == first
        assert lake.land_labels(CONFIG, labels(["0-0"], [1], [WINDOW.end]), WINDOW.end) == 1
        assert label_of(WINDOW.end) == {"0-0": 1}
        assert lake.read_rows(first).equals(table)


def test_a_window_that_is_not_in_whole_seconds_has_no_name_of_its_own_and_is_refused() -> None:
    odd = Window(utc("2024-01-01"), utc("2024-01-01") + timedelta(seconds=1, microseconds=5))
    with pytest.raises(lake.LakeError, match="fractions of seconds"):
        lake.land_rows(CONFIG, odd, rows(1, window=odd))
