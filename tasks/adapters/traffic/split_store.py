"""Store each model's traffic split, `<ledger>/_traffic/<model>/<token>-<number>.json`; the last one in order counts.

The file name begins with the fencing token of the lease it was written under. A write by a process that was fenced out
since sorts before those of its successor and has no effect. Files are created, never changed, so a reader never sees
half of one. A split that cannot be read means that the champion answers everything: the reader is told, and serves on.
"""

import logging
import re

import obstore
from obstore.exceptions import AlreadyExistsError
from pydantic import ValidationError

from tasks.adapters.storage import lease
from tasks.adapters.storage.object_store import ledger_store, store_errors
from tasks.policy.records.base import from_json, to_json
from tasks.policy.records.errors import LedgerError, TrafficError
from tasks.policy.rollout.traffic import TrafficSplit

logger = logging.getLogger(__name__)
FOLDER = "_traffic"
_NUMBERED = re.compile(r"([0-9]{8,12})-([0-9]{6})\.json")


def write_split(split: TrafficSplit) -> None:
    """Store the split, under the model's lease; a split that is in force already is not written again.

    Raises TrafficError without a lease, or if a split with a later token would count instead; FencedOut if another run has
    taken the lease; LedgerError if the store cannot be written.
    """
    model = split.model
    while True:
        token = lease.check(model)
        if token is None:
            raise TrafficError(
                f"{model}: this run holds no lease, expected one to change the traffic; use the flow `rollout`, `promote` "
                "or `rollback`"
            )
        names = _names(model)
        if names and _numbers(names[-1])[0] > token:
            lease.check(model)  # a successor may have written it since
            raise TrafficError(
                f"{FOLDER}/{model}/{names[-1]}: comes after this run's lease ({token:08d}), so no split of this run would "
                "count; expected none above it: the leases were deleted, or the file is foreign; remove it"
            )
        if names and _numbers(names[-1])[0] == token and _is_split(split, names[-1]):
            return
        own = [number for held, number in map(_numbers, names) if held == token]
        key = f"{FOLDER}/{model}/{token:08d}-{max(own, default=0) + 1:06d}.json"
        with store_errors(f"traffic of {model}"):
            try:
                obstore.put(ledger_store(), key, to_json(split).encode(), mode="create")
            except AlreadyExistsError:
                continue
        return


def read_split(model: str) -> TrafficSplit:
    """Return the split in force; without one, all traffic goes to the champion (`champion` is then None: the alias).

    Never raises: a split that cannot be read is logged and means that the champion answers everything.
    """
    try:
        names = _names(model)
        return _read(model, names[-1]) if names else TrafficSplit(model, None)
    except (LedgerError, TrafficError) as error:
        logger.warning("%s: the traffic split cannot be read, the champion answers everything: %s", model, error)
        return TrafficSplit(model, None)


def _is_split(split: TrafficSplit, name: str) -> bool:
    """Return whether the file holds this split; an unreadable file is replaced, or no split could be written again."""
    try:
        return _read(split.model, name) == split
    except TrafficError:
        return False


def _read(model: str, name: str) -> TrafficSplit:
    with store_errors(f"traffic of {model}"):
        content = bytes(obstore.get(ledger_store(), f"{FOLDER}/{model}/{name}").bytes())
    try:
        split = from_json(TrafficSplit, content)
    except ValidationError as error:
        raise TrafficError(
            f"{FOLDER}/{model}/{name}: is not a traffic split ({error.error_count()} faults), expected one that Perennial "
            "wrote; the champion answers everything until the next step of a rollout"
        ) from None
    if split.model != model:
        raise TrafficError(f"{FOLDER}/{model}/{name}: is the split of {split.model!r}, expected that of {model!r}")
    return split


def _names(model: str) -> list[str]:
    """Return the names of the splits, in order of token and number."""
    with store_errors(f"traffic of {model}"):
        listed = obstore.list(ledger_store(), f"{FOLDER}/{model}").collect()
    names = [meta["path"].rpartition("/")[2] for meta in listed]
    return sorted((name for name in names if _NUMBERED.fullmatch(name)), key=_numbers)


def _numbers(name: str) -> tuple[int, int]:
    found = _NUMBERED.fullmatch(name)
    return (int(found[1]), int(found[2])) if found else (0, 0)
