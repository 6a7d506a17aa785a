"""The table cache is bounded in bytes."""

import pyarrow as pa
import pytest

from tasks.adapters.evaluation import probes
from tasks.adapters.storage.table_cache import KeptTables
from tests.support.landed_model import DAY
from tests.support.monitored_model import WINDOW, rows


def test_least_recently_used_table_is_evicted():
    read = []

    def table(name: str, numbers: int = 10) -> pa.Table:
        return kept.get(name, lambda: read.append(name) or pa.table({"x": pa.array([0.0] * numbers)}))

    kept = KeptTables(200)  # two tables of 80 bytes
    for name in ("a", "b", "a", "c", "a", "b"):
        table(name)
    assert read == ["a", "b", "c", "b"]
    table("large", 100), table("large", 100), table("b")
    assert read[4:] == ["large", "large"]
    kept.clear()
    table("b")
    assert read[6:] == ["b"]


@pytest.fixture
def windows(tmp_path):
    """Five windows of 500 wide rows each."""
    table = rows(500, churned=[number % 2 for number in range(500)])
    found = [type(WINDOW)(WINDOW.start + place * DAY, WINDOW.start + (place + 1) * DAY) for place in range(5)]
    for window in found:
        probes.keep_sample(window, table, tmp_path)
    return found, tmp_path


def test_probe_rows_are_every_nth_and_samples_are_bounded(windows, monkeypatch):
    found, folder = windows
    one = probes._drawn(found[:1], folder)
    assert len(one) == 125
    kept = KeptTables(2 * one.nbytes)
    monkeypatch.setattr(probes, "_samples", kept)
    monkeypatch.setattr(probes, "PROBE_ROWS", 210)  # of 625: every third
    drawn = probes._drawn(found, folder)
    assert drawn.equals(pa.concat_tables([one] * 5).take(list(range(0, 625, 3))))
    assert kept._kept.currsize <= 2 * one.nbytes
