"""Calendars and arrived labels in the loop, on a real ledger: once per date, and only from known labels."""

import pytest

from flows.replay import replay
from tasks.adapters import ledger
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.records.base import from_json
from tests.support.small_model import write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
WHEN = "{trigger: metric_breach, metric: mae, limit: 1.0, k: 2, m: 3}\n  cooldown_days: 4"
BOTH = """
    trigger: any_of
    conditions:
      - {trigger: calendar, cron: 0 6 28 1 *}
      - {trigger: arrival, labelled_rows: 800}"""


@pytest.mark.slow("replays weeks for each of two conditions")
def test_date_and_arrived_labels_each_retrain_once(tmp_path, monkeypatch):
    """300 rows a window, 226 labelled at its end, 300 later; a refitted model has learned from rows until half a day before.

    Labels reach 826 on the 27th; on the 29th the date of the 28th has come; three windows later they reach 826 again.
    """
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    replay(write_model(tmp_path / "model", **{WHEN: BOTH}))
    judged = [from_json(Judgement, entry.body) for entry in ledger.entries("small", kind="window.judged")]
    asked = {f"{j.as_of:%m-%d}": j.decision.triggers for j in judged if j.decision.retrain}
    assert asked == {"01-27": ("arrival",), "01-29": ("calendar",), "02-04": ("arrival",)}
    first = judged[0].decision
    assert any("would retrain from 2024-01-28 06:00 UTC" in wish for wish in first.would_change)
    assert any("would retrain from 800 new rows with labels, 574 more" in wish for wish in first.would_change)
