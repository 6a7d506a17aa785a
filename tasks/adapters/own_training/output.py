"""The place where a training outside of this process finds its rows and leaves its model.

It is a folder of the workspace, or beside the lake's tables where the lake is in an object store, so that a flow on another
machine reaches it. Both are removed once the model is taken in.
"""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import BaseError

from deployments.config.model import ModelConfig
from tasks.adapters.foreign.intake import take_in
from tasks.adapters.models.estimators import Fitted
from tasks.adapters.storage.object_store import store_at
from tasks.adapters.storage.workspace import OWNER_ONLY, make_folder, workspace
from tasks.policy.records.base import digest
from tasks.policy.records.errors import TrainingFailed, WorkspaceError
from tasks.policy.records.text import reason_of, without_secrets

MLMODEL = "MLmodel"
"""The file that makes a folder a model in MLflow's format."""


def job_address(config: ModelConfig, decision_id: str) -> str:
    """Return the folder of one decision's training; it is the same for each attempt."""
    space, name = workspace(), digest(decision_id, length=16)
    if "://" in space.lake:
        return f"{space.lake}/{config.name}/training/{name}"
    return str(space.home / "training" / f"{config.name}-{name}")


def empty_folder(address: str) -> Path:
    """Create a local folder, which only its owner can read, or empty it."""
    folder = Path(address)
    remove(address)
    make_folder(folder.parent, OWNER_ONLY)
    return make_folder(folder, OWNER_ONLY)


def put_rows(rows: pa.Table, address: str) -> None:
    """Write rows as Parquet to a file of this address; an existing one is replaced."""
    content = io.BytesIO()
    pq.write_table(rows, content)
    put(content.getvalue(), address)


def put(content: bytes | Path, address: str) -> None:
    """Write bytes, or a file of this disk, to a file of this address; an existing one is replaced."""
    folder, _, name = address.rpartition("/")
    if "://" not in folder:
        make_folder(Path(folder).parent, OWNER_ONLY)
        make_folder(Path(folder), OWNER_ONLY)
    try:
        obstore.put(store_at(folder), name, content)
    except (BaseError, OSError) as error:
        raise WorkspaceError(
            f"{without_secrets(address)}: cannot be written ({reason_of(error)}); expected a writable workspace"
        ) from None


def remove(address: str) -> None:
    """Remove a folder with all training rows and models in it."""
    if "://" not in address:
        if Path(address).exists():
            shutil.rmtree(address)
        return
    store = store_at(address)
    names = [str(found["path"]) for batch in obstore.list(store) for found in batch]
    if names:
        obstore.delete(store, names)


def model_at(address: str, at: str) -> str:
    """Return the address of the one model in a folder: the folder itself in MLflow's format, else the one entry in it.

    Raises TrainingFailed, with `at` as the place, if it holds none or several.
    """
    listed = obstore.list_with_delimiter(store_at(address))
    files = [str(found["path"]) for found in listed["objects"]]
    if MLMODEL in files:
        return address
    found = sorted(name for name in (*files, *listed["common_prefixes"]) if not name.startswith("."))
    if len(found) != 1:
        held = f"{len(found)} entries: {', '.join(found[:5])}" if found else "nothing"
        raise TrainingFailed(
            f"{at} ended well, but its output place holds {held}, expected one model: a file, or a folder in MLflow's format"
        )
    return f"{address}/{found[0].rstrip('/')}"


def take_in_model(config: ModelConfig, address: str, rows: pa.Table) -> Fitted:
    """Take in a model that was trained elsewhere, as an adopted one. Raises ForeignModelError if it does not fit."""
    return replace(take_in(config, address, rows), fitted_rows=len(rows))
