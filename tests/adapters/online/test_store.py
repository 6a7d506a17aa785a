"""Stored states: bit for bit, on disk and on S3, and refused when they are not what the ledger recorded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tasks.adapters.online.store import StoredState, folder, read_state, recorded, write_state, written
from tasks.policy.records.base import Window, utc
from tasks.policy.records.errors import OnlineStateError
from tests.support.object_store import object_store

pytestmark = pytest.mark.usefixtures("workspace")

LEARNED = (Window(utc("2024-01-01"), utc("2024-01-08")),)
CHANGES = np.random.default_rng(0).normal(0, 1e-3, (5, 7)).astype(np.float32)
STATE = StoredState("churn", "3", "a" * 64, 14, LEARNED, 0.75, written(CHANGES))


def read(state=None):
    return read_state(folder("churn"), "churn", "3", state or recorded(STATE))


def test_round_trip_bit_for_bit():
    state = write_state(STATE)
    found = read(state)
    assert found == STATE
    assert found.array.tobytes() == CHANGES.tobytes()
    assert (state.number, state.learned) == (14, LEARNED)


def test_round_trip_on_s3(monkeypatch):
    with object_store("s3", monkeypatch) as bucket:
        monkeypatch.setenv("PERENNIAL_LAKE", f"{bucket}/lake")
        assert read(write_state(STATE)) == STATE


def test_missing_state_is_refused():
    with pytest.raises(OnlineStateError, match=r"state 14: 3/000014-\w+\.json cannot be read"):
        read()


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: content + b" "])
def test_altered_state_is_refused(damage):
    write_state(STATE)
    (file,) = Path(folder("churn")).rglob("*.json")
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(OnlineStateError, match="as in the ledger; it was changed or cut short"):
        read()


def test_state_of_another_version_is_refused():
    foreign = replace(STATE, version="2")
    write_state(foreign)
    (file,) = Path(folder("churn")).rglob("*.json")
    (file.parent.parent / "3").mkdir()
    file.rename(file.parent.parent / "3" / file.name)
    with pytest.raises(OnlineStateError, match="is of churn version 2, expected churn version 3"):
        read(recorded(foreign))
