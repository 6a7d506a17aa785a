"""The stored split: written under a lease, fenced, idempotent, and never in the way of an answer."""

import logging
from pathlib import Path

import obstore
import pytest

from tasks.adapters.storage import lease
from tasks.adapters.storage.object_store import ledger_store, store_at
from tasks.adapters.storage.workspace import workspace
from tasks.adapters.traffic import read_split, split_store, write_split
from tasks.policy.records.base import to_json, utc
from tasks.policy.records.errors import FencedOut, TrafficError
from tasks.policy.rollout.traffic import TrafficSplit
from tests.support.object_store import object_store, on_each_store

MODEL = "churn"
CANARY = TrafficSplit(MODEL, "7", "8", "canary", 0.1, "customer", "salt", "canary 10 %", utc("2026-01-05"), "d1")


def files() -> list[str]:
    return sorted(path.name for path in (Path(workspace().ledger) / "_traffic" / MODEL).glob("*"))


def test_split_is_read_as_written() -> None:
    with lease.hold(MODEL, "rollout"):
        write_split(CANARY)
    assert read_split(MODEL) == CANARY


@on_each_store
def test_split_on_an_object_store(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with object_store(scheme, monkeypatch) as uri:
        monkeypatch.setenv("PERENNIAL_LEDGER", uri)
        with lease.hold(MODEL, "rollout"):
            write_split(CANARY)
            write_split(CANARY.without_challenger())
        assert read_split(MODEL) == CANARY.without_challenger()


def test_without_a_split_the_champion_answers() -> None:
    assert read_split(MODEL) == TrafficSplit(MODEL, None)


def test_writing_needs_a_lease() -> None:
    with pytest.raises(TrafficError, match="churn: this run holds no lease, expected one to change the traffic"):
        write_split(CANARY)
    with lease.hold("other_model", "rollout"), pytest.raises(TrafficError, match="holds no lease"):
        write_split(CANARY)
    assert read_split(MODEL).champion is None


def test_same_split_is_written_once() -> None:
    with lease.hold(MODEL, "rollout"):
        write_split(CANARY)
        write_split(CANARY)
        assert files() == ["00000001-000001.json"]
        write_split(CANARY.without_challenger())
        write_split(CANARY)
    assert files() == [f"00000001-00000{number}.json" for number in (1, 2, 3)]
    assert read_split(MODEL) == CANARY


def test_fenced_process_cannot_write() -> None:
    with lease.hold(MODEL, "rollout") as held:
        write_split(CANARY)
        following = lease.Record(held.record.token + 1, "rollback", "elsewhere", None, 30.0)
        obstore.put(ledger_store(), f"_leases/{MODEL}/{following.token:08d}.json", to_json(following).encode())
        with pytest.raises(FencedOut, match="was fenced out"):
            write_split(CANARY.without_challenger())
    assert files() == ["00000001-000001.json"]


def test_late_write_of_a_fenced_process_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process checks its lease, sleeps, loses the lease, and writes: its token sorts before its successor's."""
    with lease.hold(MODEL, "rollout") as slow:
        old = slow.record.token
    with lease.hold(MODEL, "rollback"):
        write_split(CANARY.without_challenger())
    with monkeypatch.context() as frozen:
        frozen.setattr(split_store.lease, "check", lambda model: old)
        frozen.setattr(split_store, "_names", lambda model: [])  # listed before the successor wrote
        write_split(CANARY)
    assert files() == ["00000001-000001.json", "00000002-000001.json"]
    assert read_split(MODEL) == CANARY.without_challenger()


def test_new_lease_repeats_the_split_under_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the predecessor could still replace it, with a later number of the same token."""
    with lease.hold(MODEL, "rollout") as first:
        write_split(CANARY)
    with lease.hold(MODEL, "rollout"):
        write_split(CANARY)
    with monkeypatch.context() as frozen:
        frozen.setattr(split_store.lease, "check", lambda model: first.record.token)
        frozen.setattr(split_store, "_names", lambda model: ["00000001-000001.json"])
        write_split(CANARY.without_challenger())
    assert read_split(MODEL) == CANARY


def test_number_that_another_writer_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads of a run may list the same files; the second one takes the next number."""
    with lease.hold(MODEL, "rollout"):
        write_split(CANARY.without_challenger())
        listed = iter([[], split_store._names(MODEL)])
        with monkeypatch.context() as stale:
            stale.setattr(split_store, "_names", lambda model: next(listed))
            write_split(CANARY)
    assert files() == ["00000001-000001.json", "00000001-000002.json"]
    assert read_split(MODEL) == CANARY


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"model":"churn"}',
        to_json(TrafficSplit("other", "9", "10", "ab", 0.5)).encode(),
        b"\xff\xfe",
        to_json(CANARY).replace("0.1,", "10,").encode(),
        to_json(CANARY).replace("0.1,", "NaN,").encode(),
    ],
    ids=["empty", "cut", "incomplete", "of another model", "not text", "share of 10", "share of NaN"],
)
def test_unreadable_split_means_champion_only(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with lease.hold(MODEL, "rollout"):
        write_split(CANARY)
    (Path(workspace().ledger) / "_traffic" / MODEL / "00000001-000002.json").write_bytes(content)
    with caplog.at_level(logging.WARNING, logger=split_store.__name__):
        split = read_split(MODEL)
    assert split == TrafficSplit(MODEL, None)
    assert split.role_of("customer 7") == "champion"
    assert "churn: the traffic split cannot be read, the champion answers everything" in caplog.text


def test_next_step_replaces_an_unreadable_split() -> None:
    with lease.hold(MODEL, "rollout"):
        write_split(CANARY)
        (Path(workspace().ledger) / "_traffic" / MODEL / "00000001-000002.json").write_text("{")
        write_split(CANARY)
    assert read_split(MODEL) == CANARY


def test_split_that_would_not_count_is_an_error() -> None:
    """Deleted leases start at token 1 again; a write that sorts before an older split would change nothing, silently."""
    with lease.hold(MODEL, "rollout"):
        write_split(CANARY)
    folder = Path(workspace().ledger) / "_traffic" / MODEL
    (folder / "00000001-000001.json").rename(folder / "00000057-000001.json")
    with (
        lease.hold(MODEL, "rollout"),
        pytest.raises(TrafficError, match="comes after this run's lease"),
    ):
        write_split(CANARY.without_challenger())


def test_other_files_are_ignored() -> None:
    with lease.hold(MODEL, "rollout"):
        write_split(CANARY)
    for name in ("note.txt", "99999999-000001.json.tmp", "99999999-1.json"):
        (Path(workspace().ledger) / "_traffic" / MODEL / name).write_text("x")
    assert read_split(MODEL) == CANARY


def test_store_that_does_not_answer_means_champion_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with lease.hold(MODEL, "rollout"):
        write_split(CANARY)

    def refuse(*arguments: object) -> None:
        raise PermissionError("denied")

    monkeypatch.setattr(split_store.obstore, "get", refuse)
    assert read_split(MODEL) == TrafficSplit(MODEL, None)
    assert "denied" in caplog.text
    store_at.cache_clear()
