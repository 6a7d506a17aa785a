"""Go back: restore the previous champion, prove that it answers, and quarantine the bad version."""

from prefect import flow

from deployments.model_config import load_model_config
from flows.parameters import Actor, Model, Moment, Reason, manual_decision_id, present, run_from_command_line
from tasks.lease import one_at_a_time
from tasks.policy.evidence import Promotion
from tasks.promotion import restore_previous
from tasks.publication import publish_promotion


@flow(name="rollback", flow_run_name="rollback {model}")
@one_at_a_time("retrain")  # a bad champion is not left serving while a successor is trained
def rollback(model: Model, reason: Reason, requested_by: Actor = "unnamed", until: Moment | None = None) -> Promotion:
    """Restore the previous champion and quarantine the present one.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file anywhere.
        reason: What is wrong with the present champion, in a sentence; goes to the ledger.
        requested_by: Who asks for this; goes to the ledger.
        until: When this takes effect (UTC). Now, when left empty.
    """
    config = load_model_config(model)
    as_of = present(config, until)
    promotion = restore_previous(config, manual_decision_id(config, as_of, reason), reason, requested_by)
    publish_promotion(config, promotion, as_of, requested_by, reason)
    return promotion


if __name__ == "__main__":
    run_from_command_line(rollback)
