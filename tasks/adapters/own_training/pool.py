"""Train by a command on a work pool of the user's own: `training.work_pool`, by the deployment of `train` on that pool.

The retrain writes rows and description to the decision's folder, an address that both sides reach, and waits as for any
deployment (`flow`). On the pool, the files are copied to a new folder, the command runs on them as it would beside the
retrain, and what it leaves is copied to the output place.
"""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import obstore
from obstore.exceptions import BaseError
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, WorkPoolStatus
from prefect.exceptions import ObjectNotFound

from deployments.config.model import ModelConfig
from tasks.adapters.own_training import command, output
from tasks.adapters.own_training.snapshot_files import DESCRIPTION, ROWS, TrainingJob, describe
from tasks.adapters.storage.object_store import store_at
from tasks.policy.economics.placement import TRAIN, training_deployment
from tasks.policy.records.errors import EstimatorError, TrainingFailed
from tasks.policy.records.text import reason_of, without_secrets

TAKEN_UP_AGAIN = timedelta(seconds=90)
"""How long a crashed run is waited for: the automation that takes it up again (prefect.yaml) acts after 20 s."""
UNTAKEN = timedelta(minutes=10)
"""How long a run may wait on a pool that no worker polls, such as one whose host restarts."""
HAND_OVER = (
    "rows and model are handed over in the folder of the workspace, which the pool's hosts must have under the same path; "
    "set PERENNIAL_LAKE to an object store if they do not"
)


def is_in_store() -> bool:
    """Return whether rows and model are handed over in an object store, which every host reaches."""
    return "://" in os.environ.get("PERENNIAL_LAKE", "").removeprefix("file://")


def deployment(config: ModelConfig) -> str:
    """Return flow/deployment of `train` on the model's pool."""
    return f"{TRAIN}/{training_deployment(str(config.training.work_pool))}"


def file_of(config: ModelConfig) -> str:
    """Return how a run names the model's file: by the model's name if it lies in a models' folder, else by its path."""
    file = config.binding.file if config.binding else config.name
    return file if os.sep in file else Path(file).stem


def hand_over(config: ModelConfig, job: TrainingJob, folder: str) -> None:
    """Describe the rows in the decision's folder."""
    output.put(describe(config, job, "").encode(), f"{folder}/{DESCRIPTION}")


def what_is_missing(config: ModelConfig, client: SyncPrefectClient) -> str | None:
    """Return why a run would not begin yet, None if a worker would take it. Raises EstimatorError if there is no such pool."""
    if (status := _status(config, client)) is None:
        raise EstimatorError(f"{at(config)}, which {_why_unready(config, status)}")
    try:
        client.read_deployment_by_name(deployment(config))
    except ObjectNotFound:
        return not_deployed(config)
    unready = _why_unready(config, status)
    return unready and f"work pool {config.training.work_pool} {unready}"


def why_not_taken(config: ModelConfig, client: SyncPrefectClient, run: FlowRun) -> str | None:
    """Return why no worker will take this run; None if it has begun, or may begin soon."""
    if run.state is None or not run.state.is_scheduled() or datetime.now(UTC) - run.state.timestamp < UNTAKEN:
        return None
    unready = _why_unready(config, _status(config, client))
    return unready and f"{at(config)}, which {unready}; the run {run.name} waited there and was cancelled"


def _status(config: ModelConfig, client: SyncPrefectClient) -> WorkPoolStatus | None:
    """Return the pool's status, None if the server has no such pool."""
    try:
        return client.read_work_pool(str(config.training.work_pool)).status or WorkPoolStatus.READY
    except ObjectNotFound:
        return None


def _why_unready(config: ModelConfig, status: WorkPoolStatus | None) -> str | None:
    pool = config.training.work_pool
    if status is None:
        return (
            "does not exist on this Prefect server; expected the name of one that does (prefect work-pool ls); create it, "
            f"such as: prefect work-pool create {pool} --type process"
        )
    if status == WorkPoolStatus.PAUSED:
        return f"is paused; resume it: prefect work-pool resume {pool}"
    if status == WorkPoolStatus.NOT_READY:
        return f"has no worker; start one on its host: perennial work --pool {pool}"
    return None


def not_deployed(config: ModelConfig) -> str:
    """Say that the server lacks the deployment of `train`."""
    return f"this Prefect server does not have {deployment(config)}; expected it to be deployed: perennial apply"


def train_here(config: ModelConfig, asked: tuple[str, ...], folder: str, place: str) -> None:
    """Run the model's command on the files of the decision's folder, and put what it leaves into the output place.

    Raises TrainingFailed if the model's file here has another command than the one `asked` for, if the output is elsewhere than
    beside the rows, if these are not reached from here, or if the command fails, takes too long or leaves no model.
    """
    if config.training.command != asked:
        raise TrainingFailed(
            f"{command.at(config)} in the model's file on this host, expected {' '.join(asked)}, as where the retrain runs; "
            "update the file here, then retrain again"
        )
    if place.rpartition("/")[0] != folder:
        raise TrainingFailed(
            f"{at(config)}, and output is {without_secrets(place)}; expected a place in the folder of the rows, "
            f"{without_secrets(folder)}, as a retrain names it"
        )
    with TemporaryDirectory(prefix="perennial-training-") as scratch:
        given, made = Path(scratch) / "input", Path(scratch) / "output"
        given.mkdir()
        made.mkdir()
        _fetch(config, folder, given)
        description = json.loads((given / DESCRIPTION).read_text(encoding="utf-8")) | {"output": str(made)}
        (given / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True), encoding="utf-8")
        command.run(config, given, made)
        output.model_at(str(made), command.at(config))
        for file in sorted(path for path in made.rglob("*") if path.is_file()):
            output.put(file, f"{place}/{file.relative_to(made).as_posix()}")


def _fetch(config: ModelConfig, folder: str, given: Path) -> None:
    """Copy rows and description to a folder of this disk. Raises TrainingFailed if they are not reached."""
    reason = f"there is no folder {folder}"
    if "://" in folder or Path(folder).is_dir():
        try:
            for name in (ROWS, DESCRIPTION):
                with (given / name).open("wb") as file:
                    for part in obstore.get(store_at(folder), name):
                        file.write(part)
            return
        except (BaseError, OSError) as error:
            reason = f"{without_secrets(folder)} cannot be read ({reason_of(error)})"
    raise TrainingFailed(
        f"{at(config)}, but on this host of it {reason}; expected the rows where the retrain wrote them; set PERENNIAL_LAKE "
        "to an object store that both sides reach, or share the workspace's folder under the same path"
    )


def at(config: ModelConfig) -> str:
    """Return the place of the setting, with which messages begin."""
    return f"{config.name}: training.work_pool is {config.training.work_pool}"
