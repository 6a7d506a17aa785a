"""Late and corrected labels are visible only from the time they were known."""

import pyarrow as pa
import pytest

from tasks.adapters import lake
from tasks.policy.records.base import Window, from_json, to_json
from tasks.policy.records.errors import LakeError
from tasks.policy.records.reports import Snapshot
from tests.support.landed_model import CONFIG, DAY, HOUR, SECOND, SPAN, label_of, labels
from tests.support.monitored_model import WINDOW, rows


def test_labels_are_visible_only_after_they_were_known() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(3))
    known = [WINDOW.start + DAY, WINDOW.start + 2 * DAY, WINDOW.start + 3 * DAY]
    assert lake.land_labels(CONFIG, labels(["0-0", "0-1", "0-2"], [1, 0, 1], known), known[1]) == 2

    assert label_of(known[0] - HOUR) == {}
    assert label_of(known[0]) == {"0-0": 1}
    assert label_of(known[1]) == {"0-0": 1, "0-1": 0}
    assert label_of(known[2]) == {"0-0": 1, "0-1": 0}, "the third was not known when labels were stored"


def test_storing_labels_again_adds_only_new_ones() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(3))
    all_known = labels(["0-0", "0-1"], [1, 0], [WINDOW.end] * 2)
    assert lake.land_labels(CONFIG, all_known.slice(0, 1), WINDOW.end) == 1
    assert lake.land_labels(CONFIG, all_known, WINDOW.end) == 1
    assert lake.land_labels(CONFIG, all_known, SECOND.end) == 0
    assert label_of(SECOND.end) == {"0-0": 1, "0-1": 0}


def test_latest_known_label_wins() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(2))
    first, dated, seen = WINDOW.end, WINDOW.end + DAY, WINDOW.end + 2 * DAY
    lake.land_labels(CONFIG, labels(["0-0", "0-1"], [1, 1], [first] * 2), first)
    lake.land_labels(CONFIG, labels(["0-0"], [0], [dated]), dated)  # the source states when it changed
    lake.land_labels(
        CONFIG, labels(["0-1"], [0], [first]), seen
    )  # the source does not state it: known when it was read

    assert label_of(first) == {"0-0": 1, "0-1": 1}
    assert label_of(dated) == {"0-0": 0, "0-1": 1}
    assert label_of(seen - HOUR) == {"0-0": 0, "0-1": 1}
    assert label_of(seen) == {"0-0": 0, "0-1": 0}
    assert lake.land_labels(CONFIG, labels(["0-1"], [0], [first]), seen + DAY) == 0


def test_simultaneous_correction_wins() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(1))
    lake.land_labels(CONFIG, labels(["0-0"], [1], [WINDOW.end]), WINDOW.end)
    assert lake.land_labels(CONFIG, labels(["0-0"], [0], [WINDOW.end]), WINDOW.end) == 1
    assert lake.land_labels(CONFIG, labels(["0-0"], [0], [WINDOW.end]), WINDOW.end) == 0
    assert label_of(WINDOW.end + HOUR) == {"0-0": 0}


def test_repeated_id_keeps_the_latest_label() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(2))
    twice = labels(["0-0", "0-1", "0-0"], [0, 1, 1], [WINDOW.end, WINDOW.end, WINDOW.end - HOUR])
    assert lake.land_labels(CONFIG, twice, WINDOW.end) == 2
    assert lake.land_labels(CONFIG, twice, WINDOW.end) == 0
    assert label_of(WINDOW.end) == {"0-0": 0, "0-1": 1}


def test_labelled_snapshot_is_stable() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(3))
    lake.land_labels(CONFIG, labels(["0-0"], [1], [WINDOW.end]), WINDOW.end)
    snapshot = lake.labelled_snapshot(CONFIG, SPAN, SECOND.end)
    before = lake.read_labelled(snapshot)
    lake.land_labels(CONFIG, labels(["0-1"], [0], [WINDOW.end]), SECOND.end)  # known in time, stored later
    lake.land_rows(CONFIG, SECOND, rows(3, 1, SECOND))

    assert (snapshot.rows, snapshot.labelled_rows) == (3, 1)
    assert lake.read_labelled(from_json(Snapshot, to_json(snapshot))).equals(before)
    assert before.column_names == ["id", "at", "amount", "age", "country", "member", "churned"]
    assert lake.labelled_snapshot(CONFIG, SPAN, SECOND.end).labelled_rows == 2


def test_labelled_snapshot_excludes_other_windows_and_unknown_rows() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(3))
    lake.land_rows(CONFIG, SECOND, rows(3, 1, SECOND))
    lake.land_labels(CONFIG, labels(["0-0"], [1], [WINDOW.end]), SECOND.end)
    lake.land_labels(CONFIG, labels(["1-0"], [0], [SECOND.end], SECOND.start), SECOND.end)
    assert lake.land_labels(CONFIG, labels(["9-9"], [1], [SECOND.end], SECOND.end + DAY), SECOND.end + DAY) == 0

    assert label_of(SECOND.end) == {"0-0": 1}
    assert label_of(SECOND.end, SPAN) == {"0-0": 1, "1-0": 0}


def test_partial_windows_contribute_only_their_rows() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(50))  # one row every 2.4 hours
    lake.land_rows(CONFIG, SECOND, rows(50, 1, SECOND))
    cut = lake.labelled_snapshot(CONFIG, Window(WINDOW.start + DAY, SECOND.start + DAY), SECOND.end)
    assert cut.rows == 40 + 10


def test_quarantined_windows_are_excluded() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(3))
    lake.land_rows(CONFIG, SECOND, rows(3, 1, SECOND))
    lake.land_labels(CONFIG, labels(["0-0"], [1], [WINDOW.end]), SECOND.end)
    lake.land_labels(CONFIG, labels(["1-0"], [0], [SECOND.end], SECOND.start), SECOND.end)

    snapshot = lake.labelled_snapshot(CONFIG, SPAN, SECOND.end, excluding=(WINDOW.name,))

    assert (snapshot.rows, snapshot.labelled_rows, snapshot.excluding) == (3, 1, (WINDOW.name,))
    assert lake.read_labelled(snapshot, ["id"]).to_pydict() == {"id": ["1-0"]}


def test_snapshot_of_excluded_windows_is_empty() -> None:
    lake.land_rows(CONFIG, WINDOW, rows(3))
    lake.land_labels(CONFIG, labels(["0-0"], [1], [WINDOW.end]), SECOND.end)
    snapshot = lake.labelled_snapshot(CONFIG, SPAN, SECOND.end, excluding=(WINDOW.name,))
    assert (snapshot.rows, snapshot.labelled_rows) == (0, 0)
    assert len(lake.labelled_rows(CONFIG, SPAN, SECOND.end)) == 1
    assert len(lake.labelled_rows(CONFIG, SPAN, SECOND.end, excluding=(WINDOW.name,))) == 0


def test_overlapping_windows_give_each_row_once() -> None:
    """window_days was changed from 5 to 10."""
    lake.land_rows(CONFIG, WINDOW, rows(4))
    twice = pa.concat_tables([rows(4, amount=[9.0] * 4), rows(4, 1, SECOND)])
    lake.land_rows(CONFIG, SPAN, twice)
    lake.land_labels(CONFIG, labels(["0-0", "0-3"], [1, 0], [WINDOW.end] * 2), SECOND.end)
    lake.land_labels(CONFIG, labels(["1-1"], [1], [WINDOW.end], SECOND.start), SECOND.end)

    table = lake.read_labelled(lake.labelled_snapshot(CONFIG, SPAN, SECOND.end))

    assert table["id"].to_pylist() == ["0-0", "0-3", "1-1"]
    assert 9.0 not in table["amount"].to_pylist()
    assert lake.labelled_snapshot(CONFIG, SPAN, SECOND.end).rows == 8


def test_labelled_snapshot_without_rows_is_empty() -> None:
    with pytest.raises(LakeError, match="no rows have landed"):
        lake.labelled_snapshot(CONFIG, WINDOW, WINDOW.end)
    lake.land_rows(CONFIG, WINDOW, rows(3))

    unlabelled = lake.labelled_snapshot(CONFIG, WINDOW, WINDOW.end)
    elsewhere = lake.labelled_snapshot(CONFIG, SECOND, SECOND.end)

    assert (unlabelled.rows, unlabelled.labelled_rows, elsewhere.rows) == (3, 0, 0)
    assert lake.read_labelled(unlabelled, ["id", "churned"]).to_pydict() == {"id": [], "churned": []}
    assert lake.read_labelled(elsewhere, ["amount"]).num_rows == 0


def test_an_unknown_column_is_named() -> None:
    snapshot = lake.land_rows(CONFIG, WINDOW, rows(3))
    with pytest.raises(LakeError, match="no column 'amont', expected one of id, at, amount"):
        lake.read_rows(snapshot, ["amont"])
    with pytest.raises(LakeError, match="no column 'amont'"):
        lake.read_labelled(lake.labelled_snapshot(CONFIG, WINDOW, WINDOW.end), ["amont"])


def test_label_search_covers_only_due_unsearched_time() -> None:
    assert lake.labels_due(CONFIG, SECOND.end, 2 * DAY) is None
    lake.land_rows(CONFIG, WINDOW, rows(50))
    assert lake.labels_due(CONFIG, WINDOW.start, 2 * DAY) is None
    assert lake.labels_due(CONFIG, WINDOW.start + DAY, 2 * DAY).window == Window(WINDOW.start, WINDOW.start + DAY)
    due = lake.labels_due(CONFIG, SECOND.end, 2 * DAY)
    assert due.window == WINDOW, "never searched: everything"

    lake.land_labels(CONFIG, labels(["0-0"], [1], [WINDOW.end]), WINDOW.end, due)
    lake.land_rows(CONFIG, SECOND, rows(50, 1, SECOND))

    # searched at WINDOW.end; before that a delay of a day and two days of grace; SECOND is new and fully due
    assert lake.labels_due(CONFIG, SECOND.end, 2 * DAY).window == Window(WINDOW.end - 3 * DAY, SECOND.end)


def test_backfill_search_does_not_cover_later_labels() -> None:
    lake.land_rows(CONFIG, SECOND, rows(50, 1, SECOND))
    live = SECOND.end + 60 * DAY
    lake.land_labels(CONFIG, labels(["1-0"], [1], [SECOND.end], SECOND.start), live, lake.labels_due(CONFIG, live, DAY))

    lake.land_rows(CONFIG, WINDOW, rows(50))
    due = lake.labels_due(CONFIG, WINDOW.end, DAY)
    lake.land_labels(CONFIG, labels(["0-0"], [1], [WINDOW.start]), WINDOW.end, due)

    later = lake.labels_due(CONFIG, live + DAY, DAY)
    assert later is not None and later.window.start == WINDOW.start, "its later labels are still to be searched"


def test_window_stored_during_a_search_is_searched_next_time() -> None:
    lake.land_rows(CONFIG, SECOND, rows(50, 1, SECOND))
    due = lake.labels_due(CONFIG, SECOND.end + 60 * DAY, DAY)
    lake.land_rows(CONFIG, WINDOW, rows(50))  # another process, after this one has read the source
    lake.land_labels(CONFIG, labels(["1-0"], [1], [SECOND.end], SECOND.start), SECOND.end + 60 * DAY, due)
    later = lake.labels_due(CONFIG, SECOND.end + 61 * DAY, DAY)
    assert later is not None and later.window.start == WINDOW.start


def test_label_delay_uses_the_first_known_label() -> None:
    """The labels of rows 0 to 9 took 1 to 10 days; the last was not known yet, and a correction does not count."""
    step = (WINDOW.end - WINDOW.start) / 10
    taken = [WINDOW.start + row * step + (row + 1) * DAY for row in range(10)]
    ids = [f"0-{row}" for row in range(10)]
    lake.land_rows(CONFIG, WINDOW, rows(10))
    as_of = taken[8]
    assert lake.label_lag(CONFIG, as_of, 0.5) is None
    lake.land_labels(CONFIG, labels(ids, [1] * 10, taken), as_of)
    lake.land_labels(CONFIG, labels(ids[:1], [0], [as_of]), as_of)
    assert lake.label_lag(CONFIG, as_of, 1.0) == 9 * DAY
    assert lake.label_lag(CONFIG, as_of, 0.5) == 5 * DAY
    assert lake.label_lag(CONFIG, taken[1], 1.0) == 2 * DAY, "as known then"
