"""Bring a Prefect server to the state that `prefect.yaml` and the models' files describe (`perennial apply`).

It prints a plan, then runs Prefect's own deploy from a generated file. Prefect's deploy creates no work pool, removes
nothing and handles only automations that a deployment owns; this module does the rest. Afterwards it reads the server
again, because Prefect also reports success for a deployment that it applied only in part.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployments.alerts.blocks import CUSTOM, refuse_other_types, save_block, why_missing
from deployments.apply.definitions import Definitions, read_definitions
from deployments.apply.plan import SWITCHES, Change, Definition, plan, summary
from deployments.apply.pools import located_pool
from deployments.apply.prefect_definitions import wanted_automations, wanted_definitions
from deployments.apply.server_state import CONNECTION_ERRORS, PrefectState, deploy
from deployments.apply.storage_preflight import refuse_ephemeral_storage, withheld
from deployments.apply.unpolled_queues import list_unpolled_queues
from deployments.config.blocks.alerts import SEVERITIES, SHARED_BLOCK
from tasks.policy.economics.placement import training_deployment
from tasks.policy.records.errors import DeploymentError

DEPLOYED_BY_PREFECT = ("deployment", "schedule", "trigger")


def apply(
    dry_run: bool = False,
    keep_switches: bool = False,
    definitions: Definitions | None = None,
    alerts_file: Path | None = None,
    followed: Collection[str] = (),
) -> tuple[Change, ...]:
    """Print the plan, carry it out unless `dry_run`, and return it.

    Args:
        dry_run: Only print the plan.
        keep_switches: Keep what a person switched on or off in the dashboard.
        definitions: What to deploy; read from the files when left out.
        alerts_file: File with the webhook address from which the notification block for alerts is created.
        followed: Pools whose worker starts right afterwards. For other pools a line is printed if no worker polls them.

    Raises:
        DeploymentError: The server or a definition is unusable, or, even with `dry_run`, a pool's containers lack the
            workspace's addresses.
    """
    definitions = definitions or read_definitions()
    refuse_ephemeral_storage(definitions)
    try:
        with PrefectState() as state:
            found = state.found_definitions(definitions.pools)
            if alerts_file:
                refuse_other_types(list(state.blocks()))
            if alerts_file and not dry_run:
                save_block(f"{CUSTOM}/{SHARED_BLOCK}", alerts_file)
            blocks = state.blocks()
            definitions, missing = _without_missing_pools(state, definitions.routed(blocks))
            if keep_switches:
                definitions = with_switches_of(definitions, found)
            wanted = wanted_definitions(definitions)
            changes = plan(wanted, found)
            print(*changes, summary(wanted, changes), *missing, *_without_people(definitions), sep="\n")
            if changes and not dry_run:
                _carry_out(state, definitions, blocks, changes)
                _verify(wanted, state.found_definitions(definitions.pools))
            for sentence in [*withheld(definitions), *list_unpolled_queues(state, definitions, followed)]:
                print(sentence)
    except CONNECTION_ERRORS as error:
        raise DeploymentError(
            f"the Prefect server refused the request or is unreachable: {error}; see its log, then apply again"
        ) from error
    return changes


def with_switches_of(definitions: Definitions, found: Sequence[Definition]) -> Definitions:
    """Return the definitions with every switch (paused, active, enabled) set as it is on the server."""
    switched = {each.key: each.fields.get(SWITCHES[each.kind]) for each in found if each.kind in SWITCHES}

    def keep(kind: Any, name: str, item: dict[str, Any]) -> None:
        if (kind, name) in switched:
            item[SWITCHES[kind]] = switched[kind, name]

    index, automations = deepcopy(definitions.index), deepcopy(definitions.automations)
    limits = deepcopy(definitions.limits)
    for limit in limits:
        keep("limit", limit["name"], limit)
    for deployment in index["deployments"]:
        keep("deployment", deployment["name"], deployment)
        for schedule in deployment["schedules"]:
            keep("schedule", f"{deployment['name']} {schedule['slug']}", schedule)
        for trigger in deployment.get("triggers", []):
            keep("trigger", trigger["name"], trigger)
    for automation in automations:
        keep("automation", automation["name"], automation)
    return replace(definitions, index=index, automations=automations, limits=limits)


def _without_missing_pools(state: PrefectState, definitions: Definitions) -> tuple[Definitions, list[str]]:
    """Leave out deployments on pools of the user's own that do not exist; return also a sentence for each of these pools.

    This is no error: `serve` applies before anyone can create a pool on its server.
    """
    sentences = []
    for pool in definitions.own_pools:
        if not state.has_pool(pool):
            definitions = definitions.without(pool)
            sentences.append(
                f"this server has no work pool {pool}, which training.work_pool names, so {training_deployment(pool)} is not "
                f"deployed; create the pool, such as: prefect work-pool create {pool} --type process; then apply again"
            )
    return definitions, sentences


def _without_people(definitions: Definitions) -> Iterator[str]:
    """Yield a sentence for each notification block that is named and does not exist, and for alerts that reach no one."""
    audience = definitions.audience
    for file, severity, block in audience.missing():
        yield (
            f"{file}: alerts.{severity} names {block}, which does not exist, so those alerts go to other blocks, if any; "
            f"{why_missing(block)}"
        )
    silent = [severity for severity in SEVERITIES if audience.named(None, severity) and not audience.of(None, severity)]
    if silent:
        whose = "of models without alerts of their own, of failed automations and of runs that never began"
        what = "failures" if audience.is_shared("critical") else f"{' and '.join(silent)} alerts {whose}"
        yield f"no notification block is named {SHARED_BLOCK}, so {what} notify no one; create one, or use --alerts FILE"


def _carry_out(
    state: PrefectState, definitions: Definitions, blocks: Mapping[str, str], changes: Sequence[Change]
) -> None:
    for change in changes:
        if change.definition.kind == "work pool":
            retyped = next((detail for detail in change.details if detail.startswith("type ")), None)
            if retyped:
                raise DeploymentError(
                    f"work pool {change.definition.name}: {retyped} cannot be changed; "
                    "delete the pool in the dashboard, or use another name in prefect.yaml"
                )
            state.save_pool(located_pool(change.definition.name), exists=change.verb == "changed")
        if change.definition.kind == "limit" and change.verb != "removed":
            limit, active = change.definition.fields["limit"], change.definition.fields["active"]
            state.save_limit(change.definition.name, int(str(limit)), bool(active), change.verb == "changed")
        if change.definition.kind == "variable" and change.verb != "removed":
            state.save_variable(change.definition.name, change.definition.fields, change.verb == "changed")
    for change in reversed(changes):  # schedules and triggers before their deployment, whose removal removes them too
        if change.verb == "removed":
            state.remove(change.definition)
    if any(change.verb != "removed" and change.definition.kind in DEPLOYED_BY_PREFECT for change in changes):
        with tempfile.TemporaryDirectory(prefix="perennial-") as folder:
            deploy(definitions.write(Path(folder) / "prefect.yaml"))
    identities = {change.definition.name: change.definition.identity for change in changes if change.verb != "removed"}
    for automation in wanted_automations(definitions, blocks):
        if automation.name in identities:
            state.save_automation(automation, identities[automation.name])


def _verify(wanted: Sequence[Definition], found: Sequence[Definition]) -> None:
    left = plan(wanted, found)
    if left:
        lines = "\n".join(map(str, left))
        raise DeploymentError(
            f"the server still differs after Prefect deployed; expected no difference, found:\n{lines}"
        )
