"""A local copy of a ledger's older entries; a new process reads only the newer ones from the store.

Two years of hourly windows are 35,000 entries, which each run would otherwise read and check. The copy is trusted only
if its chain verifies from the first entry and its last entry equals the one in the store: as each entry holds the hash
of the previous one, nothing in between can differ. Files in the store may have changed since, so their size, time or
tag is compared: for all files where that is cheap, else for a random sample. On any difference the copy is discarded
and the store is read entry by entry, which identifies the fault. `audit verify` never reads the copy.
"""

import gc
import hashlib
import logging
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import obstore
import orjson

from tasks.adapters.ledger.files import GENESIS, key, read
from tasks.adapters.storage.atomic_files import atomic_file, file_lock
from tasks.adapters.storage.object_store import ledger_store, store_errors
from tasks.adapters.storage.workspace import OWNER_ONLY, workspace
from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.records.base import digest, to_json
from tasks.policy.records.errors import LedgerError

logger = logging.getLogger(__name__)
FOLDER = "ledger-copies"
BATCH = 64  # entries not copied yet that trigger a copy; a shorter ledger needs none
MAX_COMPARED = {True: 10_000, False: 16}  # most entries compared with the store: local folder, object store
_READERS = 8


class _Differs(Exception):
    """The copy does not verify; used within this module only."""


def load(model: str) -> list[LedgerEntry]:
    """Return the copied entries if they verify; empty without a copy or if it does not verify."""
    path = _path(model)
    try:
        with path.open("rb") as copied, _no_collection():
            entries, stamps, last = _entries(model, copied)
            size = copied.tell()
        _compare(model, stamps, last)
        _COUNTED[path] = (size, len(entries))
        return entries
    except OSError:
        return []
    except (_Differs, ValueError, KeyError, TypeError) as error:
        logger.warning("%s: the copy %s is discarded because %s; the ledger is read again", model, path, error)
        with suppress(OSError):
            path.unlink()
        return []


def extend(model: str, entries: Sequence[LedgerEntry]) -> None:
    """Copy new entries once there are BATCH of them. Failures are ignored: the ledger works without a copy."""
    path = _path(model)
    try:
        copied = _count(path)
        if len(entries) - copied < BATCH:
            return
        path.parent.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        with file_lock(path.with_suffix(".lock")):
            copied = _count(path)
            added = b"".join(_lines(model, entries[copied:]))
            if copied:
                with path.open("ab") as file:
                    file.write(added)
            else:
                with atomic_file(path) as own:
                    own.write_bytes(added)
            _COUNTED[path] = (path.stat().st_size, max(copied, len(entries)))
    except (OSError, LedgerError) as error:
        logger.debug("%s: the ledger is not copied to %s: %s", model, path, error)


_COUNTED: dict[Path, tuple[int, int]] = {}
"""Size and number of entries of each copy, as this process last saw them."""


def _count(path: Path) -> int:
    """Count the entries in a copy; a truncated last entry is detected when the copy is read."""
    if not path.is_file():
        return 0
    size = path.stat().st_size
    if _COUNTED.get(path, (None, 0))[0] != size:
        _COUNTED[path] = (size, path.read_bytes().count(b"\n"))
    return _COUNTED[path][1]


def _path(model: str) -> Path:
    space = workspace()
    return space.home / FOLDER / digest(space.ledger) / f"{model}.jsonl"


def _lines(model: str, entries: Sequence[LedgerEntry]) -> Iterator[bytes]:
    stamps = _stamps(model, [entry.sequence for entry in entries])
    for entry, stamp in zip(entries, stamps, strict=True):
        yield f"{stamp}\t{to_json(entry)}\n".encode()


def _entries(model: str, lines: Iterable[bytes]) -> tuple[list[LedgerEntry], list[str], bytes]:
    """Parse (entries, their file stamps, the text of the last entry). Raises _Differs if the chain breaks."""
    entries, stamps, text, previous_hash = [], [], b"", GENESIS
    for sequence, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            raise _Differs("its last line is truncated")
        stamp, _, text = line[:-1].partition(b"\t")
        facts = orjson.loads(text)
        if facts["previous_hash"] != previous_hash or facts["sequence"] != sequence or facts["model"] != model:
            raise _Differs(f"its chain breaks at entry {sequence}")
        stamps.append(stamp.decode())
        entries.append(
            LedgerEntry(
                model,
                sequence,
                facts["kind"],
                datetime.fromisoformat(facts["at"]),
                facts["decision_id"],
                facts["actor"],
                facts["body"],
                previous_hash,
                facts.get("lease"),
            )
        )
        # equals `records.digest`, as `to_json` writes printable ASCII
        written = orjson.dumps([text.decode("ascii")])
        previous_hash = hashlib.sha256(written).hexdigest()
    return entries, stamps, text


def _compare(model: str, stamps: Sequence[str], last: bytes) -> None:
    """Compare with the store. Raises _Differs if the last copied entry or a file stamp differs."""
    count = len(stamps)
    if read(key(model, count)) != last:
        raise _Differs(f"the ledger's entry {count} differs")
    most = MAX_COMPARED[_is_local()]
    chosen = range(1, count + 1) if count <= most else sorted(random.sample(range(1, count + 1), most))
    for sequence, stamp in zip(chosen, _stamps(model, chosen), strict=True):
        if stamp != stamps[sequence - 1]:
            raise _Differs(f"the file of entry {sequence} was changed since")


def _is_local() -> bool:
    return "://" not in workspace().ledger


def _stamps(model: str, sequences: Sequence[int]) -> list[str]:
    """Return a stamp per entry without reading its file: size and time or tag; empty if the file is missing."""
    if _is_local():
        folder = workspace().ledger
        return [_file_stamp(f"{folder}/{key(model, sequence)}") for sequence in sequences]
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda sequence: _object_stamp(model, sequence), sequences))


def _file_stamp(path: str) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116  a Path object costs more than the call
    except FileNotFoundError:
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"


def _object_stamp(model: str, sequence: int) -> str:
    with store_errors(f"{model}/{sequence}"):
        try:
            found = obstore.head(ledger_store(), key(model, sequence))
        except FileNotFoundError:
            return ""
    return f"{found['size']}-{found['e_tag'] or found['last_modified'].isoformat()}"


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable garbage collection, which would scan the growing list of entries again and again and free nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
