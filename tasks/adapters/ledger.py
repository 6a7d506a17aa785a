"""The ledger: one chain of facts per model, `<ledger>/<model>/00000001.json`, on a local disk, S3 or GCS alike.

Append-only: an entry's number is taken by create-if-absent, which every store grants to one writer only, and each entry
names the hash of the one before it. So concurrent writers queue up instead of forking the chain, and any entry that is
changed, removed or slipped in breaks it (Haber & Stornetta 1991, Journal of Cryptology 3:99).

A chain alone cannot show that its *last* entries are missing. `head.json` remembers the last number and hash, so a lost
tail is found and never built upon; against someone who rewrites entries and head together only a witness kept elsewhere
helps: note the head that `verify` prints, and give it back as `expected`.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

import obstore
from obstore.exceptions import AlreadyExistsError
from pydantic import ValidationError

from tasks.adapters import lease
from tasks.adapters.object_store import LedgerError, ledger_store, store_errors
from tasks.adapters.redaction import without_secrets
from tasks.adapters.workspace import workspace
from tasks.policy.evidence import LedgerEntry
from tasks.policy.records import from_json, to_json

logger = logging.getLogger(__name__)
GENESIS = "0" * 64
"""What the first entry names as the one before it."""
HEAD = "head.json"
_MODEL = re.compile(r"^[a-z][a-z0-9_]{1,62}$")
_NUMBERED = re.compile(r"^\d{8}\.json$")
_READERS = 8
_KNOWN: dict[tuple[str, str], list[LedgerEntry]] = {}
"""What this process has read, by ledger and model; `_ALONE` lets one thread at a time add to it."""
_ALONE = Lock()


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry as its writer knew it: a witness that so much existed."""

    sequence: int
    hash: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found: how many entries, where the chain ends, and a sentence per problem."""

    model: str
    entries: int
    head: Head | None
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


def append(
    model: str,
    kind: str,
    body: object,
    at: datetime,
    decision_id: str | None = None,
    actor: str = "perennial",
    once: bool = True,
) -> LedgerEntry:
    """Add a fact, a record or text. With `once`, a decision's fact of one kind is told once: the first is returned.

    Raises LedgerError where the chain is damaged or the store cannot be written, FencedOut where another run has taken
    the model's lease; then nothing was added. A head that cannot be written after the entry is only a warning.
    """
    text = body if isinstance(body, str) else to_json(body)
    while True:
        known, head = _chain(model)
        if known and head is None:
            _witness(model, known)
        if once and decision_id is not None:
            told = [entry for entry in known if (entry.kind, entry.decision_id) == (kind, decision_id)]
            if told:
                return told[0]
        previous_hash = known[-1].hash if known else GENESIS
        token = lease.check(model)  # after the chain was read: whoever took over since has the next number or the lease
        entry = LedgerEntry(model, len(known) + 1, kind, at, decision_id, actor, text, previous_hash, token)
        with store_errors(f"{model}/{entry.sequence}"):
            try:
                obstore.put(ledger_store(), _key(model, entry.sequence), to_json(entry).encode(), mode="create")
            except AlreadyExistsError:
                continue  # another writer was faster; what it wrote comes before
        try:
            _remember(model, entry)
        except LedgerError as error:  # the fact is told: a caller that tried again could tell it twice
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
    elif _head(model) is None:  # read again: the head of before may be older than the entries
        last = to_json(Head(known[-1].sequence, known[-1].hash))
        raise _damaged(
            model,
            f"{HEAD} is missing or cannot be read, so nothing shows that entry {known[-1].sequence} is the last one",
            f"or, where you know from a head noted elsewhere that it is, write {last} to {HEAD}",
        )


def _remember(model: str, entry: LedgerEntry) -> None:
    """Make this entry the head, then each that came meanwhile: a slower writer must not leave an older one as the last."""
    latest: LedgerEntry | None = entry
    while latest:
        head, following = Head(latest.sequence, latest.hash), _key(model, latest.sequence + 1)
        with store_errors(f"{model}/{HEAD}"):
            obstore.put(ledger_store(), f"{model}/{HEAD}", to_json(head).encode())
        text = _read(following)
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
        known, head = _KNOWN.setdefault((workspace().ledger, model), []), _head(model)
        if known and (head is None or _read(_key(model, len(known))) != to_json(known[-1]).encode()):
            known.clear()  # another ledger lies here now, or this one was damaged: look again
        known.extend(_newer(model, known[-1] if known else None, head))
        if not known and head is None:
            _check_empty(model)
        return tuple(known), head


def _check_empty(model: str) -> None:
    """A bucket that is not there, and a chain without its beginning, read like a ledger without entries; a list differs."""
    with store_errors(model):
        listed = {meta["path"] for meta in obstore.list(ledger_store(), model).collect()}
    later = sorted(path for path in listed if _NUMBERED.match(path.removeprefix(f"{model}/")))
    if later and _key(model, 1) not in listed:  # else another writer has begun meanwhile
        raise _damaged(model, f"entry 1 is missing, though {later[0]} is there")


def models() -> tuple[str, ...]:
    """Every model that has a ledger here."""
    with store_errors("ledger"):
        folders = obstore.list_with_delimiter(ledger_store())["common_prefixes"]
    return tuple(sorted(name for name in (folder.strip("/") for folder in folders) if _MODEL.match(name)))


def verify(model: str, *expected: Head) -> Verification:
    """Read every entry anew and check the whole chain, its head, and heads that were noted elsewhere (`expected`)."""
    head = _head(model)  # before the entries: what is appended meanwhile is listed, and the head of before still there
    with store_errors(model):
        listed = [meta["path"].removeprefix(f"{model}/") for meta in obstore.list(ledger_store(), model).collect()]
    numbered = sorted(name for name in listed if _NUMBERED.match(name) and int(name[:8]))
    problems = [f"{name} is not an entry" for name in sorted({*listed} - {*numbered, HEAD})]
    with ThreadPoolExecutor(_READERS) as pool:
        texts = dict(zip(numbered, pool.map(lambda name: _read(f"{model}/{name}"), numbered), strict=True))
    hashes: dict[int, str] = {0: GENESIS}
    following = 1
    for sequence, text in ((int(name[:8]), text) for name, text in texts.items()):
        if sequence > following:
            until = sequence - 1
            problems.append(
                f"entry {until} is missing" if until == following else f"entries {following} to {until} are missing"
            )
        following = sequence + 1
        problem, found_hash = _check(model, sequence, text, hashes.get(sequence - 1))
        problems += [f"entry {sequence} {problem}"] if problem else []
        if found_hash:
            hashes[sequence] = found_hash
    if numbered and head is None:
        problems.append(
            f"{HEAD} is missing or cannot be read, so nothing here shows that the last entries are all there"
        )
    for witness, where in ((head, HEAD), *((noted, "the head noted elsewhere") for noted in expected)):
        if witness and hashes.get(witness.sequence) != witness.hash:
            found = "is another one" if witness.sequence in hashes else "is not there"
            problems.append(f"{where} names entry {witness.sequence} with hash {witness.hash[:12]}…, which {found}")
    last = max(hashes)
    return Verification(model, len(numbered), Head(last, hashes[last]) if last else None, tuple(problems))


def _check(model: str, sequence: int, text: bytes | None, previous_hash: str | None) -> tuple[str | None, str | None]:
    """(what is wrong with an entry, its hash as far as it can be read)."""
    if text is None:
        return "is missing", None
    try:
        entry = from_json(LedgerEntry, text)
    except ValidationError:
        return "cannot be read: torn or changed", None
    if to_json(entry).encode() != text:
        return "was written anew: it is not in the form in which entries are written", entry.hash
    if (entry.model, entry.sequence) != (model, sequence):
        return f"says that it is entry {entry.sequence} of {entry.model}", entry.hash
    if previous_hash is not None and entry.previous_hash != previous_hash:
        return f"does not follow entry {sequence - 1}: one of the two was changed or slipped in", entry.hash
    return None, entry.hash


def _newer(model: str, last: LedgerEntry | None, head: Head | None) -> Iterator[LedgerEntry]:
    """Entries after `last`, checked; up to the head they are read side by side, past it until one is missing."""
    first = last.sequence + 1 if last else 1
    sure = range(first, max(first, head.sequence + 1 if head else 0))
    with ThreadPoolExecutor(_READERS) as pool:
        texts = list(pool.map(lambda sequence: _read(_key(model, sequence)), sure)) if sure else []
    sequence, previous_hash = first, last.hash if last else GENESIS
    while text := texts[sequence - first] if sequence in sure else _read(_key(model, sequence)):
        problem, found_hash = _check(model, sequence, text, previous_hash)
        if problem or found_hash is None:
            raise _damaged(model, f"entry {sequence} {problem}")
        yield from_json(LedgerEntry, text)
        sequence, previous_hash = sequence + 1, found_hash
    if head and head.sequence >= first and (sequence <= head.sequence):
        raise _damaged(model, f"entry {sequence} is missing or empty, though {HEAD} names entry {head.sequence}")


def _damaged(model: str, problem: str, otherwise: str = "") -> LedgerError:
    return LedgerError(
        f"{without_secrets(workspace().ledger)}/{model}: {problem}; expected an unbroken chain; "
        f"run python -m tasks.audit verify {model}, then restore the folder from a backup{otherwise and ', '}{otherwise}"
    )


def _head(model: str) -> Head | None:
    try:
        return from_json(Head, _read(f"{model}/{HEAD}") or b"")
    except ValidationError:
        return None


def _key(model: str, sequence: int) -> str:
    return f"{model}/{sequence:08d}.json"


def _read(key: str) -> bytes | None:
    with store_errors(key):
        try:
            return bytes(obstore.get(ledger_store(), key).bytes())
        except FileNotFoundError:
            return None
