"""Maturity of labels, the best past level, and shifts from it."""

import math

import numpy as np
import pytest
from scipy import stats

from tasks.policy.monitoring import performance
from tasks.policy.monitoring.performance import WindowNoise
from tasks.policy.statistics.intervals import two_proportion_test
from tasks.policy.statistics.power import minimum_detectable_drop
from tests.policy.triggers.judged_windows import report, valued


@pytest.mark.parametrize(
    ("rows", "labelled", "all_due", "maturity"),
    [
        (100, 29, False, "open"),
        (100, 30, False, "maturing"),
        (100, 97, False, "maturing"),
        (100, 98, False, "closed"),
        (100, 90, True, "closed"),  # cancelled flights never get a label
        (100, 0, True, "closed"),
        (0, 0, True, "open"),
    ],
)
def test_maturity_follows_label_share_and_due_labels(rows, labelled, all_due, maturity):
    assert performance.decide_maturity(rows, labelled, all_due, maturing_at=0.3, closed_at=0.98) == maturity


def test_confidence_is_probability_of_predicted_class():
    assert performance.confidence_histogram([0.5, 0.5, 0.01, 0.99]) == (0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0.5)
    assert performance.confidence_histogram([[0.25, 0.25, 0.25, 0.25]])[0] == 1.0
    assert performance.confidence_histogram([]) == ()


def test_baseline_is_best_three_window_mean():
    accuracies = [0.80, 0.90, 0.91, 0.92, 0.70, 0.99]
    best, where = performance.best_past_level([report(i, accuracy=v) for i, v in enumerate(accuracies)], "accuracy")
    assert best.value == pytest.approx(0.91)
    assert where == "2013-05-06..2013-05-21"
    best, _ = performance.best_past_level([report(i, mae=v) for i, v in enumerate(accuracies)], "mae")
    assert best.value == pytest.approx(np.mean([0.91, 0.92, 0.70]))


def test_one_lucky_window_is_no_level():
    values = [0.80, 0.81, 0.80, 0.99, 0.80, 0.81]
    best, _ = performance.best_past_level([report(i, accuracy=v) for i, v in enumerate(values)], "accuracy")
    assert best.value < 0.88
    assert performance.best_past_level([report(0, accuracy=0.9), report(1, accuracy=0.9)], "accuracy") is None


def test_open_maturing_and_small_windows_are_not_in_baseline():
    eligible = [report(i, accuracy=0.8) for i in range(3)]
    left_out = [
        report(3, "maturing", accuracy=0.99),
        report(4, "open", accuracy=0.99),
        report(5, labels=10, accuracy=0.99),
    ]
    best, _ = performance.best_past_level([*eligible, *left_out], "accuracy", min_labels=200)
    assert best.value == pytest.approx(0.8)


def test_rows_weigh_equally_in_a_level():
    windows = [report(0, labels=1000, mae=1.0), report(1, labels=2000, mae=2.0), report(2, labels=1000, mae=3.0)]
    best, _ = performance.best_past_level(windows, "mae")
    assert best.value == 2.0
    assert best.rows == 4000
    assert best.high - best.value == pytest.approx(0.01 * math.sqrt(0.25**2 + 0.5**2 + 0.25**2))


def test_proportion_shift_is_two_proportion_test():
    current, level = valued("accuracy", 0.85, rows=1000), valued("accuracy", 0.90, rows=3000)
    assert performance.shift_p_value(current, level) == two_proportion_test(850, 1000, 2700, 3000)


def test_loss_shift_is_z_of_difference():
    z = stats.norm.ppf(0.975)
    current, level = valued("mae", 8.0, half=0.3 * z), valued("mae", 7.0, half=0.4 * z)
    assert performance.shift_p_value(current, level) == pytest.approx(stats.norm.sf(1 / 0.5))
    assert performance.shift_p_value(level, current) == pytest.approx(stats.norm.cdf(2))


def test_window_noise_widens_the_standard_error():
    current, level = valued("mae", 8.0, half=0.001), valued("mae", 7.0, half=0.001)
    assert performance.shift_p_value(current, level) < 1e-9
    assert performance.shift_p_value(current, level, WindowNoise(1.0)) == pytest.approx(
        stats.norm.sf(1 / math.sqrt(4 / 3))
    )


def test_window_noise_is_estimated_despite_slow_drift():
    random = np.random.default_rng(0)
    drifting = np.linspace(0, 20, 400) + random.normal(0, 0.5, 400)
    assert performance.window_noise(list(drifting)).sigma == pytest.approx(0.5, rel=0.1)
    assert performance.window_noise([1.0, 2.0, 3.0]) is None
    assert performance.window_noise([1.0, 2.0, 1.0, 2.0]) == WindowNoise(pytest.approx(math.sqrt(1 / 2)), windows=4)


def test_shift_test_keeps_its_level_on_stable_windows():
    """Windows that vary by more than their rows explain: the plain test nearly always alarms, with window noise it rarely does."""
    random = np.random.default_rng(1)
    plain = guarded = 0
    for _ in range(400):
        values = random.normal(10, 1, 13)
        level, current = valued("mae", float(values[:3].mean()), 0.02), valued("mae", float(values[-1]), 0.02)
        noise = performance.window_noise(list(values[:-1]))
        plain += performance.shift_p_value(current, level) <= 0.05
        guarded += performance.shift_p_value(current, level, noise) <= 0.05
    assert plain / 400 > 0.4
    assert guarded / 400 < 0.1


def test_detectable_shift_is_found_with_80_percent_power():
    """Windows around 5.0 + the detectable shift, each with a standard error of 0.1, against a level known to 0.05."""
    random, z = np.random.default_rng(2), stats.norm.ppf(0.975)
    level = valued("mae", 5.0, half=0.05 * z)
    size = performance.smallest_shift(valued("mae", 5.0, half=0.1 * z), level)
    assert size == pytest.approx((2.3263 + 0.8416) * math.hypot(0.1, 0.05), rel=1e-3)
    found = [
        performance.shift_p_value(
            valued("mae", 5 + size + random.normal(0, 0.1), half=0.1 * z),
            valued("mae", 5 + random.normal(0, 0.05), half=0.05 * z),
        )
        <= 0.01
        for _ in range(2000)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)
    assert performance.smallest_shift(valued("mae", 5.0, half=0.07 * z), level) < size


def test_detectable_accuracy_drop_is_that_of_a_proportion():
    current, level = valued("accuracy", 0.9, rows=1000), valued("accuracy", 0.9, rows=3000)
    assert performance.smallest_shift(current, level, alpha=0.05) == pytest.approx(
        minimum_detectable_drop(1000, 3000, 0.9, 0.05)
    )


def test_needed_labels_reveal_the_shift_unless_noise_dominates():
    z = stats.norm.ppf(0.975)
    current, level = valued("mae", 5.0, half=0.4 * z, rows=100), valued("mae", 5.0, half=0.01 * z)
    needed = performance.labels_needed(0.5, current, level)
    enough = valued("mae", 5.0, half=0.4 * z * math.sqrt(100 / needed), rows=needed)
    assert performance.smallest_shift(current, level) > 0.5
    assert performance.smallest_shift(enough, level) == pytest.approx(0.5, rel=1e-2)
    assert performance.labels_needed(0.5, current, level, WindowNoise(1.0)) is None
    assert performance.labels_needed(0.5, current, valued("mae", 5.0, half=1.0)) is None
    noise = (
        0.5 / math.sqrt(4 / 3) / (stats.norm.isf(0.01) + stats.norm.ppf(0.8)) * 0.9
    )  # a normal one would not hide it
    assert performance.labels_needed(0.5, current, level, WindowNoise(noise)) == needed
    assert (
        performance.labels_needed(0.5, current, level, WindowNoise(noise, windows=5)) is None
    )  # Student's t with 8/3 does


@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("windows", [4, 7, 20, 60])
def test_needed_labels_suffice(noise, windows):
    z = stats.norm.ppf(0.975)
    level = valued("mae", 5.0, half=0.01 * z)

    def shown_by(rows: int) -> float:
        window = valued("mae", 5.0, half=4 * z / math.sqrt(rows), rows=rows)
        return performance.smallest_shift(window, level, WindowNoise(noise, windows))

    needed = performance.labels_needed(
        0.4, valued("mae", 5.0, half=0.4 * z, rows=100), level, WindowNoise(noise, windows)
    )
    if needed is None:
        assert all(shown_by(10**power) > 0.4 for power in range(4, 9))
    else:
        assert all(shown_by(rows) <= 0.4 * 1.001 for rows in (needed, 2 * needed, 10 * needed, 10**8))


@pytest.mark.parametrize("good", [3, 4, 5, 6, 7])
def test_collapse_is_not_absorbed_as_noise(good):
    """Accuracy near 0.79, then near 0.47 and unsteady: each window after the fall is as significant as the first."""
    random = np.random.default_rng(good)
    values = [*0.79 + 0.015 * random.normal(size=good), *0.47 + 0.04 * random.normal(size=6)]
    seen = [valued("accuracy", float(value), 0.03, rows=700) for value in values]
    for place in range(good, len(seen)):
        before = [report(number, accuracy=value.value) for number, value in enumerate(seen[:place])]
        level, _ = performance.best_past_level(before, "accuracy")
        noise = performance.noise_before_collapse(seen[:place])
        assert performance.shift_p_value(seen[place], level, noise) <= 0.01, place


def test_recovery_ends_a_collapse():
    random = np.random.default_rng(0)
    steady = [valued("mae", float(value), 0.01) for value in 5 + random.normal(size=20)]
    assert performance.noise_before_collapse(steady) == performance.window_noise([one.value for one in steady])
    values = [5.0, 5.1, 4.9, 5.0, 9.0, 9.2, 9.1, 5.0, 5.1]
    assert performance.noise_before_collapse([valued("mae", value, 0.01) for value in values]).windows == 6
