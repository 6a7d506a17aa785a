"""Back-test a new model's file in a workspace of its own, on a bounded number of rows and windows.

`perennial backtest` runs in a process of its own, with a temporary workspace and Prefect server. Nothing of it reaches the
model's lake, ledger or registry, so that the first real run starts clean.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from deployments.config.folders import DEPLOYMENTS
from deployments.config.loading import load_model_config
from deployments.config.model import MONTH_DAYS, ModelConfig
from tasks.adapters.inspection.proposal import Proposal, trial_rows
from tasks.adapters.inspection.times import holdout_days
from tasks.adapters.storage.workspace import PARTS, make_folder, workspace
from tasks.policy.backtest.comparison import HistoryTerms, PolicyComparison, compare_policies
from tasks.policy.records.errors import TrialFailed
from tasks.replay.simulation import load_matrix

MOST_ROWS, MOST_WINDOWS, LEAST_HISTORY = 120_000, 26, 4
TIMEOUT_S = 900
LEAST_LABELLED = 20
"""Labelled rows of the history below which no model is trained: half of `training.min_rows`' least value is held out."""
SHARED_STATE = (*PARTS, "MLFLOW_TRACKING_URI", "PERENNIAL_DASK_ADDRESS")
"""Environment variables that lead to shared state, which a trial must not touch, as must Prefect's own ones."""


@dataclass(frozen=True)
class Trial:
    """The comparison of policies, and on what it was made."""

    comparison: PolicyComparison
    scope: str


def run_trial(proposal: Proposal, content: Mapping[str, Any]) -> Trial:
    """Back-test the completed content of a draft. Raises ModelConfigError or TrialFailed."""
    with tempfile.TemporaryDirectory(prefix="new-", dir=make_folder(workspace().home)) as place:
        folder = Path(place).resolve()
        frame = trial_rows(proposal, MOST_ROWS)
        bounded = _bounded(proposal, content, frame)
        _require_history(proposal, frame, pd.Timestamp(bounded["period"]["history_until"]))
        frame.to_parquet(folder / "rows.parquet", index=False)
        path = folder / f"{proposal.model}.yaml"
        path.write_text(yaml.safe_dump(bounded, sort_keys=False), encoding="utf-8")
        config = load_model_config(path)
        outcome = _backtest(path, folder)
        return Trial(_compare(config, Path(outcome["matrix"])), _scope(proposal, config, len(frame)))


def _bounded(proposal: Proposal, content: Mapping[str, Any], frame: pd.DataFrame) -> dict[str, Any]:
    """Return the content with the trial's table, the last `MOST_WINDOWS` windows, and limits that fit its rows."""
    division = proposal.division
    if division is None:
        raise TrialFailed(f"{proposal.model}: the time column is an open question, expected one; name it with --time")
    bounds = division.bounds()[-MOST_WINDOWS - 1 :]
    count = len(bounds) - 1
    delay = content["columns"].get("label_delay_hours", 0) / 24
    step = (bounds[-1] - bounds[0]) / pd.Timedelta(days=1) / count
    history = min(count - 2, max(LEAST_HISTORY, round(0.4 * count), int(delay // step) + 3))
    if history < 1:
        raise TrialFailed(
            f"{proposal.model}: the table has {count} windows, expected at least 3; choose shorter ones with --window"
        )
    start, until, end = bounds[0], bounds[history], bounds[-1]
    times = frame[proposal.time.value]
    rows = int(((times >= start) & (times < until)).sum())
    days = (until - start) / pd.Timedelta(days=1)
    period = {name: _utc(moment) for name, moment in (("start", start), ("history_until", until), ("end", end))}
    bounded = {name: value for name, value in content.items() if name not in ("source", "period")}
    return bounded | {
        "source": {"kind": "parquet", "path": "rows.parquet"},
        "period": period,
        "training": {"min_rows": int(min(1000, max(10, rows // 4)))},
        "validation": {"holdout_days": max(0.01, holdout_days(days - delay, rows))},
    }


def _require_history(proposal: Proposal, frame: pd.DataFrame, until: pd.Timestamp) -> None:
    history = frame[frame[proposal.time.value] < until]
    count = int(history[proposal.label.value].notna().sum())
    if count < LEAST_LABELLED:
        raise TrialFailed(
            f"{proposal.model}: {count} of the {len(history)} rows before {until:%Y-%m-%d %H:%M} have a label, expected at least "
            f"{LEAST_LABELLED} to train a first model; the model's file is written; add rows, or choose longer windows with "
            "--window"
        )


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _backtest(model: Path, folder: Path) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "deployments",
        "backtest",
        "--model",
        str(model),
        "--policies",
        "never,perennial",
        "--json",
    ]
    try:
        done = subprocess.run(
            command,
            env=_environment(folder),
            cwd=folder,  # Prefect reads prefect.toml and .env of the current folder, which may name a server
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TrialFailed(
            f"the back-test took longer than {TIMEOUT_S / 60:.0f} minutes; the model's file is written; expected fewer rows, or "
            "longer windows with --window"
        ) from None
    if done.returncode:
        raise TrialFailed(f"the back-test did not finish: {_why_failed(model.stem, done)}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _environment(folder: Path) -> dict[str, str]:
    """Return the environment of a process that reaches no workspace and no Prefect server but those in `folder`."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in SHARED_STATE and (not name.startswith("PREFECT_") or name.startswith("PREFECT_LOGGING_"))
    }
    profiles = folder / "profiles.toml"
    profiles.touch()
    found = [str(Path(each).absolute()) for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(DEPLOYMENTS.parent), *found]),  # the process starts in another folder
        "PERENNIAL_HOME": str(folder / "home"),
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_PROFILES_PATH": str(profiles),  # the user's active profile may name a server
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    return environment | ({"PERENNIAL_SOURCES": str(folder)} if "PERENNIAL_SOURCES" in environment else {})


def _why_failed(model: str, done: subprocess.CompletedProcess[str]) -> str:
    """Return what the back-test refused, else its exit code and where its messages are stored."""
    refused = [line for line in done.stderr.splitlines() if line.startswith("backtest: ")]
    if refused:
        return refused[-1].removeprefix("backtest: ")
    log = make_folder(workspace().reports / model) / "backtest.log"
    log.write_text(done.stderr, encoding="utf-8")
    return f"exit code {done.returncode}; its messages are in {log}"


def _compare(config: ModelConfig, path: Path) -> PolicyComparison:
    with np.load(path, allow_pickle=False) as stored:
        scale = float(stored["scale"])
    days = MONTH_DAYS if config.window else config.window_days
    return compare_policies(load_matrix(path), HistoryTerms(config.primary_metric, scale, days, config.budget))


def _scope(proposal: Proposal, config: ModelConfig, rows: int) -> str:
    period, served = config.period, config.windows()
    sampled = (
        f"a random sample of {rows:,} of {proposal.table.rows:,} rows"
        if rows < proposal.table.rows
        else f"all {rows:,} rows"
    )
    cut = ""
    division = proposal.division
    if division and division.windows > MOST_WINDOWS:
        cut = f"; of {division.windows} windows, the last {MOST_WINDOWS}"
    return (
        f"Back-tested on {sampled}{cut}: first trained on {period.start:%Y-%m-%d} to {period.history_until:%Y-%m-%d}, then "
        f"serving {len(served)} windows of {config.window_length} until {served[-1].end:%Y-%m-%d}."
    )
