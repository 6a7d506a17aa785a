"""`make bench-training-overhead`: what training costs beside XGBoost alone, on the same rows in the same run.

Ours is the whole stage, from a snapshot: rows and labels from Delta, checks, encoding, early stopping and refit, profile and references,
checkpoints, registration. The plain script reads the same rows from one Parquet file, encodes them, and does the same
early stopping and refit with XGBoost. Each is a process of its own, and runs several times in turn; the least CPU time of
each counts. Loading libraries and taking the snapshot are not part of the stage; the ratio with them is printed too.
"""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tasks.adapters.storage.workspace import make_folder, workspace
from tests.support.large_training import Size, Used, run
from tests.support.trained_models import empty_registry, prepare_registry

CPU_TARGET, MEMORY_TARGET = 1.15, 1.3
HEADINGS = ("CPU s", "ratio", "with libraries and snapshot", "ratio", "peak MB", "ratio", "without mapped files")


def measure(size: Size, engines: list[str], runs: int) -> dict[str, Used]:
    """Land the rows, and train on them by the plain script and by each engine; return the run of each with the least CPU time."""
    with tempfile.TemporaryDirectory(prefix="perennial-overhead-") as folder:
        home = Path(folder) / "home"
        prepare_registry(home)
        run("land", size, home)
        found: dict[str, list[Used]] = {}
        for _ in range(runs):
            found.setdefault("plain", []).append(run("plain", size, home))
            for engine in engines:
                shutil.copy(empty_registry(), home / "mlflow.db")
                found.setdefault(engine, []).append(run("ours", size, home, engine))
    return {name: min(all_runs, key=lambda used: used.work_cpu_s) for name, all_runs in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_training_overhead", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument(
        "--external", action="store_true", help="external memory too, which takes two to three times longer"
    )
    chosen = parser.parse_args()
    size = Size(rows=chosen.rows, numeric=33, parts=10, rounds=chosen.rounds)
    found = measure(size, ["memory", *["external"] * chosen.external], chosen.runs)
    plain = found["plain"]
    print(f"{size.rows:,} rows × {size.numeric + 2} features, {size.rounds} trees of depth {size.depth}, one thread")
    table = Table("", *HEADINGS, box=SIMPLE_HEAD)
    for name, used in found.items():
        ratios = used.work_cpu_s / plain.work_cpu_s, used.cpu_s / plain.cpu_s, used.peak_mb / plain.peak_mb
        cpu = f"{used.work_cpu_s:.1f}", f"{ratios[0]:.2f}", f"{used.cpu_s:.1f}", f"{ratios[1]:.2f}"
        table.add_row(name, *cpu, f"{used.peak_mb:.0f}", f"{ratios[2]:.2f}", f"{used.peak_anonymous_mb:.0f}")
    Console(width=120).print(table)
    ours = found["memory"]
    cpu_ratio, memory_ratio = round(ours.work_cpu_s / plain.work_cpu_s, 3), round(ours.peak_mb / plain.peak_mb, 3)
    path = make_folder(workspace().home / "bench") / "training_overhead.json"
    outcome = {"size": asdict(size), "cpu_ratio": cpu_ratio, "memory_ratio": memory_ratio}
    path.write_text(json.dumps(outcome | {"used": {name: asdict(used) for name, used in found.items()}}, indent=1))
    print(
        f"CPU ratio {cpu_ratio} (target {CPU_TARGET}), peak memory ratio {memory_ratio} (target {MEMORY_TARGET}); {path}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
