"""The ledger on a disk, on S3 and on GCS: no forks, no duplicate facts, and detection of every change or loss."""

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import obstore
import pytest

from tasks.adapters.ledger import chain as ledger, verification as ledger_verification
from tasks.adapters.storage import lease
from tasks.adapters.storage.object_store import store_at
from tasks.policy.evidence.ledger import Fact, LedgerEntry
from tasks.policy.evidence.versions import Promotion
from tasks.policy.records.base import from_json, to_json, utc
from tasks.policy.records.errors import LedgerError
from tests.support.object_store import object_store

AT = utc("2013-05-01")
MODEL = "flight_delay"


def fill(count: int, model: str = MODEL) -> list[LedgerEntry]:
    return [
        ledger.append(model, Fact("window.judged", f"fact {i}", AT + timedelta(days=i), f"decision-{i}"))
        for i in range(count)
    ]


def entry_file(number: int) -> Path:
    return Path(os.environ["PERENNIAL_HOME"]) / "ledger" / MODEL / f"{number:08d}.json"


def head_file() -> Path:
    return entry_file(1).with_name("head.json")


def problems() -> str:
    return " | ".join(ledger.verify(MODEL).problems)


def test_entries_read_back_in_order():
    promotion = Promotion(MODEL, "d1", "2", "1", "promoted", ("log_loss gained 0.01",))
    recorded = ledger.append(MODEL, Fact("champion.promoted", promotion, AT, "d1", "Ada"))
    assert ledger.entries(MODEL) == (recorded,)
    assert (recorded.sequence, recorded.actor, recorded.previous_hash) == (1, "Ada", ledger.GENESIS)
    assert from_json(Promotion, recorded.body) == promotion
    second = ledger.append(MODEL, Fact("note", "said by hand", AT))
    assert second.previous_hash == recorded.hash
    assert ledger.entries(MODEL, kind="note") == (second,)
    assert ledger.entries(MODEL, last=1) == (second,)
    assert ledger.entries(MODEL, last=0) == ()
    assert ledger.models() == (MODEL,)


def test_empty_ledger_verifies():
    assert ledger.entries(MODEL) == ()
    assert ledger.verify(MODEL) == ledger.Verification(MODEL, 0, None, ())


def test_each_model_has_its_own_chain():
    fill(2)
    fill(3, "air_time")
    assert (len(ledger.entries(MODEL)), len(ledger.entries("air_time"))) == (2, 3)


@pytest.mark.parametrize("model", ["../other", "a/b", "", "Flight", "x" * 64])
def test_model_name_never_becomes_a_path(model):
    with pytest.raises(LedgerError, match="expected a name"):
        ledger.append(model, Fact("note", "x", AT))


def test_fact_of_a_decision_is_recorded_once():
    first = ledger.append(MODEL, Fact("champion.promoted", "one", AT, "d1"))
    assert ledger.append(MODEL, Fact("champion.promoted", "another", AT, "d1")) == first
    assert ledger.append(MODEL, Fact("champion.rolled_back", "one", AT, "d1")).sequence == 2
    assert [ledger.append(MODEL, Fact("note", "x", AT)).sequence for _ in range(2)] == [3, 4]


def _append_many(home: str, writer: int, count: int) -> None:
    os.environ["PERENNIAL_HOME"] = home
    for i in range(count):
        ledger.append(MODEL, Fact("note", f"writer {writer} fact {i}", AT))
        ledger.append(MODEL, Fact("shared", f"writer {writer}", AT, f"decision-{i}"))


def append_from_processes(writers: int, facts: int) -> None:
    context, home = multiprocessing.get_context("spawn"), os.environ["PERENNIAL_HOME"]
    processes = [context.Process(target=_append_many, args=(home, writer, facts)) for writer in range(writers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert ledger.verify(MODEL).problems == ()
    recorded = ledger.entries(MODEL)
    assert len(recorded) == writers * facts + facts  # each shared decision is told once, whoever came first
    assert {entry.body for entry in recorded if entry.kind == "note"} == {
        f"writer {writer} fact {i}" for writer in range(writers) for i in range(facts)
    }
    own = [entry.body for entry in recorded if entry.body.startswith("writer 2 fact")]
    assert own == sorted(own, key=lambda body: int(body.split()[-1]))  # one writer's facts keep their order


def test_concurrent_processes_never_fork_the_chain():
    append_from_processes(writers=4, facts=25)
    assert from_json(ledger.Head, head_file().read_bytes()) == ledger.verify(MODEL).head, (
        "the head confirms the last entry"
    )


def test_slow_writer_does_not_overwrite_newer_head(monkeypatch):
    """Two others append between its entry and its head, and have written the head by then."""
    put, waiting = obstore.put, ["second", "third"]

    def slow(store, path, *arguments, **options):
        if path.endswith("head.json") and waiting:
            ledger.append(MODEL, Fact("note", waiting.pop(0), AT))
        return put(store, path, *arguments, **options)

    monkeypatch.setattr(obstore, "put", slow)
    ledger.append(MODEL, Fact("note", "first", AT))
    recorded = ledger.entries(MODEL)
    assert {entry.body for entry in recorded} == {"first", "second", "third"}
    assert from_json(ledger.Head, head_file().read_bytes()) == ledger.Head(3, recorded[-1].hash)


def test_failed_head_write_keeps_the_entry(monkeypatch, caplog):
    """The entry is stored by then, and an error would make the caller record it again; the next append updates the head."""
    fill(1)
    put = obstore.put

    def refused(store, path, *arguments, **options):
        if path.endswith("head.json"):
            raise PermissionError("no right to write this one")
        return put(store, path, *arguments, **options)

    monkeypatch.setattr(obstore, "put", refused)
    recorded = ledger.append(MODEL, Fact("note", "x", AT))
    assert ledger.entries(MODEL)[-1] == recorded
    assert "entry 2 is recorded, but head.json was not updated" in caplog.text
    monkeypatch.setattr(obstore, "put", put)
    assert ledger.append(MODEL, Fact("note", "y", AT)).sequence == 3
    assert ledger.verify(MODEL).head.sequence == from_json(ledger.Head, head_file().read_bytes()).sequence == 3


def test_damaged_later_entry_keeps_the_own_entry(monkeypatch):
    put = obstore.put

    def tearing(store, path, *arguments, **options):
        if path.endswith("head.json"):
            entry_file(2).write_text("{torn")
        return put(store, path, *arguments, **options)

    monkeypatch.setattr(obstore, "put", tearing)
    assert ledger.append(MODEL, Fact("note", "first", AT)).sequence == 1
    assert "entry 2 cannot be read" in problems()


def test_no_partial_files_remain():
    fill(3)
    assert sorted(path.name for path in entry_file(1).parent.iterdir()) == [
        "00000001.json", "00000002.json", "00000003.json", "head.json"
    ]  # fmt: skip


class TestDamageIsFound:
    @pytest.fixture(autouse=True)
    def _five_entries(self) -> Iterator[None]:
        self.recorded = fill(5)
        assert not ledger.verify(MODEL).problems
        yield

    def rewrite(self, number: int, **changes: object) -> None:
        path = entry_file(number)
        path.write_text(json.dumps(json.loads(path.read_text()) | changes, sort_keys=True, separators=(",", ":")))

    @pytest.mark.parametrize("number", [1, 3])
    def test_a_changed_entry(self, number):
        self.rewrite(number, body="nothing happened")
        assert f"entry {number + 1} does not follow entry {number}" in problems()

    def test_a_changed_last_entry(self):
        self.rewrite(5, actor="nobody")
        assert "head.json names entry 5" in problems()

    def test_entry_in_another_format(self):
        entry_file(3).write_text(json.dumps(json.loads(entry_file(3).read_text()), indent=1))
        assert "entry 3 was rewritten" in problems()

    @pytest.mark.parametrize("number", [1, 3])
    def test_a_removed_entry(self, number):
        entry_file(number).unlink()
        assert f"entry {number} is missing" in problems()

    def test_a_removed_tail(self):
        for number in (4, 5):
            entry_file(number).unlink()
        assert "head.json names entry 5" in problems()
        assert "but that entry is missing" in problems()

    def test_a_removed_head(self):
        head_file().unlink()
        assert "head.json is missing" in problems()

    def test_truncated_tail_needs_an_external_head(self):
        noted = ledger.verify(MODEL).head
        entry_file(5).unlink()
        head_file().write_text(to_json(ledger.Head(4, self.recorded[3].hash)))
        assert not ledger.verify(MODEL).problems  # no chain can show this by itself
        assert "the head recorded elsewhere names entry 5" in " ".join(ledger.verify(MODEL, noted).problems)

    def test_forged_chain_needs_an_external_head(self):
        noted, previous = ledger.verify(MODEL).head, self.recorded[2].hash
        for number in (4, 5):
            self.rewrite(number, actor="nobody", previous_hash=previous)
            previous = from_json(LedgerEntry, entry_file(number).read_bytes()).hash
        head_file().write_text(to_json(ledger.Head(5, previous)))
        assert not ledger.verify(MODEL).problems
        assert ledger.verify(MODEL, noted).problems

    def test_distant_stray_entry_is_one_problem(self):
        entry_file(3_000_000).write_text("{}")
        entry_file(0).write_text("{}")
        assert ledger.verify(MODEL).problems == (
            "00000000.json is not an entry",
            "entries 6 to 2999999 are missing",
            "entry 3000000 cannot be read: truncated or changed",
        )

    def test_an_inserted_entry(self):
        for number in (5, 4, 3):
            entry_file(number).rename(entry_file(number + 1))
        self.rewrite(2, body="slipped in")
        entry_file(3).write_bytes(entry_file(2).read_bytes())
        found = problems()
        assert "entry 3 claims to be entry 2" in found
        assert "entry 4 claims to be entry 3" in found

    @pytest.mark.parametrize("length", [0, 40])
    def test_a_torn_entry(self, length):
        entry_file(5).write_bytes(entry_file(5).read_bytes()[:length])
        assert "entry 5 cannot be read: truncated or changed" in problems()

    def test_a_foreign_file(self):
        entry_file(5).with_name("5.json.bak").write_text("{}")
        assert "5.json.bak is not an entry" in problems()

    @pytest.mark.parametrize("number", [2, 5])
    def test_damaged_chain_is_neither_read_nor_extended(self, number):
        entry_file(number).unlink()
        ledger._KNOWN.clear()  # as a new process
        for attempt in (lambda: ledger.append(MODEL, Fact("note", "x", AT)), lambda: ledger.entries(MODEL)):
            with pytest.raises(LedgerError, match=r"perennial audit verify flight_delay"):
                attempt()
        assert not entry_file(6).exists()

    @pytest.mark.parametrize("known", [True, False])
    def test_lost_tail_and_head_need_manual_repair(self, known):
        for number in (4, 5):
            entry_file(number).unlink()
        head_file().unlink()
        if not known:
            ledger._KNOWN.clear()  # as a new process
        with pytest.raises(LedgerError, match="nothing shows that entry 3 is the last one") as damaged:
            ledger.append(MODEL, Fact("note", "x", AT))
        assert not entry_file(4).exists() and not head_file().exists()
        assert len(ledger.entries(MODEL)) == 3, "existing entries are readable"
        head_file().write_text(str(damaged.value).split(" write ")[1].removesuffix(" to head.json"))
        assert ledger.append(MODEL, Fact("note", "x", AT)).sequence == 4
        assert not ledger.verify(MODEL).problems

    def test_lost_beginning_is_not_recreated(self):
        for lost in (entry_file(1), entry_file(2), head_file()):
            lost.unlink()
        ledger._KNOWN.clear()
        with pytest.raises(LedgerError, match=r"entry 1 is missing, but .*00000003\.json exists"):
            ledger.append(MODEL, Fact("note", "x", AT))
        assert not entry_file(1).exists()

    def test_unreadable_head_blocks_writes(self):
        head_file().write_text("{torn")
        with pytest.raises(LedgerError, match=r"head\.json is missing or cannot be read"):
            ledger.append(MODEL, Fact("note", "x", AT))

    def test_same_process_detects_a_lost_tail(self):
        entry_file(5).unlink()
        with pytest.raises(LedgerError, match="entry 5 is missing"):
            ledger.entries(MODEL)


def test_lagging_head_is_updated():
    """A writer was killed between its entry and the head: the next one continues from the entry."""
    recorded = fill(3)
    head_file().write_text(to_json(ledger.Head(2, recorded[1].hash)))
    ledger._KNOWN.clear()
    assert ledger.append(MODEL, Fact("note", "x", AT)).sequence == 4
    assert not ledger.verify(MODEL).problems


def test_missing_first_head_is_written_later():
    fill(1)
    head_file().unlink()
    ledger._KNOWN.clear()
    assert ledger.append(MODEL, Fact("note", "x", AT)).sequence == 2
    assert not ledger.verify(MODEL).problems


def test_early_head_read_is_not_damage(monkeypatch):
    """Between reading the head and the entries, two others have appended."""
    fill(2)
    ledger._KNOWN.clear()
    head, early = ledger.read_head, iter([True])
    monkeypatch.setattr(ledger, "read_head", lambda model: None if next(early, False) else head(model))
    assert ledger.append(MODEL, Fact("note", "x", AT)).sequence == 3


def test_replaced_ledger_is_detected(tmp_path, monkeypatch):
    fill(3)
    entry_file(1).parent.rename(tmp_path / "moved")
    assert ledger.entries(MODEL) == ()
    assert ledger.append(MODEL, Fact("note", "x", AT)).sequence == 1


def test_unwritable_store_is_reported(tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("PERENNIAL_LEDGER", str(tmp_path / "a file" / "ledger"))
    with pytest.raises(Exception, match="expected a writable workspace"):
        ledger.append(MODEL, Fact("note", "x", AT))


@pytest.fixture(params=["s3", "gs"])
def remote(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A ledger in an object store with conditional writes."""
    with object_store(request.param, monkeypatch) as bucket:
        monkeypatch.setenv("PERENNIAL_LEDGER", f"{bucket}/audit/ledger")
        yield f"{bucket}/audit/ledger"


def test_object_store_keeps_the_same_chain(remote):
    recorded = fill(5)
    assert ledger.entries(MODEL) == tuple(recorded)
    ledger._KNOWN.clear()
    assert ledger.append(MODEL, Fact("window.judged", "again", AT, "decision-3")) == recorded[3]
    assert ledger.models() == (MODEL,)
    head = ledger.Head(5, recorded[4].hash)
    assert ledger.verify(MODEL, head) == ledger.Verification(MODEL, 5, head, ())


def test_missing_bucket_is_not_an_empty_history(remote, monkeypatch):
    monkeypatch.setenv("PERENNIAL_LEDGER", remote.replace("bucket", "bukcet"))
    for attempt in (
        lambda: ledger.entries(MODEL),
        lambda: ledger.append(MODEL, Fact("note", "x", AT)),
        lambda: ledger.verify(MODEL),
        lambda: lease.hold(MODEL, "retrain").__enter__(),
        lambda: lease._create(MODEL, lease.Record(1, "retrain", "me", None, 30)),
    ):
        with pytest.raises(LedgerError, match="set PERENNIAL_LEDGER to an existing bucket or folder"):
            attempt()


def test_threads_on_an_object_store_never_fork_the_chain(remote):
    with ThreadPoolExecutor(4) as pool:
        recorded = list(pool.map(lambda i: ledger.append(MODEL, Fact("note", f"fact {i}", AT)), range(20)))
    assert sorted(entry.sequence for entry in recorded) == list(range(1, 21))
    assert ledger.verify(MODEL).problems == ()


@pytest.mark.slow("starts a store and processes that append at once")
def test_processes_on_an_object_store_never_fork_the_chain(remote):
    append_from_processes(writers=3, facts=8)


def test_tampering_in_an_object_store_is_detected(remote):
    fill(5)
    store = store_at(remote)
    entry = json.loads(bytes(obstore.get(store, f"{MODEL}/00000003.json").bytes()))
    forged = json.dumps(entry | {"body": "nothing happened"}, sort_keys=True, separators=(",", ":"))
    obstore.put(store, f"{MODEL}/00000003.json", forged.encode())
    assert "entry 4 does not follow entry 3" in problems()

    obstore.delete(store, f"{MODEL}/00000005.json")
    obstore.put(store, f"{MODEL}/00000005.json.bak", b"{}")
    assert "head.json names entry 5" in problems()
    assert "00000005.json.bak is not an entry" in problems()


@pytest.mark.slow("the store accepts one write a second")
def test_burst_on_gcs_is_complete_despite_rate_limit(monkeypatch):
    """GCS refuses faster changes of one object, here the head; the client retries."""
    with object_store("gs", monkeypatch, pause_s=1.0) as bucket:
        monkeypatch.setenv("PERENNIAL_LEDGER", f"{bucket}/ledger")
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda i: ledger.append(MODEL, Fact("note", f"fact {i}", AT)), range(6)))
        assert ledger.verify(MODEL).problems == ()
        assert ledger.verify(MODEL).entries == 6


def test_append_cost_does_not_grow_with_length(monkeypatch: pytest.MonkeyPatch):
    """Nothing is listed, and no entry is read twice."""
    asked: list[str] = []
    for name in ("get", "put", "list"):
        original = getattr(obstore, name)

        def counted(store, path, *rest, name=name, original=original, **options):
            asked.append(f"{name} {path}")
            return original(store, path, *rest, **options)

        monkeypatch.setattr(obstore, name, counted)
    requests = []
    for length in (10, 500):
        fill(length)
        asked.clear()
        ledger.append(MODEL, Fact("note", f"after {length}", AT))
        requests.append([request.split()[0] for request in asked])
    assert requests[0] == requests[1]
    assert "list" not in requests[0]


def test_ledger_growing_during_verification_verifies(monkeypatch: pytest.MonkeyPatch):
    fill(3)
    check = ledger_verification.check

    def meanwhile(*arguments):
        monkeypatch.setattr(ledger_verification, "check", check)
        ledger.append(MODEL, Fact("window.judged", "another process", utc("2024-01-02"), "d9"))
        return check(*arguments)

    monkeypatch.setattr(ledger_verification, "check", meanwhile)
    assert ledger.verify(MODEL).problems == ()
    assert ledger.verify(MODEL).entries == 4
