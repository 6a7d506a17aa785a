"""Try packaged models in a process of their own, which knows nothing but their files: `program`, started and stopped here.

The process has no credentials in its environment, an empty home, and a time limit. A model that a file's `trust` allows to run
code runs in its sandbox instead, as in service, so its time and memory are not compared.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.adapters.foreign.native import LOADERS
from tasks.adapters.foreign.sandbox import clean_environment
from tasks.adapters.model_gates import program
from tasks.adapters.models.files import DESCRIPTION
from tasks.adapters.registry.known_answers import answers_in, to_ipc, without_answers
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.model_gates.service import ServiceTrial
from tasks.policy.statistics.metrics import Floats

TIME_LIMIT_S = 300.0
"""Time for the complete process; loading the libraries takes a few seconds."""
ROUNDS, ROWS_A_ROUND, TIMING_BUDGET_S = 6, 20, 20.0
"""Rounds of single rows that are timed for each model, their rows, and the time after which fewer are enough."""
LIBRARIES = {"model.ubj": "xgboost", "model.txt": "lightgbm", "model.cbm": "catboost", "model.skops": "skops.io"}
"""The library of each model file, imported before the models are loaded, so that their memory excludes it."""


@dataclass(frozen=True)
class PackagedModel:
    """A version's files, rows with known answers, and rows that it must refuse, by what is wrong with them."""

    version: ModelVersion
    files: Mapping[str, bytes]
    known: pa.Table
    known_from: str
    malformed: tuple[tuple[str, pa.Table], ...] = ()
    imported: tuple[str, ...] = ()

    @property
    def is_sandboxed(self) -> bool:
        """Whether it may run code, which its file must allow; it is then loaded in a sandbox only."""
        found = json.loads(self.files[DESCRIPTION]).get("foreign")
        return found is not None and found not in LOADERS

    @property
    def settings(self) -> dict[str, Any]:
        """What the program needs to load it."""
        trusted = json.loads(dict(self.version.tags).get("trusted_types", "[]"))
        return {"sha256": self.version.sha256, "trusted_types": trusted, "imported": self.imported}

    def trial(self, facts: Mapping[str, Any]) -> ServiceTrial:
        """What the program found, judged against the known answers."""
        if "fault" in facts:
            fault = f"version {self.version.version} does not load and answer in a clean process: {facts['fault']}"
            return ServiceTrial(self.version.version, fault=fault)
        return ServiceTrial(
            version=self.version.version,
            deviation=deviation(np.array(facts["answers"]["known"], float), answers_in(self.known)),
            compared_rows=len(self.known),
            compared_with=self.known_from,
            answered=tuple(facts["answered"]),
            seconds=tuple(tuple(each) for each in facts["seconds"]),
            memory_mb=float(facts["memory_mb"]),
        )


def try_models(models: Sequence[PackagedModel], rows: pa.Table) -> tuple[ServiceTrial, ...] | str:
    """Try the models in one clean process, in their order, on these rows; else why it gave no result."""
    with tempfile.TemporaryDirectory(prefix="perennial-gates-") as place:
        folder = Path(place)
        _write(folder, models, rows)
        found = _run(folder, models)
    if isinstance(found, str):
        return found
    return tuple(model.trial(facts) for model, facts in zip(models, found, strict=True))


def deviation(answers: Floats, known: Floats) -> float:
    """The largest difference of two predictions of the same rows, relative to the known ones where these exceed 1."""
    if answers.shape != known.shape:
        return float("inf")
    if not known.size:
        return 0.0
    return float(np.max(np.abs(answers - known) / np.maximum(1.0, np.abs(known))))


def _write(folder: Path, models: Sequence[PackagedModel], rows: pa.Table) -> None:
    (folder / "home").mkdir()
    (folder / "rows.arrow").write_bytes(to_ipc(rows))
    for place, model in enumerate(models):
        own = folder / str(place)
        (own / "malformed").mkdir(parents=True)
        for name, content in model.files.items():
            path = own / "model" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (own / "known.arrow").write_bytes(to_ipc(without_answers(model.known)))
        for number, (case, table) in enumerate(model.malformed):
            (own / "malformed" / f"{number:03}.arrow").write_bytes(
                to_ipc(table.replace_schema_metadata({"case": case}))
            )


def _run(folder: Path, models: Sequence[PackagedModel]) -> list[dict[str, Any]] | str:
    settings = {
        "folder": str(folder), "models": [model.settings for model in models], "rounds": ROUNDS,
        "rows_a_round": ROWS_A_ROUND, "budget_s": TIMING_BUDGET_S,
        "libraries": sorted({LIBRARIES[name] for model in models for name in model.files if name in LIBRARIES}),
    }  # fmt: skip
    imported = {"PYTHONPATH": os.pathsep.join(str(Path(path).absolute()) for path in sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-P", "-B", str(program.__file__), json.dumps(settings)],
        env=clean_environment(folder / "home") | imported, cwd=folder / "home", stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True,
    )  # fmt: skip
    try:
        shown, errors = process.communicate(timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"the clean process took longer than {TIME_LIMIT_S:g} s, so it was ended"
    finally:
        _end(process)
    try:
        found: list[dict[str, Any]] = json.loads(shown)
    except ValueError:
        last = (errors.strip().splitlines() or ["no message"])[-1][:300]
        return f"the clean process ended with code {process.returncode} and without a result ({last})"
    return found


def _end(process: "subprocess.Popen[str]") -> None:
    """Kill what is left of the process and of the models' own ones, which form one group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.communicate()
