"""Records as JSON, ids from content, and spans of time: what every record that travels is made with.

All times are UTC and timezone-aware. Ids are derived from content, so doing a thing twice is doing it once.
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
"""Of ledger entries, of the lake's tables and of model files. It grows only where an older Perennial would misread what a
newer one writes; what carries none is of the first. New fields with defaults need no new one."""

CLOCKS_APART = timedelta(minutes=5)
"""What the clocks of two machines may differ by, as Kerberos allows (RFC 4120, 8.2); a time further ahead is a mistake."""


class Settings(BaseModel):
    """What a person writes. Strict and frozen: an unknown key is an error, not a surprise later."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


@cache
def _adapter(record_type: type) -> TypeAdapter[Any]:
    return TypeAdapter(record_type)


def to_json(record: object) -> str:
    """Canonical JSON of a record: sorted keys, no spaces, so equal records hash alike."""
    kind: Any = type(record)
    plain = _adapter(kind).dump_python(record, mode="json")
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_json(record_type: type[Record], text: str | bytes) -> Record:
    """Read a record written by `to_json`. Raises pydantic.ValidationError on any mismatch."""
    kind: Any = record_type
    record: Record = _adapter(kind).validate_json(text)
    return record


def newer_format(found: object) -> str | None:
    """What to say of something in this format, where it is one that only a newer Perennial reads; None where it is not."""
    if isinstance(found, str) and found.isdecimal():
        found = int(found)
    if isinstance(found, int) and found <= FORMAT:
        return None
    return f"is of format {str(found)[:20]!r}, this Perennial reads up to {FORMAT}: a newer one wrote it; upgrade Perennial"


def digest(*parts: str, length: int = 16) -> str:
    """Hex SHA-256 of the parts, joined so that ("ab", "c") and ("a", "bc") differ."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:length]


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A half-open interval [start, end) of production time, UTC."""

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
        """As people write it and as paths and ids use it: `2013-05-01..2013-05-06`."""
        midnight = self.start.time() == self.end.time() == datetime.min.time()
        form = "%Y-%m-%d" if midnight else "%Y-%m-%dT%H%M%S"
        return f"{self.start:{form}}..{self.end:{form}}"

    @property
    def days(self) -> float:
        return (self.end - self.start) / timedelta(days=1)

    def next(self) -> "Window":
        return Window(self.end, self.end + (self.end - self.start))

    def split(self, days: float) -> Iterator["Window"]:
        """Consecutive windows of `days` inside this one; a remainder shorter than that is left out."""
        start, step = self.start, timedelta(days=days)
        while start + step <= self.end:
            yield Window(start, start + step)
            start += step


def utc(text: str) -> datetime:
    """Parse an ISO date or time; without a zone it is taken as UTC."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
