"""Profiles: counts by hand, and merging of parts."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tasks.policy.data_quality.duplicates import IdSketch
from tasks.policy.records.base import from_json, to_json
from tasks.policy.records.profile import (
    FeatureCounts,
    choose_categories,
    choose_edges,
    merge_counts,
    with_missing,
)
from tasks.policy.statistics.binning import BinGuide, count_values

EDGES = np.array([0.0, 1.0, 2.5])
ANY = (-np.inf, np.inf)
batches = st.lists(st.lists(st.floats(-1e6, 1e6, allow_nan=False), max_size=30), min_size=1, max_size=8)


def counted(values: list[float], accepted: tuple[float, float] = ANY) -> FeatureCounts:
    return count_values("x", "double", np.array(values, dtype=float), BinGuide.of(EDGES), accepted)


def test_bins_include_their_upper_edge():
    # (-inf, 0] holds -3 and 0; (0, 1] holds 1; (1, 2.5] holds 2; above lie 5 and 7
    counts = counted([5, 1, -3, 0, 2, 7], accepted=(-2, 5))
    assert counts.counts == (2, 1, 1, 2)
    assert (counts.minimum, counts.maximum, counts.mean) == (-3, 7, 2)
    assert counts.squares == pytest.approx(9 + 1 + 25 + 4 + 0 + 25)
    assert counts.gaps == (3 + 0, 0, 0.5, 2.5 + 4.5)
    assert counts.outside == 2  # -3 and 7


def test_empty_batch_merges_without_effect():
    some = counted([1, 2])
    assert counted([]).merge(some) == some.merge(counted([])) == some


@given(batches)
def test_batches_merge_into_total_counts(parts: list[list[float]]):
    total, merged = counted([value for part in parts for value in part]), merge_counts(map(counted, parts))
    assert merged.counts == total.counts
    assert (merged.rows, merged.minimum, merged.maximum) == (total.rows, total.minimum, total.maximum)
    assert merged.mean == pytest.approx(total.mean, rel=1e-9, abs=1e-6)
    assert merged.squares == pytest.approx(total.squares, rel=1e-9, abs=1e-3)
    assert merged.gaps == pytest.approx(total.gaps, abs=1e-6)


@given(batches.filter(lambda parts: len(parts) >= 3))
def test_merging_is_associative(parts: list[list[float]]):
    first, second, third = (with_missing(counted(part), nulls=len(part), non_finite=1) for part in parts[:3])
    left, right = first.merge(second).merge(third), first.merge(second.merge(third))
    assert (left.counts, left.nulls, left.non_finite, left.rows) == (
        right.counts,
        right.nulls,
        right.non_finite,
        right.rows,
    )
    assert left.mean == pytest.approx(right.mean, rel=1e-9, abs=1e-6)
    assert left.squares == pytest.approx(right.squares, rel=1e-9, abs=1e-3)


def test_counts_of_different_features_do_not_merge():
    other = count_values("y", "double", np.array([1.0]), BinGuide.of(EDGES), ANY)
    with pytest.raises(ValueError, match="cannot be merged"):
        counted([1]).merge(other)


def test_moments_near_float_max_serialise_as_json():
    counts = counted([-1e308, 1e308]).merge(counted([1e308]))
    assert from_json(FeatureCounts, to_json(counts)) == counts


def test_few_values_become_edges_and_many_become_quantiles():
    assert choose_edges(np.array([1.0, 1.0, 2.0, 4.0])) == pytest.approx((1.0, 2.0, 4.0), rel=2e-6)
    edges = choose_edges(np.arange(100_000.0))
    assert len(edges) == 255 and edges[0] == pytest.approx(0, abs=1e-6) and edges[-1] == pytest.approx(99_999, rel=2e-6)
    counts = count_values("x", "double", np.arange(100_000.0), BinGuide.of(np.array(edges)), ANY)
    assert max(counts.counts) <= 100_000 / 254 + 1
    assert choose_edges(np.empty(0)) == ()


def test_many_values_that_lie_within_rounding_of_their_neighbours_are_still_many():
    edges = choose_edges(np.linspace(1, 2, 3_000_000))
    assert len(edges) == 255 and edges[127] == pytest.approx(1.5, abs=0.01)
    one = choose_edges(np.sort(np.array([1.0, 1 + 1e-7] * 2000)))
    assert len(one) == 2  # values that another program stored differently


def test_only_the_most_frequent_categories_are_listed():
    counts = [(f"c{number:04}", number) for number in range(1500)]
    listed, more = choose_categories(counts)
    assert len(listed) == 1000 and listed[0] == "c1499" and more
    assert choose_categories([("b", 2), ("a", 2)]) == (("a", "b"), False)


def test_constant_means_one_value_and_not_none():
    assert counted([2, 2]).is_constant
    assert not counted([1, 2]).is_constant
    assert not with_missing(counted([]), nulls=5).is_constant


hashes = st.lists(st.integers(0, 40), max_size=60)


def spread(numbers: list[int]) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 2**64, 41, dtype=np.uint64)[np.array(numbers, dtype=int)]


@given(hashes, hashes, hashes)
def test_duplicates_are_counted_across_parts_in_any_order(first: list[int], second: list[int], third: list[int]):
    everything = first + second + third
    sketches = [IdSketch() for _ in range(3)]
    for sketch, numbers in zip(sketches, (first, second, third), strict=True):
        sketch.add(spread(numbers))
    sketches[1].merge(sketches[2])
    sketches[0].merge(sketches[1])
    assert sketches[0].is_exact
    assert sketches[0].duplicates() == len(everything) - len(set(everything))


def test_sketch_beyond_capacity_estimates():
    random = np.random.default_rng(0)
    ids = random.integers(0, 2**64, 50_000, dtype=np.uint64)
    sketch = IdSketch(capacity=4096)
    for part in np.array_split(np.concatenate([ids, ids[:10_000]]), 13):
        sketch.add(part)
    assert not sketch.is_exact
    assert len(sketch.stored) <= 4096
    assert sketch.duplicates() == pytest.approx(10_000, rel=0.2)


def test_repeated_id_is_stored_once():
    sketch = IdSketch(capacity=8)
    sketch.add(np.full(1000, 12345, np.uint64))
    assert sketch.duplicates() == 999 and sketch.is_exact


@pytest.mark.parametrize(
    "values",
    [
        np.arange(1, 200) / 10,
        np.random.default_rng(0).normal(20, 5, 5000),
        np.array([0.3] * 50),
        np.array([0.1, 0.3, 1e-3, 123456.789, -7.7]),
        np.array([0.0, 0.1, 0.2]),
    ],
)
def test_float_rounding_moves_no_value_to_another_bin(values):
    edges = BinGuide.of(np.array(choose_edges(np.sort(values))))
    counted = count_values("x", "double", values, edges, ANY).counts
    for stored in (values.astype(np.float32).astype(float), values * (1 + 1e-12), values * (1 - 1e-12)):
        assert count_values("x", "double", stored, edges, ANY).counts == counted


def test_sum_falls_into_the_bin_of_its_decimal_value():
    edges = choose_edges(np.array([0.1 + 0.2, 0.3, 0.4]))
    assert len(edges) == 2, "0.1 + 0.2 and 0.3 are one value"
    guide = BinGuide.of(np.array(edges))
    assert (
        count_values("x", "double", np.array([0.3]), guide, ANY).counts
        == count_values("x", "double", np.array([0.1 + 0.2]), guide, ANY).counts
    )


def test_unlisted_categories_are_not_constant():
    counts = FeatureCounts("c", "string", 822, (0, 0, 822))
    assert not counts.is_constant
    assert FeatureCounts("c", "string", 822, (0, 822, 0)).is_constant
