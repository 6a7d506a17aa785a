"""Placement of retrains: preference, limits and data residency."""

import pytest

from tasks.policy.economics.placement import Place, PlacementPolicy, decide_placement, forecast_rows
from tasks.policy.evidence.monitoring import Decision, History, WindowEvidence
from tasks.policy.records.base import Window, from_json, to_json, utc

WINDOW = Window(utc("2024-02-01"), utc("2024-02-06"))
DEDICATED = Place(max_rows=10_000, rows_per_hour=1_000)
SERVERLESS = Place(place="ecs", max_rows=50_000, rows_per_hour=5_000)


def policy(**changes: object) -> PlacementPolicy:
    return PlacementPolicy.model_validate({"dedicated": DEDICATED, "serverless": SERVERLESS, **changes})


def test_model_without_pool_stays_on_dedicated_hosts():
    placed = decide_placement(PlacementPolicy(), 10**9)
    assert (placed.place, placed.kind, placed.hours) == ("dedicated", "dedicated", None)


@pytest.mark.parametrize(
    ("changes", "rows", "personal", "place", "reason"),
    [
        ({}, 9_000, (), "dedicated", "dedicated is preferred and nothing rules it out for 9,000 rows"),
        ({"prefer": "serverless"}, 9_000, (), "ecs", "serverless is preferred and nothing rules it out"),
        ({}, 10_001, (), "ecs", "10,001 rows are forecast, dedicated hosts hold 10,000"),
        ({}, 10_000, (), "dedicated", "dedicated is preferred"),
        ({"deadline_hours": 4}, 5_000, (), "ecs", "dedicated hosts would take 5 h for 5,000 rows, the deadline is 4 h"),
        ({"deadline_hours": 5}, 5_000, (), "dedicated", "dedicated is preferred"),
        ({"prefer": "serverless"}, 50_001, (), "dedicated", "neither place fits"),
        ({"prefer": "serverless", "residency": "on_premises"}, 100, (), "dedicated", "stays on premises (placement.residency)"),
        ({"prefer": "serverless"}, 100, ("email",), "dedicated", "stays on premises, since email identify people"),
        ({"prefer": "serverless", "residency": "anywhere"}, 100, ("email",), "ecs", "serverless is preferred"),
    ],
)  # fmt: skip
def test_preferred_place_is_used_unless_size_deadline_or_residency_forbid(changes, rows, personal, place, reason):
    placed = decide_placement(policy(**changes), rows, personal)
    assert placed.place == place
    assert reason in placed.reasons[0]


def test_sensitive_data_stays_on_dedicated_hosts():
    placed = decide_placement(policy(deadline_hours=1), 20_000, ("email",))
    assert (placed.place, placed.hours) == ("dedicated", 20)
    assert len(placed.reasons) == 5  # neither fits; size and time of the hosts; the data, and time of the pool


def test_forecast_rows_follow_training_window_and_rate():
    history = History(training_rows=1_000, rows_since_training=200)
    evidence = WindowEvidence(WINDOW, 50)  # ten rows a day
    assert forecast_rows(history, evidence, 30) == 300
    assert forecast_rows(history, evidence, None) == 1_250


def test_decision_stores_placement_and_old_records_load():
    decision = Decision("a" * 16, "churn", WINDOW, True, ("why",), placement=decide_placement(policy(), 9_000))
    assert from_json(Decision, to_json(decision)) == decision
    old = to_json(decision).replace(to_json(decision.placement), "null").replace('"placement":null,', "")
    assert from_json(Decision, old).placement is None
