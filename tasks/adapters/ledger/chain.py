"""The ledger: one hash chain of facts per model, `<ledger>/<model>/00000001.json`, on a local disk, S3 or GCS.

Append-only: an entry is created only if its number is free, which every store grants to a single writer, and each entry
holds the hash of the previous one. Concurrent writers therefore queue instead of forking the chain, and a changed,
removed or inserted entry breaks it (Haber & Stornetta 1991, Journal of Cryptology 3:99).

A chain alone cannot show that its *last* entries are missing. `head.json` holds the last number and hash: a truncated
chain is detected and never extended. Against an attacker who rewrites entries and head together, only a head stored
elsewhere helps: record the head that `verify` prints and pass it back as `expected`.
"""

import logging
import re
from collections.abc import Iterator, Sequence
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
from tasks.adapters.storage.workspace import workspace
from tasks.policy.evidence.ledger import Fact, LedgerEntry
from tasks.policy.records.base import MODEL_NAME, from_json, to_json
from tasks.policy.records.errors import LedgerError
from tasks.policy.records.text import without_secrets

__all__ = ["HEAD", "Head", "Verification", "append", "entries", "models", "verify"]

logger = logging.getLogger(__name__)
_KNOWN: dict[tuple[str, str], list[LedgerEntry]] = {}
"""Entries that this process has read or loaded from a copy, by ledger and model; guarded by the lock `_LOCK`."""
_LOCK = Lock()


def append(model: str, fact: Fact) -> LedgerEntry:
    """Append a fact and return its entry; if the decision has a fact of this kind already, return that entry instead.

    Raises LedgerError if the chain is damaged or the store cannot be written, FencedOut if another run has taken the
    model's lease; in both cases nothing is appended. A failure to write the head after the entry is only a warning.
    """
    body = fact.body if isinstance(fact.body, str) else to_json(fact.body)
    while True:
        known, head = _chain(model)
        if known and head is None:
            _write_missing_head(model, known)
        recorded = [entry for entry in known if (entry.kind, entry.decision_id) == (fact.kind, fact.decision_id)]
        if recorded and fact.decision_id is not None:
            return recorded[0]
        previous_hash = known[-1].hash if known else GENESIS
        token = lease.check(model)  # after reading the chain: a takeover since then shows in the lease or next number
        entry = LedgerEntry(
            model, len(known) + 1, fact.kind, fact.at, fact.decision_id, fact.actor, body, previous_hash, token
        )
        with store_errors(f"{model}/{entry.sequence}"):
            try:
                obstore.put(ledger_store(), key(model, entry.sequence), to_json(entry).encode(), mode="create")
            except AlreadyExistsError:
                if read(key(model, entry.sequence)) != to_json(entry).encode():
                    continue  # another writer was faster; its entry comes first
                # otherwise the store accepted this entry, the response was lost, and the client retried
        try:
            _advance_head(model, entry)
        except LedgerError as error:  # the fact is recorded; raising could make the caller record it twice
            logger.warning(
                "%s: entry %d is recorded, but %s was not updated; the next entry updates it: %s",
                model,
                entry.sequence,
                HEAD,
                error,
            )
        return entry


def _write_missing_head(model: str, known: Sequence[LedgerEntry]) -> None:
    """Write the head for a writer that was killed after the first entry. Raises LedgerError if more entries exist.

    A second entry is written only after a head exists, so a head missing later was lost, and entries may be lost with
    it.
    """
    if len(known) == 1:
        _advance_head(model, known[0])
    elif read_head(model) is None:  # read again: the earlier read may predate the entries
        last = to_json(Head(known[-1].sequence, known[-1].hash))
        raise damaged(
            model,
            f"{HEAD} is missing or cannot be read, so nothing shows that entry {known[-1].sequence} is the last one",
            f"or, if a head recorded elsewhere confirms that it is, write {last} to {HEAD}",
        )


def _advance_head(model: str, entry: LedgerEntry) -> None:
    """Set the head to this entry, then to each later one: a slow writer must not leave an outdated head."""
    latest: LedgerEntry | None = entry
    while latest:
        head, following = Head(latest.sequence, latest.hash), key(model, latest.sequence + 1)
        with store_errors(f"{model}/{HEAD}"):
            obstore.put(ledger_store(), f"{model}/{HEAD}", to_json(head).encode())
        text = read(following)
        try:
            latest = from_json(LedgerEntry, text) if text else None
        except ValidationError:
            return  # damaged; the next read of the chain raises


def entries(model: str, kind: str | None = None, last: int | None = None) -> tuple[LedgerEntry, ...]:
    """Return the model's facts, oldest first; optionally of one kind, and only the `last` ones.

    Entries are immutable, so a process reads each of them once. Raises LedgerError if the chain is damaged.
    """
    known, _ = _chain(model)
    found = tuple(entry for entry in known if kind in (None, entry.kind))
    return found if last is None else found[max(0, len(found) - last) :]


def _chain(model: str) -> tuple[tuple[LedgerEntry, ...], Head | None]:
    """Return (all entries, the head as read before them)."""
    if not re.fullmatch(MODEL_NAME, model):
        raise LedgerError(f"ledger: model is {model!r}, expected a name in lower case with underscores or hyphens")
    with _LOCK:
        known, head = _KNOWN.setdefault((workspace().ledger, model), []), read_head(model)
        if not known:
            known.extend(ledger_copy.load(model))
        if known and (head is None or read(key(model, len(known))) != to_json(known[-1]).encode()):
            known.clear()  # another ledger at this address, or a damaged one: read again
        known.extend(_newer(model, known[-1] if known else None, head))
        if head and head.sequence <= len(known) and known[head.sequence - 1].hash != head.hash:
            known.clear()
            raise damaged(model, f"entry {head.sequence} is not the one that {HEAD} names")
        ledger_copy.extend(model, known)
        if not known and head is None:
            _check_empty(model)
        return tuple(known), head


def _check_empty(model: str) -> None:
    """Check by listing files that no entry exists. Raises LedgerError if only the first entry or the bucket is missing."""
    names = listed(model)
    later = sorted(name for name in names if NUMBERED.match(name))
    if later and file_name(1) not in names:  # otherwise another writer has just started
        raise damaged(model, f"entry 1 is missing, but {model}/{later[0]} exists")


def models() -> tuple[str, ...]:
    """Return every model that has a ledger."""
    with store_errors("ledger"):
        folders = obstore.list_with_delimiter(ledger_store())["common_prefixes"]
    return tuple(sorted(name for name in (folder.strip("/") for folder in folders) if re.fullmatch(MODEL_NAME, name)))


def _newer(model: str, last: LedgerEntry | None, head: Head | None) -> Iterator[LedgerEntry]:
    """Yield and check the entries after `last`: up to the head in parallel, then one by one until one is missing."""
    first = last.sequence + 1 if last else 1
    sure = range(first, max(first, head.sequence + 1 if head else 0))
    texts = read_all([key(model, sequence) for sequence in sure])
    sequence, previous_hash = first, last.hash if last else GENESIS
    while text := texts[sequence - first] if sequence in sure else read(key(model, sequence)):
        checked = check(model, sequence, text, previous_hash)
        if checked.entry is None and checked.hash:  # intact, but of a newer format
            raise LedgerError(f"{without_secrets(workspace().ledger)}/{model}: entry {sequence} {checked.problem}")
        if checked.problem or checked.entry is None:
            raise damaged(model, f"entry {sequence} {checked.problem}")
        yield checked.entry
        sequence, previous_hash = sequence + 1, checked.hash
    if head and head.sequence >= first and (sequence <= head.sequence):
        raise damaged(model, f"entry {sequence} is missing or empty, but {HEAD} names entry {head.sequence}")
