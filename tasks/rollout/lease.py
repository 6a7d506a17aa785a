"""Allow one run at a time to change a model, whatever started it, and fence out a process that stopped responding.

Prefect's concurrency limits cover the runs of its workers. They do not cover a command line, another server on the same
registry, or a process that resumes after it was given up. The lease does: see `tasks.adapters.storage.lease`.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import Abort

from deployments.config.model import load_model_config
from tasks.adapters import orchestration, storage
from tasks.policy.records.errors import FencedOut, LeaseHeld

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")
Body = Callable[Parameters, Answer]
PATIENCE_S = 60.0  # promotions take seconds; who would wait longer gives its worker's place back meanwhile
COME_BACK_S = 60


def with_lease(*outranks: str) -> Callable[[Body[Parameters, Answer]], Body[Parameters, Answer]]:
    """Run a flow's body under the lease of its `model`; a flow named in `outranks` is fenced out, not waited for.

    A dry run takes no lease.
    """
    return lambda body: _under_lease(body, outranks)


def _under_lease(body: Body[Parameters, Answer], outranks: tuple[str, ...]) -> Body[Parameters, Answer]:
    @wraps(body)
    def alone(*arguments: Parameters.args, **named: Parameters.kwargs) -> Answer:
        given = inspect.signature(body).bind(*arguments, **named).arguments
        if given.get("dry_run"):
            return body(*arguments, **named)  # it only reads, and must neither wait for a writer nor fence one out
        model = given["model"]
        try:
            with storage.lease.hold(load_model_config(model).name, body.__name__, outranks, patience_s=PATIENCE_S):
                return body(*arguments, **named)
        except LeaseHeld as held:
            orchestration.requeue.come_back_later(str(held), COME_BACK_S)
            raise
        except FencedOut as fenced:
            if _goes_on_elsewhere():  # the process that took over reports this run's states
                raise Abort(str(fenced)) from fenced
            raise

    return alone


def _goes_on_elsewhere() -> bool:
    """Whether this run was given to another process: its state is no longer the one that this process set."""
    run = FlowRunContext.get()
    if run is None or run.flow_run is None or run.flow_run.state is None:
        return False
    with get_client(sync_client=True) as client:
        now = client.read_flow_run(run.flow_run.id).state
    return now is not None and now.id != run.flow_run.state.id
