"""Evidently's UI shows each monitored window once, and its pages share their assets."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TextIO

import numpy as np
import pytest
from evidently.ui.service.storage.local.base import LocalState
from evidently.ui.service.storage.local.watcher import WorkspaceDirHandler
from watchdog.observers import Observer

from tasks.adapters.dashboards import evidently_workspace
from tasks.adapters.dashboards.evidently_workspace import folder, project_id, store_snapshot
from tasks.adapters.storage.workspace import make_folder, workspace
from tasks.policy.records.errors import WorkspaceError
from tests.support.browser import needs_chromium, render
from tests.support.monitored_model import WINDOW, judge

READ = """
import json, sys
from evidently.ui.workspace import Workspace
from uuid import UUID
there = Workspace(sys.argv[1])
(project,) = there.list_projects()
runs = [there.get_run(project.id, run) for run in there.list_runs(project.id)]
print(json.dumps([project.name, [run.name for run in runs], [test.status.value for run in runs for result in run.metric_results.values() for test in result.tests]]))
"""


def test_another_process_reads_a_measured_window_once(tmp_path):
    judged = judge(tmp_path, amount=np.zeros(2000))
    assert judged.drift.verdict and judged.drift.verdict  # measured twice
    read = subprocess.run([sys.executable, "-c", READ, str(folder())], capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr[-2000:]
    name, runs, statuses = json.loads(read.stdout.splitlines()[-1])
    assert (name, runs) == ("churn", ["churn 2024-02-01..2024-02-06"])
    assert sorted(statuses) == ["FAIL", "SUCCESS", "SUCCESS", "SUCCESS"]
    assert (folder() / str(project_id("churn")) / "metadata.json").is_file()


@pytest.fixture
def shown(tmp_path) -> Iterator[LocalState]:
    """Return the content of a running UI, which reads the folder at start and is then notified of files."""
    state = LocalState.load(str(make_folder(folder())), None)
    observer = Observer()
    observer.schedule(WorkspaceDirHandler(state), str(folder()), recursive=True)
    observer.start()
    yield state
    observer.stop()
    observer.join(10)


def test_running_ui_shows_each_new_window(tmp_path, shown, monkeypatch):
    drawn = []
    with monkeypatch.context() as patched:
        patched.setattr(evidently_workspace, "store_snapshot", lambda snapshot, *_: drawn.append(snapshot))
        assert judge(tmp_path).drift
    for number in (1, 2, 3):
        store_snapshot(*drawn, "churn", f"window {number}", WINDOW.end)
        deadline = monotonic() + 60
        while len(shown.snapshots.get(project_id("churn"), {})) < number and monotonic() < deadline:
            sleep(0.05)
        assert len(shown.snapshots[project_id("churn")]) == number
    assert shown.projects[project_id("churn")].name == "churn"


@pytest.mark.parametrize("torn", ["", '{"id": "', "[]"])
def test_incomplete_project_is_rewritten(tmp_path, torn):
    assert judge(tmp_path).drift
    metadata = folder() / str(project_id("churn")) / "metadata.json"
    metadata.write_text(torn)
    assert judge(tmp_path).drift
    state = LocalState.load(str(folder()), None)
    assert [project.name for project in state.projects.values()] == ["churn"]
    assert len(state.snapshots[project_id("churn")]) == 1


def test_failed_write_leaves_the_earlier_window(tmp_path, monkeypatch):
    assert judge(tmp_path).drift
    before = {path: path.read_bytes() for path in workspace().home.rglob("*.json")}

    def half_written(content: Any, file: TextIO, **_: Any) -> None:
        file.write("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evidently.ui.storage.local.base.json.dump", half_written)
    with pytest.raises(WorkspaceError, match="No space left"):
        judge(tmp_path, amount=np.ones(2000)).drift  # noqa: B018
    assert {path: path.read_bytes() for path in workspace().home.rglob("*.json")} == before
    assert not list(workspace().home.glob(".*"))


@pytest.fixture
def page(tmp_path) -> Path:
    return Path(judge(tmp_path, amount=np.zeros(2000)).drift.report_uri)


def test_pages_share_assets_by_relative_address(page, tmp_path):
    html = page.read_text(encoding="utf-8")
    assert len(html) < 400_000
    addresses = re.findall(r"(?:src|href)=\"([^\"]*assets/[^\"]+)\"", html)
    assert sorted(Path(address).suffix for address in addresses) == [".css", ".js"]
    assert all(address.startswith("../../assets/evidently-") for address in addresses)
    assert all((page.parent / address).resolve().is_file() for address in addresses)
    assert sum((page.parent / address).stat().st_size for address in addresses) > 3_000_000
    judge(tmp_path, amount=np.ones(2000)).drift  # noqa: B018  another page of the same version
    assert len(list((workspace().reports / "assets").iterdir())) == 2


@needs_chromium
def test_page_renders_offline(page, tmp_path):
    shown = render(page, tmp_path, width=1280, height=1200, ready="text=Columns, worst first")
    assert all(address.startswith("file://") or address.startswith("data:") for address in shown.requests)
    assert "amount" in shown.dom
    assert not [line for line in shown.console if "rror" in line]
