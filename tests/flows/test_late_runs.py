"""Scheduled runs that waited for a worker: each takes the window that was due, in order, and none twice."""

import sqlite3
from contextlib import closing
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL

from flows.monitor import monitor
from flows.score import score
from tasks.adapters import ledger
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.records.base import from_json, utc
from tasks.policy.records.reports import Scoring

pytestmark = pytest.mark.usefixtures("prefect_server")
LIVE = {", end: 2024-02-06T00:00:00Z}": "}"}
DUE = ("2024-01-23T01:00", "2024-01-25T01:00", "2024-01-25T13:00", "2024-01-27T01:00")
WINDOWS = ["2024-01-21..2024-01-23", "2024-01-23..2024-01-25", "2024-01-25..2024-01-27"]


def run_late(of: Flow[Any, Any], model: str, was_due: datetime, scheduled: bool = True) -> object:
    """Run a flow like a late worker, with the scheduled time that only the scheduler may set."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(of, parameters={"model": model, "until": None})
    database = urlsplit(PREFECT_SERVER_DATABASE_CONNECTION_URL.value()).path.removeprefix("/")
    with closing(sqlite3.connect(f"/{database}")) as server, server:
        changed = server.execute(
            "update flow_run set auto_scheduled = ?, expected_start_time = ? where replace(id, '-', '') = ?",
            (scheduled, f"{was_due:%Y-%m-%d %H:%M:%S.%f}", UUID(str(run.id)).hex),
        )
        assert changed.rowcount == 1
    return run_flow(of, flow_run=run, parameters={"model": model, "until": None})


@pytest.mark.slow("lives through several windows")
def test_late_runs_catch_up_window_by_window(tmp_path, begin):
    model = begin(tmp_path, **LIVE)
    for moment in DUE:
        run_late(score, model, utc(moment))
        run_late(monitor, model, utc(moment))
    scored = [from_json(Scoring, each.body).window.name for each in ledger.entries("small", kind="window.scored")]
    judged = [from_json(Judgement, each.body) for each in ledger.entries("small", kind="window.judged")]
    assert scored == WINDOWS
    assert [each.evidence.window.name for each in judged] == WINDOWS
    assert [each.as_of for each in judged] == [utc(moment) for moment in (DUE[0], DUE[1], DUE[3])]
    assert all(each.evidence.performance or each.revised for each in judged[1:])


def test_manual_run_judges_as_of_now(tmp_path, begin):
    model = begin(tmp_path, **LIVE)
    judgement = run_late(monitor, model, utc(DUE[0]), scheduled=False)
    assert isinstance(judgement, Judgement)
    assert judgement.evidence.window.start > utc("2026-01-01")


def test_server_clock_ahead_does_not_matter(tmp_path, begin):
    model = begin(tmp_path, **LIVE)
    assert isinstance(run_late(monitor, model, utc("2100-01-01")), Judgement)
