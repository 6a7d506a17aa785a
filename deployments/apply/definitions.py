"""What to deploy: `prefect.yaml`, with a schedule for every model that has a file under `deployments/`.

`prefect.yaml` stays the index that Prefect itself reads. A model without a schedule there gets the one under
`definitions`, so adding a YAML file is enough; a schedule whose model is gone is dropped.
"""

import os
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deployments.apply.pools import placed_deployments, training_limits
from deployments.config.model import DEPLOYMENTS, ModelConfig, available_models
from deployments.config.names import load_named_model
from tasks.policy.records.errors import DeploymentError

INDEX = DEPLOYMENTS.parent / "prefect.yaml"
ALERTS = "perennial-alerts"
"""Name of the notification block that alerts go to; Prefect's dashboard makes one, of any notification type."""
OURS = "perennial: "
"""How the names of our automations begin, which is how they are known on a server that others use too."""

VARIABLES = "perennial_model_"
"""How the names of our variables begin."""


@dataclass(frozen=True)
class Definitions:
    """The content of a `prefect.yaml` for these models, and the automations that no deployment owns."""

    index: dict[str, Any]
    automations: tuple[dict[str, Any], ...]
    limits: tuple[dict[str, Any], ...]
    """Prefect's global concurrency limits: how many retrains each place holds at once."""
    variables: dict[str, dict[str, Any]]
    """Who answers for each model and what its file says, where people of the dashboard can look it up."""

    @property
    def deployments(self) -> list[dict[str, Any]]:
        return list(self.index["deployments"])

    @property
    def pools(self) -> tuple[str, ...]:
        return tuple(sorted({deployment["work_pool"]["name"] for deployment in self.deployments}))

    def write(self, path: Path) -> Path:
        """A file for `prefect deploy --all --prefect-file`."""
        path.write_text(yaml.safe_dump(self.index, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return path


def read_definitions(models: Sequence[ModelConfig] | None = None, path: Path = INDEX) -> Definitions:
    """Definitions for these models (all in the models' folders when left out).

    Raises DeploymentError, and ModelConfigError for a file that is wrong or that no run would find.
    """
    if models is None:
        models = [load_named_model(name) for name in available_models()]
    try:
        index = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DeploymentError(
            f"{path.name}: cannot be read: {' '.join(str(error).split())}; expected a YAML file"
        ) from error
    index = deepcopy(index)  # anchors make one object of several
    shared = index.pop("definitions", {})
    new = shared.get("schedule-of-a-new-model", {})
    for deployment in index["deployments"]:
        schedules = _schedules(deployment.get("schedules", []), new.get(deployment["name"]), models)
        deployment["schedules"] = schedules
    index["deployments"] += placed_deployments(index["deployments"], shared.get("places", {}), models)
    limits, index["deployments"] = training_limits(index["deployments"], shared.get("training-slots", {}))
    automations = [*shared.get("automations", []), *_of_models(shared.get("automations-of-a-model", []), models)]
    _refuse_unset_variables([index, automations], path.name)
    _refuse_foreign_names(
        [*automations, *(each for item in index["deployments"] for each in item.get("triggers", []))], path.name
    )
    return Definitions(index, tuple(automations), limits, {VARIABLES + model.name: _card(model) for model in models})


def _schedules(
    listed: list[dict[str, Any]], new: dict[str, Any] | None, models: Sequence[ModelConfig]
) -> list[dict[str, Any]]:
    """Of what is listed, what has a model still or is for all; and for every model that has none, the common one."""
    names = {model.name for model in models}
    kept = [
        schedule for schedule in listed if "model" not in schedule.get("parameters", {}) or schedule["slug"] in names
    ]
    if new is None:
        return kept
    scheduled = {schedule["slug"] for schedule in kept}
    added = [
        {"slug": model.name, **new, "active": model.period.end is None, "parameters": {"model": model.name}}
        for model in models
        if model.name not in scheduled
    ]
    return kept + added


def _card(model: ModelConfig) -> dict[str, Any]:
    """What a variable says of a model; the fingerprint makes every change of its file a line of the plan."""
    return {
        "owner": model.owner,
        "purpose": model.purpose,
        "risk": model.risk,
        "approval": "a person" if model.needs_approval else "automatic",
        "approvers": list(model.access.approve),
        "fingerprint": model.fingerprint,
    }


def _of_models(templates: list[dict[str, Any]], models: Sequence[ModelConfig]) -> Iterator[dict[str, Any]]:
    """Each template once for every model that keeps receiving data, with the model's name in place of NAME."""
    for model in models:
        if model.period.end is None:
            yield from (_filled_in(template, model.name) for template in templates)


def _filled_in(content: Any, name: str) -> Any:
    if isinstance(content, dict):
        return {key: _filled_in(value, name) for key, value in content.items()}
    if isinstance(content, list):
        return [_filled_in(value, name) for value in content]
    return content.replace("NAME", name) if isinstance(content, str) else content


def _refuse_foreign_names(automations: list[dict[str, Any]], where: str) -> None:
    for automation in automations:
        name = automation.get("name", "")
        if not name.startswith(OURS):
            raise DeploymentError(
                f"{where}: an automation is named {name!r}, expected a name that begins with {OURS!r}"
            )


def _refuse_unset_variables(content: object, where: str) -> None:
    """Prefect would deploy an undefined variable as literal text and call it a success."""
    unset = sorted(set(_unset_variables(content)))
    if unset:
        raise DeploymentError(f"{where}: uses {', '.join(unset)}, which is not set; expected it in the environment")


def _unset_variables(content: object) -> Iterator[str]:
    if isinstance(content, dict):
        for value in content.values():
            yield from _unset_variables(value)
    elif isinstance(content, list):
        for value in content:
            yield from _unset_variables(value)
    elif isinstance(content, str):
        yield from (name for name in re.findall(r"{{\s*\$(\w+)\s*}}", content) if name not in os.environ)
