"""A local copy of the beginning of a ledger, so that a new process reads only newer entries.

Two years of hourly windows are 35,000 entries, which each run would otherwise read and check. The copy is trusted only if
its own chain verifies from the first entry and its last entry equals the one in the store: each entry names the hash of
the one before it, so nothing in between can differ. Files in the store may have changed since; as many as are cheap to
check are compared by size, time or tag, the others by chance. On any difference the copy is discarded and the store is
read entry by entry, which says what is wrong. `audit verify` never reads the copy.
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
from tasks.adapters.storage.atomic_files import one_at_a_time, whole_file
from tasks.adapters.storage.object_store import ledger_store, store_errors
from tasks.adapters.storage.workspace import OWNER_ONLY, workspace
from tasks.policy.records.base import digest, to_json
from tasks.policy.records.errors import LedgerError
from tasks.policy.records.evidence import LedgerEntry

logger = logging.getLogger(__name__)
FOLDER = "ledger-copies"
BATCH = 64  # entries that are read anew by each process before they are copied; a short ledger needs no copy
LOOKED_AT = {True: 10_000, False: 16}  # entries compared with the store's: in a local folder, in an object store
_READERS = 8


class _Differs(Exception):
    """The copy is not what it must be; a signal within this module."""


def load(model: str) -> list[LedgerEntry]:
    """The copied entries, verified; none where there is no copy or it does not verify."""
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
        logger.warning("%s: the copy %s is not used, as %s; the ledger is read anew", model, path, error)
        with suppress(OSError):
            path.unlink()
        return []


def extend(model: str, entries: Sequence[LedgerEntry]) -> None:
    """Copy what is not copied yet, once there is a batch of it. The ledger needs no copy: what fails is left for later."""
    path = _path(model)
    try:
        copied = _count(path)
        if len(entries) - copied < BATCH:
            return
        path.parent.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        with one_at_a_time(path.with_suffix(".lock")):
            copied = _count(path)
            added = b"".join(_lines(model, entries[copied:]))
            if copied:
                with path.open("ab") as file:
                    file.write(added)
            else:
                with whole_file(path) as own:
                    own.write_bytes(added)
            _COUNTED[path] = (path.stat().st_size, max(copied, len(entries)))
    except (OSError, LedgerError) as error:
        logger.debug("%s: the ledger is not copied to %s: %s", model, path, error)


_COUNTED: dict[Path, tuple[int, int]] = {}
"""Size and number of entries of each copy, as this process knew them last."""


def _count(path: Path) -> int:
    """Entries in a copy; the last may be torn, and is then found when it is read."""
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
    """(entries, what their files were like, the last one's text). Raises _Differs where the chain breaks."""
    entries, stamps, text, previous_hash = [], [], b"", GENESIS
    for sequence, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            raise _Differs("its last line is torn")
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
        # what `records.digest` writes, as `to_json` leaves printable ASCII
        written = orjson.dumps([text.decode("ascii")])
        previous_hash = hashlib.sha256(written).hexdigest()
    return entries, stamps, text


def _compare(model: str, stamps: Sequence[str], last: bytes) -> None:
    """Raises _Differs where the store's last copied entry is another one, or files are not as they were when copied."""
    count = len(stamps)
    if read(key(model, count)) != last:
        raise _Differs(f"the ledger's entry {count} is another one")
    most = LOOKED_AT[_is_local()]
    chosen = range(1, count + 1) if count <= most else sorted(random.sample(range(1, count + 1), most))
    for sequence, stamp in zip(chosen, _stamps(model, chosen), strict=True):
        if stamp != stamps[sequence - 1]:
            raise _Differs(f"the file of entry {sequence} was changed since")


def _is_local() -> bool:
    return "://" not in workspace().ledger


def _stamps(model: str, sequences: Sequence[int]) -> list[str]:
    """What an entry's file is like without reading it: its size and time, or the store's tag; empty where it is gone."""
    if _is_local():
        folder = workspace().ledger
        return [_file_stamp(f"{folder}/{key(model, sequence)}") for sequence in sequences]
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(lambda sequence: _object_stamp(model, sequence), sequences))


def _file_stamp(path: str) -> str:
    try:
        found = os.stat(path)  # noqa: PTH116  a path object costs more than the look
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
    """Python would look through all entries again and again for garbage while they are made, of which there is none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
