"""Which signed updates may become a challenger: of this export, of the champion, fresh, new."""

from dataclasses import replace
from datetime import timedelta

import pytest
import yaml

from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import CLOCKS_APART, Window, utc
from tasks.policy.records.errors import ForeignUpdate, ReplayedUpdate, StaleUpdate
from tasks.policy.training.edge import (
    EdgeExport,
    EdgeLogHead,
    EdgeLoss,
    EdgePolicy,
    EdgeUpdate,
    ImportFacts,
    find_fault,
)
from tests.support.ways_in import example

NOW, KEY = utc("2026-06-05T12:00"), "a" * 16
UPDATE = EdgeUpdate("churn", "3", "f" * 64, 2, NOW, {}, {}, EdgeLogHead(5, "b" * 64), None, KEY, "c" * 64)
CHAMPION = ModelVersion("churn", "3", "run", "d", Window(utc("2026-01-01"), utc("2026-05-01")), 9, "f" * 64)
FACTS = ImportFacts(EdgeExport("churn", "3", "f" * 64, KEY, utc("2026-05-02")), CHAMPION, NOW)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    "update",
    [
        UPDATE,
        replace(UPDATE, created_at=NOW - 30 * DAY),
        replace(UPDATE, created_at=NOW + CLOCKS_APART),
    ],
)
def test_update_of_the_champion_is_accepted(update):
    assert find_fault(update, FACTS, EdgePolicy()) is None


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        ({"created_at": NOW - 31 * DAY}, StaleUpdate, "is 31 days old, expected at most 30"),
        ({"created_at": NOW + 2 * CLOCKS_APART}, StaleUpdate, "by the device's clock, which is ahead"),
        ({"model": "other"}, ForeignUpdate, "is about other version 3"),
        ({"version": "2"}, ForeignUpdate, "is about churn version 2"),
        ({"sha256": "0" * 64}, ForeignUpdate, "expected an update that the exported folder wrote"),
    ],
)
def test_old_or_foreign_update_is_refused(change, error, expected):
    found = find_fault(replace(UPDATE, **change), FACTS, EdgePolicy())
    assert type(found) is error and expected in str(found)


@pytest.mark.parametrize("champion", [replace(CHAMPION, version="4"), replace(CHAMPION, sha256="0" * 64)])
def test_update_of_an_earlier_champion_is_stale(champion):
    found = find_fault(UPDATE, replace(FACTS, champion=champion), EdgePolicy())
    assert type(found) is StaleUpdate and "is the champion now" in str(found)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (UPDATE, "was imported before"),
        (replace(UPDATE, content_sha256="d" * 64), "update 2 of this device was imported already"),
        (replace(UPDATE, number=3, content_sha256="d" * 64), "update 3 of this device was imported already"),
    ],
)
def test_same_or_earlier_update_is_a_replay(known, expected):
    found = find_fault(UPDATE, replace(FACTS, imported=(known,)), EdgePolicy())
    assert type(found) is ReplayedUpdate and expected in str(found)


def test_later_update_of_the_device_is_accepted():
    known = replace(UPDATE, number=1, content_sha256="d" * 64)
    assert find_fault(UPDATE, replace(FACTS, imported=(known,)), EdgePolicy()) is None


def test_reason_says_what_the_device_measured():
    measured = replace(
        UPDATE, counts={"adapted_rows": 1200}, losses={"held_back": EdgeLoss(80, 2.0, 1.5, -0.5, -0.7, -0.3)}
    )
    assert measured.sentence == (
        f"update 2 of the device with key {KEY}, for version 3: adapted to 1,200 rows; loss 2 to 1.5 on 80 held-back rows, "
        "-0.5 (-0.7 to -0.3)"
    )
    assert UPDATE.sentence.endswith("for version 3: adapted to 0 rows")


def test_rows_are_new_after_the_latest_that_was_learned():
    assert UPDATE.seen_until(CHAMPION) == utc("2026-05-01")
    assert replace(UPDATE, learned_until=utc("2026-04-01")).seen_until(CHAMPION) == utc("2026-05-01")
    late = replace(UPDATE, learned_until=utc("2026-06-01T10:00")).seen_until(CHAMPION)
    assert utc("2026-06-01T10:00") < late < utc("2026-06-01T10:01")


def test_example_of_the_page_is_stricter_than_the_defaults():
    rules = EdgePolicy.model_validate(yaml.safe_load(example("edge"))["training"]["edge"])
    assert (rules.max_age_days, rules.max_change) == (7, 0.5)
    late = replace(UPDATE, created_at=NOW - 8 * DAY)
    assert find_fault(late, FACTS, EdgePolicy()) is None
    assert "expected at most 7 (training.edge.max_age_days)" in str(find_fault(late, FACTS, rules))
