"""Identify who started the current run, as the server recorded it, and suspend a run for a person's answer."""

from typing import Literal
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from tasks.policy.governance.access import Principal, principal_of


def creator(claimed: str | None = None) -> Principal:
    """Return who started the current run; `claimed` is the name entered in its form."""
    context = FlowRunContext.get()
    recorded = context.flow_run.created_by if context and context.flow_run else None
    if recorded is None:
        return principal_of(None, None, claimed)
    return principal_of(recorded.type, recorded.display_value, claimed)


class ApprovalForm(RunInput):
    """The form that the dashboard shows under Resume."""

    decision: Literal["approve", "reject"] = Field(description="What you decide.")
    name: str = Field(
        min_length=2, max_length=200, description="Your name, as in the model's file under access.approve."
    )
    comment: str = Field("", max_length=2000, description="Why; recorded in the ledger.")


def waiting_run() -> str | None:
    """Return the current run's id if it can be suspended for a person: a deployed run without a parent flow run."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return str(run.id) if run and run.deployment_id and not run.parent_task_run_id else None


def was_answered() -> bool:
    """Whether `ask` suspended the current run before; when it runs again, it has its answer."""
    context = FlowRunContext.get()
    asked = context.flow_run.empirical_policy.pause_keys if context and context.flow_run else None
    return _key(1) in (asked or ())


def _key(question: int) -> str:
    return f"approval-{question}"


def is_waiting(run_id: str | None) -> bool:
    """Whether that run still waits for its form, or is just resuming."""
    if run_id is None:
        return False
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(run_id)).state
        except ObjectNotFound:
            return False
    return state is not None and (state.is_paused() or state.name == "Resuming")


def ask(evidence: str, seconds: int, question: int) -> ApprovalForm:
    """Suspend the run until the form is submitted; the process ends here, and the run restarts from the top.

    `question` numbers the forms of one run: one already answered returns at once, a new one suspends.
    """
    form = ApprovalForm.with_initial_data(description=evidence)
    return suspend_flow_run(wait_for_input=form, timeout=max(1, seconds), key=_key(question))
