"""The full loop over a small history: retrains after the concept change, uses no later data, and resumes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from flows.replay import replay
from tasks.adapters import ledger, registry
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.evidence.replay import Replay, ReplayWindow
from tasks.policy.records.base import from_json, utc
from tasks.policy.records.errors import ReplayRefused
from tasks.replay.baselines import score_baselines
from tasks.replay.records import load_window, replay_folder
from tests.support.small_model import CHANGE, rows, write_model

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow("replays whole records")]


def without_seconds(outcome: Replay) -> tuple[ReplayWindow, ...]:
    return tuple(replace(record, seconds=()) for record in outcome.windows)


def versions(model: str = "small") -> list[str]:
    return sorted(str(version.version) for version in registry.client().search_model_versions(f"name='{model}'"))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> tuple[Replay, Path, str]:
    """One replay of the small model, shared by several tests: (outcome, workspace, YAML)."""
    folder = tmp_path_factory.mktemp("story")
    model = write_model(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", str(folder / "home"))
        return replay(model), folder / "home", model


@pytest.fixture
def in_story(story: tuple[Replay, Path, str], monkeypatch: pytest.MonkeyPatch) -> tuple[Replay, str]:
    monkeypatch.setenv("PERENNIAL_HOME", str(story[1]))
    return story[0], story[2]


def test_loop_retrains_after_the_concept_change(in_story):
    outcome, _ = in_story
    retrained = [record.window for record in outcome.windows for event in record.events if event.kind == "retrained"]
    assert retrained
    assert all(window.end > CHANGE for window in retrained)


def test_loop_beats_never_retraining(in_story):
    means = in_story[0].means()
    assert means["loop"] < 0.8 * means["never"]
    assert in_story[0].count("promoted") >= 1


def test_every_decision_is_recorded_in_an_intact_ledger(in_story):
    outcome, _ = in_story
    judged = [from_json(Judgement, entry.body) for entry in ledger.entries("small", kind="window.judged")]
    assert [judgement.decision.decision_id for judgement in judged] == [
        record.decision_id for record in outcome.windows
    ]
    assert all(judgement.decision.reasons for judgement in judged)
    assert not ledger.verify("small").problems


def test_each_retrain_registers_one_version(in_story):
    outcome, _ = in_story
    decisions = {registry.version("small", number).decision_id for number in versions()}
    asked = {record.decision_id for record in outcome.windows if record.retrain}
    assert asked < decisions
    assert len(versions()) == len(asked) + 1  # and the first model


def test_replay_is_idempotent(in_story):
    outcome, model = in_story
    facts, made = len(ledger.entries("small")), versions()
    assert without_seconds(replay(model)) == without_seconds(outcome)
    assert (len(ledger.entries("small")), versions()) == (facts, made)


def test_replay_into_a_later_workspace_is_refused(in_story):
    from tasks.replay.records import replay_folder

    _, model = in_story
    first = min(replay_folder("small").glob("*..*.json"))
    hidden = first.rename(first.with_suffix(".hidden"))
    try:
        with pytest.raises(ReplayRefused, match="set PERENNIAL_HOME to an empty folder"):
            replay(model)
    finally:
        hidden.rename(first)


@pytest.mark.slow("replays the record twice")
def test_changed_future_data_changes_no_earlier_decision(in_story, tmp_path, monkeypatch):
    outcome, _ = in_story
    until = utc("2024-01-31")
    table = rows()
    later = table["at"] >= until
    table.loc[later, "x"] = 1e9
    table.loc[later, "y"] = -1e9
    # labels of the last window that are due after `until` are the future as well
    unknown = (table["at"] < until) & (table["at"] > utc("2024-01-30T12:00:00"))
    table.loc[unknown, "y"] = 1e9
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "poisoned"))
    poisoned = replay(write_model(tmp_path / "model", table), end=until)
    earlier = [record for record in outcome.windows if record.window.end <= until]
    assert len(earlier) == len(poisoned.windows) == 5
    for clean, seen in zip(earlier, poisoned.windows, strict=True):
        assert (seen.decision_id, seen.retrain, seen.reasons) == (clean.decision_id, clean.retrain, clean.reasons)
        assert (seen.events, seen.champion, seen.drifted_share) == (clean.events, clean.champion, clean.drifted_share)


@pytest.mark.slow("kills a replay process and replays the rest")
def test_killed_replay_resumes(in_story, tmp_path, monkeypatch):
    from prefect.settings import PREFECT_API_URL

    outcome, _ = in_story
    model = write_model(tmp_path / "model")
    home = tmp_path / "cut"
    environment = {**os.environ, "PERENNIAL_HOME": str(home), "PREFECT_API_URL": PREFECT_API_URL.value()}
    command = [sys.executable, "-m", "deployments", "replay", "--model", model]
    running = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    records = home / "replay" / "small"
    deadline = time.monotonic() + 120
    while len(list(records.glob("*..*.json"))) < 3 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = {path: path.stat().st_mtime_ns for path in records.glob("*..*.json")}
    assert 3 <= len(done) < len(outcome.windows)
    monkeypatch.setenv("PERENNIAL_HOME", str(home))
    resumed = replay(model)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert [record.decision_id for record in resumed.windows] == [record.decision_id for record in outcome.windows]
    assert [record.events for record in resumed.windows] == [record.events for record in outcome.windows]
    assert not ledger.verify("small").problems


def emitted(resource: str) -> list[str]:
    """Return the decision ids of the server's `retraining.requested` events about a resource."""
    from prefect.client.orchestration import get_client

    wanted = {"event": {"name": ["perennial.retraining.requested"]}, "resource": {"id": [resource]}}
    with get_client(sync_client=True) as client:
        found = client._client.post("/events/filter", json={"filter": wanted}).raise_for_status().json()["events"]
    return [event["payload"]["decision_id"] for event in found]


def test_failed_baselines_end_the_replay(in_story, tmp_path, monkeypatch):
    """Otherwise the page would lack their results; run again, the replay completes the window."""
    outcome, model = in_story
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    first, second = (record.window for record in outcome.windows[:2])

    def without_room(config, first, folder, window):
        if window == second:
            raise OSError(28, "No space left on device")
        return score_baselines(config, first, folder, window)

    with monkeypatch.context() as patch:
        patch.setattr("flows.replay.score_baselines", without_room)
        with pytest.raises(OSError, match="No space left"):
            replay(model, end=second.end)
    folder = replay_folder("small")
    assert [load_window(folder, window) is not None for window in (first, second)] == [True, False]
    again = replay(model, end=second.end).windows
    assert [record.decision_id for record in again] == [record.decision_id for record in outcome.windows[:2]]
    assert again[1].every is not None


def test_replay_events_trigger_no_automation(in_story):
    outcome, _ = in_story
    asked = {record.decision_id for record in outcome.windows if record.retrain}
    deadline = time.monotonic() + 150
    while not asked <= set(emitted("perennial.replay.small")) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert asked <= set(emitted("perennial.replay.small"))
    assert not asked & set(emitted("perennial.model.small"))
