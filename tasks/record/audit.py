"""Answer audit questions from the ledger: is it intact, what was done, and which version served at a given time.

`perennial audit` prints the results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.adapters import ledger, registry, storage
from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import Promotion
from tasks.policy.records.base import from_json
from tasks.policy.records.text import printable
from tasks.policy.reporting.decision import headline
from tasks.policy.rollout.versions import changed_outside, edited, registered

if TYPE_CHECKING:
    from tasks.adapters.ledger.chain import Head

CHAMPION_KINDS = ("champion.promoted", "champion.rolled_back")


def champion_at(model: str, moment: datetime) -> tuple[LedgerEntry, Promotion] | None:
    """Return the promotion or rollback that made the champion of that moment; None if there was none yet."""
    moves = [entry for entry in ledger.entries(model) if entry.kind in CHAMPION_KINDS and entry.at <= moment]
    return (moves[-1], from_json(Promotion, moves[-1].body)) if moves else None


def describe_entry(entry: LedgerEntry) -> str:
    """Describe an entry in one line, with its first reason if it has one; unprintable characters become spaces."""
    reason = _first_reason(entry)
    decision = f" decision {entry.decision_id}" if entry.decision_id else ""
    because = f": {reason}" if reason else ""
    return printable(f"{entry.sequence:>6} {entry.at:%Y-%m-%d %H:%M} {entry.kind} by {entry.actor}{decision}{because}")


def describe_champion(model: str, moment: datetime, entry: LedgerEntry, promotion: Promotion) -> list[str]:
    """Describe which version served at the moment, who made it champion, and the reasons."""
    sentence = (
        f"{model}: version {promotion.champion} served at {moment:%Y-%m-%d %H:%M} UTC, "
        f"{promotion.action} on {entry.at:%Y-%m-%d %H:%M} by {entry.actor} "
        f"(entry {entry.sequence}, decision {promotion.decision_id})"
    )
    return [printable(sentence), *(printable(f"  {reason}") for reason in promotion.reasons)]


def _first_reason(entry: LedgerEntry) -> str:
    if entry.kind == "window.judged":
        judgement = from_json(Judgement, entry.body)
        return headline(judgement.decision, judgement.champion)
    if entry.kind in ("challenger.validated", "challenger.refused"):
        return from_json(ValidationReport, entry.body).reasons[0]
    if entry.kind in CHAMPION_KINDS:
        promotion = from_json(Promotion, entry.body)
        return f"version {promotion.champion} serves, {promotion.previous or 'none'} served before"
    return ""


@dataclass(frozen=True, slots=True)
class CheckedLedger:
    """Result of checking one ledger: problems of its hash chain, and registry changes made outside Perennial."""

    model: str
    entries: int
    head: str | None
    """MODEL:SEQUENCE:HASH of the latest entry, to be stored elsewhere for a later check."""
    problems: tuple[str, ...] = ()
    registry: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not (self.problems or self.registry)

    @property
    def lines(self) -> list[str]:
        state = f"{'DAMAGED' if self.problems else 'intact'}, {self.entries} entries, head {self.head or 'none'}"
        found = [*self.problems, *(f"registry: {change}" for change in self.registry)]
        return [f"{self.model}: {state}", *(printable(f"  {sentence}") for sentence in found)]


def noted_head(text: str) -> "tuple[str, Head]":
    """Parse MODEL:SEQUENCE:HASH, as an earlier check printed it. Raises ValueError for anything else."""
    model, sequence, head_hash = (*text.split(":"), "", "")[:3]
    if not (sequence.isdigit() and len(head_hash) == 64):
        raise ValueError(f"{text!r} is not a head, expected MODEL:SEQUENCE:HASH as verify prints it")
    return model, ledger.Head(int(sequence), head_hash)


def check_ledgers(models: Sequence[str], heads: "Sequence[tuple[str, Head]]" = ()) -> list[CheckedLedger]:
    """Check the ledgers of these models, or of all if none is named, and of every model with a stored head."""
    names = sorted({*(models or ledger.models()), *(model for model, _ in heads)})
    return [_check(name, [head for model, head in heads if model == name]) for name in names]


def _check(name: str, heads: "Sequence[Head]") -> CheckedLedger:
    found = ledger.verify(name, *heads)
    # a named model is expected to have a ledger; a missing ledger must not pass
    problems = found.problems or (() if found.entries else ("this model has no ledger here",))
    head = f"{name}:{found.head.sequence}:{found.head.hash}" if found.head else None
    return CheckedLedger(name, found.entries, head, problems, () if problems else _registry_changes(name))


def _registry_changes(model: str) -> tuple[str, ...]:
    """List changes to aliases and versions made outside Perennial, and tags that differ from the ledger's record.

    Empty if the registry is a SQLite file that does not exist on this machine; the ledger can be checked without it.
    """
    address = storage.workspace.workspace().mlflow
    if (
        address.startswith(storage.workspace.SQLITE)
        and not Path(address.removeprefix(storage.workspace.SQLITE)).is_file()
    ):
        return ()
    entries, now = ledger.entries(model), registry.state(model)
    tags = registry.all_tags(model)
    known = [version for number, version in registered(entries).items() if now.holds(version) and number in tags]
    differing = ((version, edited(version, tags[version.version])) for version in known)
    changed = [
        f"version {version.version}: tags {', '.join(names)} differ from the ledger's record, which takes precedence"
        for version, names in differing
        if names
    ]
    return (*changed_outside(entries, now), *changed)
