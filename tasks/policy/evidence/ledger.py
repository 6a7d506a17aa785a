"""A model's ledger: facts, entries, one read of the past, and the windows that the entries exclude."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import Field

from tasks.policy.records.base import digest, from_json, to_json
from tasks.policy.records.reports import LabelReport, QualityReport

LABELS_QUARANTINED, LABELS_SOUND = "labels.quarantined", "labels.sound"
"""Ledger entries for windows whose labels cannot be trusted, and for those whose labels are sound again."""


@dataclass(frozen=True, slots=True)
class LabelVerdicts:
    """Label reports of windows whose labels cannot be trusted, or are sound again, as the ledger records them."""

    reports: tuple[LabelReport, ...]


def windows_in_doubt(entries: Iterable["LedgerEntry"]) -> tuple[str, ...]:
    """Names of the windows whose labels cannot be trusted, from ledger entries in ledger order."""
    doubted: dict[str, bool] = {}
    for entry in entries:
        if entry.kind in (LABELS_QUARANTINED, LABELS_SOUND):
            for report in from_json(LabelVerdicts, entry.body).reports:
                doubted[report.window.name] = entry.kind == LABELS_QUARANTINED
    return tuple(sorted(name for name, in_doubt in doubted.items() if in_doubt))


def windows_to_exclude(entries: Sequence["LedgerEntry"], as_of: datetime) -> tuple[str, ...]:
    """Names of the windows excluded from training and judgement: quarantined, or with labels that cannot be trusted."""
    failed = (from_json(QualityReport, entry.body) for entry in entries if entry.kind == "window.quarantined")
    in_doubt = windows_in_doubt(entry for entry in entries if entry.at <= as_of)
    return tuple(dict.fromkeys((*(report.window.name for report in failed), *in_doubt)))


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact to append to a model's ledger; `body` is a record or text."""

    kind: str
    body: object
    at: datetime
    decision_id: str | None = None
    actor: str = "perennial"


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One fact. `previous_hash` is the hash of the entry before it, which makes the ledger a chain."""

    model: str
    sequence: int
    kind: str
    at: datetime
    decision_id: str | None
    actor: str
    body: str
    previous_hash: str
    lease: Annotated[int | None, Field(exclude_if=lambda token: token is None)] = None
    """Fencing token of the run that wrote the entry, where it held the model's lease."""
    format: Annotated[int, Field(exclude_if=lambda number: number == 1)] = 1
    """`FORMAT` of the Perennial that wrote the entry."""

    @property
    def hash(self) -> str:
        return digest(to_json(self), length=64)


@dataclass(frozen=True, slots=True)
class Past:
    """A model's ledger entries from a single read, oldest first. A run loads them once and passes them on."""

    entries: tuple[LedgerEntry, ...] = ()

    def of(self, *kinds: str) -> tuple[LedgerEntry, ...]:
        """The entries of these kinds."""
        return tuple(entry for entry in self.entries if entry.kind in kinds)

    def holds(self, decision_id: str, kinds: Collection[str]) -> bool:
        """Whether an entry of one of these kinds exists for the decision."""
        return any(entry.decision_id == decision_id and entry.kind in kinds for entry in self.entries)

    def extended(self, added: Sequence[LedgerEntry]) -> "Past":
        """This past plus the entries that the run has recorded since."""
        known = {entry.sequence for entry in self.entries}
        return Past((*self.entries, *(entry for entry in added if entry.sequence not in known)))
