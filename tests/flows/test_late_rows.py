"""Rows that arrive after their window's end: with `settle_hours` the window waits for them."""

from datetime import timedelta

import pytest

from deployments.config.loading import load_model_config
from flows.backfill import backfill
from flows.backtest import backtest
from flows.monitor import monitor
from flows.promote import promote
from flows.replay import replay
from flows.retrain import retrain
from flows.score import score
from tasks.adapters import lake
from tasks.policy.records.base import Window, utc
from tasks.record.history import find_champion, load_history, load_past
from tests.support.small_model import rows, write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
FIRST, WINDOW = utc("2024-01-21"), Window(utc("2024-01-21"), utc("2024-01-23"))
LATE = 40


def begin(folder, hours: float) -> str:
    """Start with a champion and a source that lacks `LATE` rows of the first window."""
    table = rows()
    last = table[table["at"] < WINDOW.end].index[-LATE:]
    path = "kind: parquet, path: rows.parquet"
    model = write_model(folder, table.drop(index=last), **{path: f"{path}, settle_hours: {hours}"})
    retrain(model, until=FIRST)
    promote(model, until=FIRST)
    return model


def rows_arrive(model: str) -> None:
    rows().to_parquet(model.replace("small.yaml", "rows.parquet"))


def stored_rows(model: str) -> int | None:
    snapshot = lake.landed_rows(load_model_config(model), WINDOW)
    return snapshot.rows if snapshot else None


@pytest.mark.parametrize(("hours", "missed"), [(0, LATE), (18, 0)])
def test_late_rows_count_only_with_settle_hours(tmp_path, hours, missed):
    model = begin(tmp_path, hours)
    all_rows = int((rows()["at"].between(WINDOW.start, WINDOW.end, inclusive="left")).sum())
    if not hours:
        score(model, until=WINDOW.end)
    rows_arrive(model)
    moment = WINDOW.end + timedelta(hours=18)
    score(model, until=moment)
    assert monitor(model, until=moment).evidence.rows == stored_rows(model) == all_rows - missed


def test_settling_window_is_not_backfilled(tmp_path, monkeypatch):
    model = begin(tmp_path, 18)
    monkeypatch.setattr("flows.backfill.wall_clock", lambda: WINDOW.end + timedelta(hours=17))
    shorter = utc("2024-01-27")
    with pytest.raises(Exception, match="no window of 2 days between"):
        backfill(model, start=FIRST, end=shorter, dry_run=False)
    assert stored_rows(model) is None
    monkeypatch.setattr("flows.backfill.wall_clock", lambda: WINDOW.end + timedelta(hours=18))
    assert backfill(model, start=FIRST, end=shorter, dry_run=False).missing == (WINDOW,)
    assert stored_rows(model)


@pytest.mark.slow("back-tests a record")
def test_settling_window_is_not_backtested(tmp_path):
    model = begin(tmp_path, 18)
    last = Window(utc("2024-01-25"), utc("2024-01-27"))
    backtest(model, (0.05,), ("never", "every"), until=last.end + timedelta(hours=17))
    config = load_model_config(model)
    assert [bool(lake.landed_rows(config, window)) for window in (WINDOW, WINDOW.next(), last)] == [True, True, False]


def test_retrain_during_settling_counts_in_the_budget(tmp_path):
    """Four days of settling for windows of two: the retrain for one window comes after the next one's end."""
    model = begin(tmp_path, 96)
    config, second = load_model_config(model), WINDOW.next()
    retrain(model, until=config.read_at(WINDOW), reason="asked for while the second window waits")
    assert config.read_at(WINDOW) > second.end
    history = load_history(config, load_past(config), find_champion(config, required=True), second)
    assert len(history.usages) == 2


@pytest.mark.slow("replays every window of a record")
def test_replay_settles_windows_like_the_live_loop(tmp_path):
    path = "kind: parquet, path: rows.parquet"
    model = write_model(tmp_path, **{path: f"{path}, settle_hours: 18"})
    config = load_model_config(model)
    outcome = replay(model)
    assert [record.window for record in outcome.windows] == list(config.windows())
    assert all(record.rows for record in outcome.windows)
    assert outcome.count("promoted") >= 1
