"""The local copy of a ledger: used by new processes, and discarded if copy or ledger changed."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import obstore
import pytest

from tasks.adapters.ledger import chain as ledger, copy as ledger_copy
from tasks.adapters.storage.object_store import store_at
from tasks.policy.evidence.ledger import Fact, LedgerEntry
from tasks.policy.records.base import digest, to_json, utc
from tasks.policy.records.errors import LedgerError
from tests.support.object_store import object_store, on_each_store

AT, MODEL, LENGTH = utc("2013-05-01"), "flight_delay", 200


def fill(count: int = LENGTH) -> tuple[LedgerEntry, ...]:
    """Write a ledger and clear everything cached in memory."""
    for number in range(count):
        ledger.append(MODEL, Fact("window.judged", f'fact {number} "ü\\"', AT + timedelta(hours=number), f"d{number}"))
    recorded = ledger.entries(MODEL)
    forget()
    return recorded


def forget() -> None:
    """Clear everything cached in memory, as in a new process."""
    ledger._KNOWN.clear()
    ledger_copy._COUNTED.clear()


def copy() -> Path:
    (found,) = (Path(os.environ["PERENNIAL_HOME"]) / ledger_copy.FOLDER).rglob("*.jsonl")
    return found


def entry_file(number: int) -> Path:
    return Path(os.environ["PERENNIAL_HOME"]) / "ledger" / MODEL / f"{number:08d}.json"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Record the names of all files that are read from the store."""
    names: list[str] = []
    original = obstore.get
    monkeypatch.setattr(obstore, "get", lambda store, path: (names.append(path), original(store, path))[1])
    yield names


def test_new_process_reads_only_new_entries(asked):
    recorded = fill()
    asked.clear()
    assert ledger.entries(MODEL) == recorded
    assert len(asked) < ledger_copy.BATCH + 5
    added = ledger.append(MODEL, Fact("note", "later", AT))
    forget()
    assert ledger.entries(MODEL) == (*recorded, added)
    assert ledger.verify(MODEL).problems == ()


def test_copied_entries_are_identical():
    recorded = fill()
    copied = ledger_copy.load(MODEL)
    assert [to_json(entry) for entry in copied] == [to_json(entry) for entry in recorded[: len(copied)]]
    assert [entry.hash for entry in copied] == [entry.hash for entry in recorded[: len(copied)]]
    assert len(copied) >= LENGTH - ledger_copy.BATCH


def rewritten(content: str) -> str:
    """Change entry 3 and recompute every hash after it."""
    lines, previous = [], None
    for line in content.splitlines():
        stamp, _, text = line.partition("\t")
        entry = json.loads(text)
        entry |= {"body": "nothing happened"} if entry["sequence"] == 3 else {}
        entry |= {"previous_hash": previous} if previous else {}
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"))
        previous = digest(text, length=64)
        lines.append(f"{stamp}\t{text}\n")
    return "".join(lines)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.replace("fact 3 ", "fact 4 ", 1),
        rewritten,
        lambda content: content[:-20],
        lambda content: content.split("\n", 1)[1],
        lambda _: "not a copy\n",
        lambda _: "1\t[]\n",
        lambda _: "\n",
        lambda _: "",
    ],
    ids=["entry changed", "chain rewritten", "torn", "beginning lost", "garbage", "a list", "a blank line", "empty"],
)
def test_changed_copy_is_discarded(change):
    recorded = fill()
    copy().write_text(change(copy().read_text()))
    assert ledger.entries(MODEL) == recorded
    forget()
    assert ledger.entries(MODEL) == recorded


def test_binary_copy_is_discarded():
    recorded = fill()
    copy().write_bytes(b"\xff\xfe\n")
    assert ledger.entries(MODEL) == recorded


@pytest.mark.parametrize("number", [1, 50, LENGTH])
def test_changed_entry_is_detected_despite_a_copy(number):
    fill()
    changed = entry_file(number).read_text().replace("fact", "Fact")
    entry_file(number).write_text(changed)
    with pytest.raises(LedgerError, match="expected an unbroken chain"):
        ledger.entries(MODEL)


def test_changed_entry_with_same_time_and_size_is_detected():
    fill()
    before = entry_file(50).stat()
    entry_file(50).write_text(entry_file(50).read_text().replace("fact", "Fact"))
    os.utime(entry_file(50), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "entry 51 does not follow entry 50" in " ".join(ledger.verify(MODEL).problems)


def test_missing_entry_is_detected_and_restored_ledger_is_read():
    recorded = fill()
    content = entry_file(50).read_bytes()
    entry_file(50).unlink()
    with pytest.raises(LedgerError, match="entry 50 is missing"):
        ledger.entries(MODEL)
    entry_file(50).write_bytes(content)
    assert ledger.entries(MODEL) == recorded


def test_copy_of_a_replaced_ledger_is_discarded():
    fill()
    for path in entry_file(1).parent.iterdir():
        path.unlink()
    other = ledger.append(MODEL, Fact("note", "begun anew", AT))
    forget()
    assert ledger.entries(MODEL) == (other,)


def test_unwritable_copy_does_not_stop_the_ledger():
    (Path(os.environ["PERENNIAL_HOME"]) / ledger_copy.FOLDER).parent.mkdir(parents=True)
    (Path(os.environ["PERENNIAL_HOME"]) / ledger_copy.FOLDER).write_text("in the way")
    recorded = fill()
    assert ledger.entries(MODEL) == recorded


@pytest.mark.slow("starts processes that copy at once")
def test_concurrent_copies_leave_a_valid_copy():
    recorded = fill()
    copy().unlink()
    script = f"from tasks.adapters.ledger import chain as ledger; print(len(ledger.entries({MODEL!r})))"
    running = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=120)[0].strip() for process in running] == [str(LENGTH)] * 3
    assert ledger_copy.load(MODEL) == list(recorded)


@on_each_store
def test_object_store_is_copied_locally(scheme, monkeypatch, asked):
    with object_store(scheme, monkeypatch) as bucket:
        monkeypatch.setenv("PERENNIAL_LEDGER", f"{bucket}/ledger")
        recorded = fill(70)
        asked.clear()
        assert ledger.entries(MODEL) == recorded
        assert len(asked) < 15
        forget()
        monkeypatch.setitem(ledger_copy.MAX_COMPARED, False, 100)
        text = bytes(obstore.get(store_at(f"{bucket}/ledger"), f"{MODEL}/00000030.json").bytes())
        obstore.put(store_at(f"{bucket}/ledger"), f"{MODEL}/00000030.json", text.replace(b"fact", b"Fact"))
        with pytest.raises(LedgerError, match="expected an unbroken chain"):
            ledger.entries(MODEL)
