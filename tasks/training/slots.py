"""Limit how many trainings a place holds in memory at once: each retrain takes one slot, whatever started it.

Prefect's global concurrency limit `perennial-training-PLACE` counts them; `training-slots` in prefect.yaml says how many
there are, and `perennial apply` makes it. A deployment's own limit keeps its runs back before they cost a
process, but counts no run that was started by hand. Where the server has no such limit, as on a laptop, nothing waits.
"""

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.concurrency.context import ConcurrencyContext
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

from tasks.adapters import orchestration
from tasks.policy.economics.placement import DEDICATED, PLACE_SETTING, training_limit
from tasks.policy.records.events import RunMode

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")
PATIENCE_S = 60.0  # who would wait longer gives its worker's place back meanwhile
COME_BACK_S = 60.0
HELD = "perennial.training-slot"  # a label of the run: the lease of its slot
LEASE_S = 60.0  # the least that Prefect accepts; so long does a slot outlive a process that was killed


def in_a_training_slot(body: Callable[Parameters, Answer]) -> Callable[Parameters, Answer]:
    """Run a flow's body while it holds a slot of its place; a dry run and a replay, which is one process, take none."""

    @wraps(body)
    def counted(*arguments: Parameters.args, **named: Parameters.kwargs) -> Answer:
        given = inspect.signature(body).bind(*arguments, **named).arguments
        if orchestration.runs.run_mode(bool(given.get("dry_run"))) != RunMode.LIVE:
            return body(*arguments, **named)
        with _slot(training_limit(os.environ.get(PLACE_SETTING, DEDICATED))):
            return body(*arguments, **named)

    return counted


@contextmanager
def _slot(name: str) -> Iterator[None]:
    """One slot of this limit, where the server has it. A deployed run that gets none in time goes back into the queue."""
    _give_back_what_an_earlier_process_held()
    taken = _taken(name)
    if taken is None:
        yield
        return
    if taken[0] >= taken[1]:
        get_run_logger().info("training: all %d slots of %s are taken; waiting for one", taken[1], name)
    patience_s = PATIENCE_S if orchestration.requeue.is_deployed() else None  # by hand: until there is one
    with ExitStack() as slot:
        try:
            slot.enter_context(concurrency(name, timeout_seconds=patience_s, lease_duration=LEASE_S))
        except TimeoutError:
            orchestration.requeue.come_back_later(f"all {taken[1]} slots of {name} are taken", COME_BACK_S)
            raise
        _note_held_slot()
        yield


def _give_back_what_an_earlier_process_held() -> None:
    """Free the slot of this run's killed process; otherwise the run would wait for itself for LEASE_S."""
    run = FlowRunContext.get()
    lease = run.flow_run.labels.get(HELD) if run and run.flow_run else None
    if lease:
        with get_client(sync_client=True) as client:
            client.release_concurrency_slots_with_lease(UUID(str(lease)))


def _note_held_slot() -> None:
    """Note the slot on the run, where the process that resumes it reads it."""
    run, held = FlowRunContext.get(), ConcurrencyContext.get()
    if run and run.flow_run and held and held.cleanup_lease_ids:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(run.flow_run.id, {HELD: str(held.cleanup_lease_ids[-1])})


def _taken(name: str) -> tuple[int, int] | None:
    """(slots taken, slots there are) of a limit; None where the server has none of that name, or it is switched off."""
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            return None
    return (limit.active_slots or 0, limit.limit) if limit.active else None
