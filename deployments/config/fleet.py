"""Settings shared by several models: the optional `fleet.yaml` beside the models' files, read by `load_fleet_config`.

shared_budget:
  max_usd_per_month: 500
  models: [air_time, flight_delay]   # every model under deployments/ when left out
alerts:
  critical: [pager-duty-webhook/on-call]
"""

from pathlib import Path

from pydantic import ValidationError

from deployments.config.blocks.alerts import Alerts
from deployments.config.folders import FLEET, available_models, model_folders
from deployments.config.yaml_file import UnreadableYaml, read_yaml
from tasks.policy.economics.budget import SharedBudget
from tasks.policy.records.base import Settings
from tasks.policy.records.errors import ModelConfigError


class FleetConfig(Settings):
    """Settings that several models share."""

    shared_budget: SharedBudget | None = None
    """One monthly budget for the retrains of several models."""
    alerts: Alerts = Alerts()
    """Who gets the alerts of models that do not say so themselves."""

    def sharing(self) -> tuple[str, ...]:
        """Return the names of the models that draw on the shared budget, sorted; empty without a shared budget."""
        if self.shared_budget is None:
            return ()
        named = self.shared_budget.models
        return available_models() if named is None else tuple(sorted(set(named)))


def load_fleet_config() -> FleetConfig:
    """Read `fleet.yaml` from the folder named by PERENNIAL_MODELS, else from deployments/; defaults without a file.

    Raises ModelConfigError with the file, the field, the value found and what is accepted.
    """
    found = [path for folder in reversed(model_folders()) if (path := folder / f"{FLEET}.yaml").is_file()]
    return _read(found[0]) if found else FleetConfig()


def _read(path: Path) -> FleetConfig:
    try:
        content = read_yaml(path)
        config = FleetConfig.model_validate({} if content is None else content)
    except UnreadableYaml as error:
        raise ModelConfigError(f"{path.name}: {error}") from None
    except ValidationError as error:
        lines = [
            f"{path.name}: {'.'.join(map(str, item['loc'])) or 'the file'} is {item['input']!r}: {item['msg']}; "
            "expected shared_budget with max_usd_per_month and, unless all models share it, models, and alerts with lists of "
            "blocks, such as slack-webhook/ml-team, under critical, warning and info"
            for item in error.errors()
        ]
        raise ModelConfigError("\n".join(lines)) from None
    unknown = sorted(set(config.sharing()) - set(available_models()))
    if unknown:
        raise ModelConfigError(
            f"{path.name}: shared_budget.models has {', '.join(unknown)}, expected names of models here: "
            f"{', '.join(available_models())}"
        )
    return config
