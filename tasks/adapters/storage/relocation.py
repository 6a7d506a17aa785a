"""Find a version's files after a workspace was moved.

MLflow stores absolute folders: that of an experiment at its creation, and from it those of all its runs and models. A
moved workspace would still read and write at its old location. Names below an artifacts root are MLflow's random ids,
so a folder of the same name under the current root is the same folder.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

from mlflow.tracking import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path

from tasks.adapters.storage import lease
from tasks.adapters.storage.workspace import workspace

_BELOW_A_ROOT = re.compile(r"[^/]+/(?:[0-9a-f]{32}|models/m-[0-9a-f]{32})/artifacts$")
"""MODEL/RUN/artifacts or MODEL/models/LOGGED_MODEL/artifacts."""


def current_location(noted: str) -> str:
    """Return the location of a run's or a model's files: under the current root if present there, else as recorded."""
    root, below = _local(workspace().artifacts), _BELOW_A_ROOT.search(noted)
    if root is None or below is None or _local(noted) is None:
        return noted
    present = root / below.group()
    return str(present) if present.is_dir() else noted


def experiment_here(client: MlflowClient, model: str) -> str | None:
    """Return the id of the model's experiment; None if there is none with its files under the current root.

    An experiment of a former root is renamed by adding its id and keeps its runs: MLflow cannot change its location.
    """
    found = client.get_experiment_by_name(model)
    if found is None:
        return None
    space, noted = workspace(), _local(found.artifact_location)
    root = _local(space.artifacts)
    if space.is_served or noted is None or (root is not None and noted == root / model):
        return str(found.experiment_id)
    lease.check(model)
    client.rename_experiment(found.experiment_id, f"{model} {found.experiment_id}")
    return None


def _local(address: str) -> Path | None:
    """Return the local folder of an address; None for a remote address."""
    scheme = urlsplit(address).scheme
    if scheme not in ("", "file"):
        return None
    return Path(local_file_uri_to_path(address)).resolve()
