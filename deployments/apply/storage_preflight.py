"""Refuse work pools whose containers would write the workspace to their own disk, which is deleted with them.

Such a run ends Completed, but its results never reach the registry or the ledger. `apply` therefore requires that a
pool's containers receive the workspace's addresses. A persistent volume is accepted if `infra/pools/pools.yaml` sets
its folder as PERENNIAL_HOME in the pool's `env`.
"""

import os
from collections.abc import Mapping, Sequence

from deployments.apply.definitions import Definitions
from deployments.apply.pools import LOCATIONS, holds_password, located_pool, trains_on_pool
from tasks.policy.records.errors import DeploymentError

HOME = "PERENNIAL_HOME"
LAKE, LEDGER, ARTIFACTS, TRACKING = LOCATIONS
EXAMPLES = {
    LAKE: "s3://bucket/lake",
    LEDGER: "s3://bucket/ledger",
    ARTIFACTS: "s3://bucket/models",
    TRACKING: "http://mlflow.internal:5000",
}


def refuse_ephemeral_storage(definitions: Definitions, environment: Mapping[str, str] = os.environ) -> None:
    """Raise DeploymentError if a part of the workspace would be deleted with its container."""
    lost = [
        f"{deployment}: {_sentence(parts)}"
        for deployment, given in _container_settings(definitions, environment).items()
        if (parts := _missing_addresses(given))
    ]
    if lost:
        raise DeploymentError(
            "\n".join(lost)
            + "\nnothing was changed; set them for apply, which passes them to the containers, or place the model on "
            "your own hosts in its file; see infra/README.md, The image"
        )


def withheld(definitions: Definitions, environment: Mapping[str, str] = os.environ) -> list[str]:
    """List, one sentence each, the addresses not passed to a deployment's containers because they hold a password."""
    return [
        f"{deployment}: {part} holds a password and is not written to the pool's template, which everyone can read; pass "
        "it to the containers from your platform's secret store, or the results of their runs are lost"
        for deployment, given in _container_settings(definitions, environment).items()
        for part in LOCATIONS
        if holds_password(environment.get(part, "")) and given[part] == environment[part]
    ]


def _container_settings(definitions: Definitions, environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Map each container deployment that uses the workspace to its environment, including withheld addresses.

    Process pools are left out.
    """
    guarded = {part: environment[part] for part in LOCATIONS if holds_password(environment.get(part, ""))}
    given = {}
    for deployment in [each for each in definitions.deployments if not trains_on_pool(each)]:
        used = deployment["work_pool"]
        pool = located_pool(used["name"], environment)
        if pool.type != "process":
            template = pool.template["variables"]["properties"]["env"].get("default", {})
            given[deployment["name"]] = guarded | template | used.get("job_variables", {}).get("env", {})
    return given


def _missing_addresses(given: Mapping[str, str]) -> list[str]:
    if given.get(HOME):
        return []
    tracking = given.get(TRACKING, "")
    keeps_files = not tracking or tracking.startswith(("http://", "https://"))  # an MLflow server stores artifacts
    return [part for part in LOCATIONS if not given.get(part) and not (part == ARTIFACTS and keeps_files)]


def _sentence(parts: Sequence[str]) -> str:
    examples = ", ".join(f"{part}={EXAMPLES[part]}" for part in parts)
    return (
        f"its containers have no {' and no '.join(parts)}, so a run ends Completed and what it wrote is lost "
        f"with its container; expected addresses that every host reaches, such as {examples}"
    )
