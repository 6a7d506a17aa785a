"""Seeded rows for the monitoring benchmark: a reference and a window of many columns, as cached Parquet files.

Four fifths of the features are numeric (normal, skewed, whole numbers, rounded, some with nulls), one fifth categories;
every tenth feature is shifted in the window.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deployments.config.model import ModelConfig
from tasks.policy.records.base import Window

HISTORY = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
WINDOW = Window(datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 2, 6, tzinfo=UTC))
PART = 50_000  # rows generated at once


@dataclass(frozen=True)
class Shape:
    rows: int
    features: int

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.features}"

    @property
    def numeric(self) -> tuple[str, ...]:
        return tuple(f"n{number}" for number in range(self.features - self.features // 5))

    @property
    def categorical(self) -> tuple[str, ...]:
        return tuple(f"c{number}" for number in range(self.features // 5))


def model(shape: Shape) -> ModelConfig:
    features = {"numeric": list(shape.numeric), "categorical": list(shape.categorical)}
    return ModelConfig.model_validate(
        {
            "name": f"bench_{shape.name}",
            "owner": "bench",
            "purpose": "bench",
            "risk": "low",
            "task": "binary",
            "source": {"kind": "parquet", "path": "rows.parquet"},
            "columns": {"id": "id", "time": "at", "label": "label", "features": features},
            "window_days": 5,
            "period": {"start": HISTORY.start, "history_until": HISTORY.end},
            "performance": {"metric": "accuracy"},
            "retraining": {"when": {"trigger": "every", "days": 30}},
        }
    )


def generate(shape: Shape, folder: Path) -> tuple[Path, Path]:
    """Return the paths of the reference and the window, written on first use."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"reference-{shape.name}.parquet", folder / f"window-{shape.name}.parquet"
    for seed, (path, window) in enumerate(zip(paths, (HISTORY, WINDOW), strict=True)):
        if not path.exists():
            _write(path.with_suffix(".part"), shape, window, seed)
            path.with_suffix(".part").rename(path)
    return paths


def _write(path: Path, shape: Shape, window: Window, seed: int) -> None:
    random = np.random.default_rng(seed)
    writer: pq.ParquetWriter | None = None
    for first in range(0, shape.rows, PART):
        part = _part(shape, window, first, min(PART, shape.rows - first), random, moved=seed == 1)
        writer = writer or pq.ParquetWriter(path, part.schema)
        writer.write_table(part)
    if writer:
        writer.close()


def _part(shape: Shape, window: Window, first: int, count: int, random: np.random.Generator, moved: bool) -> pa.Table:
    step = (window.end - window.start) / timedelta(microseconds=1) / shape.rows
    start = int(window.start.timestamp() * 1e6)
    times = (start + (first + np.arange(count)) * step).astype(np.int64)
    columns: dict[str, pa.Array] = {
        "id": pa.array([f"row-{first + number:08}" for number in range(count)]),
        "at": pa.array(times, pa.timestamp("us", "UTC")),
    }
    for number, name in enumerate(shape.numeric):
        columns[name] = _numbers(random, count, number, 0.3 if moved and number % 10 == 0 else 0.0)
    for number, name in enumerate(shape.categorical):
        weights = 1 / np.arange(1, 9 + number % 30)
        weights = weights[::-1] if moved and number % 10 == 0 else weights
        drawn = random.choice(len(weights), count, p=weights / weights.sum())
        columns[name] = pa.array(np.array([f"category {place}" for place in range(len(weights))])[drawn])
    return pa.table(columns)


def _numbers(random: np.random.Generator, count: int, number: int, shift: float) -> pa.Array:
    kind = number % 4
    if kind == 0:
        return pa.array(random.normal(shift, 1, count))
    if kind == 1:
        return pa.array(random.lognormal(shift, 1, count))
    if kind == 2:
        return pa.array(random.poisson(20 + 20 * shift, count))
    return pa.array(random.normal(50 + 10 * shift, 10, count).round(1), mask=random.random(count) < 0.05)
