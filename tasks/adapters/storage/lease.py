"""One writer per model: a lease with a fencing token, `<ledger>/_leases/<model>/00000007.json`.

The process that creates the next number holds the lease until it releases it, or until it fails to renew it within the
TTL. The number is the fencing token (Kleppmann 2016, "How to do distributed locking"; Burrows 2006, "The Chubby lock
service"). The lease needs only create-if-absent, as the ledger beside it does; local disk, S3 and GCS all provide it.
Before each write, the holder checks that no later number exists.

Clocks of two machines are never compared. A waiting process takes over if the record does not change for one TTL by its
own monotonic clock. A holder that was suspended past its TTL may continue only after it has created the next number,
which fails if another process created it first. A record of the same Prefect run is taken over at once: Prefect has
restarted that run, and the fence then stops the abandoned process.
"""

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from secrets import token_hex

import obstore
from obstore.exceptions import AlreadyExistsError
from prefect.context import FlowRunContext
from pydantic import ValidationError

from tasks.adapters.storage.object_store import ledger_store, store_errors
from tasks.policy.records.base import from_json, to_json
from tasks.policy.records.errors import FencedOut, LeaseHeld, PerennialError

logger = logging.getLogger(__name__)
FOLDER = "_leases"
TTL_S = 30.0  # a dead holder is fenced out this long after another process starts to wait
RENEWALS = 3  # renewals per TTL, so one may be late
PATIENCE_S = 600.0  # a promotion takes seconds; a longer wait means a training holds the lease, so the waiter gives up
LONGEST_TTL_S = 3600.0  # records with a longer TTL are not ours and are ignored
_POLL_S = 0.5
_NUMBERED = re.compile(r"([0-9]{8,12})\.json")


@dataclass(frozen=True, slots=True)
class Record:
    """The stored record of a lease holder. `beats` counts renewals; `ttl_s` is in seconds."""

    token: int
    purpose: str
    holder: str
    run: str | None
    ttl_s: float
    beats: int = 0
    released: bool = False


@dataclass(slots=True)
class Lease:
    """A model's lease, held by this process."""

    model: str
    record: Record
    renewed: float
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def check(self) -> int:
        """Return the fencing token if this process may still write. Raises FencedOut otherwise."""
        with self._lock:
            later = [found for found in _tokens(self.model) if found[0] > self.record.token]
            for token, path in reversed(later):
                record = _read(self.model, token, path)
                if record is not None:  # a takeover creates a complete record; only that fences
                    raise self._fenced(record)
            if _monotonic_s() - self.renewed > self.record.ttl_s:
                self._take_next(after=later[-1][0] if later else self.record.token)
            return self.record.token

    def _take_next(self, after: int) -> None:
        """Renew an expired lease by creating the next number, which proves that no other run took over."""
        following = replace(self.record, token=after + 1, beats=0)
        found = _create(self.model, following)
        if found != following:
            raise self._fenced(found)
        self.record, self.renewed = following, _monotonic_s()

    def _fenced(self, later: Record) -> FencedOut:
        return FencedOut(
            f"{self.model}: {self.record.purpose} with token {self.record.token} was fenced out: {later.purpose} by "
            f"{later.holder} took token {later.token} after this process did not renew its lease for {self.record.ttl_s:g} s "
            "or was restarted; expected the latest token; nothing was written since; look at that run"
        )

    def renew(self) -> None:
        """Record a heartbeat. An expired lease is not renewed here; `check` handles it."""
        with self._lock:
            if _monotonic_s() - self.renewed <= self.record.ttl_s:
                beaten = replace(self.record, beats=self.record.beats + 1)
                moment = _monotonic_s()
                _write(self.model, beaten)
                self.record, self.renewed = beaten, moment

    def release(self) -> None:
        """Release the lease. If the store fails, the lease expires by itself."""
        with self._lock:
            try:
                _write(self.model, replace(self.record, released=True))
            except PerennialError as error:
                logger.warning("%s: lease not released, it expires in %g s: %s", self.model, self.record.ttl_s, error)


_HELD: ContextVar[dict[str, Lease]] = ContextVar("held", default={})  # noqa: B039  never mutated in place


def check(model: str) -> int | None:
    """Return the fencing token of this run's lease on the model, or None if the run holds no lease.

    Call it right before each write. Raises FencedOut if another run has taken over.
    """
    lease = _HELD.get().get(model)
    return lease.check() if lease else None


@contextmanager
def hold(
    model: str, purpose: str, outranks: tuple[str, ...] = (), ttl_s: float = TTL_S, patience_s: float = PATIENCE_S
) -> Iterator[Lease]:
    """Hold the model's lease, renew it in the background and release it at the end. `ttl_s`, `patience_s`: seconds.

    A holder whose purpose is in `outranks` is fenced out at once. The lease is reentrant within a run.
    Raises LeaseHeld if another run still holds the lease after `patience_s`.
    """
    already = _HELD.get().get(model)
    if already:
        yield already
        return
    lease = _acquire(model, purpose, outranks, ttl_s, patience_s)
    ended = threading.Event()
    renewing = threading.Thread(target=_renew_until, args=(lease, ended), daemon=True, name=f"lease of {model}")
    renewing.start()
    before = _HELD.set({**_HELD.get(), model: lease})
    try:
        yield lease
    finally:
        _HELD.reset(before)
        ended.set()
        renewing.join()
        lease.release()


def _acquire(model: str, purpose: str, outranks: tuple[str, ...], ttl_s: float, patience_s: float) -> Lease:
    run = FlowRunContext.get()
    run_id = str(run.flow_run.id) if run and run.flow_run else None
    began = unchanged_since = _monotonic_s()
    seen: Record | None = None
    while True:
        holder, moment = _latest(model), _monotonic_s()
        if holder != seen:
            seen, unchanged_since = holder, moment
        if (
            holder is None
            or holder.released
            or (holder.run is not None and holder.run == run_id)
            or holder.purpose in outranks
            or moment - unchanged_since > holder.ttl_s
        ):
            token = holder.token + 1 if holder else 1
            mine = Record(token, purpose, _name(), run_id, ttl_s)
            if _create(model, mine) == mine:
                _delete_records(model, before=token)
                return Lease(model, mine, moment)
        elif moment - began > patience_s:
            raise LeaseHeld(
                f"{model}: {holder.purpose} by {holder.holder} holds the lease (token {holder.token}) and renews it, "
                f"waited {patience_s:g} s for {purpose}; expected one writer per model; wait until that run ends and "
                "run this again with the same parameters, or cancel it in Prefect"
            )
        else:
            time.sleep(min(_POLL_S, holder.ttl_s / 10))


def _renew_until(lease: Lease, ended: threading.Event) -> None:
    """Renew until `ended`. A failed renewal is retried at the next one; only `check` decides if the lease is lost."""
    while not ended.wait(lease.record.ttl_s / RENEWALS):
        try:
            lease.renew()
        except PerennialError:
            continue


def _monotonic_s() -> float:
    """Return monotonic seconds, including time asleep on systems that have CLOCK_BOOTTIME."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _key(model: str, token: int) -> str:
    return f"{FOLDER}/{model}/{token:08d}.json"


def _name() -> str:
    """Return a unique holder name. The random part is needed because containers share host names and process ids."""
    return f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}"


def _create(model: str, record: Record) -> Record:
    """Create the record if its number is free and return the latest record; equal to `record` if the lease is acquired.

    The store's response alone is not enough. A number that another run took, released and deleted can be created again
    below a later number. A create whose response was lost fails when the client retries, because its record exists.
    """
    with store_errors(f"lease of {model}"), suppress(AlreadyExistsError):
        obstore.put(ledger_store(), _key(model, record.token), to_json(record).encode(), mode="create")
    return _latest(model) or Record(record.token, "unknown", "unknown", None, TTL_S)


def _write(model: str, record: Record) -> None:
    with store_errors(f"lease of {model}"):
        obstore.put(ledger_store(), _key(model, record.token), to_json(record).encode())


def _tokens(model: str) -> list[tuple[int, str]]:
    """Return (number, path) of each record, lowest first. Other files in the folder are ignored."""
    with store_errors(f"lease of {model}"):
        listed = obstore.list(ledger_store(), f"{FOLDER}/{model}").collect()
    named = ((_NUMBERED.fullmatch(meta["path"].removeprefix(f"{FOLDER}/{model}/")), meta["path"]) for meta in listed)
    return sorted((int(found[1]), path) for found, path in named if found)


def _latest(model: str) -> Record | None:
    """Return the record with the highest number, or None. An unreadable record counts as a dead holder's."""
    for token, path in _tokens(model)[-1:]:
        return _read(model, token, path) or Record(token, "unknown", "unknown", None, TTL_S)
    return None


def _read(model: str, token: int, path: str) -> Record | None:
    """Return the record of this number, or None if the file is missing, truncated or not a valid record."""
    with store_errors(f"lease of {model}"):
        try:
            record = from_json(Record, bytes(obstore.get(ledger_store(), path).bytes()))
        except (FileNotFoundError, ValidationError):
            return None
    return record if record.token == token and 0 < record.ttl_s <= LONGEST_TTL_S else None


def _delete_records(model: str, before: int) -> None:
    """Delete the records with a number below `before`; only the latest record matters."""
    for token, path in _tokens(model):
        if token < before:
            with store_errors(f"lease of {model}"):
                try:
                    obstore.delete(ledger_store(), path)
                except FileNotFoundError:
                    continue
