"""Run a model's training command on a work pool of the user's own.

Only `retrain` starts this, for a model with `training.work_pool`, and waits for it. It hands over addresses of the rows and of
the place for the model. The command is read from the model's file here; no ledger, lake or registry is used.
"""

from typing import Any

from prefect import flow

from deployments.config.loading import load_model_config
from flows.parameters import DecisionId, Model, run_name
from tasks.training.command import run_command


@flow(name="train", flow_run_name=run_name("train"))
def train(
    model: Model,
    command: list[str],
    snapshot: dict[str, Any],
    decision_id: DecisionId,  # noqa: ARG001 (names the run)
    output: str,
) -> None:
    """Run the training command on the rows of a snapshot, and leave its model in the output place.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file; the same file as where the retrain runs.
        command: The command that the retrain asks for. A file here that has another one is refused.
        snapshot: Address, version, window and content hash of the Delta table; `rows`, the address of the labelled rows.
        decision_id: The decision that requested this.
        output: Address of the place for the model.
    """
    folder = str(snapshot["rows"]).rpartition("/")[0]
    run_command(load_model_config(model), tuple(command), folder, output)
