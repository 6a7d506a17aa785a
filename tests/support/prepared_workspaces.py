"""Prepared workspaces that many tests start from: each is built once per process, then copied instead of trained again.

A test's copy works like a copy made by a user: `tasks.adapters.storage.relocation` finds the versions' files in their
new place.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.promote import promote
from flows.retrain import retrain
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.base import digest, utc

FIRST = utc("2024-01-21")
"""End of the small model's history, the `until` of its first training."""
Preparation = Callable[[str], object]
"""Runs flows on a model's file. Must be a module-level function, because its name identifies the workspace."""


def first_champion(model: str) -> None:
    retrain(model, until=FIRST)
    promote(model, until=FIRST)


class PreparedWorkspaces:
    """One workspace for each preparation, model file and table."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Path] = {}

    def copy(self, prepare: Preparation, model: str) -> None:
        """Copy the workspace that `prepare` builds from an empty one into the current workspace."""
        content = [path.read_bytes().hex() for path in (Path(model), Path(model).with_name("rows.parquet"))]
        key = digest(prepare.__module__, prepare.__qualname__, *content)
        if key not in self._made:
            self._made[key] = self._make(prepare, model)
        shutil.copytree(self._made[key], workspace().home, dirs_exist_ok=True)

    def _make(self, prepare: Preparation, model: str) -> Path:
        home = Path(tempfile.mkdtemp(dir=self._folder))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PERENNIAL_HOME", str(home))
            prepare(model)
        return home
