"""Moved parts of the workspace are as private as the workspace itself."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.adapters import lake, ledger, registry
from tasks.adapters.storage.workspace import workspace as described
from tasks.policy.evidence.ledger import Fact
from tasks.policy.records.base import utc
from tests.support.monitored_model import WINDOW, model, rows
from tests.support.trained_models import make_config, prepare_registry, register

PARTS = ("lake", "ledger", "reports", "artifacts")


@pytest.fixture
def moved(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Move the parts, with the umask of most systems."""
    prepare_registry(workspace)
    for part in PARTS:
        monkeypatch.setenv(f"PERENNIAL_{part.upper()}", str(tmp_path / "elsewhere" / part))
    before = os.umask(0o022)
    yield tmp_path / "elsewhere"
    os.umask(before)


def use_all() -> None:
    lake.land_rows(model(), WINDOW, rows(50))
    ledger.append("churn", Fact("note", "a fact", utc("2024-02-01")))
    described().report("churn", WINDOW.name, "drift.html").write_text("numbers")
    register(make_config())
    assert registry.find("binary_model", "d1")


def test_moved_parts_are_private(moved: Path) -> None:
    use_all()
    assert {part: oct((moved / part).stat().st_mode & 0o777) for part in PARTS} == dict.fromkeys(PARTS, "0o700")


def test_existing_part_keeps_its_permissions(moved: Path) -> None:
    for part in PARTS:
        (moved / part).mkdir(parents=True)
        (moved / part).chmod(0o750)
    use_all()
    assert {part: oct((moved / part).stat().st_mode & 0o777) for part in PARTS} == dict.fromkeys(PARTS, "0o750")
