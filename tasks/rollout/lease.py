"""Allow one run at a time to change a model, whatever started it, and fence out a process that stopped responding.

Prefect's concurrency limits cover the runs of its workers. They do not cover a command line, another server on the same
registry, or a process that resumes after it was declared dead. The lease does: see `tasks.adapters.storage.lease`.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import Abort

from deployments.config.loading import load_model_config
from tasks.adapters import orchestration, storage
from tasks.policy.records.errors import FencedOut, LeaseHeld

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")
Body = Callable[Parameters, Answer]
PATIENCE_S = 60.0  # promotions take seconds; a run that would wait longer is requeued and frees its worker
REQUEUE_DELAY_S = 60


def with_lease(*outranks: str) -> Callable[[Body[Parameters, Answer]], Body[Parameters, Answer]]:
    """Run a flow's body while it holds the lease of its `model`.

    A holder whose flow is named in `outranks` is fenced out at once instead of waited for. A dry run takes no lease.
    """
    return lambda body: _under_lease(body, outranks)


def _under_lease(body: Body[Parameters, Answer], outranks: tuple[str, ...]) -> Body[Parameters, Answer]:
    @wraps(body)
    def leased(*arguments: Parameters.args, **named: Parameters.kwargs) -> Answer:
        given = inspect.signature(body).bind(*arguments, **named).arguments
        if given.get("dry_run"):
            return body(*arguments, **named)  # a dry run only reads; it must neither wait for nor fence out a writer
        model = given["model"]
        try:
            with storage.lease.hold(load_model_config(model).name, body.__name__, outranks, patience_s=PATIENCE_S):
                return body(*arguments, **named)
        except LeaseHeld as held:
            orchestration.requeue.requeue_current_run(str(held), REQUEUE_DELAY_S)
            raise
        except FencedOut as fenced:
            if _was_taken_over():  # the process that took over reports this run's states
                raise Abort(str(fenced)) from fenced
            raise

    return leased


def _was_taken_over() -> bool:
    """Return whether another process has taken over this run: its state is no longer the one this process set."""
    run = FlowRunContext.get()
    if run is None or run.flow_run is None or run.flow_run.state is None:
        return False
    with get_client(sync_client=True) as client:
        now = client.read_flow_run(run.flow_run.id).state
    return now is not None and now.id != run.flow_run.state.id
