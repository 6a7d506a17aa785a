"""Trainings that are killed 20 times at random rounds: each ends in the model of an undisturbed one, bit for bit."""

import random
import signal
import tempfile
import time
from contextlib import nullcontext

import pytest

from tests.chaos.matrix import Row
from tests.support.killed_training import SAMPLED, Attempts, run
from tests.support.object_store import object_store

KILLS = 20
TRAININGS = {
    "training: 20 kills, checkpoints on disk": ("binary", signal.SIGKILL, ""),
    "training: 20 kills, checkpoints in S3": ("multiclass", signal.SIGKILL, "s3"),
    "training: 20 times asked to stop": ("regression", signal.SIGTERM, ""),
}
PARAMETERS = {**SAMPLED, "n_estimators": 120, "learning_rate": 0.1}


def run_kills(name: str, seed: int = 0) -> Row:
    """Kill a training after random numbers of rounds until it has been killed `KILLS` times; compare the model."""
    task, by, scheme = TRAININGS[name]
    draw = random.Random(f"{name} {seed}")
    ends = tuple(draw.randint(1, 10) for _ in range(KILLS))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", f"{home}/home")
        with object_store(scheme, patch) if scheme else nullcontext("") as bucket:
            if bucket:
                patch.setenv("PERENNIAL_LAKE", f"{bucket}/lake")
            ended, last, undisturbed = run(Attempts(task, PARAMETERS, ends, by))
    problems = []
    if {each.status for each in ended} != {-by}:
        problems.append(f"attempts ended with {[each.status for each in ended]}, expected {-by}")
    if (last.model, last.metrics) != (undisturbed.model, undisturbed.metrics):
        problems.append(f"model {last.model[:12]} of rounds {ends}, expected {undisturbed.model[:12]}")
    return Row(name, "flow", round(time.monotonic() - began, 1), tuple(problems))
