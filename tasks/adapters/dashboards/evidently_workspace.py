"""What monitoring hands to Evidently's own UI: one project per model, one snapshot per window.

Ids come from the model and the window, so that measuring a window again replaces its snapshot instead of adding one.
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
    """Evidently's workspace inside ours."""
    return workspace().home / FOLDER


def project_id(model: str) -> UUID:
    return uuid5(NAMESPACE_URL, f"perennial:{model}")


def keep(snapshot: Snapshot, model: str, window: str, moment: datetime) -> None:
    """Write a window's snapshot into the model's project. Raises OSError where the disk refuses.

    One file that breaks off ends the whole UI, so files are moved in whole. They are written outside the folder, because a
    running UI takes a file from elsewhere for a new one, but does not see one that only changes its name.
    """
    identity, shown = project_id(model), make_folder(folder())
    written = snapshot.to_snapshot_model()
    written.name, written.timestamp = f"{model} {window}", moment
    with TemporaryDirectory(prefix=f".{FOLDER}.", suffix=".unfinished", dir=shown.parent) as own:
        state = WorkspaceLocalState(own)
        if not _has_project(shown, identity):
            state.write_project(_project(model))
        state.write_snapshot(identity, uuid5(identity, window), written)
        for file in sorted(Path(own).rglob("*.json")):  # the project's metadata.json comes before its snapshots
            target = shown / file.relative_to(own)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)


def _has_project(shown: Path, identity: UUID) -> bool:
    """Whether the project is there and can be read; a process that was killed may have left half a file of it."""
    try:
        WorkspaceLocalState(str(shown)).read_project(identity)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _project(model: str) -> ProjectModel:
    identity: Any = project_id(model)
    return ProjectModel(id=identity, name=model, description="drift of every monitored window")
