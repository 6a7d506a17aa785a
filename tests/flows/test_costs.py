"""Costs in the loop: recorded, used for forecasts, and compared with a promotion's gain."""

from pathlib import Path

import pytest

from flows.replay import replay
from tasks.adapters import ledger
from tasks.policy.economics.costs import Outcome
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.evidence.replay import Replay
from tasks.policy.evidence.versions import USAGE, ModelVersion, Usage
from tasks.policy.records.base import from_json
from tests.support.small_model import rows, write_model

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow("replays a quarter with prices")]
BREACH = "{trigger: metric_breach, metric: mae, limit: 1.0, k: 2, m: 3}"
BUDGET = "{value_usd_per_metric_unit_per_day: 100, fixed_usd_per_retrain: 40, cpu_usd_per_hour: 1}\ntraining:\n"


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory, prefect_server: None):
    """A replay of a changed concept, served long enough to score the outcome: (outcome, workspace)."""
    folder = tmp_path_factory.mktemp("priced")
    model = write_model(
        folder / "model",
        rows(44),
        **{
            "\ntraining:\n": "\nbudget: " + BUDGET,
            BREACH: "{trigger: metric_breach, metric: mae, limit: 1.0}",
            "2024-02-06": "2024-02-14",
            "{holdout_days: 1.5": "{beats_constant: false, holdout_days: 1.5",  # the first retrain also serves, though worse than none
        },
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", str(folder / "home"))
        return replay(model), folder / "home"


@pytest.fixture
def replayed(priced: tuple[Replay, Path], monkeypatch: pytest.MonkeyPatch) -> Replay:
    monkeypatch.setenv("PERENNIAL_HOME", str(priced[1]))
    return priced[0]


def test_training_cost_is_recorded_in_the_ledger(replayed):
    entries = ledger.entries("small", kind="challenger.registered")
    versions = [from_json(ModelVersion, entry.body) for entry in entries]
    used = [from_json(Usage, dict(version.tags)[USAGE]) for version in versions]
    assert len(used) >= 2
    assert all(usage.cpu_s > 0 and usage.peak_memory_mb > 50 and usage.wall_s > 0 for usage in used)
    assert [usage.rows for usage in used] == [version.training_rows for version in versions]


def test_decision_has_expected_cost_value_and_payback(replayed):
    judged = [from_json(Judgement, entry.body) for entry in ledger.entries("small", kind="window.judged")]
    asked = [judgement.decision for judgement in judged if judgement.decision.retrain]
    assert all(40 < decision.expected_cost_usd < 60 for decision in asked)
    priced = [decision for decision in asked if decision.expected_value_usd is not None]
    assert priced
    assert any("pays back in" in reason for decision in priced for reason in decision.reasons)


def test_promotion_outcome_is_scored_once(replayed):
    entries = ledger.entries("small", kind="promotion.scored")
    assert entries
    assert len({entry.decision_id for entry in entries}) == len(entries)
    outcomes = [from_json(Outcome, entry.body) for entry in entries]
    assert outcomes[-1].verdict == "paid", outcomes[-1].reason
    assert outcomes[-1].cost_usd > 40 and outcomes[-1].days == 6
    assert outcomes[-1].realised_usd.usd > outcomes[-1].cost_usd
