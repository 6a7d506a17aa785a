"""Many rows in the lake, and a training on them in a process of its own that says what it used.

`python -m tests.support.large_training STEP SETTINGS`, where the step is `land`, `ours` (the stage from the snapshot to
the registered version) or `plain` (XGBoost alone: the same rows from one Parquet file, early stopping and the refit).
"""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

DAYS = 100
LIBRARIES = {
    "land": ("tests.support.trained_models",),
    "ours": ("tests.support.trained_models", "tasks.training.train", "tasks.adapters.registry.registration"),
    "plain": ("xgboost", "sklearn"),
}
"""What each step loads before its work is timed; the stage's snapshot is taken before too."""
COLOURS = np.array([f"colour {number}" for number in range(20)])


@dataclass(frozen=True)
class Size:
    """Rows, numeric features and rounds; there are two categorical features more. `parts` is the number of windows."""

    rows: int
    numeric: int = 18
    parts: int = 10
    rounds: int = 20
    depth: int = 6


@dataclass(frozen=True)
class Used:
    """CPU seconds of a process, and of its work without loading libraries; peak resident memory, with and without mapped files."""

    cpu_s: float
    work_cpu_s: float
    peak_mb: float
    peak_anonymous_mb: float
    sha256: str


def run(step: str, size: Size, home: Path, engine: str = "memory") -> Used:
    """Run a step in a process of its own, with its workspace in `home`."""
    environment = {**os.environ, "PERENNIAL_HOME": str(home), "PREFECT_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-m", __name__, step, json.dumps(asdict(size)), engine]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return Used(**json.loads(done.stdout.splitlines()[-1]))


def config_of(size: Size, engine: str) -> Any:
    from tests.support.trained_models import make_config  # imports MLflow, which the plain script does not need

    names = [f"x{number}" for number in range(size.numeric)]
    extra = {"engine": engine} if engine != "memory" else {}
    return make_config(
        columns={
            "id": "id",
            "time": "time",
            "label": "label",
            "features": {"numeric": names, "categorical": ["colour", "shade"]},
        },
        training={"parameters": {"n_estimators": size.rounds, "max_depth": size.depth}, "min_rows": 1000, **extra},
        validation={},
        period={
            "start": "2024-01-01T00:00:00Z",
            "history_until": "2024-04-10T00:00:00Z",
            "end": "2024-06-01T00:00:00Z",
        },
    )


def part_of(size: Size, part: int, start: Any) -> pa.Table:
    """Return one window's rows; a label depends on three numbers and a colour."""
    random, rows = np.random.default_rng(part), size.rows // size.parts
    numbers = random.normal(size=(size.numeric, rows))
    colour, shade = (random.integers(0, len(COLOURS), rows) for _ in range(2))
    score = numbers[0] + numbers[1] * numbers[2] + (colour % 3) - 1 + random.normal(0, 0.5, rows)
    seconds = np.arange(rows) * (DAYS / size.parts * 86400 / rows)
    times = np.datetime64(start.replace(tzinfo=None), "us") + (seconds * 1e6).astype("m8[us]")
    return pa.table(
        {
            "id": pa.array(np.char.add(f"{part}-", np.arange(rows).astype(str))),
            "time": pa.array(times, pa.timestamp("us", "UTC")),
            **{f"x{number}": values for number, values in enumerate(numbers)},
            "colour": COLOURS[colour],
            "shade": COLOURS[shade],
            "label": pa.array((score > 0).astype(np.int64)),
        }
    )


def land(size: Size, engine: str) -> None:
    """Land the windows in the lake, and write the same rows to one Parquet file for the plain script."""
    from tasks.adapters.storage.workspace import workspace
    from tasks.policy.records.base import Window
    from tests.support import trained_models

    config = config_of(size, engine)
    length = timedelta(days=DAYS / size.parts)
    writer: Any = None
    for part in range(size.parts):
        window = Window(config.period.start + part * length, config.period.start + (part + 1) * length)
        rows = part_of(size, part, window.start)
        trained_models.land(config, window, rows)
        writer = writer or pq.ParquetWriter(workspace().home / "rows.parquet", rows.schema, compression="zstd")
        writer.write_table(rows)
    writer.close()


def ours(size: Size, engine: str) -> Callable[[], str]:
    """Take the snapshot, and return what runs the stage from there to the registered version, whose SHA-256 it returns."""
    from prefect.logging import disable_run_logger

    from tasks.adapters import lake
    from tasks.policy.records.base import Window
    from tasks.training import train

    config = config_of(size, engine)
    span = Window(config.period.start, config.period.start + timedelta(days=DAYS))
    snapshot = lake.labelled_snapshot(config, span, span.end + timedelta(days=1))

    def work() -> str:
        with disable_run_logger():
            return str(train.train_challenger.fn(config, snapshot, "decision").sha256)

    return work


def plain(size: Size, engine: str) -> None:
    """Read the features, encode them, stop early on the latest 15 %, and fit all rows with the rounds found."""
    from xgboost import XGBClassifier

    table = pq.read_table(Path(os.environ["PERENNIAL_HOME"], "rows.parquet"))
    label = table["label"].to_numpy()
    names = [name for name in table.column_names if name not in ("id", "time", "label")]
    matrix = np.empty((table.num_rows, len(names)), np.float32)
    for place, name in enumerate(names):
        column = table[name].combine_chunks()
        coded = column.dictionary_encode().indices if pa.types.is_string(column.type) else column
        matrix[:, place] = coded.to_numpy(zero_copy_only=False)
    del table
    types = ["c" if name in ("colour", "shade") else "q" for name in names]
    cut = int(len(label) * 0.85)
    settings = {
        "max_depth": size.depth,
        "enable_categorical": True,
        "feature_types": types,
        "n_jobs": 1,
        "random_state": 7,
    }
    stopped = XGBClassifier(n_estimators=size.rounds, early_stopping_rounds=20, **settings)
    stopped.fit(matrix[:cut], label[:cut], eval_set=[(matrix[cut:], label[cut:])], verbose=False)
    final = XGBClassifier(n_estimators=stopped.best_iteration + 1, **settings).fit(matrix, label)
    final.save_model(Path(os.environ["PERENNIAL_HOME"], "plain.ubj"))


def main() -> None:
    step, size, engine = sys.argv[1], Size(**json.loads(sys.argv[2])), sys.argv[3]
    for library in LIBRARIES[step]:
        import_module(library)
    works = {"land": partial(land, size, engine), "plain": partial(plain, size, engine)}
    work = works[step] if step in works else ours(size, engine)
    before = time.process_time()
    peak = [0.0]
    threading.Thread(target=_watch, args=(peak,), daemon=True).start()
    found = work() or ""
    cpu_s, peak_mb = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(asdict(Used(cpu_s, cpu_s - before, peak_mb, peak[0], found))))


def _watch(peak: list[float]) -> None:
    """Keep the peak of this process's anonymous memory, in MB."""
    while True:
        lines = Path("/proc/self/status").read_text().splitlines()
        peak[0] = max(peak[0], *(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")))
        time.sleep(0.02)


if __name__ == "__main__":
    main()
