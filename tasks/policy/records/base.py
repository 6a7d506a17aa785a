"""JSON, content-derived ids and time windows: the parts that all records share.

All times are UTC and timezone-aware. Ids are derived from content, which makes writes idempotent.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator
from pydantic.fields import FieldInfo

Record = TypeVar("Record")

FORMAT = 1
"""Format number of ledger entries, lake tables and model files. Increase it only where an older Perennial would misread
what a newer one writes; new fields with defaults do not need a new number. Data without a number has format 1."""

MODEL_NAME = r"^[a-z][a-z0-9_-]{1,62}$"
"""A model's name. It is part of paths, so an event or a folder with any other name is not followed."""

CLOCKS_APART = timedelta(minutes=5)
"""Largest accepted difference between the clocks of two machines, as in Kerberos (RFC 4120, 8.2). A time further in the
future is treated as a mistake."""


SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400, "weeks": 604_800}
"""Units of time that a duration may be written in. A month is none, because months differ in length."""
_QUANTITY = re.compile(r"^(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>%|[a-z]+)$", re.IGNORECASE)
_SHORT = {"s": "seconds", "sec": "seconds", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Settings(BaseModel):
    """Base class of user-written settings: frozen, and an unknown key or a number that is not finite is an error.

    A duration may be written with its unit (`label_delay_hours: 14 days`), and a share in percent (`max_share: 30 %`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _read_quantities(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        fields = cls.model_fields
        return {key: _quantity(key, value, fields[key]) if key in fields else value for key, value in content.items()}


def duration_unit(name: str) -> str | None:
    """The unit of a setting's numbers, by the end of its name: `days` for `window_days`; None if it is no duration.

    >>> duration_unit("label_delay_hours")
    'hours'
    """
    unit = name.rpartition("_")[2]
    return unit if unit in SECONDS else None


def is_share(field: FieldInfo) -> bool:
    """Whether a setting is a share, or a list of shares: a number that cannot exceed 1."""
    items = [limit for kind in get_args(field.annotation) for limit in getattr(kind, "__metadata__", ())]
    limits = [limit for each in (*field.metadata, *items) for limit in (each, *getattr(each, "metadata", ()))]
    bounds = [bound for limit in limits for name in ("le", "lt") if (bound := getattr(limit, name, None)) is not None]
    return any(isinstance(bound, int | float) and bound <= 1 for bound in bounds)


def _quantity(name: str, value: Any, field: FieldInfo) -> Any:
    """Return a duration in the setting's unit or a share as a number; any other value unchanged, for its own check."""
    if isinstance(value, list | tuple):
        return [_quantity(name, each, field) for each in value]
    found = _QUANTITY.match(value.strip()) if isinstance(value, str) else None
    if found is None:
        return value
    number, written = float(found["number"]), found["unit"].lower()
    if written == "%":
        return number / 100 if is_share(field) else value
    given, unit = _SHORT.get(written, written if written.endswith("s") else f"{written}s"), duration_unit(name)
    return number * SECONDS[given] / SECONDS[unit] if unit and given in SECONDS else value


@cache
def _adapter(record_type: type) -> TypeAdapter[Any]:
    return TypeAdapter(record_type)


def to_json(record: object) -> str:
    """Canonical JSON of a record: sorted keys and no spaces, so equal records have equal hashes."""
    kind: Any = type(record)
    plain = _adapter(kind).dump_python(record, mode="json")
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_json(record_type: type[Record], text: str | bytes) -> Record:
    """Read a record written by `to_json`. Raises pydantic.ValidationError on any mismatch."""
    kind: Any = record_type
    record: Record = _adapter(kind).validate_json(text)
    return record


def newer_format(found: object) -> str | None:
    """Message for data in a format that only a newer Perennial can read; None where this one can read it."""
    if isinstance(found, str) and found.isdecimal():
        found = int(found)
    if isinstance(found, int) and found <= FORMAT:
        return None
    return f"has format {str(found)[:20]!r}, but this Perennial reads formats up to {FORMAT}; upgrade Perennial"


def digest(*parts: str, length: int = 16) -> str:
    """First `length` hex digits of the SHA-256 of the parts. ("ab", "c") and ("a", "bc") have different digests."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:length]


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A half-open interval [start, end) of production time in UTC.

    Raises ValueError if a bound is not in UTC or the end is not after the start.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for bound in (self.start, self.end):
            if bound.utcoffset() != timedelta(0):
                raise ValueError(f"window bound {bound!r} is not in UTC; expected a timezone-aware UTC time")
        if self.end <= self.start:
            raise ValueError(f"window end {self.end} is not after its start {self.start}")

    @property
    def name(self) -> str:
        """The name used in pages, paths and ids: `2013-05-01..2013-05-06`."""
        midnight = self.start.time() == self.end.time() == datetime.min.time()
        form = "%Y-%m-%d" if midnight else "%Y-%m-%dT%H%M%S"
        return f"{self.start:{form}}..{self.end:{form}}"

    @property
    def days(self) -> float:
        return (self.end - self.start) / timedelta(days=1)

    def next(self) -> "Window":
        return Window(self.end, self.end + (self.end - self.start))


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """Consecutive windows of production time: of `days`, counted from the anchor, or calendar months in UTC (None).

    >>> grid = WindowGrid(utc("2026-01-01"), None)
    >>> [grid.window(number).name for number in (-1, 0, 1)]
    ['2025-12-01..2026-01-01', '2026-01-01..2026-02-01', '2026-02-01..2026-03-01']
    """

    anchor: datetime
    days: float | None

    def window(self, number: int) -> Window:
        """The window with this number; 0 begins at the anchor, earlier ones are negative."""
        return Window(self._start(number), self._start(number + 1))

    def number_at(self, moment: datetime) -> int:
        """The number of the window that contains a time."""
        if self.days is None:
            return _month(moment) - _month(self.anchor)
        return (moment - self.anchor) // timedelta(days=self.days)

    def between(self, start: datetime, end: datetime) -> tuple[Window, ...]:
        """The complete windows of [start, end)."""
        first = self.number_at(start) if start < end else 0
        first += self._start(first) < start
        found = []
        while start < end and self._start(first + 1) <= end:
            found.append(self.window(first))
            first += 1
        return tuple(found)

    def _start(self, number: int) -> datetime:
        if self.days is not None:
            return self.anchor + number * timedelta(days=self.days)
        years, month = divmod(_month(self.anchor) + number, 12)
        return self.anchor.replace(year=years, month=month + 1)


def _month(moment: datetime) -> int:
    return moment.year * 12 + moment.month - 1


def utc(text: str) -> datetime:
    """Parse an ISO date or time; one without a time zone is read as UTC."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
