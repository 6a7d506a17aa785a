"""Expectations and bounds that are learned from a reference."""

import math
from types import SimpleNamespace

import pytest

from tasks.policy.data_quality.expectations import Roles, learn_expectations, window_parameters
from tasks.policy.records.base import Window, utc
from tasks.policy.records.profile import FeatureCounts, FeatureReference, ReferenceProfile

WINDOW = Window(utc("2024-02-01"), utc("2024-02-06"))
ROLES = Roles("id", "at")


def limits(**changed):
    own = {
        "max_null_share_increase": 0.1,
        "range_slack": 0.5,
        "max_out_of_range_share": 0.01,
        "max_unseen_category_share": 0.1,
        "min_rows": 50,
        "row_count_ratio": (0.4, 2.5),
        "max_age_hours": None,
        "columns": {},
    }
    return SimpleNamespace(**own | changed)


def rule(**changed):
    own = {"max_null_share": None, "range": None, "categories": None, "on_failure": "fail"}
    return SimpleNamespace(**own | changed)


def numeric(nulls: int = 0, non_finite: int = 0, low: float | None = 0.0, high: float | None = 10.0):
    values = 1000 - nulls - non_finite
    counts = FeatureCounts("x", "double", 1000, (values, 0), nulls, non_finite, minimum=low, maximum=high)
    return FeatureReference("x", "numeric", counts, edges=(10.0,))


def learned(feature: FeatureReference, roles: Roles = ROLES, **changed):
    profile = ReferenceProfile("m", WINDOW, 1000, "hash", (feature,), ())
    return {one.check: one for one in learn_expectations(profile, limits(**changed), roles) if one.column == "x"}


def test_range_is_widened_by_half_and_must_hold_for_99_percent():
    arguments = learned(numeric())["accepted range"].arguments
    assert arguments == pytest.approx({"min_value": -5.0, "max_value": 15.0, "mostly": 0.99}, rel=1e-5)


def test_share_of_rows_is_converted_to_non_null_values():
    """Of 1,000 rows 800 are null: 1 % of the rows is 5 % of the values."""
    assert learned(numeric(nulls=800))["accepted range"].arguments["mostly"] == 0.95


def test_null_share_may_rise_by_a_tenth():
    assert learned(numeric(nulls=150))["null share"].arguments == {"mostly": 0.75}
    own = {"x": rule(max_null_share=0.02, on_failure="warn")}
    found = learned(numeric(nulls=150), columns=own)["null share"]
    assert (found.arguments, found.warns) == ({"mostly": 0.98}, True)


def test_all_null_column_fails_even_if_nulls_are_accepted():
    """Great Expectations passes a column of nulls on every expectation about its values."""
    any_nulls = {"x": rule(max_null_share=1.0)}
    assert learned(numeric(), columns=any_nulls)["null share"].arguments == {"mostly": 1e-6}
    empty = numeric(nulls=1000, low=None, high=None)
    assert "null share" not in learned(empty, columns=any_nulls)


def test_a_window_without_any_value_of_a_very_sparse_column_passes():
    """Of 1,000 rows 3 have a value: a window of 500 rows has none in 22 % of the cases."""
    assert "null share" not in learned(numeric(nulls=997))
    assert learned(numeric(nulls=985))["null share"].arguments == {"mostly": 1e-6}
    own = {"x": rule(max_null_share=0.999)}
    assert learned(numeric(nulls=997), columns=own)["null share"].arguments == {"mostly": 0.001}


def test_infinite_values_are_accepted_as_in_reference():
    assert "mostly" not in learned(numeric())["finite values"].arguments
    found = learned(numeric(non_finite=20))
    assert found["finite values"].arguments["mostly"] == 0.98
    assert found["finite values"].description == "x values must be finite, at least 98 % of the time."
    assert found["accepted range"].arguments["mostly"] == 0.97


def test_unbounded_range_still_expects_finite_values():
    """A half-open range of Great Expectations accepts infinite values."""
    found = learned(numeric(low=3.0, high=3.0))
    assert "accepted range" not in found and math.isfinite(found["finite values"].arguments["max_value"])
    half = learned(numeric(low=3.0, high=3.0), columns={"x": rule(range=SimpleNamespace(min=0, max=None))})
    assert set(half["accepted range"].arguments) == {"min_value", "mostly"}


def category(kind="categorical", names=("a", "b"), more=False):
    counts = FeatureCounts("x", "string", 1000, (500, 500, 0))
    return FeatureReference("x", kind, counts, categories=names, more_categories=more)


def test_categories_come_from_reference_or_settings():
    assert learned(category())["known categories"].arguments == {"value_set": ["a", "b"], "mostly": 0.9}
    assert "known categories" not in learned(category(more=True))
    own = {"x": rule(categories=("c",))}
    assert learned(category(more=True), columns=own)["known categories"].arguments["value_set"] == ["c"]
    assert learned(category("boolean", ("true", "false")))["known categories"].arguments["value_set"] == [False, True]


def test_personal_categories_are_compared_by_digest():
    roles = Roles("id", "at", personal=frozenset({"x"}))
    (name,) = learned(category(), roles, columns={"x": rule(categories=("Ann",))})["known categories"].arguments[
        "value_set"
    ]
    assert name != "Ann" and len(name) == 16


def test_window_bounds_follow_from_its_times_and_earlier_windows():
    profile = ReferenceProfile("m", WINDOW, 1000, "hash", (), (), usual_gap_days=7)
    found = window_parameters(WINDOW, profile, limits(), (5000, 4990, 100))
    assert found["fresh_from"] == utc("2024-01-30") and found["window_start"] == WINDOW.start
    assert (found["usual_rows_min"], found["usual_rows_max"]) == (1996, 12475)
    assert "usual_rows_min" not in window_parameters(WINDOW, profile, limits(), ())
    assert window_parameters(WINDOW, profile, limits(max_age_hours=24), ())["fresh_from"] == utc("2024-02-05")
