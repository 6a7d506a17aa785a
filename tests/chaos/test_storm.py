"""A small storm on a real server and worker, stopped in the middle; `make chaos` runs the great ones."""

import json
import subprocess
import sys

import pytest


@pytest.mark.timeout(1800)
def test_events_repeated_across_a_restart_of_the_server_lead_to_one_retrain_of_each_model(tmp_path):
    out = tmp_path / "storm.json"
    ended = subprocess.run(
        [sys.executable, "-m", "tests.chaos.storm", "--events", "40", "--models", "2", "--restart", "--out", str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-1000:] + ended.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["versions"] == found["retrained"] == 2
    assert found["most_at_once"] <= found["limit"] == 1
