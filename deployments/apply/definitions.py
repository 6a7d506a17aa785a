"""Read what to deploy: `prefect.yaml`, with a schedule for every model that has a file under `deployments/`.

`prefect.yaml` remains the index that Prefect itself reads. A model without a schedule there gets the default one under
`definitions`; adding a YAML file is enough. A schedule whose model no longer exists is dropped.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from deployments.alerts.routing import route
from deployments.apply.pools import is_described, placed_deployments, pool_deployments, training_limits, trains_on_pool
from deployments.config.blocks.alerts import Audience
from deployments.config.fleet import load_fleet_config
from deployments.config.folders import DEPLOYMENTS, available_models
from deployments.config.loading import load_named_model
from deployments.config.model import ModelConfig
from tasks.policy.records.errors import DeploymentError

INDEX = DEPLOYMENTS.parent / "prefect.yaml"
OURS = "perennial: "
"""Name prefix of Perennial's automations, which identifies them on a shared server."""

DAILY_HOURS, LATE_HOURS = 24, 6
VARIABLES = "perennial_model_"
"""Name prefix of Perennial's variables."""


@dataclass(frozen=True)
class Definitions:
    """Content of a `prefect.yaml` for these models, and the automations that belong to no deployment."""

    index: dict[str, Any]
    automations: tuple[dict[str, Any], ...]
    """With `routed`, a notification names its block; before, it has a severity."""
    limits: tuple[dict[str, Any], ...]
    """Prefect's global concurrency limits: how many retrains may run at once in each place."""
    variables: dict[str, dict[str, Any]]
    """One Prefect variable per model with its owner and main settings, for users of the dashboard."""
    audience: Audience = field(default_factory=Audience)
    """Who gets the alerts of which model."""

    def routed(self, blocks: Mapping[str, str]) -> "Definitions":
        """Return the definitions with each notification sent to the blocks of its models, of those that a server has.

        `blocks` gives their ids by name. Raises DeploymentError for a notification without a severity.
        """
        flows = sorted({deployment["entrypoint"].rsplit(".", 1)[-1] for deployment in self.deployments})
        audience = self.audience.on(blocks)
        return replace(self, automations=route(self.automations, audience, flows), audience=audience)

    @property
    def deployments(self) -> list[dict[str, Any]]:
        return list(self.index["deployments"])

    @property
    def pools(self) -> tuple[str, ...]:
        """The work pools that `apply` creates: all but those of the user's own."""
        return tuple(sorted({each["work_pool"]["name"] for each in self.deployments} - {*self.own_pools}))

    @property
    def own_pools(self) -> tuple[str, ...]:
        """The work pools of the user's own that models name in `training.work_pool`."""
        named = {each["work_pool"]["name"] for each in self.deployments if trains_on_pool(each)}
        return tuple(sorted(name for name in named if not is_described(name)))

    def without(self, pool: str) -> "Definitions":
        """Return the definitions without the deployments on this pool."""
        kept = [each for each in self.deployments if each["work_pool"]["name"] != pool]
        return replace(self, index={**self.index, "deployments": kept})

    def write(self, path: Path) -> Path:
        """Write the file for `prefect deploy --all --prefect-file`; return its path."""
        path.write_text(yaml.safe_dump(self.index, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return path


def read_definitions(models: Sequence[ModelConfig] | None = None, path: Path = INDEX) -> Definitions:
    """Read the definitions for these models; without `models`, for all in the models' folders.

    Raises DeploymentError, and ModelConfigError for a model file that is invalid or that runs would not find by its
    name.
    """
    if models is None:
        models = [load_named_model(name) for name in available_models()]
    try:
        index = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DeploymentError(
            f"{path.name}: cannot be read: {' '.join(str(error).split())}; expected a YAML file"
        ) from error
    index = deepcopy(index)  # YAML anchors share one object between several places
    shared = index.pop("definitions", {})
    new = shared.get("schedule-of-a-new-model", {})
    for deployment in index["deployments"]:
        schedules = _schedules(deployment["name"], deployment.get("schedules", []), new.get(deployment["name"]), models)
        deployment["schedules"] = schedules
    index["deployments"] += placed_deployments(index["deployments"], shared.get("places", {}), models)
    index["deployments"] += pool_deployments(shared.get("training-on-a-pool"), models)
    limits, index["deployments"] = training_limits(index["deployments"], shared.get("training-slots", {}))
    automations = [*shared.get("automations", []), *_of_models(shared.get("automations-of-a-model", []), models)]
    _refuse_unset_variables([index, automations], path.name)
    _refuse_foreign_names(
        [*automations, *(each for item in index["deployments"] for each in item.get("triggers", []))], path.name
    )
    variables = {VARIABLES + model.name: _card(model) for model in models}
    audience = Audience(load_fleet_config().alerts, {model.name: model.alerts for model in models})
    return Definitions(index, tuple(automations), limits, variables, audience)


def _schedules(
    deployment: str, listed: list[dict[str, Any]], new: dict[str, Any] | None, models: Sequence[ModelConfig]
) -> list[dict[str, Any]]:
    """Return the listed schedules whose model exists or that name no model, plus those of models without one.

    The schedule in a model's own file comes first. It is that of `score`, whose event then starts `monitor`.
    """
    names = {model.name for model in models if model.schedule is None}
    current = [
        schedule for schedule in listed if "model" not in schedule.get("parameters", {}) or schedule["slug"] in names
    ]
    if new is None:
        return current
    scheduled = {schedule["slug"] for schedule in current}
    own = {model.name: model.schedule.model_dump() for model in models if model.schedule and deployment == "score"}
    by_default = {model.name: new for model in models if model.schedule is None and model.name not in scheduled}
    added = [
        {"slug": model.name, **rule, "active": model.period.end is None, "parameters": {"model": model.name}}
        for model in models
        if (rule := (own | by_default).get(model.name)) is not None
    ]
    return current + added


def _card(model: ModelConfig) -> dict[str, Any]:
    """Return the content of a model's variable. With the fingerprint, every change of its file appears in the plan."""
    return {
        "owner": model.owner,
        "purpose": model.purpose,
        "risk": model.risk,
        "approval": "a person" if model.needs_approval else "automatic",
        "approvers": list(model.access.approve),
        "fingerprint": model.fingerprint,
    }


def _of_models(templates: list[dict[str, Any]], models: Sequence[ModelConfig]) -> Iterator[dict[str, Any]]:
    """Yield each template for every live model (without `period.end`), with NAME replaced by the model's name.

    HOURS and SECONDS are the longest time between two runs, and six hours more.
    """
    for model in models:
        if model.period.end is None:
            hours = DAILY_HOURS if model.schedule is None else model.schedule.longest_pause() / timedelta(hours=1)
            patience = round(hours + LATE_HOURS)
            texts = {"NAME": model.name, "HOURS": f"{patience}", "SECONDS": f"{patience * 3600}"}
            yield from (_filled_in(template, texts) for template in templates)


def _filled_in(content: Any, texts: Mapping[str, str]) -> Any:
    if isinstance(content, dict):
        return {key: _filled_in(value, texts) for key, value in content.items()}
    if isinstance(content, list):
        return [_filled_in(value, texts) for value in content]
    if not isinstance(content, str):
        return content
    for name, text in texts.items():
        content = content.replace(name, text)
    return int(content) if content.isdecimal() else content


def _refuse_foreign_names(automations: list[dict[str, Any]], where: str) -> None:
    for automation in automations:
        name = automation.get("name", "")
        if not name.startswith(OURS):
            raise DeploymentError(
                f"{where}: an automation is named {name!r}, expected a name that begins with {OURS!r}"
            )


def _refuse_unset_variables(content: object, where: str) -> None:
    """Raise DeploymentError for undefined environment variables, which Prefect would deploy as literal text."""
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
