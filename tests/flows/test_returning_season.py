"""A returning season: `perennial` goes back to an earlier version, which is validated and promoted without training."""

from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from deployments.config.loading import load_model_config
from flows.promote import promote
from flows.replay import replay
from flows.retrain import retrain
from flows.rollback import rollback
from flows.score import score
from tasks.adapters import ledger, registry
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.evidence.replay import Replay
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import from_json, utc
from tasks.policy.records.errors import PromotionRefused
from tasks.policy.rollout.restorable import returnable
from tests.support.small_model import CHANGE, rows, write_model

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow("replays two seasons")]
BREACH = "{trigger: metric_breach, metric: mae, limit: 1.0, k: 2, m: 3}\n  cooldown_days: 4"
RETURN = CHANGE + timedelta(days=10)
"""From here on the first concept applies again."""


def season() -> pd.DataFrame:
    table = rows(48)
    back = table["at"] >= RETURN
    table.loc[back, "y"] += 4 * table.loc[back, "x"]  # from -2x to 2x
    return table


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> tuple[Replay, Path]:
    folder = tmp_path_factory.mktemp("season")
    changes = {BREACH: "{trigger: perennial, alpha: 0.02}", "end: 2024-02-06": "end: 2024-02-14"}
    model = write_model(folder / "model", season(), **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", str(folder / "home"))
        return replay(model), folder / "home"


@pytest.fixture
def outcome(replayed: tuple[Replay, Path], monkeypatch: pytest.MonkeyPatch) -> Replay:
    monkeypatch.setenv("PERENNIAL_HOME", str(replayed[1]))
    return replayed[0]


def test_loop_returns_with_the_season(outcome):
    tried = [window.window for window in outcome.windows for event in window.events if event.kind == "recalled"]
    assert tried and all(window.end > RETURN for window in tried)
    retrained = [window.window for window in outcome.windows for event in window.events if event.kind == "retrained"]
    assert retrained and CHANGE < retrained[0].end < RETURN


def test_returning_version_has_its_own_decision(outcome):
    (first, *_) = ledger.entries("small", kind="challenger.recalled")
    returned = from_json(ModelVersion, first.body)
    trained = {
        from_json(ModelVersion, entry.body).version for entry in ledger.entries("small", kind="challenger.registered")
    }
    assert returned.version in trained and returned.trained.end < CHANGE
    kinds = [entry.kind for entry in ledger.entries("small") if entry.decision_id == first.decision_id]
    assert kinds[:4] == ["window.judged", "challenger.recalled", "challenger.validated", "champion.promoted"]
    judged = next(
        entry for entry in ledger.entries("small", kind="window.judged") if entry.decision_id == first.decision_id
    )
    decision = from_json(Judgement, judged.body).decision
    assert (decision.retrain, decision.go_back_to) == (False, returned.version)
    assert any("is ahead again by enough to pay for the switch" in reason for reason in decision.reasons)
    assert not ledger.verify("small").problems
    assert len(trained) == len(registry.client().search_model_versions("name='small'")), "nothing was trained for it"


def test_manual_return_is_validated_like_a_challenger(tmp_path, monkeypatch):
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path / "home"))
    model = write_model(tmp_path / "model", season(), **{"end: 2024-02-06": "end: 2024-02-18"})
    first, turned, returned = utc("2024-01-21"), utc("2024-02-04"), utc("2024-02-12")
    retrain(model, until=first)
    promote(model, until=first)
    with pytest.raises(PromotionRefused, match="version 1 may not be validated again"):
        retrain(model, until=first, earlier="1", reason="it serves already")
    land(model, turned)
    retrain(model, until=turned)
    promote(model, until=turned)
    assert retrain(model, until=turned, earlier="1", reason="too early").verdict == "fail"
    land(model, returned)
    preview = retrain(model, until=returned, earlier="1", dry_run=True)
    assert preview.headline.startswith("trial of small would go ahead: version 1, which was trained until")
    passed = retrain(model, until=returned, earlier="1", reason="the season is back")
    assert (passed.challenger, passed.champion, passed.verdict) == ("1", "2", "pass")
    assert promote(model, until=returned).champion == "1"
    assert registry.aliases("small") == {"champion": "1", "previous": "2"}
    assert [served.version for served in returnable(ledger.entries("small"))] == ["2"]
    rollback(model, reason="tests", until=returned)
    assert registry.aliases("small")["champion"] == "2"
    with pytest.raises(PromotionRefused, match="there is none"):
        retrain(model, until=returned, earlier="1", reason="it is quarantined")


def land(model: str, until: datetime) -> None:
    """Store rows, as scoring does."""
    for window in load_model_config(model).windows(end=until):
        score(model, until=window.end)
