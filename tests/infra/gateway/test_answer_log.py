"""The log: rows reach the disk and the lake once, whatever dies in between."""

import os
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest

from infra.gateway.answer_log import Answer, AnswerLog
from tasks.adapters import lake
from tasks.adapters.delta.table import LandedTable
from tasks.adapters.storage.workspace import workspace as current_workspace
from tasks.policy.records.base import utc
from tasks.policy.records.errors import WorkspaceError
from tests.support.trained_models import HOLDOUT, land, make_config, make_rows

CONFIG = make_config()
AT = utc("2024-03-02T10:00:00Z")


def answer(number: int, **changes) -> Answer:
    row = Answer(f"r{number}", AT, number / 10, "1", "champion", "", "q1", f"r{number}", 0.001, None)
    return replace(row, **changes)


def segments() -> list[str]:
    return sorted(path.name for path in (current_workspace().home / "gateway" / CONFIG.name).iterdir())


def landed() -> list[str]:
    return lake.read_predictions(CONFIG, HOLDOUT)["id"].to_pylist()


def filled(*answers: Answer) -> AnswerLog:
    log = AnswerLog(CONFIG, writer="w")
    log.extend(answers)
    log.flush()
    return log


def test_rows_land_by_window_once():
    log = filled(answer(1), answer(2, time=HOLDOUT.end), answer(3, prediction=None, error="refused"))
    log.close_segment()
    assert log.land() == 1
    assert (landed(), segments()) == (["r1", "r3"], [])
    assert lake.read_predictions(CONFIG, HOLDOUT.next())["id"].to_pylist() == ["r2"]


def test_a_row_before_the_start_of_service_lands_in_a_window_of_the_history():
    log = filled(answer(1, time=HOLDOUT.start - timedelta(seconds=1)))
    log.close_segment()
    log.land()
    before = CONFIG.history_windows()[-1]
    assert lake.read_predictions(CONFIG, before)["id"].to_pylist() == ["r1"]


def test_a_segment_that_landed_before_its_process_died_does_not_land_twice(monkeypatch):
    log = filled(answer(1))
    log.close_segment()
    with monkeypatch.context() as dies:
        dies.setattr("pathlib.Path.unlink", lambda path: (_ for _ in ()).throw(OSError("killed")))
        log.land()
    assert segments() == ["w-000001.jsonl"]
    assert AnswerLog(CONFIG).land() == 1
    assert (landed(), segments()) == (["r1"], [])


def test_the_open_segment_of_a_living_writer_is_left_alone():
    log = filled(answer(1))
    assert AnswerLog(CONFIG).land() == 0
    log.close_segment()
    assert AnswerLog(CONFIG).land() == 1


def test_a_row_that_json_cannot_hold_does_not_cost_those_beside_it(caplog):
    log = filled(answer(1), answer(2, unit="\ud800"), answer(3))
    log.close_segment()
    log.land()
    assert (landed(), log.fault) == (["r1", "r3"], None)
    assert "cannot be logged" in caplog.text


def test_a_long_id_lands_like_any_other():
    """Arrow reads a file in blocks of a megabyte, and refuses a line that does not fit into two."""
    long = "x" * 3_000_000
    log = filled(answer(1), answer(2, id=long, unit=long), answer(3))
    log.close_segment()
    assert log.land() == 1
    assert sorted(landed()) == ["r1", "r3", long]


def test_half_a_line_of_a_killed_writer_is_left_out():
    log = filled(answer(1), answer(2))
    log.close_segment()
    path = current_workspace().home / "gateway" / CONFIG.name / "w-000001.jsonl"
    os.truncate(path, path.stat().st_size - 10)
    log.land()
    assert landed() == ["r1"]


def test_a_damaged_segment_is_kept_and_does_not_stop_the_others(caplog):
    log = filled(answer(1))
    log.close_segment()
    path = current_workspace().home / "gateway" / CONFIG.name / "w-000001.jsonl"
    path.write_bytes(b'{"id": 3}\x00\n')
    log.extend([answer(2)])
    log.close_segment()
    log.land()
    assert (landed(), segments()) == (["r2"], ["w-000001.damaged"])
    assert "is damaged" in caplog.text


def test_without_the_lake_segments_wait_in_order(monkeypatch):
    log = filled(answer(1))
    log.close_segment()
    log.extend([answer(2)])
    log.close_segment()
    with monkeypatch.context() as broken:
        broken.setattr(lake, "land_prediction_segment", lambda *_: (_ for _ in ()).throw(WorkspaceError("full")))
        assert log.land() == 0
    assert len(segments()) == 2
    assert log.land() == 2
    assert landed() == ["r1", "r2"]


def test_rows_wait_for_a_disk_that_is_full(monkeypatch):
    log = filled(answer(1))
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        log.extend([answer(2)])
        log.flush()
        assert (log.pending, log.fault is not None) == (1, True)
    log.close_segment()
    assert (log.pending, log.fault) == (0, None)
    log.land()
    assert landed() == ["r1", "r2"]


def test_ids_land_in_the_type_of_the_stored_rows():
    config = make_config(name="whole_ids")
    rows = make_rows(rows=20, window=HOLDOUT)
    land(config, HOLDOUT, rows.set_column(0, "id", pa.array(range(20))))
    log = AnswerLog(config)
    log.extend([answer(1, id="7"), answer(2, id="x")])
    log.close_segment()
    log.land()
    assert lake.read_predictions(config, HOLDOUT)["id"].to_pylist() == [7, None]


def test_segments_join_predictions_of_batch_scoring():
    table = pa.table({"id": ["b1"], "time": pa.array([AT], pa.timestamp("us", "UTC")), "prediction": [0.5]})
    lake.land_predictions(CONFIG, HOLDOUT, "1", table)
    log = filled(answer(1))
    log.close_segment()
    log.land()
    assert sorted(landed()) == ["b1", "r1"]


@pytest.mark.parametrize("number", [1, 2])
def test_each_number_of_a_writer_lands_once(number):
    rows = pa.table(
        {"id": ["a"], "time": pa.array([AT], pa.timestamp("us", "UTC")), "prediction": [0.5], "model_version": ["1"]}
    )
    for each in (1, number, 1):
        lake.tables.land_prediction_segment(CONFIG, "w", each, rows)
    table = LandedTable.open(current_workspace().table(CONFIG.name, "predictions"))
    assert len(table.files()) == number
