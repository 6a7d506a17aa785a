"""Snapshots: from source through checks to the lake, and labels as they become known."""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prefect import flow
from prefect.logging import disable_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import lake
from tasks.adapters.storage.workspace import workspace
from tasks.data.snapshot import land_labels, take_snapshot
from tasks.policy.records.base import Window
from tasks.policy.records.errors import SourceEmpty, SourceError, SourceUnreachable, WorkspaceError
from tasks.policy.records.reports import Snapshot
from tests.support.monitored_model import WINDOW, model, rows

DAY = timedelta(days=1)
SECOND = WINDOW.next()
LATE = {"label_delay_hours": 24}


@pytest.fixture(autouse=True)
def _outside_a_run(request: pytest.FixtureRequest) -> Iterator[None]:
    with nullcontext() if "prefect_server" in request.fixturenames else disable_run_logger():
        yield


def source(folder: Path, table: pa.Table, lookback_days: float = 30) -> ModelConfig:
    pq.write_table(table, folder / "rows.parquet")
    columns = {**LATE, "label_lookback_days": lookback_days}
    return model(source={"kind": "parquet", "path": str(folder / "rows.parquet")}, columns=columns)


def two_windows(labels: object = None) -> pa.Table:
    """Write 50 rows for each of two windows: one every 2.4 hours, so ten a day."""
    table = pa.concat_tables([rows(50), rows(50, 1, SECOND)])
    return table.append_column("churned", pa.array([0, 1] * 50 if labels is None else labels, pa.int64()))


def known(config: ModelConfig, as_of: datetime) -> int:
    return lake.labelled_snapshot(config, Window(WINDOW.start, SECOND.end), as_of).labelled_rows or 0


def test_window_is_read_from_the_source_once(tmp_path: Path) -> None:
    config = source(tmp_path, two_windows())
    first = take_snapshot.fn(config, WINDOW)
    (tmp_path / "rows.parquet").unlink()

    assert take_snapshot.fn(config, WINDOW) == first
    assert lake.read_rows(first).num_rows == first.rows == 50


def test_missing_window_can_be_taken_later(tmp_path: Path) -> None:
    with pytest.raises(SourceEmpty):
        take_snapshot.fn(source(tmp_path, two_windows().slice(50)), WINDOW)
    assert lake.landed_rows(model(), WINDOW) is None

    assert take_snapshot.fn(source(tmp_path, two_windows()), WINDOW).rows == 50


def test_invalid_data_is_not_stored(tmp_path: Path) -> None:
    config = source(tmp_path, two_windows().drop_columns(["age"]))
    with pytest.raises(SourceError, match="column 'age' is missing"):
        take_snapshot.fn(config, WINDOW)
    assert not Path(workspace().table(config.name, "rows")).exists()


def test_labels_are_stored_as_they_become_known(tmp_path: Path) -> None:
    """With a delay of a day, the labels of the first four days and of everything earlier are known at a window's end."""
    config = source(tmp_path, two_windows())
    assert land_labels.fn(config, WINDOW.end) == 0, "no rows yet"
    take_snapshot.fn(config, WINDOW)
    assert land_labels.fn(config, WINDOW.end) == 41  # rows of [0, 4] days, both ends included
    assert land_labels.fn(config, WINDOW.end) == 0
    take_snapshot.fn(config, SECOND)
    assert land_labels.fn(config, SECOND.end) == 9 + 41
    assert land_labels.fn(config, SECOND.end + DAY) == 9

    assert known(config, WINDOW.end) == 41
    assert known(config, SECOND.end) == 91


def test_labels_of_the_future_are_not_read(tmp_path: Path) -> None:
    config = source(tmp_path, two_windows())
    take_snapshot.fn(config, WINDOW)
    take_snapshot.fn(config, SECOND)
    land_labels.fn(config, SECOND.end + DAY)
    assert known(config, WINDOW.end) == 41
    assert land_labels.fn(config, WINDOW.end) == 0, "replayed from the start: complete, without duplicates"


def test_labels_later_than_the_delay_are_found(tmp_path: Path) -> None:
    unknown = [None if number < 20 else 1 for number in range(100)]
    config = source(tmp_path, two_windows(unknown))
    take_snapshot.fn(config, WINDOW)
    assert land_labels.fn(config, WINDOW.end) == 21
    take_snapshot.fn(config, SECOND)
    source(tmp_path, two_windows([1] * 100))
    assert land_labels.fn(config, SECOND.end) == 20 + 9 + 41


@pytest.mark.parametrize(("lookback_days", "found"), [(1, 0), (40, 20)])
def test_label_lookback_follows_the_file(tmp_path: Path, lookback_days: float, found: int) -> None:
    unknown = [None if number < 20 else 1 for number in range(100)]
    config = source(tmp_path, two_windows(unknown), lookback_days)
    take_snapshot.fn(config, WINDOW)
    land_labels.fn(config, WINDOW.end + 10 * DAY)
    source(tmp_path, two_windows([0] * 20 + [1] * 80), lookback_days)

    assert land_labels.fn(config, WINDOW.end + 11 * DAY) == found
    assert land_labels.fn(config, WINDOW.end + 11 * DAY, period=WINDOW) == 20 - found


def test_corrected_labels_are_stored_beside_the_first(tmp_path: Path) -> None:
    config = source(tmp_path, two_windows())
    take_snapshot.fn(config, WINDOW)
    land_labels.fn(config, SECOND.start + DAY)
    source(tmp_path, two_windows([1, 1] * 50))

    assert land_labels.fn(config, SECOND.start + 2 * DAY) == 25
    before, after = (
        lake.read_labelled(lake.labelled_snapshot(config, WINDOW, SECOND.start + days * DAY))["churned"].to_pylist()
        for days in (1, 2)
    )
    assert (sum(before), sum(after)) == (25, 50)


def test_unwritable_workspace_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = source(tmp_path, two_windows())
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PERENNIAL_LAKE", str(tmp_path / "file" / "lake"))
    with pytest.raises(WorkspaceError, match="nothing was landed; expected a writable store"):
        take_snapshot.fn(config, WINDOW)
    monkeypatch.delenv("PERENNIAL_LAKE")
    assert take_snapshot.fn(config, WINDOW).rows == 50


@pytest.mark.usefixtures("prefect_server")
def test_only_unreachable_sources_are_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.adapters import sources

    config, asked = source(tmp_path, two_windows()), []
    read_window = sources.read_window

    def flaky(asked_config: ModelConfig, window: Window) -> pa.Table:
        """The real reader, failing once."""
        asked.append(window)
        if len(asked) == 1:
            raise SourceUnreachable("the host did not answer")
        return read_window(asked_config, window)

    monkeypatch.setattr(sources, "read_window", flaky)
    patient = take_snapshot.with_options(retry_delay_seconds=[0.01])

    @flow
    def take(window: Window) -> Snapshot:
        return patient(config, window)

    assert take(WINDOW).rows == 50
    assert len(asked) == 2

    with pytest.raises(SourceEmpty):
        take(Window(SECOND.end, SECOND.end + DAY))
    assert len(asked) == 3, "invalid data is not retried"


@pytest.mark.usefixtures("prefect_server")
def test_one_log_line_summarises_the_snapshot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = source(tmp_path, two_windows())

    @flow
    def take() -> None:
        take_snapshot(config, WINDOW)
        land_labels(config, WINDOW.end)

    logging.getLogger("prefect.task_runs").addHandler(caplog.handler)  # its records do not reach the root logger
    try:
        take()
    finally:
        logging.getLogger("prefect.task_runs").removeHandler(caplog.handler)
    messages = [record.getMessage() for record in caplog.records]
    assert "snapshot: 50 rows of 2024-02-01..2024-02-06 landed, version 1" in messages
    assert "labels: 41 new by 2024-02-06T00:00:00+00:00, searched in 2024-02-01..2024-02-06" in messages
