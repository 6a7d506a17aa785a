"""One story per flow: manual runs, refusals and error messages."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest

from deployments.config.loading import load_model_config
from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.rollback import rollback
from flows.score import score
from tasks.adapters import ledger, registry
from tasks.policy.evidence.ledger import Fact
from tasks.policy.records.base import utc
from tasks.policy.records.errors import NothingToPromote, PromotionRefused
from tests.support.prepared_workspaces import FIRST
from tests.support.small_model import rows, write_model

pytestmark = pytest.mark.usefixtures("prefect_server")


def serve(model: str, until: str) -> None:
    """Score and monitor every window up to a day, as schedules would."""
    for window in load_model_config(model).windows(end=utc(until)):
        score(model, until=window.end)
        monitor(model, until=window.end)


def kinds() -> list[str]:
    return [entry.kind for entry in ledger.entries("small")]


def test_first_model_is_trained_promoted_and_serves(tmp_path, begin):
    model = begin(tmp_path)
    scoring = score(model, until=utc("2024-01-23"))
    assert scoring.rows == 300
    assert scoring.model_version == registry.aliases("small")[registry.CHAMPION]
    assert kinds() == [
        "model.bound",
        "challenger.registered",
        "challenger.validated",
        "champion.promoted",
        "window.scored",
    ]


def test_monitoring_is_idempotent(tmp_path, begin):
    model = begin(tmp_path)
    score(model, until=utc("2024-01-23"))
    first = monitor(model, until=utc("2024-01-23"))
    facts = kinds()
    assert monitor(model, until=utc("2024-01-23")) == first
    assert kinds() == facts


def test_dry_run_leaves_no_ledger_entry(tmp_path, begin):
    model = begin(tmp_path)
    before = kinds()
    judgement = monitor(model, until=utc("2024-01-23"), dry_run=True)
    assert judgement.decision.reasons
    assert kinds() == before


def test_broken_window_is_quarantined(tmp_path, begin):
    table = rows()
    broken = (table["at"] >= utc("2024-01-23")) & (table["at"] < utc("2024-01-25"))
    table.loc[broken, "x"] = float("nan")
    model = begin(tmp_path, table)
    serve(model, "2024-01-27")
    judgement = monitor(model, until=utc("2024-01-25"))
    assert judgement.evidence.quality.verdict == "fail"
    assert not judgement.decision.retrain
    assert kinds().count("window.quarantined") == 1
    later = retrain(model, until=utc("2024-01-27"))
    challenger = registry.version("small", later.challenger)
    clean = (table["at"] >= challenger.trained.start) & (table["at"] < challenger.trained.end) & ~broken
    assert challenger.training_rows == clean.sum()


def test_a_sound_window_is_not_quarantined(tmp_path, begin):
    model = begin(tmp_path)
    assert monitor(model, until=utc("2024-01-25")).evidence.quality.verdict == "pass"
    assert "window.quarantined" not in kinds()


def test_failed_challenger_cannot_be_promoted(tmp_path, begin):
    model = begin(tmp_path)
    serve(model, "2024-01-25")
    impossible = write_model(tmp_path, **{"non_inferiority_margin: 0.1": "non_inferiority_margin: 0.1, min_gain: 50"})
    report = retrain(impossible, until=utc("2024-01-25"), reason="see what happens")
    assert report.verdict == "fail"
    champion = registry.aliases("small")[registry.CHAMPION]
    with pytest.raises(PromotionRefused, match="validation says fail"):
        promote(model)
    assert registry.aliases("small")[registry.CHAMPION] == champion
    assert kinds()[-1] == "challenger.refused"


def test_later_refused_challenger_supersedes_a_passed_one(tmp_path):
    model = write_model(tmp_path)
    assert retrain(model, until=FIRST).verdict == "pass"
    floor = "validation: {first_model_floor: 0.001, holdout_days: 1.5"
    write_model(tmp_path, **{"validation: {holdout_days: 1.5": floor})
    assert retrain(model, until=FIRST, reason="with a floor").verdict == "fail"
    write_model(tmp_path)
    with pytest.raises(PromotionRefused, match="version 2 is not promoted: validation says fail"):
        promote(model, until=FIRST)
    assert registry.CHAMPION not in registry.aliases("small")


def test_challenger_without_holdout_rows_fails(tmp_path):
    table = rows()
    table.loc[table["at"] >= FIRST - timedelta(days=2), "y"] = None
    report = retrain(write_model(tmp_path, table), until=FIRST)
    assert report.verdict == "fail"
    assert any("0 labelled rows to validate on" in reason for reason in report.reasons)


def test_manual_retrain_uses_the_latest_stored_rows(tmp_path, begin):
    model = begin(tmp_path)
    report = retrain(model, until=utc("2024-01-25"), reason="to see what it makes of the same rows")
    assert (report.verdict, report.champion, report.challenger) == ("pass", "1", "2")
    assert report.rows >= 225, "a day and a half before the end of the history"
    assert report.differences[0].gain == pytest.approx(0, abs=0.01)


def test_promotion_without_validation_names_the_command(tmp_path):
    with pytest.raises(NothingToPromote, match=r"perennial run retrain"):
        promote(write_model(tmp_path))


def test_promotion_waits_for_a_named_approver(tmp_path):
    model = write_model(tmp_path, **{"window_days: 2": "promotion: {mode: approval}\nwindow_days: 2"})
    retrain(model, until=FIRST)
    with pytest.raises(PromotionRefused, match="approv"):
        promote(model, until=FIRST)
    assert registry.CHAMPION not in registry.aliases("small")
    promote(model, until=FIRST, approved_by="Ada", comment="read the report")
    assert registry.CHAMPION in registry.aliases("small")
    assert ledger.entries("small")[-1].actor == "Ada"


def test_rollback_restores_previous_and_quarantines_bad_version(tmp_path, begin):
    model = begin(tmp_path)
    serve(model, "2024-01-25")
    retrain(model, until=utc("2024-01-25"), reason="a second model")
    promoted = promote(model, until=utc("2024-01-25"))
    undone = rollback(model, reason="answers are late", requested_by="Ada", until=utc("2024-01-27"))
    assert undone.champion == promoted.previous == registry.aliases("small")[registry.CHAMPION]
    assert registry.tags("small", promoted.champion)["status"] == "quarantined"
    assert kinds()[-1] == "champion.rolled_back"


def test_budget_also_refuses_manual_retrains(tmp_path, begin):
    model = begin(
        tmp_path, **{"window_days: 2": "budget: {fixed_usd_per_retrain: 60, max_usd_per_month: 100}\nwindow_days: 2"}
    )
    assert retrain(model, until=utc("2024-01-25"), reason="once more") is None
    assert kinds()[-1] == "retraining.refused"


def test_interrupted_retrain_continues_within_its_budget(tmp_path, monkeypatch):
    model = write_model(
        tmp_path, **{"window_days: 2": "budget: {fixed_usd_per_retrain: 60, max_usd_per_month: 100}\nwindow_days: 2"}
    )
    append = ledger.append

    def cut_off(model: str, fact: Fact) -> object:
        if fact.kind == "challenger.validated":
            raise KeyboardInterrupt
        return append(model, fact)

    monkeypatch.setattr(ledger, "append", cut_off)
    with pytest.raises(KeyboardInterrupt):
        retrain(model, until=FIRST)
    monkeypatch.undo()
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    assert kinds() == ["model.bound", "challenger.registered"]
    assert retrain(model, until=FIRST).verdict == "pass"
    assert kinds() == ["model.bound", "challenger.registered", "challenger.validated"]


def monitor_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    from prefect.settings import PREFECT_API_URL, get_current_settings

    environment = {**get_current_settings().to_environment_variables(), "PREFECT_API_URL": PREFECT_API_URL.value()}

    return subprocess.run(
        [sys.executable, "-m", "deployments", "run", "monitor", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_command_without_champion_ends_with_one_line(tmp_path):
    ended = monitor_command("--model", write_model(tmp_path), "--until", "2024-01-25")
    assert ended.returncode != 0
    assert ended.stderr.strip().splitlines()[-1].startswith("monitor: small")
    assert "champion" in ended.stderr.strip().splitlines()[-1]
    assert "Traceback" not in ended.stdout + ended.stderr


@pytest.mark.slow("starts the command as a process")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "airtime"), "did you mean air_time"),
        (("--model", "air_time", "--until", "soon"), "until: Input should be a valid datetime"),
    ],
)
def test_wrong_argument_is_named(arguments, words):
    ended = monitor_command(*arguments)
    assert ended.returncode != 0
    assert words in ended.stderr
