"""Decide which automation notifies which block: one automation per alert and block, whatever the number of models.

Prefect's automations select events by the resource's id and cannot exclude one, as a list matches if any entry does. As
long as every model's alerts go to the same blocks, an automation therefore matches all models; otherwise it lists its
models by name. A failed run is known only by its name, `FLOW MODEL …`, and has none before it begins. The shared blocks
are therefore notified of every failed run, and a model's own blocks of its runs in addition.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from deployments.config.blocks.alerts import SEVERITIES, SHARED_BLOCK, Audience, Severity
from tasks.policy.records.errors import DeploymentError

MODEL, RUN, ID, NAME = "perennial.model.", "prefect.flow-run.", "prefect.resource.id", "prefect.resource.name"
Automation = dict[str, Any]


def notifies(automation: Automation) -> bool:
    """Whether an automation sends a notification."""
    return any(action["type"] == "send-notification" for action in automation["actions"])


def route(automations: Sequence[Automation], audience: Audience, flows: Sequence[str]) -> tuple[Automation, ...]:
    """Replace each notification by those of the audience's blocks, which `block_document_id` then names.

    Args:
        automations: Automations with at most one notification each, whose action has a `severity`.
        audience: The blocks by model and severity.
        flows: Names of the flows, for failed runs.

    Raises:
        DeploymentError: A notification has no severity, or an unknown one.
    """
    routed: list[Automation] = []
    for automation in automations:
        routed += _routed(automation, audience, flows) if notifies(automation) else (automation,)
    return tuple(routed)


def _routed(automation: Automation, audience: Audience, flows: Sequence[str]) -> Iterator[Automation]:
    severity, matched = _severity(automation), str(automation["trigger"]["match"][ID])
    if matched.startswith(MODEL) and not matched.endswith("*"):
        blocks = audience.of(matched.removeprefix(MODEL), severity)
        if blocks:
            yield {**automation, "actions": [_to(block, automation) for block in blocks]}
        return
    for block in _blocks(audience, severity):
        match = _match(matched, block, audience, severity, flows)
        if match is not None:
            name = automation["name"] if block == SHARED_BLOCK else f"{automation['name']} ({block})"
            trigger = {**automation["trigger"], "match": {**automation["trigger"]["match"], **match}}
            yield {**automation, "name": name, "trigger": trigger, "actions": [_to(block, automation)]}


def _blocks(audience: Audience, severity: Severity) -> tuple[str, ...]:
    own = sorted({block for model in audience.models for block in audience.of(model, severity)})
    return tuple(dict.fromkeys((*audience.of(None, severity), *own)))


def _match(
    matched: str, block: str, audience: Audience, severity: Severity, flows: Sequence[str]
) -> dict[str, Any] | None:
    """Return what the automation of a block matches besides the template; None if no event is for it."""
    shared = block in audience.of(None, severity)
    models = sorted(model for model in audience.models if block in audience.of(model, severity))
    if matched.startswith(MODEL):
        if shared and audience.is_shared(severity):
            return {}
        return {ID: [f"{MODEL}{model}" for model in models]} if models else None
    if shared:
        return {}
    if matched.startswith(RUN):
        names = [f"{flow} {model}" for flow in sorted(flows) for model in models]
        return {NAME: [pattern for name in names for pattern in (name, f"{name} *")]}
    return None  # a failed automation, for example, belongs to no model


def _severity(automation: Automation) -> Severity:
    found = next(action.get("severity") for action in automation["actions"] if action["type"] == "send-notification")
    if found not in SEVERITIES:
        raise DeploymentError(
            f"prefect.yaml: the notification of {automation['name']!r} has severity {found!r}, expected one of "
            f"{', '.join(SEVERITIES)}"
        )
    severity: Severity = found
    return severity


def _to(block: str, automation: Automation) -> dict[str, Any]:
    action = next(action for action in automation["actions"] if action["type"] == "send-notification")
    return {key: value for key, value in action.items() if key != "severity"} | {"block_document_id": block}
