"""A promotion that waits for approval: shared by the tests of approval."""

from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow

from flows.promote import promote
from tasks.adapters import ledger
from tasks.policy.governance.access import Approval
from tasks.policy.records.base import from_json, utc
from tests.support.small_model import write_model

FIRST = utc("2024-01-21")
HIGH = {"risk: low": "risk: high\naccess: {approve: [Ada, Grace]}"}


def write_risky_model(folder: Path) -> str:
    """Write a high-risk model, which Ada and Grace may approve."""
    return write_model(folder, **HIGH)


class Waiting:
    """A run of the deployment `promote`; `run` executes it in this process as a worker would."""

    def __init__(self, model: str, **parameters: Any) -> None:
        with get_client(sync_client=True) as client:
            deployment = client.create_deployment(
                client.create_flow(promote), name="promote", entrypoint="flows.promote.promote"
            )
            self.id = client.create_flow_run_from_deployment(
                deployment, parameters={"model": model, "until": FIRST.isoformat(), **parameters}
            ).id

    def run(self) -> Any:
        run = self.seen()
        if run.state.is_paused():
            raise AssertionError("the run still waits")
        try:
            return run_flow(promote, flow_run=run, parameters=run.parameters, return_type="state")
        except Pause as suspended:
            return suspended.state

    def seen(self) -> Any:
        """Return the run from the server."""
        with get_client(sync_client=True) as client:
            return client.read_flow_run(self.id)

    def answer(self, **form: str) -> Any:
        with get_client(sync_client=True) as client:
            return client.resume_flow_run(self.id, run_input=form)

    def asked(self) -> str:
        with get_client(sync_client=True) as client:
            keyset = client.read_flow_run(self.id).state.state_details.run_input_keyset
            return str(client.read_flow_run_input(self.id, keyset["description"]))


def answers() -> list[tuple[str, Approval]]:
    """Return (actor, approval) of each answer in the ledger."""
    entries = ledger.entries("small", kind="approval.answered")
    return [(entry.actor, from_json(Approval, entry.body)) for entry in entries]
