"""Store the states of a champion's corrector: one JSON file each, beside the model's tables in the lake.

A file is written before the ledger names it with its SHA-256, and is never changed. A file of another hash is refused, so
neither a damaged nor a forged state serves.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import obstore
from numpy.typing import NDArray
from obstore.exceptions import BaseError
from pydantic import ValidationError

from tasks.adapters.online.prequential import Lesson
from tasks.adapters.storage.object_store import store_at
from tasks.adapters.storage.workspace import workspace
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import FORMAT, Window, from_json, newer_format, to_json
from tasks.policy.records.errors import OnlineStateError
from tasks.policy.records.text import reason_of
from tasks.policy.training.online import OnlineState

DIGITS = 9
"""Significant decimal digits that determine a 32-bit float (IEEE 754)."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """The content of a state's file. `changes` are those of the leaves (trees, nodes), as they are served."""

    model: str
    version: str
    version_sha256: str
    number: int
    learned: tuple[Window, ...]
    share: float
    changes: tuple[tuple[float, ...], ...]
    format: int = FORMAT

    @property
    def array(self) -> NDArray[np.float32]:
        return np.array(self.changes, np.float32)


def written(changes: NDArray[np.float32]) -> tuple[tuple[float, ...], ...]:
    """Return changes as numbers that read back to the same 32-bit floats."""
    return tuple(tuple(float(f"{value:.{DIGITS}g}") for value in row) for row in changes.tolist())


def state_of(version: ModelVersion, number: int, learned: tuple[Window, ...], lesson: Lesson) -> StoredState:
    """Return a version's state after a lesson from these windows."""
    changes = () if lesson.applied is None else written(lesson.applied)
    return StoredState(version.model, version.version, version.sha256, number, learned, lesson.share, changes)


def recorded(state: StoredState) -> OnlineState:
    """Return what the ledger records of a state."""
    return OnlineState(state.number, hashlib.sha256(to_json(state).encode()).hexdigest(), state.learned)


def write_state(state: StoredState) -> OnlineState:
    """Write a state and return what the ledger records of it. Writing it again changes nothing."""
    found = recorded(state)
    path = _path(state.version, state.number, found.sha256)
    try:
        obstore.put(store_at(folder(state.model)), path, to_json(state).encode())
    except (BaseError, OSError) as error:
        raise OnlineStateError(
            f"{state.model}/{path}: cannot be written ({reason_of(error)}); expected a lake that this user may write to"
        ) from None  # the store's message may hold a signed URL
    return found


def read_state(place: str, model: str, version: str, recorded: OnlineState) -> StoredState:
    """Read a state from the model's folder. Raises OnlineStateError if it is missing or not the one that was recorded."""
    path = _path(version, recorded.number, recorded.sha256)
    try:
        content = bytes(obstore.get(store_at(place), path).bytes())
    except (BaseError, OSError) as error:
        raise OnlineStateError(f"state {recorded.number}: {path} cannot be read ({reason_of(error)})") from None
    found = hashlib.sha256(content).hexdigest()
    if found != recorded.sha256:
        raise OnlineStateError(
            f"state {recorded.number}: {path} has sha256 {found[:12]}…, expected {recorded.sha256[:12]}… as in the ledger; it "
            "was changed or cut short"
        )
    try:
        state = from_json(StoredState, content)
    except ValidationError:
        raise OnlineStateError(f"state {recorded.number}: {path} is no state that this Perennial can read") from None
    if newer := newer_format(state.format):
        raise OnlineStateError(f"state {recorded.number}: {path} {newer}")
    if (state.model, state.version) != (model, version):
        raise OnlineStateError(
            f"state {recorded.number}: {path} is of {state.model} version {state.version}, expected {model} version {version}"
        )
    return state


def folder(model: str) -> str:
    """Return the address of the folder with a model's states."""
    return f"{workspace().lake}/{model}/online"


def _path(version: str, number: int, sha256: str) -> str:
    return f"{version}/{number:06d}-{sha256[:16]}.json"
