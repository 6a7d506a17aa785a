"""A moved workspace, as the runbook suggests for a full disk, works and never writes to its old place."""

import shutil
from pathlib import Path

import pytest

from flows.monitor import monitor
from flows.promote import promote
from flows.retrain import retrain
from flows.rollback import rollback
from flows.score import score
from tasks.adapters import registry
from tasks.adapters.registry import version_files
from tasks.policy.records.base import utc
from tests.support.small_model import write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
FIRST = utc("2024-01-21")


def test_moved_workspace_works_without_the_old_place(
    tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path)
    retrain(model, until=FIRST)
    promote(model, until=FIRST)
    moved = tmp_path / "elsewhere"
    workspace.rename(moved)
    monkeypatch.setenv("PERENNIAL_HOME", str(moved))

    score(model, until=utc("2024-01-23"))
    assert monitor(model, until=utc("2024-01-23")).evidence.drift is not None
    champion = registry.version("small", registry.CHAMPION)
    assert version_files.attribution(champion) and version_files.coded_rows(champion), "lost silently"

    retrain(model, until=utc("2024-01-30"))
    assert promote(model, until=utc("2024-01-30")).action == "promoted"
    assert rollback(model, reason="to see that it can").champion == "1"
    newer = registry.client().get_model_version("small", "2")
    assert Path(newer.source).is_relative_to(moved / "artifacts" / "small")
    assert not workspace.exists(), sorted(map(str, workspace.rglob("*")))


def test_copied_workspace_does_not_write_to_the_original(
    tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path)
    retrain(model, until=FIRST)
    copied = tmp_path / "elsewhere"
    shutil.copytree(workspace, copied)
    before = sorted(workspace.rglob("*"))
    monkeypatch.setenv("PERENNIAL_HOME", str(copied))
    retrain(model, until=utc("2024-01-30"), reason="the copy goes on by itself")
    assert sorted(workspace.rglob("*")) == before
