"""Probes agree with a share, or do not."""

import pytest
from hypothesis import given, strategies as st
from scipy.stats import binomtest

from tasks.adapters.traffic.answers import answers_expected, check_share, count_challenger
from tasks.policy.records.errors import TrafficError
from tasks.policy.rollout.traffic import TrafficSplit

CANARY = TrafficSplit("churn", "7", "8", "canary", 0.1)


@given(probes=st.integers(50, 2000), share=st.floats(0.001, 0.999), points=st.none() | st.integers(100, 8192))
def test_bounds_contain_the_share_and_detect_others(probes: int, share: float, points: int | None) -> None:
    low, high = answers_expected(probes, share, points)
    assert 0 <= low <= probes * share <= high <= probes
    if points is not None:
        sharp = answers_expected(probes, share)
        assert low <= sharp[0] and sharp[1] <= high, "an uneven ring explains more"


@given(answered=st.integers(0, 400), share=st.floats(0.01, 0.99))
def test_bounds_agree_with_the_binomial_test(answered: int, share: float) -> None:
    low, high = answers_expected(400, share)
    one_sided = [binomtest(answered, 400, share, alternative=side).pvalue for side in ("less", "greater")]
    if min(one_sided) > 1e-6:
        assert low <= answered <= high
    if min(one_sided) < 1e-7:
        assert not low <= answered <= high


def test_no_share_allows_no_answer() -> None:
    check_share("here", 0, 300, 0.0)
    with pytest.raises(
        TrafficError, match="here: the challenger answered 1 of 300 probes, expected none at a share of 0"
    ):
        check_share("here", 1, 300, 0.0)


@pytest.mark.parametrize("answered", [0, 90, 300])
def test_other_shares_are_found(answered: int) -> None:
    with pytest.raises(
        TrafficError, match=f"answered {answered} of 300 probes, expected between 8 and 58 at a share of 0.1"
    ):
        check_share("here", answered, 300, 0.1)


def test_versions_are_counted_by_role() -> None:
    assert count_challenger("here", ["7", "8", "7", "8", "8"], CANARY) == 3
    assert count_challenger("here", ["7", "7"], TrafficSplit("churn", "7")) == 0
    assert count_challenger("here", ["7", "7"], TrafficSplit("churn", None)) == 0
    assert count_challenger("here", ["6", "8"], TrafficSplit("churn", None, "8", "canary", 0.5)) == 1


@pytest.mark.parametrize(
    ("versions", "split", "words"),
    [
        (["7", "9"], CANARY, "version '9' answered a probe, expected 7 or 8"),
        (["7", "8"], TrafficSplit("churn", "7"), "version '8' answered a probe, expected 7;"),
        (["7", "8"], TrafficSplit("churn", None), "version '8' answered a probe, expected one version"),
    ],
)
def test_versions_in_no_role_are_errors(versions: list[str], split: TrafficSplit, words: str) -> None:
    with pytest.raises(TrafficError, match=words):
        count_challenger("here", versions, split)
