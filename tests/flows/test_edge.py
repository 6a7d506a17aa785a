"""From an export to a validated challenger: a device adapts to drifted rows in a process without Perennial."""

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deployments.cli import main
from deployments.config.loading import load_model_config
from flows.promote import promote
from flows.retrain import retrain
from flows.score import score
from tasks.adapters import ledger, registry
from tasks.adapters.edge import device
from tasks.data.snapshot import take_snapshot
from tasks.policy.records.base import from_json, utc
from tasks.policy.records.errors import (
    AccessRefused,
    ReplayedUpdate,
    StaleUpdate,
    TooEarly,
    UpdateBeyondLimits,
    UpdateRefused,
)
from tasks.policy.records.evidence import ModelVersion
from tasks.policy.training.edge import EdgeUpdate
from tests.support.small_model import CHANGE, START, rows

pytestmark = pytest.mark.usefixtures("prefect_server", "quiet")
ADA, END = "ada@example.com", utc("2024-02-06")


def drifted() -> pd.DataFrame:
    """Return the small model's rows, where from CHANGE on the label is higher by 1.5, for red rows by 2.5."""
    table = rows()
    late = table["at"] >= CHANGE
    table.loc[late, "y"] += 4 * table.loc[late, "x"] + 1.5 + (table.loc[late, "colour"] == "red")
    return table


@pytest.fixture
def model(begin: Any, tmp_path: Path) -> str:
    """The small model with its first champion, and the rows of all later windows in the lake."""
    path: str = begin(tmp_path / "model", drifted())
    config = load_model_config(path)
    for window in config.windows():
        take_snapshot(config, window)
    return path


def run_on_device(folder: Path, *words: str) -> str:
    """Run a command of the exported file as a device does: isolated, without this project on its path."""
    done = subprocess.run(
        [sys.executable, "-I", str(folder / "perennial_edge.py"), *words],
        cwd=folder, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def adapted(model: str, folder: Path, since: datetime = CHANGE, batches: int = 3) -> Path:
    """Export the champion, adapt it on the device to batches of two days, and return its update."""
    assert main(["edge", "export", model, str(folder), "--requested-by", ADA]) == 0
    table = drifted()
    for batch in range(batches):
        start = since + timedelta(days=2 * batch)
        part = table[(table["at"] >= start) & (table["at"] < start + timedelta(days=2))]
        part.to_json(folder / "rows.jsonl", orient="records", lines=True, date_format="iso")
        run_on_device(folder, "adapt", "rows.jsonl")
    run_on_device(folder, "update", "update.json")
    return folder / "update.json"


def import_update(model: str, update: Path, **given: Any) -> Any:
    return retrain(model, **{"update": str(update), "until": END, "requested_by": ADA} | given)


def test_device_adapts_and_its_update_becomes_the_champion(model, tmp_path):
    folder = tmp_path / "device"
    update = adapted(model, folder)
    assert not any(word in update.read_text(encoding="utf-8") for word in ("rows.jsonl", "green", "noise"))
    assert main(["edge", "import", model, str(update), "--until", END.isoformat(), "--requested-by", ADA]) == 0
    config = load_model_config(model)
    (registered,) = [
        from_json(ModelVersion, each.body) for each in ledger.entries("small", kind="challenger.registered")
    ][1:]
    (imported,) = ledger.entries("small", kind="edge.imported")
    assert imported.actor == ADA and imported.decision_id == registered.decision_id
    assert "update 1 of the device" in dict(registered.tags)["origin"]
    assert registered.trained == registry.version("small", "1").trained
    verdict = retrain(model, update=str(update), until=END, requested_by=ADA) if False else None
    assert verdict is None
    promotion = promote(model, until=END)
    assert promotion.champion == registered.version
    served = registry.version_files.load_scorer(registry.version("small", registry.CHAMPION))
    table = drifted().tail(200)
    with device.EdgeModel(folder) as here:
        assert here.predict(table.to_dict("list")).tolist() == served.predict(table).tolist()
    assert config.name == "small"
