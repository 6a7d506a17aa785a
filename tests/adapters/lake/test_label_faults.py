"""Unusable labels are counted per window as known at a time, and cleared once the source is repaired."""

import pyarrow as pa
import pytest

from tasks.adapters import lake
from tasks.adapters.lake.label_faults import (
    CONFLICT,
    NO_WHOLE_NUMBER,
    cast_to_stored_type,
    land_label_faults,
    read_label_faults,
)
from tasks.policy.records.base import Window
from tests.support.landed_model import CONFIG, DAY, HOUR, SECOND, SPAN, label_of, labels
from tests.support.monitored_model import WINDOW, rows


def faulty(ids: list[str], faults: list[str], at=WINDOW.start) -> pa.Table:
    table = labels(ids, [0] * len(ids), [at + DAY] * len(ids), at)
    return table.append_column("fault", pa.array(faults, pa.string()))


def search(searched: Window, as_of, found: pa.Table, rows_stored: pa.Table | None = None) -> None:
    land_label_faults(CONFIG, searched, labels([], [], []) if rows_stored is None else rows_stored, found, as_of)


@pytest.fixture(autouse=True)
def _landed() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(3))
    lake.land_rows(CONFIG, SECOND, rows(3, 1, SECOND))


def test_faults_are_counted_as_known_at_a_time():
    found = faulty(["0-0", "0-1", "0-2"], ["infinite", "infinite", "NA"])
    search(SPAN, SECOND.end, pa.concat_tables([found, faulty(["1-0"], ["infinite"], SECOND.start)]))
    assert read_label_faults(CONFIG, WINDOW, SECOND.end) == {"infinite": 2, "NA": 1}
    assert read_label_faults(CONFIG, SPAN, SECOND.end) == {"infinite": 3, "NA": 1}
    assert read_label_faults(CONFIG, SPAN, SECOND.end, excluding=(WINDOW.name,)) == {"infinite": 1}
    assert read_label_faults(CONFIG, SPAN, SECOND.end - HOUR) == {}


def test_repaired_source_clears_faults_of_fully_searched_windows():
    search(SPAN, SECOND.end, faulty(["0-0"], ["infinite"]))
    search(Window(WINDOW.start + HOUR, SECOND.end), SECOND.end + DAY, faulty([], []))
    assert read_label_faults(CONFIG, WINDOW, SECOND.end + DAY) == {"infinite": 1}, "only a part was searched"
    search(SPAN, SECOND.end + 2 * DAY, faulty([], []))
    assert read_label_faults(CONFIG, WINDOW, SECOND.end + DAY) == {"infinite": 1}, "as known then"
    assert read_label_faults(CONFIG, WINDOW, SECOND.end + 2 * DAY) == {}


def test_unread_labels_are_not_counted():
    search(SPAN, WINDOW.start + HOUR, faulty(["0-0"], ["infinite"]))
    assert read_label_faults(CONFIG, WINDOW, SECOND.end) == {}


def test_simultaneous_labels_contradict_but_corrections_do_not():
    at = [WINDOW.end, WINDOW.end, WINDOW.end, WINDOW.end + DAY]
    search(SPAN, SECOND.end, faulty([], []), labels(["0-0", "0-0", "0-1", "0-1"], [0, 1, 0, 1], at))
    assert read_label_faults(CONFIG, WINDOW, SECOND.end) == {CONFLICT: 1}


def test_numeric_classes_given_as_text_are_stored_as_numbers():
    lake.land_labels(CONFIG, labels(["0-0"], [1], [WINDOW.end]), WINDOW.end)
    text = labels(["0-0", "0-1", "0-2"], [1, 0, 0], [WINDOW.end] * 3)
    text = text.set_column(2, "churned", pa.chunked_array([["1", "false", "yes"]]))
    read, broken = cast_to_stored_type(CONFIG, text, text.slice(0, 0).append_column("fault", pa.array([], pa.string())))
    assert read["churned"].to_pylist() == [1, 0]
    assert (broken["id"].to_pylist(), broken["fault"].to_pylist()) == (["0-2"], [NO_WHOLE_NUMBER])
    assert lake.land_labels(CONFIG, read, SECOND.end) == 1
    assert label_of(SECOND.end) == {"0-0": 1, "0-1": 0}
