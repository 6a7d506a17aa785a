"""Exported folders for tests of the device: a trained model, its key in the workspace, and rows as a device has them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import xgboost

from deployments.config.model import ModelConfig
from tasks.adapters.edge import device, folder as folders, keys
from tasks.adapters.edge.folder import PROGRAM
from tasks.adapters.models import estimators, files
from tasks.adapters.models.files import Scorer
from tasks.adapters.profiling.profile import freeze_reference
from tasks.policy.records.base import digest
from tasks.policy.training.edge import EdgeExport
from tests.support.trained_models import TRAINING, make_config, make_rows


def exported_model(
    folder: Path, task: str = "binary", rows: pa.Table | None = None, config: ModelConfig | None = None
) -> tuple[Scorer, Path]:
    """Train a model of this task, export it to a folder without a registry, and return its scorer and the folder."""
    rows, config = make_rows(task) if rows is None else rows, config or make_config(task)
    scorer = estimators.fit(config, rows).scorer
    stored = folder / "version"
    stored.mkdir(parents=True)
    files.save(scorer, stored)
    contents = files.read(stored)
    key = keys.make_key(config.name)
    export = EdgeExport(config.name, "1", files.sha256(contents), device.key_id(key), TRAINING.end)
    profile = freeze_reference(rows.to_batches(), config, TRAINING, digest("rows"))
    target = folder / "device"
    target.mkdir()
    folders.write_folder(target, config, folders.Exported(contents, profile, export, "e" * 16, key))
    return scorer, target


def on_device(rows: pa.Table) -> dict[str, Any]:
    """Return rows as a device has them: columns of Python values."""
    columns: dict[str, Any] = rows.to_pydict()
    return columns


BARE = """
import contextlib, importlib.util, io, json, runpy, sys
sys.path.append(sys.argv[1])
assert importlib.util.find_spec("tasks") is None, "Perennial can be imported"
main, done = runpy.run_path(sys.argv[2])["main"], []
for command in sys.argv[3:]:
    shown, refused = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(refused):
        code = main(command.split())
    done.append((code, shown.getvalue(), refused.getvalue()))
print(json.dumps(done))
"""
"""Runs commands of a file with the installed packages on the path, but without the project, which a .pth file installs."""


def run_on_device(folder: Path, *commands: str) -> list[tuple[int, str, str]]:
    """Run commands of the exported file in one process that cannot import Perennial; return (code, stdout, stderr) of each."""
    packages = str(Path(xgboost.__file__).parent.parent)
    words = [sys.executable, "-I", "-S", "-c", BARE, packages, str(folder / PROGRAM), *commands]
    done = subprocess.run(
        words, cwd=folder, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [(code, shown, refused) for code, shown, refused in json.loads(done.stdout)]
