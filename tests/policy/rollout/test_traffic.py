"""Who answers which unit: the hash is stable and uniform, a unit stays while the share grows, salts are independent."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError
from scipy.stats import chi2_contingency, kstest

from tasks.policy.records.base import from_json, to_json, utc
from tasks.policy.rollout.stages import RolloutPolicy
from tasks.policy.rollout.traffic import (
    HaproxyControl,
    SagemakerControl,
    TrafficSplit,
    canonical_unit,
    position,
    sample_ratio_mismatch,
)

CANARY = TrafficSplit("churn", "7", "8", "canary", 0.1, "customer", "d1", "canary 10 %", utc("2026-01-05"), "d1")
UNITS = st.text() | st.integers() | st.floats(allow_nan=False) | st.booleans()

HAPROXY = HaproxyControl(
    kind="haproxy", sockets=("/h",), backend="b", champion=("a",), challenger=("c",), url="http://h:80/m"
)


@pytest.mark.parametrize(
    ("share", "champion", "challenger", "control", "mismatched"),
    [
        (0.5, 5000, 5000, None, False),
        (0.1, 9000, 1000, None, False),
        (0.1, 9000, 1120, None, True),  # z = 3.58
        (0.1, 9000, 0, None, True),
        (0.1, 0, 1000, None, True),
        (0.05, 90, 10, None, False),  # z = 2.29
        (0.05, 60, 20, None, False),  # 4 of 80 expected: not tested
        (0.2, 78_500, 21_500, HAPROXY, False),  # 1.5 points: the ring's own deviation
        (0.2, 78_500, 21_500, None, True),
        (0.2, 90_000, 10_000, HAPROXY, True),
        (0.1, 0, 0, None, False),
    ],
)
def test_units_that_do_not_match_the_split_are_found(share, champion, challenger, control, mismatched) -> None:
    assert (sample_ratio_mismatch(share, champion, challenger, control) is not None) == mismatched


@pytest.mark.parametrize(("units", "share"), [(50, 0.1), (100, 0.05), (300, 0.2), (300, 0.5)])
def test_the_mismatch_keeps_its_level_with_few_units(units: int, share: float) -> None:
    """Of fair samples at most 0.1 % are rejected; Pearson's χ² rejects up to 0.3 % of these."""
    rejected = [k for k in range(units + 1) if sample_ratio_mismatch(share, units - k, k) is not None]
    level = sum(math.comb(units, k) * share**k * (1 - share) ** (units - k) for k in rejected)
    assert 0 < level <= 0.001


def test_followed_splits_rarely_look_mismatched() -> None:
    """One in a thousand looks; 4,000 splits of 1,000 customers."""
    random = np.random.default_rng(5)
    drawn, times = np.unique(random.binomial(1000, 0.2, 4000), return_counts=True)
    found = [sample_ratio_mismatch(0.2, 1000 - int(each), int(each)) is not None for each in drawn]
    assert times[found].sum() <= 12


def test_the_hash_keeps_the_share() -> None:
    roles = [CANARY.role_of(f"customer {number}") for number in range(20_000)]
    assert sample_ratio_mismatch(0.1, roles.count("champion"), roles.count("challenger")) is None


@pytest.mark.parametrize(
    ("salt", "unit", "expected"),
    [
        ("", "", 0.49997478321225963),
        ("d1", "customer 7", 0.7553527830659736),
        ("d1", 7, 0.1360607888546923),
        ("d2", 7, 0.474328036801407),
        ("d1", "Zoë", 0.4230479933232093),
    ],
)
def test_positions_never_change(salt: str, unit: object, expected: float) -> None:
    """A changed hash would move units of running rollouts to the other version."""
    assert position(salt, unit) == expected


@given(salt=st.text(), unit=UNITS)
def test_position_is_in_range(salt: str, unit: object) -> None:
    assert 0 <= position(salt, unit) < 1


@given(number=st.integers(-(2**53), 2**53))
def test_a_number_is_the_same_unit_in_every_type(number: int) -> None:
    assert canonical_unit(number) == canonical_unit(float(number)) == canonical_unit(str(number))
    assert position("d1", np.int64(number)) == position("d1", number) == position("d1", np.float64(number))


@pytest.mark.parametrize("unit", [None, float("nan"), np.float32("nan")])
def test_a_unit_without_a_value_gets_the_champion(unit: object) -> None:
    assert replace(CANARY, share=1.0).role_of(unit) == "champion"


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_share_is_from_0_to_1(share: float) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        replace(CANARY, share=share)


def test_positions_are_uniform() -> None:
    assert kstest([position("d1", unit) for unit in range(20_000)], "uniform").pvalue > 0.001


def test_salts_are_independent() -> None:
    """Units that one rollout exposes are neither more nor less often exposed by another one."""
    exposed = np.array([[position(salt, unit) < 0.3 for unit in range(20_000)] for salt in ("d1", "d2")])
    counts = [[int(np.sum((exposed[0] == one) & (exposed[1] == other))) for one in (0, 1)] for other in (0, 1)]
    assert chi2_contingency(counts).pvalue > 0.001


@given(unit=UNITS, salt=st.text(), shares=st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted))
def test_a_unit_stays_while_the_share_grows(unit: object, salt: str, shares: list[float]) -> None:
    before, after = (replace(CANARY, salt=salt, share=share).role_of(unit) for share in shares)
    assert not (before == "challenger" and after == "champion")


@given(unit=UNITS)
def test_only_canary_and_ab_serve_the_challenger(unit: object) -> None:
    everything = replace(CANARY, share=1.0)
    assert everything.role_of(unit) == replace(everything, mode="ab").role_of(unit) == "challenger"
    for split in (
        replace(everything, mode="none"),
        replace(everything, mode="shadow"),
        replace(everything, share=0.0),
        replace(everything, challenger=None),
        everything.without_challenger(),
    ):
        assert not split.serves_challenger
        assert split.role_of(unit) == "champion"


def test_only_shadow_shadows() -> None:
    assert replace(CANARY, mode="shadow", share=0.0).shadows_challenger
    assert not CANARY.shadows_challenger
    assert not replace(CANARY, mode="shadow", challenger=None).shadows_challenger


def test_split_survives_json() -> None:
    assert from_json(TrafficSplit, to_json(CANARY)) == CANARY


def test_control_is_chosen_by_kind() -> None:
    haproxy = {"kind": "haproxy", "sockets": ["/run/haproxy.sock"], "backend": "churn", "url": "http://example.com/"}
    roles = {"champion": ["a"], "challenger": ["b"]}
    assert isinstance(RolloutPolicy.model_validate({"control": {**haproxy, **roles}}).control, HaproxyControl)
    variants = {"kind": "sagemaker", "endpoint": "churn", "champion": "a", "challenger": "b"}
    assert isinstance(RolloutPolicy.model_validate({"control": variants}).control, SagemakerControl)
    with pytest.raises(ValidationError, match="expected two variants"):
        SagemakerControl.model_validate({**variants, "challenger": "a"})
    with pytest.raises(ValidationError, match="expected no unit, or a control that keeps units"):
        RolloutPolicy.model_validate({"unit": "customer", "control": variants})
