"""Limits calibrated on the training rows: wide for a feature that swings, narrow for a stable one."""

import numpy as np
import pyarrow as pa
import pytest

from tasks.adapters.profiling.baseline_drift import with_stable_effects
from tasks.adapters.profiling.profile import freeze_reference, profile_batches
from tasks.policy.monitoring.drift import measure
from tests.support.monitored_model import HISTORY, WINDOW, drift_of, model, rows


def swinging(count: int, phase: float, window=HISTORY) -> pa.Table:
    """Return ages that vary with the days like a season, and stable amounts."""
    table = rows(count, 3, window)
    days = np.arange(count) / count * window.days
    ages = 50 + 15 * np.sin(days / 4 + phase) + np.random.default_rng(0).normal(0, 5, count)
    return table.set_column(table.column_names.index("age"), "age", pa.array(ages))


@pytest.mark.parametrize(("calibrated", "verdict"), [(True, "stable"), (False, "drifted")])
def test_known_swing_is_not_drift(calibrated, verdict):
    config = model(drift={"calibrated": calibrated, "threshold": 0.15})
    table = swinging(12_000, 0.0)
    frozen = with_stable_effects(config, freeze_reference(table.to_batches(), config, HISTORY, "h"), table)
    profile = profile_batches(swinging(2000, 1.0, WINDOW).to_batches(), frozen, config, WINDOW)
    report = measure(profile, frozen, config.drift)
    assert drift_of(report, "age").verdict == verdict
    assert drift_of(report, "amount").verdict == "stable"
    assert drift_of(report, "amount").threshold < 0.3


def test_unknown_shift_is_drift():
    config, table = model(), swinging(12_000, 0.0)
    frozen = with_stable_effects(config, freeze_reference(table.to_batches(), config, HISTORY, "h"), table)
    moved = swinging(2000, 1.0, WINDOW)
    moved = moved.set_column(moved.column_names.index("age"), "age", pa.array(moved["age"].to_numpy() + 60))
    report = measure(profile_batches(moved.to_batches(), frozen, config, WINDOW), frozen, config.drift)
    assert drift_of(report, "age").verdict == "drifted"


def test_short_history_and_personal_features_keep_configured_limit():
    short = model(window_days=20)
    table = swinging(4000, 0.0)
    frozen = freeze_reference(table.to_batches(), short, HISTORY, "h")
    assert with_stable_effects(short, frozen, table) == frozen
    private = model(columns={"personal": ["age"]})
    with_limits = with_stable_effects(private, freeze_reference(table.to_batches(), private, HISTORY, "h"), table)
    limits = {feature.feature: feature.stable_effect for feature in with_limits.features}
    assert limits["age"] is None and limits["amount"] is not None
