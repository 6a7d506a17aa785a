"""Read work pools from `infra/pools/NAME.json`, and derive the deployments on the places and pools that models name.

`retrain` gets one for each place of a placement, `train` one for each work pool of `training.work_pool`.
A place is a pool and a queue (`definitions.places` in prefect.yaml). A retrain there is requested by its own event,
`perennial.retraining.requested.PLACE`, because triggers match event names but not payloads.
"""

import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from deployments.config.folders import DEPLOYMENTS
from deployments.config.model import ModelConfig
from tasks.policy.economics.placement import DEDICATED, PLACE_SETTING, training_deployment, training_limit
from tasks.policy.records.errors import PoolError

LOCATIONS = ("PERENNIAL_LAKE", "PERENNIAL_LEDGER", "PERENNIAL_ARTIFACTS", "MLFLOW_TRACKING_URI")
"""Settings of the workspace parts that can be an address reachable from every host."""
SECRET_WORDS = ("passw", "pwd", "secret", "token", "key", "signature", "credential")
"""Substrings of query parameter names whose values are secret."""
POOLS = DEPLOYMENTS.parent / "infra" / "pools"
PLACED = "retrain"
REQUESTED = "perennial.retraining.requested"


@dataclass(frozen=True)
class Pool:
    """A work pool: its type, and the base job template that its workers create jobs from."""

    name: str
    type: str
    description: str
    template: dict[str, Any]


def is_described(name: str) -> bool:
    """Return whether `infra/pools` describes this pool, so that `apply` creates it; any other one is the user's own."""
    return (POOLS / f"{name}.json").exists()


@cache
def read_pool(name: str, folder: Path = POOLS) -> Pool:
    """Read the pool of that name. Raises PoolError if no file describes it."""
    path = folder / f"{name}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(each.stem for each in folder.glob("*.json")))
        raise PoolError(f"work pool {name}: no infra/pools/{name}.json; expected one of {known}") from error
    return Pool(name, content["type"], content["description"], content["base_job_template"])


def located_pool(name: str, environment: Mapping[str, str] = os.environ) -> Pool:
    """Read the pool of that name and add the workspace's addresses for its containers. Raises PoolError.

    A container has none of its host's settings, and its folders are deleted with it. Therefore addresses in the
    environment are added to the template. An address with a password is not, because every user of the server can
    read a template.
    """
    pool = read_pool(name)
    if pool.type == "process":
        return pool
    shared = {part: address for part in LOCATIONS if _is_shared(address := environment.get(part, ""))}
    template = deepcopy(pool.template)
    variable = template["variables"]["properties"]["env"]
    if shared:
        variable["default"] = shared | variable.get("default", {})
    return replace(pool, template=template)


def holds_password(address: str) -> bool:
    """Return whether an address contains a password: before the host, or in a query parameter with a secret's name."""
    if not _is_address(address):
        return False
    parts = urlsplit(address)
    named = (name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True))
    return parts.password is not None or any(word in name for name in named for word in SECRET_WORDS)


def _is_shared(address: str) -> bool:
    return _is_address(address) and not holds_password(address)


def _is_address(address: str) -> bool:
    """Return whether this is a network address; a local path or file exists on one host only."""
    return "://" in address and urlsplit(address).scheme.split("+")[0] not in ("file", "sqlite")


def places_of(model: ModelConfig) -> tuple[str, ...]:
    """Return the places that a model's placement names, apart from the dedicated hosts."""
    named = [model.placement.dedicated, *([model.placement.serverless] if model.placement.serverless else [])]
    return tuple(dict.fromkeys(place.place for place in named if place.place != DEDICATED))


def placed_deployments(
    deployments: Sequence[Mapping[str, Any]], places: Mapping[str, Mapping[str, Any]], models: Sequence[ModelConfig]
) -> list[dict[str, Any]]:
    """Return `retrain-PLACE` for every place that a model names. Raises PoolError for a place not in prefect.yaml."""
    wanted: dict[str, list[str]] = {}
    for model in models:
        for place in places_of(model):
            if place not in places:
                known = ", ".join([DEDICATED, *places])
                raise PoolError(f"{model.name}: placement names {place}, prefect.yaml has the places {known}")
            wanted.setdefault(place, []).append(model.name)
    base = next((each for each in deployments if each["name"] == PLACED), None)
    return [_placed(base, place, places[place], wanted[place]) for place in sorted(wanted)] if base else []


def pool_deployments(template: Mapping[str, Any] | None, models: Sequence[ModelConfig]) -> list[dict[str, Any]]:
    """Return `train-POOL` for every work pool on which a model's training command runs."""
    wanted: dict[str, list[str]] = {}
    for model in models:
        if model.training.work_pool:
            wanted.setdefault(model.training.work_pool, []).append(model.name)
    return [_on_pool(template, pool, wanted[pool]) for pool in sorted(wanted)] if template else []


def trains_on_pool(deployment: Mapping[str, Any]) -> bool:
    """Return whether this is the deployment of `train` on its pool. It is given addresses and needs no workspace."""
    return bool(deployment["name"] == training_deployment(deployment["work_pool"]["name"]))


def training_limits(
    deployments: Sequence[dict[str, Any]], slots: Mapping[str, int]
) -> tuple[tuple[dict[str, Any], ...], list[dict[str, Any]]]:
    """Return (concurrency limit of each deployed place, deployments with their own limit set to the same number)."""
    places = {_deployed_name(place): place for place in slots}
    used = [places[item["name"]] for item in deployments if item["name"] in places]
    limits = tuple({"name": training_limit(place), "limit": slots[place], "active": True} for place in used)
    return limits, [_of_slots(item, slots.get(places.get(item["name"], ""))) for item in deployments]


def _deployed_name(place: str) -> str:
    return PLACED if place == DEDICATED else f"{PLACED}-{place}"


def _of_slots(deployment: dict[str, Any], slots: int | None) -> dict[str, Any]:
    """Return the deployment with its limit set to `slots`; further runs wait on the server instead of in a process."""
    if slots is None or "concurrency_limit" not in deployment:
        return deployment
    return {**deployment, "concurrency_limit": {**deployment["concurrency_limit"], "limit": slots}}


def _placed(base: Mapping[str, Any], place: str, pool: Mapping[str, Any], models: Sequence[str]) -> dict[str, Any]:
    deployment = deepcopy(dict(base))
    deployment["name"] = _deployed_name(place)
    deployment["description"] = f"{base['description'].strip()}\nRuns on {place}, for {', '.join(models)}.\n"
    deployment["tags"] = [*base["tags"], place]
    variables = deepcopy(base["work_pool"].get("job_variables", {}))
    variables["env"] = {**variables.get("env", {}), PLACE_SETTING: place}
    deployment["work_pool"] = {**pool, "job_variables": variables}
    deployment["schedules"] = []
    deployment["triggers"] = [
        {**trigger, "name": f"{trigger['name']}, on {place}", "expect": [f"{REQUESTED}.{place}"]}
        for trigger in deployment.get("triggers", [])
        if REQUESTED in trigger["expect"]
    ]
    return deployment


def _on_pool(template: Mapping[str, Any], pool: str, models: Sequence[str]) -> dict[str, Any]:
    deployment = deepcopy(dict(template))
    deployment["name"] = training_deployment(pool)
    deployment["description"] = f"{template['description'].strip()}\nFor {', '.join(models)}.\n"
    deployment["work_pool"] = {**template["work_pool"], "name": pool}
    return deployment
