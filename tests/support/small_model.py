"""A model small enough to replay in a test: a table, its YAML file, and a concept drift on a known day."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

START = datetime(2024, 1, 1, tzinfo=UTC)
HISTORY_DAYS, WINDOW_DAYS, ROWS_PER_DAY = 20, 2, 150
CHANGE = START + timedelta(days=26)  # from here on, y depends on x with the opposite sign

YAML = """\
name: small
owner: tests@example.com
purpose: Shows the loop on a table whose concept changes once.
risk: low
task: regression
source: {kind: parquet, path: rows.parquet}
columns:
  id: row
  time: at
  label: y
  label_delay_hours: 12
  features: {numeric: [x, noise], categorical: [colour]}
window_days: 2
period: {start: 2024-01-01T00:00:00Z, history_until: 2024-01-21T00:00:00Z, end: 2024-02-06T00:00:00Z}
performance: {metric: mae}
retraining:
  when: {trigger: metric_breach, metric: mae, limit: 1.0, k: 2, m: 3}
  cooldown_days: 4
training:
  window_days: 8
  min_rows: 300
  parameters: {n_estimators: 30, max_depth: 3, learning_rate: 0.3}
validation: {holdout_days: 1.5, min_rows: 100, non_inferiority_margin: 0.1}
rollout: {mode: none}
"""


def rows(days: int = 36, seed: int = 3) -> pd.DataFrame:
    """Return `ROWS_PER_DAY` rows per day: y = ±2x + noise; the sign changes at CHANGE."""
    random = np.random.default_rng(seed)
    count = days * ROWS_PER_DAY
    at = pd.date_range(START, periods=count, freq=timedelta(days=1) / ROWS_PER_DAY)
    x = random.normal(size=count)
    sign = np.where(at < CHANGE, 1.0, -1.0)
    return pd.DataFrame(
        {
            "row": [f"r{number:06d}" for number in range(count)],
            "at": at,
            "x": x,
            "noise": random.normal(size=count),
            "colour": random.choice(["red", "green", "blue"], size=count),
            "y": 2 * sign * x + random.normal(scale=0.2, size=count),
        }
    )


def write_model(folder: Path, table: pd.DataFrame | None = None, **replacements: str) -> str:
    """Write the table and the YAML file, with text replacements, and return the YAML file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (rows() if table is None else table).to_parquet(folder / "rows.parquet")
    text = YAML
    for old, new in replacements.items():
        assert old in text, f"{old!r} is not in the YAML of the small model"
        text = text.replace(old, new)
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)
