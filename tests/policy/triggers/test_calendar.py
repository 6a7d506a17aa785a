"""Calendar triggers interpret rules as Prefect's schedules do."""

import asyncio
from datetime import UTC, datetime

import pytest
from prefect.server.schemas.schedules import CronSchedule, RRuleSchedule

from tasks.policy.records.base import utc
from tasks.policy.triggers.calendar import next_date


async def _dates_of_prefect(kind: str, rule: str, timezone: str, start: datetime, count: int) -> list[datetime]:
    schedule = (
        CronSchedule(cron=rule, timezone=timezone)
        if kind == "cron"
        else RRuleSchedule(rrule=f"DTSTART:20000101T000000\n{rule}", timezone=timezone)
    )
    return [date.astimezone(UTC) for date in await schedule.get_dates(count, start)]


@pytest.mark.parametrize("timezone", ["UTC", "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("cron", "30 4 * * 1"),
        ("cron", "0 0 1,15 * *"),
        ("cron", "15 4 13 * 5"),
        ("rrule", "FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=4"),
        ("rrule", "FREQ=WEEKLY;BYDAY=MO,TH;BYHOUR=9"),
    ],
)
def test_dates_equal_prefect_schedules(kind, rule, timezone):
    start = utc("2013-01-01T00:30")
    expected = asyncio.run(_dates_of_prefect(kind, rule, timezone, start, 40))
    found, moment = [], start
    for _ in expected:
        moment = next_date(kind, rule, timezone, moment)
        found.append(moment)
    assert found == expected


@pytest.mark.parametrize(("kind", "rule"), [("cron", "30 1 * * *"), ("rrule", "FREQ=DAILY;BYHOUR=1;BYMINUTE=30")])
def test_next_date_is_later_in_repeated_hour(kind, rule):
    after = utc("2026-11-01T06:00")  # the second 01:00 in New York; the first 01:30 has passed
    assert next_date(kind, rule, "America/New_York", after) > after
