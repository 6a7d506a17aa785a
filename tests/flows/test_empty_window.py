"""A window without rows, such as a holiday: a verdict that may change when rows arrive, and no crash."""

import numpy as np
import pandas as pd
import pytest

from deployments.config.loading import load_model_config
from flows.backfill import backfill
from flows.monitor import monitor
from flows.replay import replay
from flows.retrain import retrain
from flows.score import score
from tasks.adapters import lake, ledger
from tasks.policy.records.base import Window, utc
from tests.support.prepared_workspaces import FIRST
from tests.support.small_model import rows, write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
END = utc("2024-01-27")
HOLIDAY = Window(utc("2024-01-23"), utc("2024-01-25"))
EVERY = {"{trigger: metric_breach, metric: mae, limit: 1.0, k: 2, m: 3}": "{trigger: every, days: 1}"}


def closed_on(*holidays: Window) -> pd.DataFrame:
    """Return the small model's rows without the holidays."""
    table = rows()
    for holiday in holidays:
        table = table[(table["at"] < holiday.start) | (table["at"] >= holiday.end)]
    return table


def kinds() -> list[str]:
    return [entry.kind for entry in ledger.entries("small")]


def test_empty_window_fails_and_triggers_nothing(tmp_path, begin):
    model = begin(tmp_path, closed_on(HOLIDAY), **EVERY)
    assert score(model, until=HOLIDAY.end) is None
    judgement = monitor(model, until=HOLIDAY.end)
    assert judgement.evidence.quality.verdict == "fail"
    assert judgement.evidence.quality.reasons[0] == "Must have greater than or equal to 50 rows; found 0 (enough rows)"
    assert (judgement.decision.diagnosis, judgement.decision.retrain) == ("upstream_data_fault", False)
    assert (judgement.decision.blocked_by, judgement.evidence.rows) == ("quality", 0)
    assert kinds()[4:] == ["window.judged"]
    assert lake.landed_rows(load_model_config(model), HOLIDAY) is None


def test_empty_window_is_recorded_once(tmp_path, begin):
    model = begin(tmp_path, closed_on(HOLIDAY))
    first = monitor(model, until=HOLIDAY.end)
    again = monitor(model, until=utc("2024-01-25T12:00"))
    assert again.decision.decision_id == first.decision.decision_id
    assert kinds()[4:] == ["window.judged"]


def test_late_rows_are_scored_judged_and_trained_on(tmp_path, begin):
    model = begin(tmp_path, closed_on(HOLIDAY))
    empty = monitor(model, until=HOLIDAY.end)
    rows().to_parquet(tmp_path / "rows.parquet")
    assert score(model, until=HOLIDAY.end).rows == 300
    judged = monitor(model, until=HOLIDAY.end)
    assert (judged.evidence.quality.verdict, judged.evidence.rows) == ("pass", 300)
    assert judged.decision.decision_id != empty.decision.decision_id
    assert monitor(model, until=HOLIDAY.end) == judged
    assert kinds()[4:] == ["window.judged", "window.scored", "window.judged"]
    for until in ("2024-01-23", "2024-01-27", "2024-01-29"):
        score(model, until=utc(until))
    retrain(model, until=utc("2024-01-29"))
    trained = from_ledger("challenger.registered")
    assert trained.training_rows == 150 * trained.trained.days, "rows of the holiday are missing"


def from_ledger(kind: str):
    from tasks.policy.evidence.versions import ModelVersion
    from tasks.policy.records.base import from_json

    return from_json(ModelVersion, ledger.entries("small", kind=kind)[-1].body)


@pytest.mark.slow("lives through several windows")
def test_backfill_lists_and_later_fills_an_empty_window(tmp_path, begin):
    model = begin(tmp_path, closed_on(HOLIDAY))
    filled = backfill(model, start=FIRST, end=END, dry_run=False)
    assert [window.name for window in filled.missing] == ["2024-01-21..2024-01-23", "2024-01-25..2024-01-27"]
    assert filled.empty == (HOLIDAY,)
    assert filled.headline.endswith("1 without rows")
    facts = kinds()
    assert backfill(model, start=FIRST, end=END, dry_run=False).empty == (HOLIDAY,)
    assert kinds() == facts
    rows().to_parquet(tmp_path / "rows.parquet")
    late = backfill(model, start=FIRST, end=END, dry_run=False)
    assert (late.missing, late.empty) == ((HOLIDAY,), ())
    assert len(backfill(model, start=FIRST, end=END).done) == 3


@pytest.mark.slow("replays a record with a gap")
def test_replay_shows_an_empty_window_as_quarantined(tmp_path):
    last = Window(utc("2024-02-04"), utc("2024-02-06"))
    model = write_model(tmp_path, closed_on(HOLIDAY, last))
    outcome = replay(model)
    assert len(outcome.windows) == 8
    for place in (1, 7):
        shown = outcome.windows[place]
        assert (shown.rows, shown.metric, shown.quality, shown.retrain) == (0, None, "fail", False)
        assert "Must have greater than or equal to 50 rows; found 0" in shown.events[0].text
    assert np.isfinite([record.metric.value for record in outcome.windows if record.rows]).all()
    assert replay(model).windows == outcome.windows
