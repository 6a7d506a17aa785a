"""Check model files for `perennial check`: describe what each model will do, or what is wrong with its file."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deployments.config.description import describe, describe_adopted
from deployments.config.fleet import load_fleet_config
from deployments.config.folders import model_folders, require_models
from deployments.config.loading import load_named_model
from deployments.config.model import ModelConfig
from tasks.adapters.storage.workspace import HOME
from tasks.policy.records.errors import NoModels, PerennialError
from tasks.policy.rollout.versions import FOREIGN
from tasks.record.history import recorded_champion
from tasks.training.readiness import check_training, describe_data, lint_data


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """Result for one model's file: what Perennial will do, what its data holds and what looks wrong there, or the error."""

    model: str
    purpose: str = ""
    behaviour: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    lints: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class CheckedFleet:
    """Result for fleet.yaml: the shared settings in one sentence, or the error."""

    sentence: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class CheckResults:
    """Results for all checked files."""

    models: tuple[CheckedFile, ...]
    fleet: CheckedFleet

    @property
    def ok(self) -> bool:
        return not (self.fleet.error or any(each.error for each in self.models))


def check_files(paths: Sequence[str], data: bool) -> Iterator[CheckedFile]:
    """Yield the result of each file; of all models if `paths` is empty.

    A source function is imported, and the estimator is fitted on a few generated rows. With `data`, the rows are read as
    well: the latest ones are described, and problems in all of them are reported. A folder without models is an error.
    """
    try:
        names = paths or require_models()
    except NoModels as error:
        names = ()
        yield CheckedFile(str(model_folders()[-1]), error=str(error))
    for path in names:
        try:
            config = load_named_model(path)
            remarks = check_training(config)
            found = tuple(describe_data(config)) if data else ()
            lints = lint_data(config, datetime.now(UTC)) if data else ()
        except PerennialError as error:
            yield CheckedFile(path, error=str(error))
        else:
            yield CheckedFile(
                config.name, config.purpose, (*describe(config), *remarks, *_adopted(config)), found, lints
            )


def _adopted(config: ModelConfig) -> tuple[str, ...]:
    """Say what an adopted champion cannot offer; nothing without a workspace, which a check does not create."""
    if not (os.environ.get("PERENNIAL_LEDGER") or Path(os.environ.get("PERENNIAL_HOME") or HOME).exists()):
        return ()
    version = recorded_champion(config)
    model_format = dict(version.tags).get(FOREIGN) if version else None
    return describe_adopted(version.version, model_format) if version and model_format else ()


def check_fleet() -> CheckedFleet:
    try:
        fleet = load_fleet_config()
    except PerennialError as error:
        return CheckedFleet(error=str(error))
    if not fleet.shared_budget:
        return CheckedFleet()
    limit = fleet.shared_budget.max_usd_per_month
    return CheckedFleet(
        f"together: {', '.join(fleet.sharing())} may spend at most {limit:,.2f} $ on retrains in 30 days."
    )
