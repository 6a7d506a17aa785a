"""Who may start this run, by the roles in the model's file; a refusal is a fact in the ledger and an event, then an error.

The creator is what the server recorded of the run (`tasks.adapters.flow_creator`); `tasks.policy.access` judges. A run
that an event started may name models by name only: whoever can emit an event must not bring a file of their own.
"""

from datetime import datetime

from prefect.logging import get_run_logger

from deployments.model_config import ModelConfig, load_model_config
from tasks.policy.access import Override, Principal, why_not_override, why_not_trigger
from tasks.policy.errors import AccessRefused
from tasks.policy.handover import Handover
from tasks.policy.records import digest


def admit(model: str) -> ModelConfig:
    """The model's configuration. Raises AccessRefused where an automation names a file instead of a model."""
    from tasks.adapters import flow_creator

    if flow_creator.creator().kind == "automation" and not model.replace("_", "").isalnum():
        raise AccessRefused(
            f"{model[:80]!r}: an event may name a model that is deployed, expected a name without a path"
        )
    return load_model_config(model)


def check_trigger(config: ModelConfig, action: str, requested_by: str, as_of: datetime) -> Principal:
    """Who started this run. Raises AccessRefused, told and recorded, where they may not."""
    from tasks.adapters import flow_creator

    principal = flow_creator.creator(requested_by)
    refusal = why_not_trigger(config.access, principal, requested_by)
    if refusal:
        _refuse(config, action, refusal, as_of, principal)
    return principal


def check_override(
    config: ModelConfig, action: str, override: Override, principal: Principal, as_of: datetime, now: datetime
) -> Override:
    """The override, recorded with its reason and its end. Raises AccessRefused where it does not count."""
    from tasks.adapters import ledger

    refusal = why_not_override(config.access, override, principal, now)
    if refusal:
        _refuse(config, action, refusal, as_of, principal)
    said = f"{override.by} overrides {action} until {override.until:%Y-%m-%d %H:%M} UTC: {override.reason}"
    ledger.append(config.name, "override.used", said, as_of, digest(config.name, action, said), override.by)
    get_run_logger().warning("override: %s", said)
    return override


def _refuse(config: ModelConfig, action: str, refusal: str, as_of: datetime, principal: Principal) -> None:
    from tasks.adapters import announcements, ledger

    reason = f"{action} was refused: {refusal}"
    decision_id = digest(config.name, action, refusal, as_of.isoformat())
    ledger.append(config.name, "access.refused", reason, as_of, decision_id, principal.name)
    announcements.announce(
        "access.refused", config.name, Handover(config.name, decision_id, (reason,), as_of).payload()
    )
    raise AccessRefused(f"{config.name}: {reason}")
