"""One writer per model: a lease with a fencing token, `<ledger>/_leases/<model>/00000007.json`.

Whoever creates the next number holds the model until it releases it, or until it has not renewed it for a lease's
time; the number is the fencing token (Kleppmann 2016, "How to do distributed locking"; Burrows 2006, "The Chubby lock
service"). A number is created once by every store, so nothing but create-if-absent is needed, as for the ledger beside
it: local disk, S3 and GCS alike. Each write asks first whether a later number exists.

No clock is compared with another one: whoever waits sees for a lease's time, by its own steady clock, that the record
does not change. A holder that was frozen past its lease may go on only after it has created the next number itself,
which is refused once somebody else has. A record for the same Prefect run is taken over at once: Prefect has started
that run anew, and what the fence then stops is the process it gave up.
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
TTL_S = 30.0  # a dead holder is fenced out this long after somebody else has begun to wait
RENEWALS = 3  # in each lease's time, so that one may be late
PATIENCE_S = 600.0  # a promotion takes seconds; who waits longer waits for a training, and gives its place back
LONGEST_TTL_S = 3600.0  # a record that claims more is none of ours
_POLL_S = 0.5
_NUMBERED = re.compile(r"([0-9]{8,12})\.json")


@dataclass(frozen=True, slots=True)
class Record:
    """What a holder says about itself; `beats` grows with each renewal."""

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
    _alone: threading.RLock = field(default_factory=threading.RLock)

    def check(self) -> int:
        """The fencing token, if this process may write at this moment. Raises FencedOut otherwise."""
        with self._alone:
            later = [found for found in _tokens(self.model) if found[0] > self.record.token]
            for token, path in reversed(later):
                record = _read(self.model, token, path)
                if record is not None:  # who takes over creates a complete record, so nothing else fences
                    raise self._fenced(record)
            if _steady() - self.renewed > self.record.ttl_s:
                self._take_next(after=later[-1][0] if later else self.record.token)
            return self.record.token

    def _take_next(self, after: int) -> None:
        """After the lease has expired, only creating a new number shows that no other run took over."""
        following = replace(self.record, token=after + 1, beats=0)
        found = _create(self.model, following)
        if found != following:
            raise self._fenced(found)
        self.record, self.renewed = following, _steady()

    def _fenced(self, later: Record) -> FencedOut:
        return FencedOut(
            f"{self.model}: {self.record.purpose} with token {self.record.token} was fenced out: {later.purpose} by "
            f"{later.holder} took token {later.token} after this process fell silent for {self.record.ttl_s:g} s or was "
            "started anew; expected the latest token; nothing was written since; look at that run"
        )

    def renew(self) -> None:
        """Say that the holder lives; says nothing once the lease has run out, which `check` then settles."""
        with self._alone:
            if _steady() - self.renewed <= self.record.ttl_s:
                beaten = replace(self.record, beats=self.record.beats + 1)
                moment = _steady()
                _write(self.model, beaten)
                self.record, self.renewed = beaten, moment

    def release(self) -> None:
        """Give the model back; where the store fails, the lease runs out by itself."""
        with self._alone:
            try:
                _write(self.model, replace(self.record, released=True))
            except PerennialError as error:
                logger.warning("%s: lease not released, it runs out in %g s: %s", self.model, self.record.ttl_s, error)


_HELD: ContextVar[dict[str, Lease]] = ContextVar("held", default={})  # noqa: B039  never changed in place


def check(model: str) -> int | None:
    """The fencing token of the lease that this run holds on the model, None for a run that holds none.

    To be asked right before each write. Raises FencedOut where another run has taken over.
    """
    lease = _HELD.get().get(model)
    return lease.check() if lease else None


@contextmanager
def hold(
    model: str, purpose: str, outranks: tuple[str, ...] = (), ttl_s: float = TTL_S, patience_s: float = PATIENCE_S
) -> Iterator[Lease]:
    """Hold the model's lease, renewed in the background, released at the end. Raises LeaseHeld after `patience_s`.

    A purpose in `outranks` is not waited for: that holder is fenced out. Inside a run that holds it, it is held once.
    """
    already = _HELD.get().get(model)
    if already:
        yield already
        return
    lease = _acquire(model, purpose, outranks, ttl_s, patience_s)
    ended = threading.Event()
    renewing = threading.Thread(target=_keep, args=(lease, ended), daemon=True, name=f"lease of {model}")
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
    began = unchanged_since = _steady()
    seen: Record | None = None
    while True:
        holder, moment = _latest(model), _steady()
        if holder != seen:
            seen, unchanged_since = holder, moment
        free = (
            holder is None
            or holder.released
            or (holder.run is not None and holder.run == run_id)
            or holder.purpose in outranks
            or moment - unchanged_since > holder.ttl_s
        )
        if free:
            token = holder.token + 1 if holder else 1
            mine = Record(token, purpose, _name(), run_id, ttl_s)
            if _create(model, mine) == mine:
                _forget(model, before=token)
                return Lease(model, mine, moment)
        elif moment - began > patience_s:
            raise LeaseHeld(
                f"{model}: {holder.purpose} by {holder.holder} holds the lease (token {holder.token}) and renews it, "
                f"waited {patience_s:g} s for {purpose}; expected one writer per model; wait until that run ends and "
                "run this again with the same parameters, or cancel it in Prefect"
            )
        else:
            time.sleep(min(_POLL_S, holder.ttl_s / 10))


def _keep(lease: Lease, ended: threading.Event) -> None:
    """Renew until the end. A store that fails now may answer at the next beat; `check` decides, not this thread."""
    while not ended.wait(lease.record.ttl_s / RENEWALS):
        try:
            lease.renew()
        except PerennialError:
            continue


def _steady() -> float:
    """Seconds that nobody can set, counted also while the machine sleeps where the system can tell."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _key(model: str, token: int) -> str:
    return f"{FOLDER}/{model}/{token:08d}.json"


def _name() -> str:
    """A holder's name, like no other's: processes in containers share host and number, threads a process."""
    return f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}"


def _create(model: str, record: Record) -> Record:
    """Create the number; the latest record then: this one where it holds the model.

    The store's answer alone does not tell. A number that was taken, released and forgotten meanwhile can be created
    again below a later one; and a create whose answer was lost is refused when the client tries again, by itself.
    """
    with store_errors(f"lease of {model}"), suppress(AlreadyExistsError):
        obstore.put(ledger_store(), _key(model, record.token), to_json(record).encode(), mode="create")
    return _latest(model) or Record(record.token, "unknown", "unknown", None, TTL_S)


def _write(model: str, record: Record) -> None:
    with store_errors(f"lease of {model}"):
        obstore.put(ledger_store(), _key(model, record.token), to_json(record).encode())


def _tokens(model: str) -> list[tuple[int, str]]:
    """(number, path) of each record, lowest first. Any other file in the folder is nobody's lease."""
    with store_errors(f"lease of {model}"):
        listed = obstore.list(ledger_store(), f"{FOLDER}/{model}").collect()
    named = ((_NUMBERED.fullmatch(meta["path"].removeprefix(f"{FOLDER}/{model}/")), meta["path"]) for meta in listed)
    return sorted((int(found[1]), path) for found, path in named if found)


def _latest(model: str) -> Record | None:
    """The record with the highest number; one that cannot be read counts as a dead holder's."""
    for token, path in _tokens(model)[-1:]:
        return _read(model, token, path) or Record(token, "unknown", "unknown", None, TTL_S)
    return None


def _read(model: str, token: int, path: str) -> Record | None:
    """The record of this number; None where the file is gone, torn, or none of a holder's."""
    with store_errors(f"lease of {model}"):
        try:
            record = from_json(Record, bytes(obstore.get(ledger_store(), path).bytes()))
        except (FileNotFoundError, ValidationError):
            return None
    return record if record.token == token and 0 < record.ttl_s <= LONGEST_TTL_S else None


def _forget(model: str, before: int) -> None:
    """Numbers below the present one say nothing that it does not say."""
    for token, path in _tokens(model):
        if token < before:
            with store_errors(f"lease of {model}"):
                try:
                    obstore.delete(ledger_store(), path)
                except FileNotFoundError:
                    continue
