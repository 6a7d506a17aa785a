"""The guide table finds the same bin as a search among all edges."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from tasks.policy.records.profile import MAX_EDGES, choose_edges
from tasks.policy.statistics.binning import BinGuide, count_values

ANY = (-np.inf, np.inf)
finite = st.floats(allow_nan=False, allow_infinity=False)
near = st.floats(-1, 1, allow_subnormal=True)


@given(st.lists(finite | near, max_size=MAX_EDGES), st.lists(finite | near, max_size=50))
def test_guide_table_equals_search(edges: list[float], values: list[float]):
    ordered = np.unique(np.array(edges, dtype=float))
    with np.errstate(over="ignore"):
        beside = [np.nextafter(ordered, side) for side in ANY]
    asked = np.concatenate([ordered, *beside, np.array(values, dtype=float)])
    asked = asked[np.isfinite(asked)]
    assert BinGuide.of(ordered).bins(asked).tolist() == np.searchsorted(ordered, asked).tolist()


@pytest.mark.parametrize("kind", ["normal", "lognormal", "poisson", "far apart"])
def test_most_values_need_no_search(kind: str):
    random = np.random.default_rng(5)
    values = {
        "normal": random.normal(size=50_000),
        "lognormal": random.lognormal(size=50_000),
        "poisson": random.poisson(20, 50_000).astype(float),
        "far apart": np.append(random.normal(size=50_000), [-1e12, 1e12]),
    }[kind]
    guide = BinGuide.of(np.array(choose_edges(np.sort(values))))
    searched = guide.first_bins[guide._cells(values)] == guide.searched
    assert searched.mean() < 0.05


def test_moments_are_stable_for_distant_windows():
    values = 1e9 + np.array([-1.0, 0.0, 1.0, 2.0])
    counts = count_values("x", "double", values, BinGuide.of(np.array([0.0, 1.0])), ANY)
    assert counts.mean == 1e9 + 0.5
    assert counts.squares == pytest.approx(5.0, rel=1e-9)  # 2.25 + 0.25 + 0.25 + 2.25
