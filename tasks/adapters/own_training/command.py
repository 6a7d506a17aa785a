"""Train by a command of the user's own: `training.command`, a program and its arguments, never through a shell.

The program gets the rows as files in a new folder and leaves one model in the output folder. It runs in a process group of
its own, which ends with the training, whatever ends it: success, failure, the time limit, or a cancelled run.
"""

import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from threading import Thread
from time import perf_counter

from prefect.logging import get_run_logger

from deployments.config.blocks.training import INPUT, OUTPUT
from deployments.config.model import ModelConfig
from tasks.adapters.models.estimators import Fitted
from tasks.adapters.own_training import output
from tasks.adapters.own_training.snapshot_files import TrainingJob, write_files
from tasks.adapters.storage.workspace import workspace
from tasks.policy.evidence.versions import Usage
from tasks.policy.records.base import digest
from tasks.policy.records.errors import EstimatorError, TrainingFailed
from tasks.policy.records.text import without_secrets

OURS = ("PERENNIAL_", "PREFECT_", "MLFLOW_")
"""Environment variables that a command does not get, because they may hold credentials of this worker."""
LAST_LINES, LONGEST_LINE = 20, 500
GRACE_S = 10.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class TrainedElsewhere:
    """A model that a command or a flow has trained: where it came from, and the time that the training took."""

    fitted: Fitted
    origin: str
    wall_s: float
    cpu_s: float
    waited_s: float
    """Seconds that the process here waited, which cost nothing more."""

    def charged(self, here: Usage) -> Usage:
        """Return what the training used in all: there, and in this process apart from waiting."""
        return replace(here, wall_s=here.wall_s - self.waited_s + self.wall_s, cpu_s=here.cpu_s + self.cpu_s)


def train(config: ModelConfig, job: TrainingJob) -> TrainedElsewhere:
    """Run the command and take in its model. Raises TrainingFailed if it fails, takes too long or leaves no model."""
    folder = output.empty_folder(str(workspace().home / "training" / f"{config.name}-{digest(job.decision_id)}"))
    place = folder / "output"
    place.mkdir()
    try:
        given = folder / "input"
        given.mkdir()
        write_files(config, job, given, place)
        began = perf_counter(), _cpu_s()
        run(config, given, place)
        wall_s, cpu_s = perf_counter() - began[0], _cpu_s() - began[1]
        fitted = output.take_in_model(config, output.model_at(str(place), at(config)), job.rows)
        return TrainedElsewhere(fitted, f"command: {' '.join(config.training.command)}", wall_s, cpu_s, wall_s)
    finally:
        output.remove(str(folder))


def check(config: ModelConfig) -> None:
    """Check that the program exists. Raises EstimatorError."""
    program = config.training.command[0]
    beside = config.folder / program
    if not (shutil.which(program) or (os.sep in program and os.access(beside, os.X_OK))):
        raise EstimatorError(
            f"{at(config)}, but there is no program {program}; expected one on PATH, or a path beside the model's file"
        )


def environment(config: ModelConfig, here: Mapping[str, str], given: Path, place: Path) -> dict[str, str]:
    """Return the command's environment: this process's without our settings and the sources' addresses, unless listed."""
    elsewhere = [own.source for own in (config.labels, config.predictions) if own is not None]
    addresses = {source.url_env for source in (config.source, *elsewhere)}
    listed = config.training.environment
    shared = {
        name: value
        for name, value in here.items()
        if name in listed or not (name.startswith(OURS) or name in addresses)
    }
    return shared | {INPUT: str(given), OUTPUT: str(place)}


def run(config: ModelConfig, given: Path, place: Path) -> None:
    """Run the command on the files in `given`; it leaves its model in `place`. Raises TrainingFailed."""
    words = [word.replace("{input}", str(given)).replace("{output}", str(place)) for word in config.training.command]
    limit_s = config.training.timeout_hours * 3600
    with _started(config, words, environment(config, os.environ, given, place)) as (process, errors):
        try:
            status = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise TrainingFailed(
                f"{at(config)}, which ran longer than {config.training.timeout_hours:g} h (training.timeout_hours) and was "
                "ended; expected a model by then; make it faster or allow more"
            ) from None
    if status:
        said = " | ".join(errors) or "it wrote nothing to stderr"
        raise TrainingFailed(f"{at(config)}, which ended with status {status}; its last lines: {said}")


@contextmanager
def _started(
    config: ModelConfig, words: list[str], variables: dict[str, str]
) -> Iterator[tuple["subprocess.Popen[str]", "deque[str]"]]:
    """Start the program in a process group of its own, log what it writes, and end the group on leaving."""
    try:
        process = subprocess.Popen(
            words,
            cwd=config.folder,
            env=variables,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise TrainingFailed(f"{at(config)}, which cannot be started ({error.strerror})") from None
    errors: deque[str] = deque(maxlen=LAST_LINES)
    logger = get_run_logger()

    def follow(lines: Iterable[str], last: "deque[str] | None" = None) -> None:
        for line in lines:
            text = without_secrets(line.rstrip())[:LONGEST_LINE]
            logger.info("command: %s", text)
            if last is not None and text:
                last.append(text)

    readers = [
        Thread(target=follow, args=given, daemon=True) for given in ((process.stdout,), (process.stderr, errors))
    ]
    for reader in readers:
        reader.start()
    try:
        yield process, errors
    finally:
        _end(process)
        for reader in readers:
            reader.join(GRACE_S)


def _end(process: "subprocess.Popen[str]") -> None:
    """End every process of the group: first with SIGTERM, after GRACE_S with SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)


def _cpu_s() -> float:
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def at(config: ModelConfig) -> str:
    """Return the place of the setting, with which messages begin."""
    return f"{config.name}: training.command is {' '.join(config.training.command)}"
