"""Train a small model in processes that are killed after some rounds, until one comes to the end; and once undisturbed.

`python -m tests.support.killed_training SETTINGS` imports everything once and forks for each attempt, so a kill costs a
fraction of a second. It prints one JSON object for each attempt.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import yaml
from prefect.utilities.engine import capture_sigterm
from xgboost import Booster

from deployments.config.model import ModelConfig
from tasks.adapters.checkpoints.store import CheckpointStore
from tasks.adapters.checkpoints.training import TrainingCheckpoints
from tasks.adapters.models import estimators
from tasks.adapters.models.estimators import FitPlan
from tests.support import small_model

METRICS = {"binary": "log_loss", "multiclass": "log_loss", "regression": "mae"}
SAMPLED = {"n_estimators": 40, "max_depth": 3, "subsample": 0.7, "colsample_bytree": 0.6, "colsample_bynode": 0.8}


@dataclass(frozen=True)
class Attempts:
    """What is trained, and after how many of its own rounds each attempt is ended; one more comes to the end."""

    task: str = "binary"
    parameters: dict[str, Any] = field(default_factory=lambda: SAMPLED)
    ends: tuple[int, ...] = ()
    by: int = signal.SIGKILL
    every_s: float = 0.0
    """0: a checkpoint after each round."""
    in_prefect: bool = False
    """With Prefect's handler of SIGTERM, as in the process of a flow run."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: its exit status, and its rounds; for one that came to the end, the model and its metrics."""

    status: int
    rounds: int = 0
    model: str = ""
    metrics: dict[str, float] = field(default_factory=dict)


def run(attempts: Attempts) -> tuple[list[Outcome], Outcome, Outcome]:
    """Run in a process with this one's environment; return the ended attempts, the complete one and an undisturbed one."""
    command = [sys.executable, "-m", __name__, json.dumps(asdict(attempts))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    *ended, complete, undisturbed = [Outcome(**json.loads(line)) for line in done.stdout.splitlines()]
    return ended, complete, undisturbed


def _end_after(rounds: int, by: int) -> list[int]:
    """Make this process end itself after so many rounds; return a counter of its rounds."""
    counted, update = [0], Booster.update

    def counting(self: Booster, dtrain: Any, iteration: int, fobj: Any = None) -> None:
        update(self, dtrain, iteration, fobj)
        counted[0] += 1
        if counted[0] == rounds:
            os.kill(os.getpid(), by)

    Booster.update = counting
    return counted


def _train(attempts: Attempts, decision_id: str, end: int | None) -> Outcome:
    counted = _end_after(end or -1, attempts.by)  # the number of no round
    config = _config(attempts)
    store = CheckpointStore(config.name, decision_id)
    checkpoints = TrainingCheckpoints(store, "hash of the rows", attempts.every_s)
    with capture_sigterm() if attempts.in_prefect else nullcontext():
        fitted = estimators.fit(config, _rows(attempts.task), plan=FitPlan(checkpoints=checkpoints))
    booster = fitted.scorer.estimator.get_booster()
    return Outcome(0, counted[0], hashlib.sha256(booster.save_raw("ubj")).hexdigest(), fitted.metrics)


def _config(attempts: Attempts) -> ModelConfig:
    settings = yaml.safe_load(small_model.YAML)
    settings |= {"task": attempts.task, "performance": {"metric": METRICS[attempts.task]}, "validation": {}}
    settings["retraining"] = {"when": {"trigger": "every", "days": 30}}
    settings["training"] |= {"parameters": attempts.parameters}
    return ModelConfig.model_validate(settings)


def _rows(task: str) -> pa.Table:
    rows = small_model.rows(days=10)
    if task != "regression":
        rows["y"] = (rows["y"] > 0).astype(int) + (rows["y"] > 2) * (task == "multiclass")
    return pa.Table.from_pandas(rows)


def main() -> None:
    given = json.loads(sys.argv[1])
    attempts = Attempts(**given | {"ends": tuple(given["ends"])})
    plans = [("ended", end) for end in attempts.ends] + [("ended", None), ("undisturbed", None)]
    for decision_id, end in plans:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, json.dumps(asdict(_train(attempts, decision_id, end))).encode())
            os._exit(0)
        os.close(writer)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reader, "rb") as sent:
            found = sent.read() or json.dumps(asdict(Outcome(os.waitstatus_to_exitcode(status)))).encode()
        print(found.decode(), flush=True)


if __name__ == "__main__":
    main()
