"""The full loop on a real server and worker, from the shipped configuration; `make e2e` prints its steps."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow(
    "the full loop on a server and a worker of its own: two trainings, a rollout and minutes of hand-overs"
)
@pytest.mark.timeout(1800)
def test_drifted_rows_lead_to_a_champion_by_an_approved_rollout(workspace):
    ended = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_e2e"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout[-1000:] + ended.stderr[-3000:]
    hops = json.loads((workspace / "bench" / "e2e.json").read_text())
    assert hops["trigger_to_live_s"] > 0
    assert set(hops) >= {
        "event_to_score_s",
        "score_to_monitor_s",
        "monitor_to_retrain_s",
        "shadow_to_question_s",
        "passed_to_live_s",
    }
