"""When a calendar rule next has a date: cron (cronsim, which comes with Prefect) and RRULE (dateutil, as Prefect reads it).

Rules are kept in the wall time of a named zone, so that 03:00 stays 03:00 when clocks change; answers are in UTC.
Sources: crontab(5) as Debian's cron reads it, with its treatment of daylight saving; RFC 5545, section 3.3.10.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from dateutil import rrule as recurrence

BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
"""Intervals of an RRULE without DTSTART count from here, by the wall clock of its zone."""
CRON = "expected five fields, minute hour day-of-month month day-of-week, such as 0 3 1 * * (03:00 on the first)"
RRULE = "expected a rule such as FREQ=MONTHLY;BYMONTHDAY=1"
ZONE = "expected a name of the IANA database, such as UTC or America/New_York"
_TOO_OFTEN = re.compile(r"FREQ=(SECONDLY|MINUTELY)|INTERVAL=0*(?!\d)", re.IGNORECASE)
"""Would be walked date by date for ever, or nearly."""


def next_date(kind: str, rule: str, timezone: str, after: datetime) -> datetime | None:
    """The first date of the rule later than `after` (aware), in UTC; None where it has ended.

    `kind` is cron or rrule. Raises ValueError where the rule or the zone cannot be read, saying what is accepted.
    """
    return (_next_of_cron if kind == "cron" else _next_of_rrule)(rule, zone(timezone), after)


def zone(name: str) -> ZoneInfo:
    """Raises ValueError where there is no such zone."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, IsADirectoryError) as error:
        raise ValueError(f"timezone is {name!r}, {ZONE}") from error


def _next_of_cron(rule: str, where: ZoneInfo, after: datetime) -> datetime | None:
    if len(rule.split()) != 5:
        raise ValueError(f"cron is {rule!r} with {len(rule.split())} fields, {CRON}")
    try:
        dates = (date.astimezone(UTC) for date in CronSim(rule, after.astimezone(where)))
        return next(
            (date for date in dates if date > after), None
        )  # in the hour that clocks repeat, wall time runs back
    except CronSimError as error:
        raise ValueError(f"cron is {rule!r} and cannot be read ({error}), {CRON}") from error


def _next_of_rrule(rule: str, where: ZoneInfo, after: datetime) -> datetime | None:
    dates, local = _rule(rule, where), after.astimezone(where)
    try:
        while (found := dates.after(local)) is not None:
            if found.astimezone(UTC) > after:  # in the hour that clocks repeat, wall time runs back
                return found.astimezone(UTC)
            local = found
    except TypeError as error:
        raise ValueError(
            f"rrule is {rule!r} with a time without a zone, expected DTSTART:20240101T030000Z or none"
        ) from error
    return None


@lru_cache(maxsize=256)
def _rule(rule: str, where: ZoneInfo) -> recurrence.rrule | recurrence.rruleset:
    if _TOO_OFTEN.search(rule):
        raise ValueError(
            f"rrule is {rule!r} and recurs within the hour or without end, expected FREQ=HOURLY or longer and INTERVAL from 1"
        )
    try:
        return recurrence.rrulestr(rule, dtstart=BEGIN.replace(tzinfo=where), cache=True)
    except (ValueError, TypeError) as error:  # dateutil says TypeError where FREQ is missing
        raise ValueError(f"rrule is {rule!r} and cannot be read ({error}), {RRULE}") from error
