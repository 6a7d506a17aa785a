"""Limit how many trainings run in memory at once in one place: every retrain takes one slot, whatever started it.

The slots are Prefect's global concurrency limit `perennial-training-PLACE`. `training-slots` in prefect.yaml sets
their number, and `perennial apply` creates the limit. A deployment's own limit holds its runs back before they start
a process, but does not count runs started by hand. If the server has no such limit, as on a laptop, no run waits.
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
PATIENCE_S = 60.0  # a deployed run that would wait longer goes back into the queue and frees its worker
REQUEUE_DELAY_S = 60.0
HELD = "perennial.training-slot"  # run label that holds the lease of the run's slot
LEASE_S = 60.0  # Prefect's minimum; the slot of a killed process is released after this time


def with_training_slot(body: Callable[Parameters, Answer]) -> Callable[Parameters, Answer]:
    """Run a flow's body while it holds a training slot. A dry run and a replay, which is one process, take none."""

    @wraps(body)
    def in_slot(*arguments: Parameters.args, **named: Parameters.kwargs) -> Answer:
        given = inspect.signature(body).bind(*arguments, **named).arguments
        if orchestration.runs.run_mode(bool(given.get("dry_run"))) != RunMode.LIVE:
            return body(*arguments, **named)
        with _slot(training_limit(os.environ.get(PLACE_SETTING, DEDICATED))):
            return body(*arguments, **named)

    return in_slot


@contextmanager
def _slot(name: str) -> Iterator[None]:
    """Hold one slot of this limit if the server has it. A deployed run that gets none in time is requeued."""
    _release_slot_of_earlier_process()
    usage = _slot_usage(name)
    if usage is None:
        yield
        return
    if usage[0] >= usage[1]:
        get_run_logger().info("training: all %d slots of %s are taken; waiting for one", usage[1], name)
    patience_s = PATIENCE_S if orchestration.requeue.is_deployed() else None  # started by hand: wait without limit
    with ExitStack() as slot:
        try:
            slot.enter_context(concurrency(name, timeout_seconds=patience_s, lease_duration=LEASE_S))
        except TimeoutError:
            orchestration.requeue.requeue_current_run(f"all {usage[1]} slots of {name} are taken", REQUEUE_DELAY_S)
            raise
        _record_slot()
        yield


def _release_slot_of_earlier_process() -> None:
    """Release the slot of this run's killed process; otherwise the run would wait up to LEASE_S for its own slot."""
    run = FlowRunContext.get()
    lease = run.flow_run.labels.get(HELD) if run and run.flow_run else None
    if lease:
        with get_client(sync_client=True) as client:
            client.release_concurrency_slots_with_lease(UUID(str(lease)))


def _record_slot() -> None:
    """Store the slot's lease as a label of the run, where a process that resumes the run finds it."""
    run, held = FlowRunContext.get(), ConcurrencyContext.get()
    if run and run.flow_run and held and held.cleanup_lease_ids:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(run.flow_run.id, {HELD: str(held.cleanup_lease_ids[-1])})


def _slot_usage(name: str) -> tuple[int, int] | None:
    """Return (taken, total) slots of a limit; None if the server has no limit of that name, or it is inactive."""
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            return None
    return (limit.active_slots or 0, limit.limit) if limit.active else None
