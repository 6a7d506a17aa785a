"""Settings of a model's own schedule: the block `schedule` of its YAML file."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import Field, model_validator

from tasks.policy.records.base import Settings
from tasks.policy.triggers.calendar import CRON, ZONE

LOOKED_AT = 400
"""Dates among which the longest pause is searched: a year of daily runs and more."""


class Schedule(Settings):
    """When a new window is scored. Once it is, `monitor` follows by itself."""

    cron: str = Field(max_length=200, examples=["0 6 * * 1-5"])
    """Cron rule of five fields: minute, hour, day of the month, month, day of the week."""
    timezone: str = Field("UTC", max_length=100, examples=["Europe/Berlin"])
    """IANA name of the time zone of the rule."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"timezone is {self.timezone!r}, {ZONE}") from None
        try:
            self.longest_pause()
        except CronSimError as error:
            raise ValueError(f"cron is {self.cron!r} ({error}), {CRON}") from None
        return self

    def longest_pause(self) -> timedelta:
        """The longest time between two runs."""
        dates = islice(CronSim(self.cron, datetime(2024, 1, 1, tzinfo=ZoneInfo(self.timezone))), LOOKED_AT)
        moments = [date.astimezone(UTC) for date in dates]
        return max((later - earlier for earlier, later in pairwise(moments)), default=timedelta(days=366))
