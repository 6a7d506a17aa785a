"""The domain classifier's verdict, from both sides and at its rate."""

import numpy as np
import pytest

from tasks.policy.joint_drift import describe_joint, judge_joint


@pytest.mark.parametrize(("gap", "verdict"), [(0.0, "stable"), (0.5, "drifted"), (-0.5, "error")])
def test_the_domain_classifier_sees_joint_drift_and_its_own_mistakes(gap, verdict):
    random = np.random.default_rng(2)
    is_current = np.repeat([0, 1], 2000)
    scores = random.normal(0, 1, 4000) + gap * is_current
    found = judge_joint(is_current, scores)
    assert found.verdict == verdict
    assert found.low < found.auc < found.high
    assert judge_joint(is_current[1900:2100], scores[1900:2100]).verdict == "insufficient"


def test_the_domain_classifiers_false_alarms_keep_to_their_level():
    random, is_current = np.random.default_rng(3), np.repeat([0, 1], 500)
    alarms = [
        judge_joint(is_current, random.random(1000), threshold=0.5, confidence=0.9).verdict != "stable"
        for _ in range(400)
    ]
    assert np.mean(alarms) == pytest.approx(0.1, abs=0.05)


def test_what_it_saw_is_told():
    is_current, scores = np.repeat([0, 1], 2000), np.random.default_rng(4).normal(0, 1, 4000)
    moved = judge_joint(is_current, scores + is_current)
    assert "features together: drifted" in describe_joint(moved, any_drifted=False)
    assert "past its limit by itself" in describe_joint(moved, any_drifted=False)
    assert "by itself" not in describe_joint(moved, any_drifted=True)
    assert "stable" in describe_joint(judge_joint(is_current, scores), any_drifted=False)
    assert "below chance" in describe_joint(judge_joint(is_current, scores - is_current), any_drifted=False)
    assert describe_joint(judge_joint([0, 1], [0, 1]), False) == "features together: insufficient, 1 rows"
