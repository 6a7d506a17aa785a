"""Detection of broken feeds, and not of seasons or rare events that look similar."""

import numpy as np
import pytest

from tasks.policy.data_quality.unit_faults import suspect
from tasks.policy.records.profile import FeatureCounts, FeatureReference, choose_edges
from tasks.policy.statistics.binning import BinGuide, count_values

RANDOM = np.random.default_rng(0)
MILES = np.sort(RANDOM.gamma(3.0, 350.0, 20_000))
FAHRENHEIT = np.sort(RANDOM.normal(57.0, 18.0, 20_000))
ANY = (-np.inf, np.inf)


def numeric(values: np.ndarray) -> FeatureReference:
    edges = choose_edges(values)
    return FeatureReference(
        "x", "numeric", count_values("x", "double", values, BinGuide.of(np.array(edges)), ANY), edges
    )


def window(reference: FeatureReference, values: np.ndarray) -> FeatureCounts:
    return count_values("x", "double", values, BinGuide.of(np.array(reference.edges)), ANY)


def named(*shares: int) -> FeatureCounts:
    return FeatureCounts("x", "string", sum(shares), (*shares, 0))


@pytest.mark.parametrize(
    ("before", "change", "words"),
    [
        (MILES, lambda x: x * 1.609344, "miles were given in km"),
        (MILES, lambda x: x / 60, "divided by 60"),
        (MILES, lambda x: x * 1000, "multiplied by 1000"),
        (FAHRENHEIT, lambda x: (x - 32) / 1.8, "°F were given in °C"),
        (FAHRENHEIT, lambda x: -x, "the sign was reversed"),
        (FAHRENHEIT, lambda x: np.full(len(x), 41.0), "as if stuck"),
    ],
)
def test_changed_unit_and_stuck_sensor_are_named(before, change, words):
    reference = numeric(before)
    found = suspect(reference, window(reference, change(before[::7])))
    assert found is not None and words in found.text


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (MILES, MILES[::5]),
        (MILES, MILES[::5] * 1.2),  # longer routes
        (FAHRENHEIT, FAHRENHEIT[::5] * 0.5 + 50),  # a warm spell
        (FAHRENHEIT, FAHRENHEIT[::5] - 20),  # a cold one
        (np.sort(RANDOM.gamma(0.1, 1.0, 20_000).round(1)), np.zeros(3000)),  # a dry month
    ],
    ids=["the same", "longer routes", "warm", "cold", "no rain"],
)
def test_season_and_absent_rare_event_are_not_suspected(before, now):
    reference = numeric(before)
    found = suspect(reference, window(reference, now))
    assert found is None or not found.sure


@pytest.mark.parametrize(("warm_share", "suspected"), [(0.0, True), (0.01, True), (0.05, False)])
def test_impossible_rescaled_values_rule_out_a_unit_change(warm_share, suspected):
    """Cold days have the mean and spread of the reference in °C, but 65 °F would be 149: beyond any value seen before."""
    reference, count = numeric(FAHRENHEIT), 3000
    warm = round(warm_share * count)
    cold = RANDOM.normal(13.9, 10.0 * (1 - 8 * warm_share), count - warm) - 45 * warm_share
    now = np.sort(np.concatenate([cold, np.full(warm, 65.0)]))
    found = suspect(reference, window(reference, now))
    assert (found is not None and "°F were given in °C" in found.text) == suspected


def test_swapped_names_differ_from_changed_shares():
    reference = FeatureReference("x", "categorical", named(8000, 4000, 1500, 500), categories=("a", "b", "c", "d"))
    rotated = suspect(reference, named(50, 800, 400, 150))
    assert suspect(reference, named(50, 150, 400, 800)) is not None
    assert rotated is not None
    assert suspect(reference, named(800, 400, 150, 50)) is None
    assert suspect(reference, named(350, 350, 350, 350)) is None
    assert suspect(reference, named(10, 10, 900, 900)) is None


def test_few_values_raise_no_suspicion():
    reference = numeric(MILES)
    assert suspect(reference, window(reference, MILES[::7][:100] * 1000)) is None


def test_matching_ratio_alone_does_not_prove_a_unit_change():
    """Mean and spread as if pounds were given in kg, but with another shape: two modes instead of one."""
    reference = numeric(np.sort(RANDOM.normal(60, 8, 20_000)))
    kg = 0.45359237
    rescaled = kg * RANDOM.normal(60, 8, 4000)
    humps = kg * (60 + 8 * np.where(RANDOM.random(4000) < 0.5, -1.0, 1.0))
    proof, ratio = (suspect(reference, window(reference, values)) for values in (rescaled, humps))
    assert "pounds were given in kg" in proof.text and not proof.possible
    assert "pounds were given in kg" in ratio.text and ratio.possible and not ratio.sure
