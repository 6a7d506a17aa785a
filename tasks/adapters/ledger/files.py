"""The files of a ledger: one numbered file per entry, the head file, and the check of a single entry."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import obstore
from pydantic import ValidationError

from tasks.adapters.storage.object_store import ledger_store, store_errors
from tasks.adapters.storage.workspace import workspace
from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.records.base import digest, from_json, newer_format, to_json
from tasks.policy.records.errors import LedgerError
from tasks.policy.records.text import without_secrets

GENESIS = "0" * 64
"""The previous hash of the first entry."""
HEAD = "head.json"
NUMBERED = re.compile(r"^\d{8}\.json$")
_READERS = 8


@dataclass(frozen=True, slots=True)
class Head:
    """The number and hash of the last entry, as its writer recorded them."""

    sequence: int
    hash: str


class CheckedEntry(NamedTuple):
    """The result of checking one entry: the problem if any, the parsed entry and its hash as far as readable."""

    problem: str | None
    entry: LedgerEntry | None = None
    hash: str = ""


def check(model: str, sequence: int, text: bytes | None, previous_hash: str | None) -> CheckedEntry:
    """Check entry `sequence` of the model, and the previous hash it holds if `previous_hash` is known."""
    if text is None:
        return CheckedEntry("is missing")
    try:
        entry = from_json(LedgerEntry, text)
    except ValidationError:
        newer = _newer(text)
        return (
            CheckedEntry(newer, None, digest(text.decode(), length=64))
            if newer
            else CheckedEntry("cannot be read: truncated or changed")
        )
    if newer := newer_format(entry.format):
        return CheckedEntry(newer, None, digest(text.decode(), length=64))
    written = to_json(entry)
    problem = None
    if written.encode() != text:
        problem = "was rewritten: it is not in the format that Perennial writes"
    elif (entry.model, entry.sequence) != (model, sequence):
        problem = f"claims to be entry {entry.sequence} of {entry.model}"
    elif previous_hash is not None and entry.previous_hash != previous_hash:
        problem = f"does not follow entry {sequence - 1}: one of the two was changed or inserted"
    return CheckedEntry(problem, entry, digest(written, length=64))


def _newer(text: bytes) -> str | None:
    """Describe an unreadable entry that declares a newer format; None for any other."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return newer_format(found["format"]) if isinstance(found, dict) and "format" in found else None


def damaged(model: str, problem: str, otherwise: str = "") -> LedgerError:
    return LedgerError(
        f"{without_secrets(workspace().ledger)}/{model}: {problem}; expected an unbroken chain; "
        f"run perennial audit verify {model}, then restore the folder from a backup{otherwise and ', '}{otherwise}"
    )


def read_head(model: str) -> Head | None:
    try:
        return from_json(Head, read(f"{model}/{HEAD}") or b"")
    except ValidationError:
        return None


def file_name(sequence: int) -> str:
    return f"{sequence:08d}.json"


def key(model: str, sequence: int) -> str:
    return f"{model}/{file_name(sequence)}"


def read(name: str) -> bytes | None:
    """Return the file's content; None if the file does not exist."""
    with store_errors(name):
        try:
            return bytes(obstore.get(ledger_store(), name).bytes())
        except FileNotFoundError:
            return None


def read_all(names: list[str]) -> list[bytes | None]:
    """Read several files in parallel."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(read, names))


def listed(model: str) -> set[str]:
    """Return the names of all files in the model's folder."""
    with store_errors(model):
        return {meta["path"].removeprefix(f"{model}/") for meta in obstore.list(ledger_store(), model).collect()}
