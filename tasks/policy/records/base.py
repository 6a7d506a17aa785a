"""JSON, content-derived ids and time windows: the parts that all records share.

All times are UTC and timezone-aware. Ids are derived from content, which makes writes idempotent.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter

Record = TypeVar("Record")

FORMAT = 1
"""Format number of ledger entries, lake tables and model files. Increase it only where an older Perennial would misread
what a newer one writes; new fields with defaults do not need a new number. Data without a number has format 1."""

CLOCKS_APART = timedelta(minutes=5)
"""Largest accepted difference between the clocks of two machines, as in Kerberos (RFC 4120, 8.2). A time further in the
future is treated as a mistake."""


class Settings(BaseModel):
    """Base class of user-written settings: frozen, and an unknown key or a number that is not finite is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


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

    def split(self, days: float) -> Iterator["Window"]:
        """Yield consecutive windows of `days` inside this one; drop a remainder shorter than that."""
        start, step = self.start, timedelta(days=days)
        while start + step <= self.end:
            yield Window(start, start + step)
            start += step


def utc(text: str) -> datetime:
    """Parse an ISO date or time; one without a time zone is read as UTC."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
