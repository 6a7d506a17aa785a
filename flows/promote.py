"""Put a validated challenger in the champion's place, and prove that it is the one that answers.

The verdict comes from the ledger, never from the caller: a promotion of what did not pass is refused, whoever asks.
Where the model's file says `promotion.mode: approval`, a named person has to have said yes.
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from deployments.model_config import load_model_config
from flows.parameters import Actor, DecisionId, Model, Moment, present, run_from_command_line, run_name
from tasks.history import find_version, recall_validation
from tasks.policy.errors import NothingToPromote
from tasks.policy.evidence import Promotion
from tasks.promotion import PromotionRefused, promote_challenger
from tasks.publication import publish_promotion


@flow(name="promote", flow_run_name=run_name("promote"))
def promote(
    model: Model,
    decision_id: DecisionId | None = None,
    until: Moment | None = None,
    approved_by: Actor | None = None,
    comment: Annotated[str, Field(max_length=2000)] = "",
) -> Promotion:
    """Make the validated challenger the champion; the one it replaces becomes `previous`.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file anywhere.
        decision_id: The decision whose challenger to promote; the latest validated one when left empty.
        until: When this takes effect (UTC). Now, when left empty.
        approved_by: The person who approves; needed where the model's file asks for approval.
        comment: The approver's words; go to the ledger.
    """
    config = load_model_config(model)
    as_of = present(config, until)
    validation = recall_validation(config, decision_id)
    if validation is None:
        raise NothingToPromote(
            f"{config.name}: the ledger holds no verdict on a challenger of {decision_id or 'any decision'}; expected one "
            f"that passed; run: python -m flows.retrain --model {model}"
        )
    if config.promotion.mode == "approval" and approved_by is None:
        raise PromotionRefused(
            f"{config.name}: promotion.mode is approval and nobody approved version {validation.challenger}; "
            f"run: python -m flows.promote --model {model} --approved-by NAME"
        )
    challenger = find_version(config, validation.challenger)
    promotion = promote_challenger(config, challenger, validation, challenger.decision_id)
    publish_promotion(config, promotion, as_of, approved_by or "perennial", comment)
    return promotion


if __name__ == "__main__":
    run_from_command_line(promote)
