"""Probation: a new champion is rolled back if it is worse than its predecessor on the same rows."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from tasks.policy.comparison.differences import DRAWS, difference
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import Window, utc
from tasks.policy.records.reports import MetricValue
from tasks.policy.rollout.probation import confidence_per_look, decide_degradation, is_below_forecast, probation
from tasks.policy.rollout.validation import Comparison, PromotionPolicy, ValidationPolicy
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Metric
from tasks.policy.statistics.resampling import Resampling

SINCE = utc("2024-03-01")
SERVED = Window(SINCE, utc("2024-03-06"))
POLICY = ValidationPolicy(non_inferiority_margin=0.1, min_rows=100)
PROMOTION = PromotionPolicy()


def version(number: str, until: str = "2024-02-25") -> ModelVersion:
    return ModelVersion("m", number, "run", "d", Window(utc("2024-01-01"), utc(until)), 1000, "0" * 64)


def served(fresh_error: float, previous_error: float, rows: int = 500, seed: int = 0) -> Comparison:
    """Return both versions' predictions on the same rows, with these mean errors."""
    random = np.random.default_rng(seed)
    y_true = random.normal(size=rows)
    fresh, old = (
        y_true + random.normal(scale=error * np.sqrt(np.pi / 2), size=rows) for error in (fresh_error, previous_error)
    )
    resampling = Resampling(confidence_per_look(PROMOTION), DRAWS)
    primary = difference(Metric("mae"), PairedPredictions(y_true, champion=old, challenger=fresh), resampling)
    return Comparison(version("3"), version("2"), SERVED, rows, primary=primary)


def realised(value: float) -> MetricValue:
    return MetricValue("mae", value, value - 0.05, value + 0.05, 500, higher_is_better=False)


def test_worse_champion_is_rolled_back_with_reasons():
    found = decide_degradation(POLICY, served(1.0, 0.5), realised(1.0), forecast=0.5, at=SERVED.end)
    assert (found.champion, found.previous, found.at) == ("3", "2", SERVED.end)
    assert "champion 3 loses 0.4" in found.reasons[0]
    assert found.reasons[1] == "mae is 1 in service; validation measured 0.5"


def test_champion_stays_if_both_versions_degrade():
    assert decide_degradation(POLICY, served(1.0, 1.0), realised(1.0), forecast=0.5, at=SERVED.end) is None


def test_champion_within_forecast_is_not_compared():
    assert not is_below_forecast(realised(0.55), 0.5, 0.1)
    assert is_below_forecast(realised(0.65), 0.5, 0.1)
    assert decide_degradation(POLICY, served(1.0, 0.5), realised(0.55), forecast=0.5, at=SERVED.end) is None


def test_forecast_miss_respects_metric_direction():
    value = replace(realised(0.8), name="accuracy", higher_is_better=True)
    assert is_below_forecast(value, 0.95, 0.1)
    assert not is_below_forecast(value, 0.85, 0.1)


@pytest.mark.parametrize(
    "comparison",
    [
        served(1.0, 0.5, rows=60),
        replace(served(1.0, 0.5), faults=("version 2 does not serve",)),
        replace(served(1.0, 0.5), champion=None),
        replace(served(1.0, 0.5), champion=version("2", until="2024-03-03")),
    ],
    ids=["too few rows", "the previous one cannot answer", "there is no previous one", "it has seen the rows"],
)
def test_incomparable_versions_cause_no_rollback(comparison):
    assert decide_degradation(POLICY, comparison, realised(1.0), forecast=0.5, at=SERVED.end) is None


def test_sound_champion_is_rolled_back_below_the_level():
    """Same error as the previous version and no margin: the worst case that still counts as sound."""
    strict = POLICY.model_copy(update={"non_inferiority_margin": 0.0})
    sent_back = [
        decide_degradation(strict, served(1.0, 1.0, rows=150, seed=seed), realised(1.0), 0.5, SERVED.end)
        for seed in range(120)
    ]
    per_look = (1 - confidence_per_look(PROMOTION)) / 2
    assert sum(found is not None for found in sent_back) <= 120 * per_look + 4


def test_probation_length_counts_windows_that_can_have_labels():
    def on(days: float, **changes: float) -> Window | None:
        policy = PromotionPolicy(**{"probation_windows": 2, **changes})
        return probation(policy, SINCE, SINCE + timedelta(days=days), 5, timedelta(days=1))

    assert on(1) is None, "no label can have arrived yet"
    assert on(5) == Window(SINCE, SINCE + timedelta(days=5))
    assert on(11) is not None
    assert on(16) is None
    assert on(5, probation_windows=0) is None
    assert probation(PROMOTION, None, SINCE, 5, timedelta()) is None


@pytest.mark.parametrize("late", [timedelta(seconds=-7), timedelta(seconds=7)])
def test_probation_tolerates_start_times_seconds_apart(late):
    looks = [
        probation(PROMOTION, SINCE, SINCE + number * timedelta(days=5) + late, 5, timedelta()) for number in range(5)
    ]
    assert [look is not None for look in looks] == [False, True, True, True, False]
