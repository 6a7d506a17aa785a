"""Leases: one writer per model on a disk, S3 and GCS, with real processes; a frozen holder writes nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tasks.adapters import ledger
from tasks.adapters.storage import lease
from tasks.adapters.storage.lease import hold
from tasks.policy.evidence.ledger import Fact
from tasks.policy.records.base import utc
from tasks.policy.records.errors import FencedOut, LeaseHeld
from tests.support.object_store import object_store, on_each_store

MODEL = "flight_delay"
AT = utc("2013-05-01")

HOLDER = """
import sys, time
from pathlib import Path
from tasks.adapters.ledger import chain as ledger
from tasks.adapters.storage import lease
from tasks.policy.records.base import utc
from tasks.policy.evidence.ledger import Fact
place, ttl_s = Path(sys.argv[1]), float(sys.argv[2])
with lease.hold("flight_delay", "retrain", ttl_s=ttl_s) as held:
    (place / "holds").write_text(str(held.record.token))
    while not (place / "write").exists():
        time.sleep(0.02)
    try:
        fact = Fact("challenger.registered", "late", utc("2013-05-01"), "stale-one")
        entry = ledger.append("flight_delay", fact)
        (place / "wrote").write_text(str(entry.lease))
    except lease.FencedOut as fenced:
        (place / "fenced").write_text(str(fenced))
"""


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)


@pytest.fixture
def holder(tmp_path: Path):
    """Run a process that holds the lease and writes on request; its time to live is as short as the test allows."""
    started = []

    def start(ttl_s: float) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path), str(ttl_s)], cwd=Path.cwd())
        started.append(process)
        wait_for((tmp_path / "holds").exists)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def recorded() -> list[str]:
    return [entry.body for entry in ledger.entries(MODEL)]


def test_tokens_increase_and_released_lease_is_free():
    tokens = []
    for purpose in ("retrain", "promote", "rollback"):
        with hold(MODEL, purpose) as held:
            tokens.append(held.record.token)
    assert tokens == [1, 2, 3]
    assert ledger.models() == (), "leases are not a model's ledger"


def test_entries_record_the_lease_token():
    with hold(MODEL, "retrain"):
        inside = ledger.append(MODEL, Fact("challenger.registered", "one", AT, "d1"))
    outside = ledger.append(MODEL, Fact("window.judged", "two", AT, "d2"))
    assert (inside.lease, outside.lease) == (1, None)
    assert not ledger.verify(MODEL).problems
    text = (Path(os.environ["PERENNIAL_HOME"]) / "ledger" / MODEL / "00000002.json").read_text()
    assert "lease" not in text, "entries from before leases have this form and must stay valid"


def test_second_run_waits_and_gives_up_with_a_reason():
    with ThreadPoolExecutor(1) as elsewhere, hold(MODEL, "retrain", ttl_s=0.5):
        refused = elsewhere.submit(lambda: hold(MODEL, "promote", patience_s=2).__enter__())
        with pytest.raises(LeaseHeld, match=r"retrain by .* holds the lease \(token 1\) and renews it, waited 2 s"):
            refused.result()


def test_second_run_continues_after_the_first():
    order, holds, over = [], threading.Event(), threading.Event()

    def first() -> None:
        with hold(MODEL, "retrain"):
            holds.set()
            over.wait()
            order.append("first")

    def second() -> None:
        with hold(MODEL, "retrain"):
            order.append("second")

    with ThreadPoolExecutor(2) as both:
        running = [both.submit(first)]
        holds.wait()
        running.append(both.submit(second))
        time.sleep(0.3)
        over.set()
        [run.result() for run in running]
    assert order == ["first", "second"]


def test_only_one_holder_at_a_time():
    inside, most = [], []

    def run(number: int) -> None:
        with hold(MODEL, "retrain") as held:
            inside.append(number)
            most.append((len(inside), held.record.token))
            time.sleep(0.01)
            inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(12)))
    assert [count for count, _ in most] == [1] * 12
    assert sorted(token for _, token in most) == [token for _, token in most]


def test_killed_holder_is_fenced_out_after_expiry(holder):
    holder(ttl_s=1.0).kill()
    began = time.monotonic()
    with hold(MODEL, "retrain") as held:
        assert held.record.token == 2
        assert time.monotonic() - began >= 1.0


def test_expired_holder_writes_nothing_after_takeover(holder, tmp_path):
    frozen = holder(ttl_s=1.0)
    frozen.send_signal(signal.SIGSTOP)
    with hold(MODEL, "promote"):
        ledger.append(MODEL, Fact("champion.promoted", "ours", AT, "d1"))
        (tmp_path / "write").touch()
        frozen.send_signal(signal.SIGCONT)
        assert frozen.wait(60) == 0
        assert recorded() == ["ours"]
    assert "was fenced out: promote by" in (tmp_path / "fenced").read_text()
    assert recorded() == ["ours"]


@pytest.mark.slow("waits for leases of stopped processes to expire")
def test_expired_holder_writes_nothing_after_the_next_one_ended(holder, tmp_path):
    frozen = holder(ttl_s=1.0)
    frozen.send_signal(signal.SIGSTOP)
    with hold(MODEL, "promote"):
        pass
    (tmp_path / "write").touch()
    frozen.send_signal(signal.SIGCONT)
    assert frozen.wait(60) == 0
    assert (tmp_path / "fenced").exists()
    assert recorded() == []


@pytest.mark.slow("waits for leases of stopped processes to expire")
def test_expired_holder_continues_with_new_token_without_takeover(holder, tmp_path):
    frozen = holder(ttl_s=1.0)
    frozen.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    (tmp_path / "write").touch()
    frozen.send_signal(signal.SIGCONT)
    assert frozen.wait(60) == 0
    assert (tmp_path / "wrote").read_text() == "2"
    with hold(MODEL, "retrain") as held:
        assert held.record.token == 3


@pytest.mark.slow("waits for longer than a lease lasts")
def test_living_holder_renews_its_lease(holder, tmp_path):
    living = holder(ttl_s=3.0)
    with pytest.raises(LeaseHeld), hold(MODEL, "promote", patience_s=8):
        pass
    (tmp_path / "write").touch()
    assert living.wait(60) == 0
    assert (tmp_path / "wrote").exists()


def test_a_rollback_does_not_wait_for_a_training():
    with hold(MODEL, "retrain"), ThreadPoolExecutor(1) as elsewhere:
        token = elsewhere.submit(lambda: _token_of("rollback", ("retrain",))).result()
        assert token == 2
        with pytest.raises(FencedOut, match=r"rollback by .* took token 2"):
            ledger.append(MODEL, Fact("challenger.registered", "too late", AT, "d1"))
    assert recorded() == []


def _token_of(purpose: str, outranks: tuple[str, ...] = ()) -> int:
    with hold(MODEL, purpose, outranks) as held:
        return held.record.token


def test_lease_is_reentrant_within_a_run():
    with hold(MODEL, "retrain") as outer, hold(MODEL, "promote") as inner:
        assert inner is outer
    with hold(MODEL, "retrain") as held:
        assert held.record.token == 2


def test_models_do_not_wait_for_each_other():
    with hold(MODEL, "retrain"), hold("air_time", "retrain") as other:
        assert other.record.token == 1


def test_changed_clock_does_not_affect_leases(monkeypatch):
    """Leases do not read the wall clock."""
    with hold(MODEL, "retrain") as held, ThreadPoolExecutor(1) as elsewhere:
        monkeypatch.setattr(time, "time", lambda: 4e9)
        assert held.check() == 1
        with pytest.raises(LeaseHeld):
            elsewhere.submit(lambda: hold(MODEL, "promote", patience_s=1).__enter__()).result()


def test_frozen_holder_is_fenced_out_after_two_others(monkeypatch):
    """After expiry it saw no other holder and froze; the number that it then creates was used and removed meanwhile."""
    create, meanwhile = lease._create, []

    def frozen(model, record):
        if record.purpose == "retrain" and record.token == 2 and not meanwhile:
            with ThreadPoolExecutor(1) as elsewhere:
                elsewhere.submit(lambda: meanwhile.append(_token_of("promote", ("retrain",)))).result()
                meanwhile.append(elsewhere.submit(lambda: lease._acquire(MODEL, "rollback", (), 30, 1)).result())
        return create(model, record)

    monkeypatch.setattr(lease, "_create", frozen)
    mine = lease._acquire(MODEL, "retrain", (), 30, 1)
    mine.renewed -= 31
    with pytest.raises(FencedOut, match=r"rollback by .* took token 3"):
        mine.check()
    assert (meanwhile[0], meanwhile[1].check()) == (2, 3)


def test_lost_response_does_not_fence_out_the_holder(monkeypatch):
    put = lease.obstore.put

    def answer_lost(store, path, content, **options):
        put(store, path, content, **options)
        if options:
            return put(store, path, content, **options)  # as the client retries
        return None

    monkeypatch.setattr(lease.obstore, "put", answer_lost)
    held = lease._acquire(MODEL, "retrain", (), 30, 1)
    held.renewed -= 31
    assert held.check() == 2


def test_threads_have_separate_leases():
    first, second = (lease._acquire(MODEL, "retrain", ("retrain",), 30, 1) for _ in range(2))
    assert first.record.holder != second.record.holder


def test_torn_record_counts_as_a_dead_holder(monkeypatch):
    monkeypatch.setattr(lease, "TTL_S", 0.5)
    with hold(MODEL, "retrain"):
        pass
    (Path(os.environ["PERENNIAL_HOME"]) / "ledger" / "_leases" / MODEL / "00000001.json").write_text("{")
    assert _token_of("retrain") == 2


@pytest.mark.attack("whoever can write beside the leases")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", "what is this folder?"),
        (".DS_Store", "\x00"),
        ("00000001.json~", "{}"),
        ("notes.json", "{}"),
        ("99999999 copy.json", "{}"),
        ("old/00000009.json", "{}"),
        ("９９９９９９９９.json", "{}"),
    ],
)
def test_foreign_file_blocks_nobody(name, content):
    folder = Path(os.environ["PERENNIAL_HOME"]) / "ledger" / "_leases" / MODEL
    with hold(MODEL, "retrain") as held:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
        assert held.check() == 1
    with hold(MODEL, "promote", patience_s=0) as following:
        assert following.check() == 2
    assert (folder / name).read_text() == content, "foreign files are left alone"


@pytest.mark.parametrize("content", ["{", "[]", "", '{"token":7,"purpose":"x","holder":"y","run":null,"ttl_s":1e300}'])
def test_numbered_file_without_record_is_waited_for_once(content, monkeypatch):
    monkeypatch.setattr(lease, "TTL_S", 0.2)
    folder = Path(os.environ["PERENNIAL_HOME"]) / "ledger" / "_leases" / MODEL
    with hold(MODEL, "retrain", ttl_s=0.2) as held:
        (folder / "99999999.json").write_text(content)
        assert held.check() == 1
    assert [_token_of("promote"), _token_of("promote")] == [100_000_000, 100_000_001]


@on_each_store
def test_lease_works_in_an_object_store(scheme, monkeypatch):
    with object_store(scheme, monkeypatch) as bucket:
        monkeypatch.setenv("PERENNIAL_LEDGER", f"{bucket}/ledger")
        assert [_token_of("retrain"), _token_of("promote")] == [1, 2]
        with hold(MODEL, "retrain", ttl_s=0.5) as held, ThreadPoolExecutor(8) as pool:
            rivals = [pool.submit(lambda: hold(MODEL, "promote", patience_s=1).__enter__()) for _ in range(8)]
            assert all(isinstance(rival.exception(), LeaseHeld) for rival in rivals)
            assert held.check() == 3


@on_each_store
def test_one_of_eight_gets_the_lease_in_an_object_store(scheme, monkeypatch):
    with object_store(scheme, monkeypatch) as bucket:
        monkeypatch.setenv("PERENNIAL_LEDGER", f"{bucket}/ledger")
        together, told_apart = threading.Barrier(8), threading.Event()

        def want(number):
            together.wait()
            with suppress(LeaseHeld), hold(MODEL, f"run {number}", patience_s=1) as held:
                told_apart.wait(10)
                return held.record.token

        with ThreadPoolExecutor(8) as pool:
            wanting = [pool.submit(want, number) for number in range(8)]
            wait_for(lambda: sum(one.done() for one in wanting) == 7)
            told_apart.set()
        assert sorted(filter(None, (one.result() for one in wanting))) == [1]


@pytest.mark.slow("the store accepts one write a second")
def test_short_lease_on_gcs_is_released_despite_rate_limit(monkeypatch):
    with object_store("gs", monkeypatch, pause_s=1.0) as bucket:
        monkeypatch.setenv("PERENNIAL_LEDGER", f"{bucket}/ledger")
        began = time.monotonic()
        assert [_token_of("retrain"), _token_of("promote")] == [1, 2]
        assert time.monotonic() - began < lease.TTL_S / 2, "released, not expired"
