"""Selection of groups, the worst group, and sentences about protected ones."""

import numpy as np

from tasks.policy.evidence.validation import MetricDifference
from tasks.policy.monitoring.slices import MAX_GROUPS, describe_fairness, describe_worst, largest_groups, measure_slices
from tasks.policy.records.reports import MetricValue, SliceValue
from tasks.policy.statistics.metrics import Metric


def valued(name: str, value: float, higher_is_better: bool = False) -> SliceValue:
    return SliceValue(name, MetricValue("m", value, value - 0.1, value + 0.1, 50, higher_is_better))


def gained(name: str, gain: float, rows: int = 500) -> MetricDifference:
    return MetricDifference("mae", 1.0, 1.0 - gain, gain, gain - 0.1, gain + 0.1, rows, None, name)


def test_only_the_largest_groups_are_measured():
    sizes = range(1, 60)
    groups = np.array([f"g{size:02}" for size in sizes for _ in range(size)])
    assert largest_groups(groups) == tuple(f"g{size}" for size in range(60 - MAX_GROUPS, 60))
    assert largest_groups(groups, min_rows=58) == ("g58", "g59")
    assert largest_groups(np.array([], dtype=np.str_)) == ()


def test_slice_with_undefined_metric_is_left_out():
    y_true, y_pred = np.array([0.0, 1.0] * 20 + [0.0] * 40), np.linspace(0.1, 0.9, 80)
    groups = {"plan": np.array(["both"] * 40 + ["nobody churned"] * 40)}
    assert [item.name for item in measure_slices(Metric("roc_auc"), y_true, y_pred, groups, 10)] == ["plan=both"]


def test_worst_slice_follows_metric_direction():
    assert "slices is b: m 0.9" in describe_worst([valued("a", 0.2), valued("b", 0.9)])
    assert "slices is a: m 0.2" in describe_worst([valued("a", 0.2, True), valued("b", 0.9, True)])
    assert describe_worst([valued("a", 0.2)]) is None


def test_group_summary_names_range_least_gain_and_small_groups():
    found = [gained("sex=f", -0.02), gained("sex=m", 0.3), gained("sex=x", -5.0, rows=9), gained("sexes=f", -1.0)]
    assert describe_fairness("sex", found, 100, 0.05) == (
        "groups of sex: challenger's mae 0.7 (sex=m) to 1.02 (sex=f) over 2; sex=f gains least, -0.02 (-0.12 to +0.08) "
        "on 500 rows, accepted loss 0.05; 1 more cannot be judged"
    )
