"""The domain classifier's verdict on both sides of its limit, and its false alarm rate."""

import numpy as np
import pytest

from tasks.policy.monitoring.joint_drift import describe_joint, judge_joint


@pytest.mark.parametrize(("gap", "verdict"), [(0.0, "stable"), (0.5, "drifted"), (-0.5, "error")])
def test_domain_classifier_detects_joint_drift_and_errors(gap, verdict):
    random = np.random.default_rng(2)
    is_current = np.repeat([0, 1], 2000)
    scores = random.normal(0, 1, 4000) + gap * is_current
    found = judge_joint(is_current, scores)
    assert found.verdict == verdict
    assert found.low < found.auc < found.high
    assert judge_joint(is_current[1900:2100], scores[1900:2100]).verdict == "insufficient"


def test_interval_excludes_chance_at_its_nominal_rate():
    random, is_current = np.random.default_rng(3), np.repeat([0, 1], 500)
    found = [judge_joint(is_current, random.random(1000)) for _ in range(1000)]
    assert np.mean([joint.low > 0.5 or joint.high < 0.5 for joint in found]) == pytest.approx(0.01, abs=0.008)


def test_identical_halves_count_as_one_half():
    """Both halves hold the same scores on different scales: AUC and interval are those of one half."""
    random, is_current = np.random.default_rng(5), np.repeat([0, 1], 300)
    scores = random.normal(0, 1, 600) + 0.3 * is_current
    one = judge_joint(is_current, scores)
    both = judge_joint(np.tile(is_current, 2), np.concatenate([scores, scores + 10]), scored_by=np.repeat([0, 1], 600))
    assert (both.auc, both.low, both.high) == pytest.approx((one.auc, one.low, one.high))
    assert both.rows == 600


def test_half_with_single_row_of_one_side_is_insufficient():
    is_current, scored_by = np.repeat([0, 1], 250), np.repeat([0, 1], [499, 1])
    assert judge_joint(is_current, np.zeros(500), scored_by=scored_by).verdict == "insufficient"


def test_only_an_interval_well_below_chance_is_an_error():
    """Shifts of -0.15 and -0.4 standard deviations: AUC 0.46 and 0.39, ± 0.02."""
    random, is_current = np.random.default_rng(6), np.repeat([0, 1], 3000)
    scores = random.normal(0, 1, 6000)
    below = judge_joint(is_current, scores - 0.15 * is_current)
    assert below.high < 0.5 and below.verdict == "stable"
    assert judge_joint(is_current, scores - 0.4 * is_current).verdict == "error"


def test_joint_drift_is_described():
    is_current, scores = np.repeat([0, 1], 2000), np.random.default_rng(4).normal(0, 1, 4000)
    moved = judge_joint(is_current, scores + is_current)
    assert "joint drift: drifted" in describe_joint(moved, any_drifted=False)
    assert "no single feature moved past its limit" in describe_joint(moved, any_drifted=False)
    assert "no single feature" not in describe_joint(moved, any_drifted=True)
    assert "stable" in describe_joint(judge_joint(is_current, scores), any_drifted=False)
    assert "below chance" in describe_joint(judge_joint(is_current, scores - is_current), any_drifted=False)
    assert describe_joint(judge_joint([0, 1], [0, 1]), False) == "joint drift: insufficient, 1 rows"
