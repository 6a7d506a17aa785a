"""Calendar match in the drift stage: a known season is not drift, a shift within the season is."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from tasks.adapters.profiling.baseline_drift import with_stable_effects
from tasks.adapters.profiling.binned_rows import draw_rows
from tasks.adapters.profiling.profile import freeze_reference, profile_batches
from tasks.adapters.profiling.reference_sample import draw_sample
from tasks.monitoring.drift import DriftReference, report_drift
from tasks.policy.records.base import Window
from tests.support.monitored_model import drift_of, model

YEARS = Window(datetime(2023, 1, 1, tzinfo=UTC), datetime(2024, 7, 1, tzinfo=UTC))
JULY = Window(datetime(2024, 7, 10, tzinfo=UTC), datetime(2024, 7, 15, tzinfo=UTC))
FEATURES = {"numeric": ["warmth", "load"], "categorical": ["tariff"]}


def stream(window: Window, count: int, seed: int, warmer: float = 0.0, mornings: bool = False) -> pa.Table:
    """Return rows whose warmth follows the year, load the hour and tariff the season."""
    random = np.random.default_rng(seed)
    days = np.sort(random.uniform(0, window.days, count))
    if mornings:
        days = np.floor(days) + random.uniform(0.25, 0.5, count)
    moments = window.start.timestamp() * 1e6 + days * 86_400e6
    of_year = (moments / 86_400e6 % 365.2425) / 365.2425
    warmth = -10 * np.cos(2 * np.pi * of_year) + random.normal(0, 3, count) + warmer
    return pa.table(
        {
            "id": [f"{seed}-{number}" for number in range(count)],
            "at": pa.array(moments.astype(np.int64), pa.timestamp("us", "UTC")),
            "warmth": warmth,
            "load": np.sin(2 * np.pi * (days % 1)) + random.normal(0, 0.3, count),
            "tariff": np.where(np.abs(of_year - 0.5) < 0.25, "summer", "winter"),
        }
    )


def reported(folder, calendar, keep_rows=True, calibrated=False, **changes):
    settings = {"calendar": list(calendar), "calibrated": calibrated, "threshold": 0.2, "joint": False, "plots": 1}
    config = model(FEATURES, drift=settings)
    history = stream(YEARS, 60_000, 1)
    frozen = freeze_reference(history.to_batches(), config, YEARS, "h")
    frozen = with_stable_effects(config, frozen, history)
    coded_rows = draw_rows(config, frozen, history) if keep_rows else None
    window = stream(JULY, 4000, 2, **changes)
    profiled = profile_batches(window.to_batches(), frozen, config, JULY, folder / "sample.parquet")
    sample = draw_sample(config, frozen, history) if keep_rows else None
    return report_drift(config, profiled, DriftReference(frozen, coded=coded_rows, sample=sample))


def verdicts(report):
    return {drift.feature: drift.verdict for drift in report.features}


def test_calendar_match_avoids_seasonal_alarm(tmp_path):
    without = reported(tmp_path, [])
    assert verdicts(without) == {"warmth": "drifted", "load": "stable", "tariff": "drifted"}
    assert without.verdict == "drifted"
    matched = reported(tmp_path, ["season"])
    assert verdicts(matched) == {"warmth": "stable", "load": "stable", "tariff": "stable"}
    assert matched.verdict == "stable"
    assert any("within 15 days in earlier years" in reason for reason in matched.reasons)
    assert matched.reference_rows < without.reference_rows / 5


@pytest.mark.parametrize(("calendar", "verdict"), [([], "drifted"), (["season"], "stable")])
def test_evidently_uses_the_same_phase_of_the_reference(tmp_path, calendar, verdict):
    report = reported(tmp_path, calendar)
    opinions = {one.feature: one.verdict for one in report.second_opinion.features}
    assert (opinions["warmth"], opinions["tariff"], report.warnings) == (verdict, verdict, ())


@pytest.mark.parametrize("calibrated", [False, True])
def test_shift_within_the_season_is_detected(tmp_path, calibrated):
    """A July warmer than any July, but within the limits of the full year."""
    hot = reported(tmp_path, ["season"], calibrated=calibrated, warmer=5.0)
    assert drift_of(hot, "warmth").verdict == "drifted"
    assert drift_of(hot, "warmth").mean_shift_sigma == pytest.approx(5 / 8, abs=0.15)


def test_calibrated_limit_is_that_of_the_matched_season(tmp_path):
    full_year, season = (drift_of(reported(tmp_path, c, calibrated=True), "warmth").threshold for c in ([], ["season"]))
    assert season < full_year / 2


@pytest.mark.parametrize(
    ("days", "rows"),
    [
        pytest.param(60, 20_000, id="no earlier year holds this time of year"),
        pytest.param(349, 40_000, id="two days of it: enough to measure, too few to show the limit"),
    ],
)
def test_season_with_too_little_history_is_not_matched(tmp_path, days, rows):
    config = model(FEATURES, drift={"calendar": ["season"], "joint": False, "plots": 0, "threshold": 0.1})
    span = Window(JULY.start - timedelta(days=days), JULY.start)
    history = stream(span, rows, 1)
    frozen = freeze_reference(history.to_batches(), config, span, "h")
    profiled = profile_batches(stream(JULY, 4000, 2).to_batches(), frozen, config, JULY, tmp_path / "sample.parquet")
    report = report_drift(config, profiled, DriftReference(frozen, coded=draw_rows(config, frozen, history)))
    assert report.reference_rows == rows
    assert not any("earlier years" in reason for reason in report.reasons)


@pytest.mark.parametrize(("calendar", "verdict"), [([], "drifted"), (["day"], "stable"), (["week"], "stable")])
def test_morning_window_is_compared_with_mornings(tmp_path, calendar, verdict):
    report = reported(tmp_path, calendar, mornings=True)
    assert drift_of(report, "load").verdict == verdict
    assert any("the hours of the" in reason for reason in report.reasons) == bool(calendar)


def test_version_without_coded_rows_uses_the_full_reference(tmp_path):
    assert reported(tmp_path, ["season"], keep_rows=False) == reported(tmp_path, [], keep_rows=False)
