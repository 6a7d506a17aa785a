"""Allow one `serve` per workspace, because two would write to one database; a second one is refused.

The next start ends processes that a killed `serve` left running. Because process ids are reused, only a process with
the recorded start time is ended.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from deployments.local.services import Service, end
from tasks.adapters.storage.workspace import Workspace
from tasks.policy.records.errors import WorkspaceError

PATIENCE_S = 20


@dataclass(frozen=True)
class Hold:
    """Lock of one `serve` on its workspace; its file records the processes that were started."""

    path: Path

    def remember(self, services: Sequence[Service]) -> None:
        running = [service.process.pid for service in services if service.process and service.exit_status is None]
        started = {pid: psutil.Process(pid).create_time() for pid in running}
        self.path.write_text(json.dumps({"serve": os.getpid(), "started": started}), encoding="utf-8")

    def recall(self) -> dict[str, Any]:
        """Return the recorded processes; empty if the file is truncated, as after a full disk or a power loss.

        Only the lock decides whether the workspace is in use; an unreadable file neither releases nor holds it.
        """
        try:
            return dict(json.loads(self.path.read_text(encoding="utf-8") or "{}"))
        except ValueError:
            return {}


@contextmanager
def hold_workspace(space: Workspace) -> Iterator[Hold]:
    """Hold the workspace's lock until exit. Raises WorkspaceError if another `serve` holds it."""
    hold = Hold(space.home / "serve.lock")
    with hold.path.open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkspaceError(
                f"{space.home}: is served already, by process {hold.recall().get('serve', 'unknown')}; "
                "stop that one first, or set PERENNIAL_HOME to another workspace"
            ) from error
        end(_leftovers(hold.recall()), PATIENCE_S)
        hold.remember(())
        yield hold
        hold.path.write_text("", encoding="utf-8")


def _leftovers(remembered: dict[str, Any]) -> list[psutil.Process]:
    left = []
    for pid, started in remembered.get("started", {}).items():
        try:
            process = psutil.Process(int(pid))
            if process.create_time() == started:
                left += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return left
