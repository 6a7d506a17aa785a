"""Find and take in the model that a command or a flow of the user's own has left in the output place."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from deployments.config.model import ModelConfig
from tasks.adapters.foreign.intake import take_in
from tasks.adapters.models.estimators import Fitted
from tasks.adapters.storage.workspace import OWNER_ONLY, make_folder, workspace
from tasks.policy.records.base import digest
from tasks.policy.records.errors import TrainingFailed

MODEL = "MLmodel"
"""The file that makes a folder a model in MLflow's format."""


def job_folder(config: ModelConfig, decision_id: str) -> Path:
    """Return the folder of one training; it is the same for each attempt."""
    return workspace().home / "training" / f"{config.name}-{digest(decision_id, length=16)}"


def empty_folder(folder: Path) -> Path:
    """Create the folder, which only its owner can read, or empty it."""
    remove(folder)
    make_folder(folder.parent, OWNER_ONLY)
    return make_folder(folder, OWNER_ONLY)


def remove(folder: Path) -> None:
    """Remove a folder with all training rows in it."""
    if folder.exists():
        shutil.rmtree(folder)


def model_in(folder: Path, at: str) -> Path:
    """Return the one model in a folder: the folder itself in MLflow's format, else the one file or folder in it.

    Raises TrainingFailed, with `at` as the place, if it holds none or several.
    """
    if (folder / MODEL).is_file():
        return folder
    found = sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    if len(found) != 1:
        held = f"{len(found)} files: {', '.join(path.name for path in found[:5])}" if found else "nothing"
        raise TrainingFailed(
            f"{at} ended well, but its output place holds {held}, expected one model: a folder in MLflow's format or one file"
        )
    return found[0]


def take_in_model(config: ModelConfig, address: str, rows: pa.Table) -> Fitted:
    """Take in a model that was trained elsewhere, as an adopted one. Raises what `take_in` raises."""
    taken = take_in(config, address, rows)
    return replace(taken, fitted_rows=len(rows))
