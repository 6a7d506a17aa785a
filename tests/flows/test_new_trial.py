"""The back-test of `perennial new`: a process without the user's servers, and failures that name their cause."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from deployments.new import trial
from deployments.new.draft import People, completed, draft
from tasks.adapters.inspection.proposal import Answers, describe_table, propose
from tasks.adapters.inspection.table import TablePlace, read_table
from tasks.policy.records.errors import TrialFailed

PROFILE = """active = "shared"
[profiles.shared]
PREFECT_API_URL = "http://shared.example:4200/api"
PREFECT_API_KEY = "secret"
"""


def test_no_server_of_the_user_is_reached(tmp_path, monkeypatch):
    """Neither a variable, nor the active profile, nor a prefect.toml in the current folder names the trial's server."""
    home = tmp_path / ".prefect"
    home.mkdir()
    (home / "profiles.toml").write_text(PROFILE)
    (tmp_path / "prefect.toml").write_text('[api]\nurl = "http://shared.example:4200/api"\n')
    for name in ("PREFECT_API_URL", "PREFECT_CLOUD_API_URL", "PREFECT_API_DATABASE_CONNECTION_URL"):
        monkeypatch.setenv(name, "http://shared.example")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_PROFILE", "shared")
    monkeypatch.setenv("PREFECT_LOGGING_COLORS", "false")
    folder = tmp_path / "trial"
    folder.mkdir()
    environment = trial._environment(folder)
    assert environment["PREFECT_LOGGING_COLORS"] == "false"
    assert "shared" not in " ".join(value for name, value in environment.items() if name.startswith("PREFECT_"))
    code = "from prefect.settings import PREFECT_API_KEY, PREFECT_API_URL; print(PREFECT_API_URL.value(), PREFECT_API_KEY.value())"
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == ["None", "None"]


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        (
            "backtest: t.yaml: too few rows\n12:00 | ERROR | prefect - Stopping server\n",
            "did not finish: t.yaml: too few",
        ),
        ("Traceback\nValueError: odd\n12:00 | prefect - Stopping server\n", r"exit code 3; its messages are in .*t/b"),
    ],
)
def test_a_failed_back_test_names_its_cause(stderr, message, tmp_path, workspace, monkeypatch):
    started: list[Path] = []
    done = subprocess.CompletedProcess([], 3, "", stderr)
    monkeypatch.setattr(trial.subprocess, "run", lambda *_, cwd, **__: started.append(cwd) or done)
    with pytest.raises(TrialFailed, match=message):
        trial._backtest(tmp_path / "t.yaml", tmp_path)
    assert started == [tmp_path], "where no prefect.toml of the user is"
    logs = list(workspace.rglob("backtest.log"))
    assert [log.read_text() for log in logs] == ([] if "backtest:" in stderr else [stderr])


@pytest.mark.parametrize(("rows", "labelled", "starts"), [(6, 6, False), (300, 10, False), (300, 300, True)])
def test_too_short_a_history_is_refused_before_it_starts(rows, labelled, starts, tmp_path, workspace, monkeypatch):
    started = []
    monkeypatch.setattr(trial, "_backtest", lambda *_: started.append(1) or {"matrix": str(tmp_path / "none")})
    table = pd.DataFrame(
        {"id": [f"r{number}" for number in range(rows)], "amount": [number % 7 for number in range(rows)]}
    )
    table["at"] = pd.date_range("2025-01-01", periods=rows, freq="6h", tz="UTC")
    table["left"] = pd.Series([number % 2 for number in range(rows)], dtype="Int64")
    table.loc[range(labelled, rows), "left"] = None
    table.to_parquet(tmp_path / "t.parquet")
    found = read_table(TablePlace(str(tmp_path / "t.parquet")))
    answers = Answers(label="left", time="at", id=("id",), label_delay_hours=0)
    proposal = propose("rows", found, describe_table(found), answers)
    content = completed(draft(proposal, People(), Path(tmp_path), pd.Timestamp("2026-01-01", tz="UTC").to_pydatetime()))
    with pytest.raises(
        FileNotFoundError if starts else TrialFailed, match=None if starts else "have a label, expected"
    ):
        trial.run_trial(proposal, content)
    assert bool(started) == starts
