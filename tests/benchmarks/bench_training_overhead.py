"""`make bench-training-overhead`: what training costs beside XGBoost alone, on the same rows in the same run.

Ours is the whole stage: rows and labels from Delta, checks, encoding, early stopping and refit, profile and references,
checkpoints, registration. The plain script reads the same rows from one Parquet file, encodes them, and does the same
early stopping and refit with XGBoost. Each is a process of its own; loading libraries is included in both.
"""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tasks.adapters.storage.workspace import make_folder, workspace
from tests.support.large_training import Size, Used, run
from tests.support.trained_models import empty_registry, prepare_registry

CPU_TARGET, MEMORY_TARGET = 1.15, 1.3


def measure(size: Size, engines: list[str]) -> dict[str, Used]:
    """Land the rows, and train on them by the plain script and by each engine."""
    with tempfile.TemporaryDirectory(prefix="perennial-overhead-") as folder:
        home = Path(folder) / "home"
        prepare_registry(home)
        run("land", size, home)
        found = {"plain": run("plain", size, home)}
        for engine in engines:
            shutil.copy(empty_registry(), home / "mlflow.db")
            found[engine] = run("ours", size, home, engine)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_training_overhead", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument(
        "--external", action="store_true", help="external memory too, which takes two to three times longer"
    )
    chosen = parser.parse_args()
    size = Size(rows=chosen.rows, numeric=33, parts=10, rounds=chosen.rounds)
    found = measure(size, ["memory", *["external"] * chosen.external])
    plain = found["plain"]
    print(f"{size.rows:,} rows × {size.numeric + 2} features, {size.rounds} trees of depth {size.depth}, one thread")
    print(f"{'':<10} {'CPU s':>8} {'ratio':>6} {'peak MB':>8} {'ratio':>6} {'without mapped files':>21}")
    for name, used in found.items():
        ratios = used.cpu_s / plain.cpu_s, used.peak_mb / plain.peak_mb
        print(
            f"{name:<10} {used.cpu_s:>8.1f} {ratios[0]:>6.2f} {used.peak_mb:>8.0f} {ratios[1]:>6.2f} "
            f"{used.peak_anonymous_mb:>21.0f}"
        )
    ours = found["memory"]
    cpu_ratio, memory_ratio = round(ours.cpu_s / plain.cpu_s, 3), round(ours.peak_mb / plain.peak_mb, 3)
    path = make_folder(workspace().home / "bench") / "training_overhead.json"
    outcome = {"size": asdict(size), "cpu_ratio": cpu_ratio, "memory_ratio": memory_ratio}
    path.write_text(json.dumps(outcome | {"used": {name: asdict(used) for name, used in found.items()}}, indent=1))
    print(
        f"CPU ratio {cpu_ratio} (target {CPU_TARGET}), peak memory ratio {memory_ratio} (target {MEMORY_TARGET}); {path}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
