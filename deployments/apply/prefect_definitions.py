"""Convert Prefect's wanted and deployed objects into the same plain definitions.

Both sides pass through Prefect's models, so a default that Prefect fills in is not a difference. Ids differ between
servers; definitions therefore refer to deployments and blocks by name.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from uuid import UUID, uuid5

from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse, GlobalConcurrencyLimitResponse
from prefect.events import DeploymentEventTrigger
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import MissingFlowError
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from deployments.apply.definitions import Definitions
from deployments.apply.plan import Definition
from deployments.apply.pools import located_pool
from tasks.policy.records.base import digest
from tasks.policy.records.errors import DeploymentError

BLOCK = "block_document_id"
NAMESPACE = UUID("7f1f0f1e-6d1c-4f0e-9f57-9c4b1f0c3a11")  # for placeholder ids; only a server assigns real ones


def _placeholder(name: str) -> str:
    """Return the placeholder id of a definition that no server has assigned an id yet."""
    return str(uuid5(NAMESPACE, name))


def wanted_definitions(definitions: Definitions) -> tuple[Definition, ...]:
    """Return what to deploy, given definitions whose notifications are routed to blocks."""
    wanted = [_wanted_pool(pool) for pool in definitions.pools]
    wanted += [_limit(item) for item in definitions.limits]
    wanted += [Definition("variable", name, _plain(value)) for name, value in definitions.variables.items()]
    for item in definitions.deployments:
        wanted.append(_wanted_deployment(item))
        wanted += [_schedule(item["name"], schedule["slug"], schedule) for schedule in item["schedules"]]
        wanted += [_trigger(item["name"], trigger) for trigger in item.get("triggers", [])]
    blocks = {str(action[BLOCK]) for each in definitions.automations for action in each["actions"] if BLOCK in action}
    names = {_placeholder(block): block for block in blocks}
    for automation in wanted_automations(definitions, {block: identity for identity, block in names.items()}):
        wanted.append(describe_automation("automation", automation, names))
    return tuple(wanted)


def _wanted_pool(name: str) -> Definition:
    pool = located_pool(name)
    return describe_pool(name, pool.type, pool.template)


def describe_pool(name: str, kind: str, template: Mapping[str, Any]) -> Definition:
    """Describe a pool by the defaults of its template's variables and a digest of the template."""
    defaults = {
        variable: spec["default"]
        for variable, spec in template.get("variables", {}).get("properties", {}).items()
        if spec.get("default") is not None
    }
    template_digest = digest(json.dumps(template, sort_keys=True))
    return Definition("work pool", name, _plain({"type": kind, "defaults": defaults, "template": template_digest}))


def _limit(item: Mapping[str, Any]) -> Definition:
    return Definition("limit", item["name"], _plain({"limit": item["limit"], "active": item["active"]}))


def describe_limit(limit: GlobalConcurrencyLimitResponse) -> Definition:
    """Describe a global concurrency limit of the server."""
    fields = {"limit": limit.limit, "active": limit.active}
    return Definition("limit", limit.name, _plain(fields), str(limit.id))


def wanted_automations(definitions: Definitions, blocks: Mapping[str, str]) -> Iterator[AutomationCore]:
    """Yield the automations that belong to no deployment; `blocks` gives the ids of notification blocks by name."""
    for item in definitions.automations:
        actions = [
            {**action, BLOCK: blocks[action[BLOCK]]} if BLOCK in action else action for action in item["actions"]
        ]
        yield AutomationCore.model_validate({**item, "actions": actions})


def _wanted_deployment(item: dict[str, Any]) -> Definition:
    limit = item.get("concurrency_limit") or {}
    fields = {
        "entrypoint": item["entrypoint"],
        "description": item["description"],
        "tags": sorted(item.get("tags", [])),
        "parameters": item.get("parameters", {}),
        "paused": item.get("paused", False),
        "work_pool": item["work_pool"]["name"],
        "work_queue": item["work_pool"].get("work_queue_name", "default"),
        "job_variables": item["work_pool"].get("job_variables", {}),
        "concurrency": {name: limit.get(name) for name in ("limit", "collision_strategy", "grace_period_seconds")},
        "form": _form(_parameter_schema(item["name"], item["entrypoint"])),
    }
    return Definition("deployment", item["name"], _plain(fields))


def _parameter_schema(deployment: str, entrypoint: str) -> dict[str, Any]:
    try:
        flow = load_flow_from_entrypoint(entrypoint)
    except (MissingFlowError, ImportError) as error:
        raise DeploymentError(
            f"prefect.yaml: entrypoint of deployment {deployment} is {entrypoint}, "
            f"expected module.function of a flow: {error}"
        ) from error
    return dict(parameter_schema(flow).model_dump(mode="json"))


def _schedule(deployment: str, slug: str, fields: dict[str, Any], identity: str = "") -> Definition:
    compared = {name: fields.get(name) for name in ("cron", "interval", "rrule", "timezone")}
    compared |= {"active": fields.get("active", True), "parameters": fields.get("parameters", {})}
    return Definition("schedule", f"{deployment} {slug}", _plain(compared), identity)


def _trigger(deployment: str, spec: dict[str, Any]) -> Definition:
    trigger = DeploymentEventTrigger.model_validate(spec)
    trigger.set_deployment_id(UUID(_placeholder(deployment)))
    return describe_automation("trigger", trigger.as_automation(), {_placeholder(deployment): deployment})


def describe_automation(
    kind: Literal["trigger", "automation"], automation: AutomationCore, names: Mapping[str, str], identity: str = ""
) -> Definition:
    """Describe an automation or trigger; `names` maps ids of deployments and blocks to names."""
    fields = automation.model_dump(mode="json", exclude={"id", "name", "owner_resource", "tags"})
    for action in fields["actions"]:
        for field in ("deployment_id", BLOCK):
            if field in action:
                action[field] = names.get(action[field], action[field])
    for listed in ("expect", "after", "for_each"):
        fields["trigger"][listed] = sorted(fields["trigger"][listed])
    return Definition(kind, automation.name, _plain(fields), identity)


def _form(schema: dict[str, Any] | None) -> dict[str, Any]:
    """Return the part of a parameter schema that the form shows; servers store it with or without its empty parts."""
    return {name: (schema or {}).get(name) or {} for name in ("properties", "definitions")} | {
        "required": (schema or {}).get("required") or []
    }


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(fields, sort_keys=True, default=str)))


def describe_deployment(deployment: DeploymentResponse) -> Definition:
    """Describe a deployment of the server."""
    limit, options = deployment.global_concurrency_limit, deployment.concurrency_options
    fields = {
        "entrypoint": deployment.entrypoint,
        "description": deployment.description,
        "tags": sorted(deployment.tags),
        "parameters": deployment.parameters,
        "paused": deployment.paused,
        "work_pool": deployment.work_pool_name,
        "work_queue": deployment.work_queue_name,
        "job_variables": deployment.job_variables,
        "concurrency": {
            "limit": limit.limit if limit else None,
            "collision_strategy": options.collision_strategy if options else None,
            "grace_period_seconds": options.grace_period_seconds if options else None,
        },
        "form": _form(deployment.parameter_openapi_schema),
    }
    return Definition("deployment", deployment.name, _plain(fields), str(deployment.id))


def describe_schedule(deployment: str, schedule: DeploymentSchedule) -> Definition:
    """Describe a schedule of the server; a schedule without a slug was created by hand."""
    timing = schedule.schedule
    fields = {name: getattr(timing, name, None) for name in ("cron", "interval", "rrule", "timezone")}
    if fields["interval"] is not None:
        fields["interval"] = fields["interval"].total_seconds()
    fields |= {"active": schedule.active, "parameters": schedule.parameters}
    identity = f"{schedule.deployment_id}/{schedule.id}"
    return _schedule(deployment, schedule.slug or f"({schedule.id})", fields, identity)
