"""Write monitoring results for Evidently's own UI: one project per model, one snapshot per window.

Ids derive from the model and the window: measuring a window again replaces its snapshot instead of adding one.
"""

from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from evidently.core.report import Snapshot
from evidently.sdk.models import ProjectModel
from evidently.ui.service.storage.local.base import WorkspaceLocalState

from tasks.adapters.storage.workspace import make_folder, workspace

FOLDER = "evidently"


def folder() -> Path:
    """Return the folder of Evidently's workspace inside Perennial's workspace."""
    return workspace().home / FOLDER


def project_id(model: str) -> UUID:
    return uuid5(NAMESPACE_URL, f"perennial:{model}")


def store_snapshot(snapshot: Snapshot, model: str, window: str, moment: datetime) -> None:
    """Write a window's snapshot into the model's project. Raises OSError where the disk refuses.

    A truncated file makes the whole UI fail, so files are written elsewhere and moved in atomically. The temporary
    folder lies outside, because a running UI detects a file moved in from outside, but not a rename inside.
    """
    identity, shown = project_id(model), make_folder(folder())
    written = snapshot.to_snapshot_model()
    written.name, written.timestamp = f"{model} {window}", moment
    with TemporaryDirectory(prefix=f".{FOLDER}.", suffix=".unfinished", dir=shown.parent) as own:
        state = WorkspaceLocalState(own)
        if not _has_project(shown, identity):
            state.write_project(_project(model))
        state.write_snapshot(identity, uuid5(identity, window), written)
        for file in sorted(Path(own).rglob("*.json")):  # the project's metadata.json sorts before its snapshots
            target = shown / file.relative_to(own)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)


def _has_project(shown: Path, identity: UUID) -> bool:
    """Whether the project exists and is readable; a killed process may have left an incomplete file."""
    try:
        WorkspaceLocalState(str(shown)).read_project(identity)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _project(model: str) -> ProjectModel:
    identity: Any = project_id(model)
    return ProjectModel(id=identity, name=model, description="drift of every monitored window")
