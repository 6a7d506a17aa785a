"""Samples that probes learn from."""

from datetime import timedelta
from pathlib import Path

import pyarrow as pa

from tasks.adapters.evaluation import probes
from tasks.policy.records.base import Window, utc


def test_windows_before_1970_have_samples(tmp_path: Path) -> None:
    window = Window(utc("1949-01-01"), utc("1950-01-01"))
    probes.store_sample(window, pa.table({"id": [str(number) for number in range(100)]}), tmp_path)
    assert len(probes._drawn([window], tmp_path)) == 25


def test_older_samples_lack_a_column_that_was_added_since(tmp_path: Path) -> None:
    """`rollout.unit` of a model that already serves is such a column."""
    days = [Window(utc("2026-06-01") + timedelta(days=n), utc("2026-06-02") + timedelta(days=n)) for n in (0, 1)]
    rows = pa.table({"id": [str(number) for number in range(8)], "x": [0.5] * 8})
    probes.store_sample(days[0], rows, tmp_path)
    probes.store_sample(days[1], rows.append_column("customer", pa.array(range(8))), tmp_path)
    drawn = probes._drawn(days, tmp_path)
    first, second, *own = drawn["customer"].to_pylist()
    assert (first, second) == (None, None) and [place // 4 for place in own] == [0, 1]
