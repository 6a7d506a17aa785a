"""What monitoring hands to Evidently's own UI: one project per model, one snapshot per window.

Ids come from the model and the window, so that measuring a window again replaces its snapshot instead of adding one.
"""

from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from evidently.core.report import Snapshot
from evidently.sdk.models import ProjectModel
from evidently.ui.service.storage.local.base import WorkspaceLocalState

from tasks.adapters.workspace import make_folder, workspace

FOLDER = "evidently"


def folder() -> Path:
    """Evidently's workspace inside ours."""
    return workspace().home / FOLDER


def project_id(model: str) -> UUID:
    return uuid5(NAMESPACE_URL, f"perennial:{model}")


def keep(snapshot: Snapshot, model: str, window: str, moment: datetime) -> None:
    """Write a window's snapshot into the model's project. Raises OSError where the disk refuses."""
    identity: Any = project_id(model)
    state = WorkspaceLocalState(str(make_folder(folder())))
    if not (folder() / str(identity) / "metadata.json").exists():
        state.write_project(ProjectModel(id=identity, name=model, description="drift of every monitored window"))
    written = snapshot.to_snapshot_model()
    written.name, written.timestamp = f"{model} {window}", moment
    state.write_snapshot(identity, uuid5(project_id(model), window), written)
