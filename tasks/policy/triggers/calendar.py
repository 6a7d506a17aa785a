"""The trigger `calendar`, and the next date of its rule: cron (cronsim, installed with Prefect) and RRULE (dateutil).

Rules use the wall time of a named zone, so 03:00 stays 03:00 across daylight saving changes; results are in UTC. One
retrain settles a date: any training after it, or a pending request made after it. Dates are compared with the window's
end, so a late monitor run neither skips a date nor counts one twice.
Sources: crontab(5) as Debian's cron reads it, with its treatment of daylight saving; RFC 5545, section 3.3.10.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import ClassVar, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from dateutil import rrule as recurrence
from pydantic import Field, model_validator

from tasks.policy.triggers.base import Case, Trigger, TriggerResult
from tasks.policy.triggers.schedule import day, last_training

BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
"""Start of the intervals of an RRULE without DTSTART, in the wall time of its zone."""
CRON = "expected five fields, minute hour day-of-month month day-of-week, such as 0 3 1 * * (03:00 on the first)"
RRULE = "expected a rule such as FREQ=MONTHLY;BYMONTHDAY=1"
ZONE = "expected a name of the IANA database, such as UTC or America/New_York"
_TOO_OFTEN = re.compile(r"FREQ=(SECONDLY|MINUTELY)|INTERVAL=0*(?!\d)", re.IGNORECASE)
"""Rules that recur too often, or without end, to be searched date by date."""


class Calendar(Trigger):
    """A date of a calendar rule has passed since the last training."""

    example: ClassVar[str] = "{trigger: calendar, cron: 0 3 1 * *, timezone: America/New_York}"
    trigger: Literal["calendar"]
    cron: str | None = Field(None, max_length=200)
    """Cron rule of five fields; 0 3 1 * * is 03:00 on the first of each month. Set this or `rrule`."""
    rrule: str | None = Field(None, max_length=500)
    """Rule of RFC 5545, such as FREQ=MONTHLY;BYMONTHDAY=1; it counts from 2000-01-01 unless DTSTART is given."""
    timezone: str = Field("UTC", max_length=100)
    """IANA name of the time zone of the rule."""

    @model_validator(mode="after")
    def _has_dates(self) -> "Calendar":
        if (self.cron is None) == (self.rrule is None):
            given = "neither" if self.cron is None else "both"
            raise ValueError(f"cron and rrule: {given} given, expected one, such as cron: 0 3 1 * *")
        if self.next_date(BEGIN) is None:
            raise ValueError(f"{self.text} never has a date from {BEGIN:%Y-%m-%d} on, expected one that recurs")
        return self

    @property
    def text(self) -> str:
        """The rule as written in the model's file."""
        rule = f"cron {self.cron}" if self.cron is not None else f"{self.rrule}"
        return rule if self.timezone == "UTC" else f"{rule} ({self.timezone})"

    def describe(self) -> str:
        return f"a date of {self.text} has passed since the last training"

    def next_date(self, after: datetime) -> datetime | None:
        """The first date later than `after`, in UTC; None if the rule has ended."""
        kind, rule = ("cron", self.cron) if self.cron is not None else ("rrule", self.rrule or "")
        return next_date(kind, rule, self.timezone, after)

    def judge(self, case: Case) -> TriggerResult:
        last, end = last_training(case.history), case.evidence.window.end
        if last is None:
            return self.result(False, "calendar: the time of the last training is unknown")
        requested = max((moment for moment in case.history.asked_at if moment < end), default=last)
        following = self.next_date(max(last, requested))
        since = f"the retrain requested on {day(requested)}" if requested > last else f"training on {day(last)}"
        if following is None:
            return self.result(False, f"calendar: {self.text} has no date after {day(max(last, requested))}")
        holds = following <= end
        reason = f"{day(following)} of {self.text} {'has passed' if holds else 'is the next date'} since {since}"
        return self.result(holds, reason, "" if holds else f"would retrain from {day(following)}")


def next_date(kind: str, rule: str, timezone: str, after: datetime) -> datetime | None:
    """The first date of the rule later than `after` (timezone-aware), in UTC; None if the rule has ended.

    `kind` is cron or rrule. Raises ValueError if the rule or the zone cannot be parsed, with the accepted form.
    """
    return (_next_of_cron if kind == "cron" else _next_of_rrule)(rule, zone(timezone), after)


def zone(name: str) -> ZoneInfo:
    """Look up a time zone by its IANA name. Raises ValueError if there is no such zone."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, IsADirectoryError) as error:
        raise ValueError(f"timezone is {name!r}, {ZONE}") from error


def _next_of_cron(rule: str, where: ZoneInfo, after: datetime) -> datetime | None:
    if len(rule.split()) != 5:
        raise ValueError(f"cron is {rule!r} with {len(rule.split())} fields, {CRON}")
    try:
        dates = (date.astimezone(UTC) for date in CronSim(rule, after.astimezone(where)))
        return next((date for date in dates if date > after), None)  # when clocks go back, an hour of wall time repeats
    except CronSimError as error:
        raise ValueError(f"cron is {rule!r} and cannot be read ({error}), {CRON}") from error


def _next_of_rrule(rule: str, where: ZoneInfo, after: datetime) -> datetime | None:
    dates, local = _rule(rule, where), after.astimezone(where)
    try:
        while (found := dates.after(local)) is not None:
            if found.astimezone(UTC) > after:  # when clocks go back, an hour of wall time repeats
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
    except (ValueError, TypeError) as error:  # dateutil raises TypeError if FREQ is missing
        raise ValueError(f"rrule is {rule!r} and cannot be read ({error}), {RRULE}") from error
