"""Go back: restore the previous champion, prove that it answers, and quarantine the bad version."""

from prefect import flow

from deployments.model_config import load_model_config
from flows.parameters import Actor, Model, Moment, Reason, manual_decision_id, present, run_from_command_line, run_name
from tasks.policy.evidence import Promotion
from tasks.promotion import preview_rollback, restore_previous
from tasks.publication import publish_promotion


@flow(name="rollback", flow_run_name=run_name("rollback"))
def rollback(
    model: Model,
    reason: Reason,
    requested_by: Actor = "unnamed",
    until: Moment | None = None,
    dry_run: bool = False,
) -> Promotion:
    """Restore the previous champion and quarantine the present one.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file anywhere.
        reason: What is wrong with the present champion, in a sentence; goes to the ledger.
        requested_by: Who asks for this; goes to the ledger.
        until: When this takes effect (UTC). Now, when left empty.
        dry_run: Only try whether the previous champion answers, and say what would be restored.
    """
    config = load_model_config(model)
    if dry_run:
        return preview_rollback(config)
    as_of = present(config, until)
    promotion = restore_previous(config, manual_decision_id(config, as_of, reason), reason, requested_by)
    publish_promotion(config, promotion, as_of, requested_by, reason)
    return promotion


if __name__ == "__main__":
    run_from_command_line(rollback)
