"""The table cache is bounded in bytes."""

import pyarrow as pa
import pytest

from tasks.adapters.evaluation import probes
from tasks.adapters.storage.table_cache import TableCache
from tests.support.landed_model import DAY
from tests.support.monitored_model import WINDOW, rows


def test_what_was_used_longest_ago_makes_room_and_what_is_too_large_is_never_cached():
    read = []

    def table(name: str, numbers: int = 10) -> pa.Table:
        return cache.get(name, lambda: read.append(name) or pa.table({"x": pa.array([0.0] * numbers)}))

    cache = TableCache(200)  # two tables of 80 bytes
    for name in ("a", "b", "a", "c", "a", "b"):
        table(name)
    assert read == ["a", "b", "c", "b"]
    table("large", 100), table("large", 100), table("b")
    assert read[4:] == ["large", "large"]
    cache.clear()
    table("b")
    assert read[6:] == ["b"]


@pytest.fixture
def windows(tmp_path):
    """Five windows of 500 wide rows each."""
    table = rows(500, churned=[number % 2 for number in range(500)])
    found = [type(WINDOW)(WINDOW.start + place * DAY, WINDOW.start + (place + 1) * DAY) for place in range(5)]
    for window in found:
        probes.store_sample(window, table, tmp_path)
    return found, tmp_path


def test_rows_for_a_probe_are_drawn_from_all_windows_and_samples_stay_within_their_bytes(windows, monkeypatch):
    found, folder = windows
    one = probes._drawn(found[:1], folder)
    assert len(one) == 125
    cache = TableCache(2 * one.nbytes)
    monkeypatch.setattr(probes, "_samples", cache)
    monkeypatch.setattr(probes, "PROBE_ROWS", 210)  # of 625: one of three
    drawn = probes._drawn(found, folder)
    assert len(drawn) == 210
    parts = [drawn["id"].slice(42 * place, 42).to_pylist() for place in range(5)]
    samples = [probes._drawn([window], folder)["id"].to_pylist()[:125] for window in found]
    assert all(set(part) <= set(sample) and len(set(part)) == 42 for part, sample in zip(parts, samples, strict=True))
    assert cache._tables.currsize <= 2 * one.nbytes
