"""Reads what a Prefect server has deployed, and has Prefect deploy: its types stay in this file.

Both sides of a plan go through Prefect's own models, so that a default which Prefect fills in is no difference. Ids
differ from server to server; in a definition a deployment or a block stands with its name.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.events import DeploymentEventTrigger
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import MissingFlowError, ObjectNotFound
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import get_current_settings
from prefect.utilities.callables import parameter_schema

from deployments.definitions import ALERTS, OURS, Definitions, DeploymentError
from deployments.plan import Definition

TAG = "perennial"
NAMESPACE = UUID("7f1f0f1e-6d1c-4f0e-9f57-9c4b1f0c3a11")  # stands in for ids that only a server gives
PAGE = 200


def placeholder(name: str) -> UUID:
    """The id that a definition carries until a server has given one."""
    return uuid5(NAMESPACE, name)


def wanted_definitions(definitions: Definitions, alerts: bool) -> tuple[Definition, ...]:
    """What shall be deployed; automations that tell people only where there is a block to tell them through."""
    wanted = [Definition("work pool", pool, {"type": "process"}) for pool in definitions.pools]
    for item in definitions.deployments:
        wanted.append(_wanted_deployment(item))
        wanted += [_schedule(item["name"], schedule["slug"], schedule) for schedule in item["schedules"]]
        wanted += [_trigger(item["name"], trigger) for trigger in item.get("triggers", [])]
    names = {str(placeholder(ALERTS)): ALERTS}
    for automation in wanted_automations(definitions, str(placeholder(ALERTS)) if alerts else None):
        wanted.append(_automation("automation", automation, names))
    return tuple(wanted)


def wanted_automations(definitions: Definitions, alerts: str | None) -> Iterator[AutomationCore]:
    """The automations that no deployment owns; `alerts` is the id of the notification block, where there is one."""
    for item in definitions.automations:
        actions = [{**action, "block_document_id": alerts} if _tells(action) else action for action in item["actions"]]
        if alerts or not any(map(_tells, item["actions"])):
            yield AutomationCore.model_validate({**item, "actions": actions})


def _tells(action: dict[str, Any]) -> bool:
    return action["type"] == "send-notification"


def _wanted_deployment(item: dict[str, Any]) -> Definition:
    limit = item.get("concurrency_limit") or {}
    fields = {
        "entrypoint": item["entrypoint"],
        "description": item["description"],
        "tags": sorted(item.get("tags", [])),
        "parameters": item.get("parameters", {}),
        "paused": item.get("paused", False),
        "work_pool": item["work_pool"]["name"],
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
            f"prefect.yaml: entrypoint of deployment {deployment} is {entrypoint}, expected module.function of a flow: {error}"
        ) from error
    return dict(parameter_schema(flow).model_dump(mode="json"))


def _schedule(deployment: str, slug: str, fields: dict[str, Any], identity: str = "") -> Definition:
    kept = {name: fields.get(name) for name in ("cron", "interval", "rrule", "timezone")}
    kept |= {"active": fields.get("active", True), "parameters": fields.get("parameters", {})}
    return Definition("schedule", f"{deployment} {slug}", _plain(kept), identity)


def _trigger(deployment: str, spec: dict[str, Any]) -> Definition:
    trigger = DeploymentEventTrigger.model_validate(spec)
    trigger.set_deployment_id(placeholder(deployment))
    return _automation("trigger", trigger.as_automation(), {str(placeholder(deployment)): deployment})


def _automation(kind: Any, automation: AutomationCore, names: dict[str, str], identity: str = "") -> Definition:
    fields = automation.model_dump(mode="json", exclude={"id", "name", "owner_resource", "tags"})
    for action in fields["actions"]:
        for field in ("deployment_id", "block_document_id"):
            if field in action:
                action[field] = names.get(action[field], action[field])
    for listed in ("expect", "after", "for_each"):
        fields["trigger"][listed] = sorted(fields["trigger"][listed])
    return Definition(kind, automation.name, _plain(fields), identity)


def _form(schema: dict[str, Any] | None) -> dict[str, Any]:
    """The part of a parameter schema that people meet; it is stored with and without its unset parts."""
    return {name: (schema or {}).get(name) or {} for name in ("properties", "definitions")} | {
        "required": (schema or {}).get("required") or []
    }


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(fields, sort_keys=True, default=str)))


class PrefectState:
    """What one Prefect server has deployed of ours. Use as a context manager; raises DeploymentError."""

    def __init__(self) -> None:
        self.url = get_current_settings().api.url
        if not self.url:
            raise DeploymentError(
                "PREFECT_API_URL is not set, expected the address of a Prefect server; `make serve` starts one and deploys to it"
            )
        self._client: SyncPrefectClient = get_client(sync_client=True)

    def __enter__(self) -> "PrefectState":
        self._client.__enter__()
        failure = self._client.api_healthcheck()
        if failure is not None:
            raise DeploymentError(
                f"{self.url}: no Prefect server answers ({failure}); start it, or mend PREFECT_API_URL"
            )
        return self

    def __exit__(self, *raised: Any) -> None:
        self._client.__exit__(*raised)

    def found_definitions(self, pools: tuple[str, ...]) -> tuple[Definition, ...]:
        """Everything of ours on the server."""
        deployments = self._deployments()
        owners = {str(deployment.id): deployment.name for deployment in deployments}
        names = owners | {self.alerts() or "": ALERTS}
        found = [self._pool(pool) for pool in pools]
        for deployment in deployments:
            found.append(_found_deployment(deployment))
            found += [_found_schedule(deployment.name, schedule) for schedule in deployment.schedules]
        for automation in self._automations():
            if automation.name.startswith(OURS):
                runs = any(str(getattr(action, "deployment_id", None)) in owners for action in automation.actions)
                found.append(_automation("trigger" if runs else "automation", automation, names, str(automation.id)))
        return tuple(definition for definition in found if definition)

    def alerts(self) -> str | None:
        """Id of the block that tells people, where someone has made one."""
        body = {"block_schemas": {"block_capabilities": {"all_": ["notify"]}}, "include_secrets": False}
        blocks = self._client.request("POST", "/block_documents/filter", json=body).json()
        return next((str(block["id"]) for block in blocks if block["name"] == ALERTS), None)

    def remove(self, definition: Definition) -> None:
        """Take one definition from the server."""
        if definition.kind == "schedule":
            deployment, schedule = definition.identity.split("/")
            self._client.delete_deployment_schedule(UUID(deployment), UUID(schedule))
        elif definition.kind == "deployment":
            self._client.delete_resource_owned_automations(f"prefect.deployment.{definition.identity}")
            self._client.delete_deployment(UUID(definition.identity))
        else:
            self._client.delete_automation(UUID(definition.identity))

    def save_automation(self, automation: AutomationCore, identity: str) -> None:
        """Create the automation, or replace the one with this id."""
        if identity:
            self._client.update_automation(UUID(identity), automation)
        else:
            self._client.create_automation(automation)

    def _pool(self, name: str) -> Definition | None:
        try:
            return Definition("work pool", name, {"type": self._client.read_work_pool(name).type})
        except ObjectNotFound:
            return None

    def _deployments(self) -> list[DeploymentResponse]:
        tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
        return list(self._client.read_deployments(deployment_filter=tagged, limit=PAGE))

    def _automations(self) -> Iterator[Automation]:
        for offset in range(0, sys.maxsize, PAGE):
            page = self._client.read_automations(limit=PAGE, offset=offset)
            yield from page
            if len(page) < PAGE:
                return


def _found_deployment(deployment: DeploymentResponse) -> Definition:
    limit, options = deployment.global_concurrency_limit, deployment.concurrency_options
    fields = {
        "entrypoint": deployment.entrypoint,
        "description": deployment.description,
        "tags": sorted(deployment.tags),
        "parameters": deployment.parameters,
        "paused": deployment.paused,
        "work_pool": deployment.work_pool_name,
        "job_variables": deployment.job_variables,
        "concurrency": {
            "limit": limit.limit if limit else None,
            "collision_strategy": options.collision_strategy if options else None,
            "grace_period_seconds": options.grace_period_seconds if options else None,
        },
        "form": _form(deployment.parameter_openapi_schema),
    }
    return Definition("deployment", deployment.name, _plain(fields), str(deployment.id))


def _found_schedule(deployment: str, schedule: Any) -> Definition:
    timing: CronSchedule | IntervalSchedule | RRuleSchedule = schedule.schedule
    fields = {name: getattr(timing, name, None) for name in ("cron", "interval", "rrule", "timezone")}
    if fields["interval"] is not None:
        fields["interval"] = fields["interval"].total_seconds()
    fields |= {"active": schedule.active, "parameters": schedule.parameters}
    identity = f"{schedule.deployment_id}/{schedule.id}"
    return _schedule(deployment, schedule.slug or f"({schedule.id})", fields, identity)


def have_prefect(*arguments: str) -> None:
    """Run one of Prefect's own commands against this server. Raises DeploymentError with what it said."""
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeploymentError(f"prefect {' '.join(arguments)} failed:\n{(done.stdout + done.stderr).strip()}")


def deploy(file: Path) -> None:
    """Have Prefect deploy everything in a prefect.yaml."""
    have_prefect("deploy", "--all", "--prefect-file", str(file))


def make_pool(name: str) -> None:
    """Have Prefect make a process work pool."""
    have_prefect("work-pool", "create", name, "--type", "process")


CONNECTION_ERRORS = (httpx.TransportError, httpx.HTTPStatusError)
