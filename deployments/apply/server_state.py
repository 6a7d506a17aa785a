"""Read, save and remove Perennial's definitions on a Prefect server, and run Prefect's deploy command."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    VariableCreate,
    VariableUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from deployments.alerts.blocks import NOTIFYING, named_blocks
from deployments.apply.definitions import OURS, VARIABLES
from deployments.apply.plan import Definition
from deployments.apply.pools import Pool
from deployments.apply.prefect_definitions import (
    describe_automation,
    describe_deployment,
    describe_limit,
    describe_pool,
    describe_schedule,
)
from tasks.policy.economics.placement import TRAINING_LIMITS
from tasks.policy.records.errors import DeploymentError

Found = TypeVar("Found")
TAG = "perennial"
PAGE = 200
"""Page size: the most items that one response of the server contains."""
ONLINE = WorkerStatus.ONLINE
CONNECTION_ERRORS = (httpx.TransportError, httpx.HTTPStatusError)


class PrefectState:
    """Perennial's definitions on one Prefect server. Use as a context manager.

    Raises DeploymentError if PREFECT_API_URL is not set or no server answers there.
    """

    def __init__(self) -> None:
        self.url = get_current_settings().api.url
        if not self.url:
            raise DeploymentError(
                "PREFECT_API_URL is not set, expected the address of a Prefect server; "
                "`make serve` starts one and deploys to it"
            )
        self._client: SyncPrefectClient = get_client(sync_client=True)

    def __enter__(self) -> "PrefectState":
        self._client.__enter__()
        failure = self._client.api_healthcheck()
        if failure is not None:
            raise DeploymentError(
                f"{self.url}: no Prefect server answers ({failure}); start it, or fix PREFECT_API_URL"
            )
        return self

    def __exit__(self, *raised: Any) -> None:
        self._client.__exit__(*raised)

    def found_definitions(self, pools: tuple[str, ...]) -> tuple[Definition, ...]:
        """Return all of Perennial's definitions on the server, and these pools."""
        deployments = self._deployments()
        owners = {str(deployment.id): deployment.name for deployment in deployments}
        names = owners | {identity: block for block, identity in self.blocks().items()}
        found = [self._pool(pool) for pool in pools]
        for deployment in deployments:
            found.append(describe_deployment(deployment))
            found += [describe_schedule(deployment.name, schedule) for schedule in deployment.schedules]
        found += [*self._limits(), *self._variables()]
        for automation in self._automations():
            if automation.name.startswith(OURS):
                runs = any(str(getattr(action, "deployment_id", None)) in owners for action in automation.actions)
                found.append(
                    describe_automation("trigger" if runs else "automation", automation, names, str(automation.id))
                )
        return tuple(definition for definition in found if definition)

    def blocks(self) -> dict[str, str]:
        """Return ids of notification blocks by type/name; that of the shared block also by its name alone."""
        return named_blocks(_paged(partial(self._listed, "/block_documents/filter", NOTIFYING)))

    def _listed(self, path: str, body: Mapping[str, Any], offset: int) -> list[dict[str, Any]]:
        return list(self._client.request("POST", path, json={**body, "limit": PAGE, "offset": offset}).json())

    def remove(self, definition: Definition) -> None:
        """Remove one definition from the server."""
        if definition.kind == "schedule":
            deployment, schedule = definition.identity.split("/")
            self._client.delete_deployment_schedule(UUID(deployment), UUID(schedule))
        elif definition.kind == "deployment":
            self._client.delete_resource_owned_automations(f"prefect.deployment.{definition.identity}")
            self._client.delete_deployment(UUID(definition.identity))
        elif definition.kind == "variable":
            self._client.delete_variable_by_name(definition.name)
        elif definition.kind == "limit":
            self._client.delete_global_concurrency_limit_by_name(definition.name)
        else:
            self._client.delete_automation(UUID(definition.identity))

    def has_pool(self, name: str) -> bool:
        """Return whether the server has a work pool of this name."""
        try:
            self._client.read_work_pool(name)
        except ObjectNotFound:
            return False
        return True

    def save_pool(self, pool: Pool, exists: bool) -> None:
        """Create a work pool, or update the existing one's description and template."""
        if exists:
            change = WorkPoolUpdate(description=pool.description, base_job_template=pool.template)
            self._client.update_work_pool(pool.name, change)
        else:
            self._client.create_work_pool(
                WorkPoolCreate(
                    name=pool.name, type=pool.type, description=pool.description, base_job_template=pool.template
                )
            )

    def save_limit(self, name: str, limit: int, active: bool, exists: bool) -> None:
        """Create or resize a global concurrency limit; slots in use remain in use."""
        if exists:
            change = GlobalConcurrencyLimitUpdate(limit=limit, active=active)
            self._client.update_global_concurrency_limit(name, change)
        else:
            made = GlobalConcurrencyLimitCreate(name=name, limit=limit, active=active)
            self._client.create_global_concurrency_limit(made)

    def _limits(self) -> Iterator[Definition]:
        ask = self._client.read_global_concurrency_limits
        for limit in _paged(lambda offset: ask(limit=PAGE, offset=offset)):
            if limit.name.startswith(TRAINING_LIMITS):
                yield describe_limit(limit)

    def save_variable(self, name: str, value: dict[str, Any], exists: bool) -> None:
        """Create a variable or update its value."""
        if exists:
            self._client.update_variable(VariableUpdate(name=name, value=value))
        else:
            self._client.create_variable(VariableCreate(name=name, value=value, tags=[TAG]))

    def _variables(self) -> Iterator[Definition]:
        for variable in _paged(partial(self._listed, "/variables/filter", {})):
            name, value = str(variable["name"]), variable["value"]
            if name.startswith(VARIABLES) and isinstance(value, dict):
                yield Definition("variable", name, value, str(variable["id"]))

    def save_automation(self, automation: AutomationCore, identity: str) -> None:
        """Create an automation; with an `identity`, replace the automation with that id."""
        if identity:
            self._client.update_automation(UUID(identity), automation)
        else:
            self._client.create_automation(automation)

    def last_polled(self, pool: str, queue: str) -> datetime | None:
        """Return when an online worker last polled this queue; None if no worker is online or the queue is missing."""
        try:
            ask = self._client.read_workers_for_work_pool
            workers = _paged(lambda offset: ask(pool, offset=offset, limit=PAGE))
            online = any(each.status == ONLINE for each in workers)
            return self._client.read_work_queue_by_name(queue, pool).last_polled if online else None
        except ObjectNotFound:
            return None
        except httpx.HTTPStatusError as error:
            if error.response.status_code == HTTPStatus.NOT_FOUND:  # the pool does not exist yet
                return None
            raise

    def _pool(self, name: str) -> Definition | None:
        try:
            pool = self._client.read_work_pool(name)
            return describe_pool(name, pool.type, pool.base_job_template)
        except ObjectNotFound:
            return None

    def _deployments(self) -> list[DeploymentResponse]:
        tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
        ask = self._client.read_deployments
        return list(_paged(lambda offset: ask(deployment_filter=tagged, limit=PAGE, offset=offset)))

    def _automations(self) -> Iterator[Automation]:
        ask = self._client.read_automations
        return _paged(lambda offset: ask(limit=PAGE, offset=offset))


def _paged(ask: Callable[[int], Sequence[Found]]) -> Iterator[Found]:
    """Yield all items of a paged endpoint, at most PAGE per request; `ask` takes the offset."""
    for offset in range(0, sys.maxsize, PAGE):
        page = ask(offset)
        yield from page
        if len(page) < PAGE:
            return


def deploy(file: Path) -> None:
    """Run `prefect deploy --all` on this file. Raises DeploymentError with Prefect's output if it fails."""
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeploymentError(f"prefect deploy failed:\n{(done.stdout + done.stderr).strip()}")
