"""Probation with real versions and rows: only a champion worse than its predecessor is rolled back."""

from datetime import timedelta

import pytest

from tasks.adapters import ledger, registry
from tasks.policy.evidence.ledger import LABELS_QUARANTINED, Fact, LabelVerdicts
from tasks.policy.evidence.monitoring import History
from tasks.policy.evidence.validation import MetricDifference, ValidationReport
from tasks.policy.records.reports import LabelReport, MetricValue, PerformanceReport
from tasks.record.history import load_degradation
from tasks.record.publication import publish_degradation
from tasks.rollout.probation import watch_fresh_champion
from tests.support.monitor_runs import recorded_run
from tests.support.trained_models import HOLDOUT, TRAINING, land, make_config, make_rows, prepare_registry, register

CONFIG = make_config("regression", columns={
    "id": "id", "time": "time", "label": "label", "label_delay_hours": 1,
    "features": {"numeric": ["x", "noise"], "categorical": ["colour"], "boolean": ["flag"]},
})  # fmt: skip
NOW = HOLDOUT.end
FORECAST = 0.3


@pytest.fixture(autouse=True)
def _registry(workspace, quiet):
    prepare_registry(workspace)


def in_service(fresh_turn: float, previous_turn: float, rows_turn: float = 1.0, doubted: bool = False):
    """Serve a champion of one concept that replaced one of another, on rows of a third; return the verdict."""
    previous = register(CONFIG, "first", TRAINING, seed=1, turn=previous_turn)
    fresh = register(CONFIG, "second", TRAINING, seed=2, turn=fresh_turn)
    registry.set_aliases(CONFIG.name, {registry.CHAMPION: fresh.version, registry.PREVIOUS: previous.version})
    difference = MetricDifference("mae", 0.5, FORECAST, 0.2, 0.1, 0.3, 500)
    report = ValidationReport(fresh.version, previous.version, "pass", (difference,), ("it gained",), 500)
    ledger.append(CONFIG.name, Fact("challenger.validated", report, HOLDOUT.start, "second"))
    land(CONFIG, HOLDOUT, make_rows("regression", 600, HOLDOUT, seed=5, turn=rows_turn))
    if doubted:
        verdict = LabelReport(HOLDOUT, "fail", (), ("labels came in another unit",))
        ledger.append(CONFIG.name, Fact(LABELS_QUARANTINED, LabelVerdicts((verdict,)), NOW))
    realised = 4.0 if fresh_turn != rows_turn else 0.25
    measured = PerformanceReport(
        HOLDOUT, NOW, fresh.version, 600, 600, "closed", (MetricValue("mae", realised, realised, realised, 600, False),), "mae"
    )  # fmt: skip
    history = History(champion_since=HOLDOUT.start)
    return fresh, watch_fresh_champion.fn(CONFIG, recorded_run(CONFIG, fresh, history, NOW), (measured,))


def test_champion_of_the_wrong_concept_is_rolled_back():
    fresh, degraded = in_service(fresh_turn=-1.0, previous_turn=1.0)
    assert degraded.champion == fresh.version
    assert "which it replaced, on the same" in degraded.reasons[0]


def test_untrusted_labels_cause_no_rollback():
    assert in_service(fresh_turn=-1.0, previous_turn=1.0, doubted=True)[1] is None


def test_champion_within_its_forecast_stays():
    assert in_service(fresh_turn=1.0, previous_turn=1.0)[1] is None


def test_champion_stays_if_both_versions_degrade():
    assert in_service(fresh_turn=1.0, previous_turn=1.0, rows_turn=-1.0)[1] is None


def test_probation_ends_after_the_first_windows():
    fresh, degraded = in_service(fresh_turn=-1.0, previous_turn=1.0)
    late = History(champion_since=HOLDOUT.start - timedelta(days=CONFIG.window_days * 4))
    measured = PerformanceReport(HOLDOUT, NOW, fresh.version, 600, 600, "closed", (), "mae")
    assert degraded
    assert watch_fresh_champion.fn(CONFIG, recorded_run(CONFIG, fresh, late, NOW), (measured,)) is None


def test_degradation_is_recorded_once(monkeypatch):
    from tasks.adapters.orchestration import events as announcements

    announced: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(
        announcements, "announce", lambda event, model, payload, **more: announced.append((event, payload))
    )
    fresh, degraded = in_service(fresh_turn=-1.0, previous_turn=1.0)
    for _ in range(2):
        publish_degradation.fn(CONFIG, degraded)
    assert len(ledger.entries(CONFIG.name, kind="champion.degraded")) == 1
    assert {event for event, _ in announced} == {"champion.degraded"}
    assert announced[0][1]["champion"] == fresh.version
    assert load_degradation(CONFIG, fresh.version) == degraded
