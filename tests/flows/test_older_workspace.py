"""A workspace written by Perennial 0.1 is read and continued by this version."""

import tarfile
from pathlib import Path

import pytest

from deployments.config.loading import load_model_config
from flows.monitor import monitor
from flows.score import score
from tasks.adapters import ledger, registry
from tasks.adapters.registry import version_files
from tasks.policy.records.base import utc
from tasks.record.fleet import survey_fleet
from tasks.record.history import find_champion, load_judgement, load_past, registry_changes
from tests.support.small_model import write_model

pytestmark = pytest.mark.usefixtures("prefect_server")
ARCHIVE = Path(__file__).parent.parent / "support" / "snapshots" / "workspace_0.1.tar.xz"
"""Written by retrain and promote as of 2024-01-21, score and monitor as of 2024-01-23; without reports."""


@pytest.fixture
def model(workspace: Path, tmp_path: Path) -> str:
    workspace.mkdir()
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(workspace, filter="data")
    return write_model(tmp_path / "model")


def test_old_workspace_is_readable_and_continues(model):
    config = load_model_config(model)
    assert ledger.verify("small").problems == ()
    (window,) = config.windows(end=utc("2024-01-23"))
    judged = load_judgement(config, load_past(config), window)
    assert judged is not None and judged.champion == "1" and judged.registry_changes == ()
    champion = find_champion(config, required=True)
    assert version_files.load_scorer(champion, fresh=True).task == "regression"
    assert registry_changes(config, load_past(config)) == ()
    assert [member.facts.model for member in survey_fleet([config], utc("2024-01-23")).members] == ["small"]
    assert score(model, until=utc("2024-01-25")).rows == 300
    assert monitor(model, until=utc("2024-01-25")).decision.window.end == utc("2024-01-25")
    assert ledger.verify("small").problems == ()
    assert registry.aliases("small") == {"champion": "1"}
