"""Adopt a model that was trained elsewhere as the first version of a model, and its champion.

Nothing is trained. The model is checked on rows of this model's source, stored unchanged with a reference profile that is frozen
from them, and compared with a constant prediction on the latest labelled rows. A comparison that it does not pass is a warning;
a model that cannot serve is refused.
"""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.parameters import (
    Actor,
    DecisionId,
    Model,
    Moment,
    manual_decision_id,
    resolve_as_of,
    run_name,
    wall_clock,
)
from tasks.adapters.orchestration import run_identity
from tasks.data.snapshot import land_labels, take_snapshot
from tasks.data.split import span_of, split_labelled_rows
from tasks.policy.evidence.versions import Promotion
from tasks.policy.governance.requests import RunRequest
from tasks.policy.records.text import OneLine
from tasks.policy.rollout.validation import as_adopted
from tasks.record.publication import publish_adoption, publish_promotion
from tasks.rollout.access import admit, check_adopter, check_decision, check_trigger
from tasks.rollout.lease import with_lease
from tasks.rollout.promotion import check_adoptable, promote_adopted
from tasks.training.train import adopt_model
from tasks.training.validation import validate_challenger


@flow(name="adopt", flow_run_name=run_name("adopt"))
@with_lease()
def adopt(
    model: Model,
    source: Annotated[OneLine, Field(min_length=1, max_length=2000)],
    profile_start: Moment | None = None,
    profile_end: Moment | None = None,
    until: Moment | None = None,
    decision_id: DecisionId | None = None,
    requested_by: Actor = "unnamed",
) -> Promotion:
    """Make a model that exists the first version and the champion.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file anywhere.
        source: Where the model is: a file, an MLflow folder, models:/name@alias, runs:/id/path, s3:// or gs://.
        profile_start: Start (UTC) of the rows that the reference profile is frozen from. Start of the history, when empty.
        profile_end: End (UTC) of these rows. The end of the rows that a first model would be trained on, when empty.
        until: Adopt as of this time (UTC); nothing that became known later is read. Now, when left empty.
        decision_id: A second run with the same one changes nothing. Derived when left empty.
        requested_by: Who adopts it; recorded in the ledger. Where a promotion needs approval, someone who may approve.
    """
    config = admit(model)
    as_of, principal = resolve_as_of(config, until), run_identity.creator(requested_by)
    decision_id = decision_id or manual_decision_id(config, until, f"adopt {source}")
    request = RunRequest("adopt", model, principal, requested_by, as_of, wall_clock(), f"adopted from {source}")
    check_trigger(config, request)
    check_decision(config, request, decision_id)
    check_adopter(config, request)
    check_adoptable(config, decision_id)
    take_snapshot(config, config.history())
    land_labels(config, as_of)
    training, holdout = split_labelled_rows(config, as_of)
    training = span_of(config, training, profile_start, profile_end)
    version = adopt_model(config, source, training, decision_id)
    validation = as_adopted(validate_challenger(config, version, None, holdout), version)
    publish_adoption(config, request, version, validation)
    promotion = promote_adopted(config, version, validation)
    publish_promotion(config, promotion, as_of, request.actor, "")
    return promotion
