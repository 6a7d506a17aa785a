"""The ledger: one chain of facts per model, `<ledger>/<model>/00000001.json`, on a local disk, S3 or GCS alike.

Append-only: an entry's number is taken by create-if-absent, which every store grants to one writer only, and each entry
names the hash of the one before it. So concurrent writers queue up instead of forking the chain, and any entry that is
changed, removed or inserted breaks it (Haber & Stornetta 1991, Journal of Cryptology 3:99).

A chain alone cannot show that its *last* entries are missing. `head.json` remembers the last number and hash, so a lost
tail is found and never built upon; against someone who rewrites entries and head together only a witness kept elsewhere
helps: note the head that `verify` prints, and give it back as `expected`.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from threading import Lock

import obstore
from obstore.exceptions import AlreadyExistsError
from pydantic import ValidationError

from tasks.adapters.ledger import copy as ledger_copy
from tasks.adapters.ledger.files import (
    GENESIS,
    HEAD,
    NUMBERED,
    Head,
    check,
    damaged,
    file_name,
    key,
    listed,
    read,
    read_all,
    read_head,
)
from tasks.adapters.ledger.verification import Verification, verify
from tasks.adapters.storage import lease
from tasks.adapters.storage.object_store import ledger_store, store_errors
from tasks.adapters.storage.redaction import without_secrets
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.base import from_json, to_json
from tasks.policy.records.errors import LedgerError
from tasks.policy.records.evidence import LedgerEntry

__all__ = ["HEAD", "Head", "Verification", "append", "entries", "models", "verify"]

logger = logging.getLogger(__name__)
_MODEL = re.compile(r"^[a-z][a-z0-9_]{1,62}$")
_KNOWN: dict[tuple[str, str], list[LedgerEntry]] = {}
"""What this process has read or found copied, by ledger and model; `_ALONE` lets one thread at a time add to it."""
_ALONE = Lock()


def append(
    model: str,
    kind: str,
    body: object,
    at: datetime,
    decision_id: str | None = None,
    actor: str = "perennial",
    once: bool = True,
) -> LedgerEntry:
    """Append a fact, a record or text. With `once`, a decision has one fact of a kind: the first is returned.

    Raises LedgerError where the chain is damaged or the store cannot be written, FencedOut where another run has taken
    the model's lease; then nothing was added. A head that cannot be written after the entry is only a warning.
    """
    text = body if isinstance(body, str) else to_json(body)
    while True:
        known, head = _chain(model)
        if known and head is None:
            _witness(model, known)
        if once and decision_id is not None:
            recorded = [entry for entry in known if (entry.kind, entry.decision_id) == (kind, decision_id)]
            if recorded:
                return recorded[0]
        previous_hash = known[-1].hash if known else GENESIS
        token = lease.check(model)  # after the chain was read: whoever took over since has the next number or the lease
        entry = LedgerEntry(model, len(known) + 1, kind, at, decision_id, actor, text, previous_hash, token)
        with store_errors(f"{model}/{entry.sequence}"):
            try:
                obstore.put(ledger_store(), key(model, entry.sequence), to_json(entry).encode(), mode="create")
            except AlreadyExistsError:
                if read(key(model, entry.sequence)) != to_json(entry).encode():
                    continue  # another writer was faster; what it wrote comes before
                # else the store took it, its answer was lost, and the client asked again
        try:
            _remember(model, entry)
        except LedgerError as error:  # the fact is recorded: a caller that retried could record it twice
            logger.warning(
                "%s: entry %d is in, but %s lags behind until the next: %s", model, entry.sequence, HEAD, error
            )
        return entry


def _witness(model: str, known: Sequence[LedgerEntry]) -> None:
    """Make up for the head of a writer that was killed after the first entry. Raises LedgerError for any later one.

    A second entry is written only once there is a head, so that a head missing then was lost, and maybe entries with it.
    """
    if len(known) == 1:
        _remember(model, known[0])
    elif read_head(model) is None:  # read again: the head of before may be older than the entries
        last = to_json(Head(known[-1].sequence, known[-1].hash))
        raise damaged(
            model,
            f"{HEAD} is missing or cannot be read, so nothing shows that entry {known[-1].sequence} is the last one",
            f"or, where you know from a head noted elsewhere that it is, write {last} to {HEAD}",
        )


def _remember(model: str, entry: LedgerEntry) -> None:
    """Make this entry the head, then each that came meanwhile: a slower writer must not leave an older one as the last."""
    latest: LedgerEntry | None = entry
    while latest:
        head, following = Head(latest.sequence, latest.hash), key(model, latest.sequence + 1)
        with store_errors(f"{model}/{HEAD}"):
            obstore.put(ledger_store(), f"{model}/{HEAD}", to_json(head).encode())
        text = read(following)
        try:
            latest = from_json(LedgerEntry, text) if text else None
        except ValidationError:
            return  # damaged; this entry stands before it, and whoever reads on is told


def entries(model: str, kind: str | None = None, last: int | None = None) -> tuple[LedgerEntry, ...]:
    """The model's facts, oldest first; of one kind, and only the last so many, where asked for.

    Entries never change, so a process reads each of them once. Raises LedgerError where the chain is damaged.
    """
    known, _ = _chain(model)
    found = tuple(entry for entry in known if kind in (None, entry.kind))
    return found if last is None else found[max(0, len(found) - last) :]


def _chain(model: str) -> tuple[tuple[LedgerEntry, ...], Head | None]:
    """(every entry, the head as it was before they were read)."""
    if not _MODEL.match(model):
        raise LedgerError(f"ledger: model is {model!r}, expected a name in lower case with underscores")
    with _ALONE:
        known, head = _KNOWN.setdefault((workspace().ledger, model), []), read_head(model)
        if not known:
            known.extend(ledger_copy.load(model))
        if known and (head is None or read(key(model, len(known))) != to_json(known[-1]).encode()):
            known.clear()  # another ledger lies here now, or this one was damaged: look again
        known.extend(_newer(model, known[-1] if known else None, head))
        if head and head.sequence <= len(known) and known[head.sequence - 1].hash != head.hash:
            known.clear()
            raise damaged(model, f"entry {head.sequence} is not the one that {HEAD} names")
        ledger_copy.extend(model, known)
        if not known and head is None:
            _check_empty(model)
        return tuple(known), head


def _check_empty(model: str) -> None:
    """A bucket that is not there, and a chain without its beginning, read like a ledger without entries; a list differs."""
    names = listed(model)
    later = sorted(name for name in names if NUMBERED.match(name))
    if later and file_name(1) not in names:  # else another writer has begun meanwhile
        raise damaged(model, f"entry 1 is missing, though {model}/{later[0]} is there")


def models() -> tuple[str, ...]:
    """Every model that has a ledger here."""
    with store_errors("ledger"):
        folders = obstore.list_with_delimiter(ledger_store())["common_prefixes"]
    return tuple(sorted(name for name in (folder.strip("/") for folder in folders) if _MODEL.match(name)))


def _newer(model: str, last: LedgerEntry | None, head: Head | None) -> Iterator[LedgerEntry]:
    """Entries after `last`, checked; up to the head they are read side by side, past it until one is missing."""
    first = last.sequence + 1 if last else 1
    sure = range(first, max(first, head.sequence + 1 if head else 0))
    texts = read_all([key(model, sequence) for sequence in sure])
    sequence, previous_hash = first, last.hash if last else GENESIS
    while text := texts[sequence - first] if sequence in sure else read(key(model, sequence)):
        checked = check(model, sequence, text, previous_hash)
        if checked.entry is None and checked.hash:  # whole, and of a newer format
            raise LedgerError(f"{without_secrets(workspace().ledger)}/{model}: entry {sequence} {checked.problem}")
        if checked.problem or checked.entry is None:
            raise damaged(model, f"entry {sequence} {checked.problem}")
        yield checked.entry
        sequence, previous_hash = sequence + 1, checked.hash
    if head and head.sequence >= first and (sequence <= head.sequence):
        raise damaged(model, f"entry {sequence} is missing or empty, though {HEAD} names entry {head.sequence}")
