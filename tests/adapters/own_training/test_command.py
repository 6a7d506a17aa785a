"""Train by a command: the page's example as printed, what the command is given, and every way in which it ends."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from deployments.new.checking import check_files
from tasks.adapters import registry
from tasks.adapters.own_training import command
from tasks.adapters.own_training.snapshot_files import TrainingJob
from tasks.policy.records.errors import ForeignModelError, TrainingFailed
from tasks.training.train import train_challenger
from tests.support import returns_model
from tests.support.trained_models import TRAINING, land, make_config, make_rows, make_snapshot, prepare_registry
from tests.support.ways_in import example


def model(folder: Path, script: str, **training: object) -> ModelConfig:
    """Return a model whose command is this Python script beside its file."""
    (folder / "train.py").write_text(script, encoding="utf-8")
    config = make_config(training={"command": [sys.executable, "train.py"], "min_rows": 200, **training})
    config._file = folder / "model.yaml"
    return config


def job(rows: int = 300) -> TrainingJob:
    return TrainingJob(make_snapshot(rows=rows), "d1", make_rows(rows=rows))


def train(config: ModelConfig) -> command.TrainedElsewhere:
    with disable_run_logger():
        return command.train(config, job())


def test_the_page_trains_a_challenger(tmp_path, workspace):
    prepare_registry(workspace)
    config = model(tmp_path, example("training", "python", 1))
    rows = make_rows()
    config = config.model_copy(
        update={
            "columns": config.columns.model_copy(
                update={"features": config.columns.features.model_copy(update={"categorical": (), "boolean": ()})}
            )
        }
    )
    with disable_run_logger():
        version = train_challenger.fn(config, land(config, TRAINING, rows), "d1")
    tags = dict(version.tags)
    assert tags["origin"] == f"command: {sys.executable} train.py"
    usage = json.loads(tags["usage"])
    assert usage["cpu_s"] > 0.5, "the CPU time of the command counts"
    scorer = registry.version_files.load_scorer(version)
    y_true, y_pred = scorer.predict_labelled(rows, rows["label"])
    assert ((y_pred > 0.5) == y_true).mean() > 0.8
    assert not list((workspace / "training").iterdir()), "no rows are left behind"


def test_the_page_s_settings_are_those_of_a_model(tmp_path):
    shown = "training: {min_rows: 300, parameters: {n_estimators: 30, max_depth: 3}}\n"
    path = returns_model.write_model(
        tmp_path, **{shown: example("training", number=1).replace('"python"', f'"{sys.executable}"')}
    )
    (found,) = check_files([path], data=False)
    assert not found.error
    assert "trains the command" in " ".join(found.behaviour)
    assert "probes, back-tests and replays use XGBoost in its place" in " ".join(found.behaviour)
    assert load_model_config(path).training.timeout_hours == 2


def test_only_the_snapshot_is_handed_over(tmp_path):
    seen = tmp_path / "seen.json"
    script = f"""
import json, os, shutil, sys
import pandas as pd
given = os.environ["PERENNIAL_INPUT"]
job = json.load(open(given + "/training.json"))
rows = pd.read_parquet(given + "/rows.parquet")
json.dump([job, list(rows), str(rows["time"].max()), sys.argv[1:], dict(os.environ)], open({str(seen)!r}, "w"))
sys.exit(3)
"""
    config = model(tmp_path, script)
    config = config.model_copy(
        update={
            "training": config.training.model_copy(
                update={
                    "command": (*config.training.command, "--in={input}", "{output}"),
                    "environment": ("MLFLOW_TRACKING_URI",),
                }
            )
        }
    )
    os.environ |= {"MLFLOW_TRACKING_URI": "sqlite:///mine.db", "PREFECT_API_AUTH_STRING": "secret"}
    try:
        with pytest.raises(TrainingFailed, match="ended with status 3; its last lines: it wrote nothing to stderr"):
            train(config)
    finally:
        del os.environ["MLFLOW_TRACKING_URI"], os.environ["PREFECT_API_AUTH_STRING"]
    described, columns, latest, arguments, environment = json.loads(seen.read_text())
    assert described["classes"] == ["0", "1"] and described["decision_id"] == "d1" and described["seed"] == 7
    assert described["snapshot"]["window"]["end"] == TRAINING.end.isoformat() and latest < TRAINING.end.isoformat(" ")
    assert columns == ["id", "time", "label", "x", "noise", "colour", "flag"]
    assert arguments == [f"--in={environment['PERENNIAL_INPUT']}", environment["PERENNIAL_OUTPUT"]]
    assert environment["MLFLOW_TRACKING_URI"] == "sqlite:///mine.db"
    assert not [
        name
        for name in environment
        if name.startswith(("PREFECT_", "PERENNIAL_")) and name not in ("PERENNIAL_INPUT", "PERENNIAL_OUTPUT")
    ]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; sys.exit('no data at postgresql://me:secret@host/db')", r"status 1; its last lines: no data at postgresql://\*\*\*@host/db"),
        ("pass", "its output place holds nothing, expected one model"),
        ("import os; [open(os.environ['PERENNIAL_OUTPUT'] + '/' + name, 'w') for name in 'ab']", "holds 2 entries: a, b, expected one"),
        ("import os; os.kill(os.getpid(), 9)", "ended with status -9"),
    ],
)  # fmt: skip
def test_failures_are_named(script, message, tmp_path, workspace):
    with pytest.raises(TrainingFailed, match=message):
        train(model(tmp_path, script))
    assert not list((workspace / "training").iterdir())


def test_a_missing_program_is_named(tmp_path):
    config = make_config(training={"command": ["no-such-program"]})
    with pytest.raises(TrainingFailed, match="which cannot be started"):
        train(config)


def test_a_format_that_runs_code_needs_trust(tmp_path):
    script = "import os, pickle; pickle.dump({}, open(os.environ['PERENNIAL_OUTPUT'] + '/model.pkl', 'wb'))"
    with pytest.raises(ForeignModelError, match=r"training\.trust: true"):
        train(model(tmp_path, script))


def alive(marker: str) -> bool:
    return any(
        marker in path.read_bytes().decode(errors="replace")
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists()
    )


@pytest.mark.parametrize("ending", ["time limit", "interrupt"])
def test_all_of_its_processes_end_with_it(ending, tmp_path):
    marker = f"marker-{ending.replace(' ', '-')}-{os.getpid()}"
    script = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', '{marker}']); time.sleep(60)"
    hours = 3 / 3600 if ending == "time limit" else 1
    config = model(tmp_path, script, timeout_hours=hours)
    if ending == "interrupt":
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        signal.alarm(4)
    began = time.monotonic()
    with pytest.raises(TrainingFailed if ending == "time limit" else KeyboardInterrupt):
        train(config)
    assert time.monotonic() - began < 30
    assert not alive(marker)
