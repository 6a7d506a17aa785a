"""`make bench-training`: ways to train, on the practice streams and the two flight models, at the same retrain moments.

Prints each stream's loss by way of training, with its gain over fixed settings and the gain's standard error over the
stretches between two retrains, and CPU seconds. Writes $PERENNIAL_HOME/bench/training.json, where `gain` is that of the
default settings. The practice streams lie outside the repository; without them only the flight models run. Any other
stream: `python -m tests.benchmarks.bench_training --file rows.parquet --time moment --target label`.
"""

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.benchmarks import streams
from tests.benchmarks.streams import Stream
from tests.benchmarks.training_arms import WINDOWS_APART, Arm, replay

DEFAULT = "refit"
"""The arm that trains as a model's file does without any setting."""
FLIGHTS = ("flight_delay", "air_time")
FLIGHT_ROWS = 60_000
"""Rows that are drawn of a year of flights."""
USD_PER_CPU_HOUR = 0.1
"""Price of compute in the budget's defaults (`budget.compute_usd_per_hour`)."""
Arms = dict[str, Arm]


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    options.add_argument("--streams", default="", help="only these, comma-separated")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="streams that run at once")
    options.add_argument("--file", type=Path, help="a Parquet file with a stream of your own, instead")
    options.add_argument("--time", help="the file's column with the time")
    options.add_argument("--target", help="the file's column to predict; two values are classes")
    chosen = options.parse_args(arguments)
    console = Console(width=int(os.environ.get("COLUMNS", "160")))
    if chosen.file:
        found = {chosen.file.stem: replay(stream_of(chosen.file, chosen.time, chosen.target))}
    else:
        names = [name for name in chosen.streams.split(",") if name] or list(streams.PRACTICE)
        if not streams.FOLDER.is_dir():
            console.print(f"bench-training: no practice streams at {streams.FOLDER}; set PERENNIAL_STREAMS to them")
            names = [name for name in names if name in FLIGHTS]
        with ProcessPoolExecutor(min(chosen.jobs, len(names))) as pool:
            found = dict(zip(names, pool.map(replay_of, names), strict=True))
    for name, arms in found.items():
        console.print(table_of(name, arms))
    path = write(found)
    better = sum(gain_of(arms, DEFAULT)[0] > 2 * gain_of(arms, DEFAULT)[1] for arms in found.values())
    worse = sum(gain_of(arms, DEFAULT)[0] < -2 * gain_of(arms, DEFAULT)[1] for arms in found.values())
    console.print(
        f"bench-training: the default is better than fixed settings by more than two standard errors on {better} of "
        f"{len(found)} streams and worse on {worse}; every figure in {path}"
    )


def replay_of(name: str) -> Arms:
    stream = streams.PRACTICE[name]()
    return replay(thinned(stream, FLIGHT_ROWS) if name in FLIGHTS else stream)


def thinned(stream: Stream, rows: int) -> Stream:
    """Return a random part of a stream, in time order."""
    drawn = np.sort(np.random.default_rng(0).choice(len(stream.target), min(rows, len(stream.target)), replace=False))
    return replace(stream, features=stream.features[drawn], target=stream.target[drawn])


def stream_of(path: Path, time: str, target: str, windows: int = 72) -> Stream:
    """Return a stream from a Parquet file: numbers as they are, text as categories, other columns left out."""
    frame = pd.read_parquet(path).sort_values(time, kind="stable").dropna(subset=[target])
    values = frame[target]
    classes = values.nunique()
    labels = pd.factorize(values, sort=True)[0].astype(float) if classes == 2 else values.to_numpy(float)
    columns = frame.drop(columns=[time, target]).select_dtypes(["number", "bool", "object", "string", "category"])
    texts = [name for name in columns if not pd.api.types.is_numeric_dtype(columns[name])]
    matrix = np.column_stack(
        [
            pd.factorize(columns[name])[0].astype(np.float32) if name in texts else columns[name].to_numpy(np.float32)
            for name in columns
        ]
    )
    scale = None if classes == 2 else float(np.abs(labels - np.median(labels)).mean())
    return Stream(path.stem, matrix, labels, scale, windows, tuple(map(list(columns).index, texts)))


def gain_of(arms: Arms, name: str) -> tuple[float, float]:
    """Return an arm's mean gain over fixed settings per window, and its standard error over the stretches."""
    gains = np.array(arms["fixed"].losses) - np.array(arms[name].losses)
    stretches = np.array([gains[start : start + WINDOWS_APART].mean() for start in range(0, len(gains), WINDOWS_APART)])
    return float(gains.mean()), float(stretches.std(ddof=1) / np.sqrt(len(stretches)))


def table_of(name: str, arms: Arms) -> Table:
    table = Table(title=f"{name}: {len(arms['fixed'].losses)} windows served", box=SIMPLE_HEAD, title_justify="left")
    for heading in ("trained by", "mean loss", "gain over fixed", "± 1 SE", "in SE", "CPU s", "USD"):
        table.add_column(heading, justify="left" if heading == "trained by" else "right")
    for arm, found in arms.items():
        gain, error = gain_of(arms, arm)
        table.add_row(
            f"{arm}{' (default)' if arm == DEFAULT else ''}",
            f"{np.mean(found.losses):.4f}",
            f"{gain:+.4f}",
            f"{error:.4f}",
            f"{gain / error:+.1f}" if error else "",
            f"{found.cpu_s:.0f}",
            f"{usd(found):.4f}",
        )
    return table


def usd(arm: Arm) -> float:
    return arm.cpu_s / 3600 * USD_PER_CPU_HOUR


def write(found: dict[str, Arms]) -> Path:
    """Write the figures; of each stream those of the default first, then every arm's."""
    content = {}
    for name, arms in found.items():
        each = {}
        for arm, measured in arms.items():
            gain, error = gain_of(arms, arm)
            each[arm] = {
                "loss": float(np.mean(measured.losses)),
                "gain": gain,
                "se": error,
                "gain_se": gain / error if error else 0.0,
                "cpu_s": measured.cpu_s,
                "usd": usd(measured),
            }
        content[name] = {key: each[DEFAULT][key] for key in ("gain", "gain_se", "cpu_s", "usd")} | {"arms": each}
    path = Path(os.environ.get("PERENNIAL_HOME", ".perennial")) / "bench" / "training.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"streams": content}, indent=1), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
