"""A high-risk model for `make e2e`: rows arrive as files, and one window drifts."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

NAME = "e2e_demand"
START = datetime(2024, 3, 1, tzinfo=UTC)
HISTORY_DAYS, WINDOW_DAYS, ROWS_PER_DAY = 8, 2, 1000
DRIFT = START + timedelta(days=HISTORY_DAYS + WINDOW_DAYS)
"""From here on x is higher and the sign of its effect on y is reversed."""

YAML = f"""\
name: {NAME}
owner: tests@example.com
purpose: Shows the whole path on a real server, from drifted rows to a new champion.
risk: high
task: regression
source: {{kind: parquet, path: rows}}
columns:
  id: row
  time: at
  label: y
  label_delay_hours: 1
  features: {{numeric: [x, noise], categorical: [colour]}}
window_days: {WINDOW_DAYS}
period: {{start: {START:%Y-%m-%dT%H:%M:%SZ}, history_until: {START + timedelta(days=HISTORY_DAYS):%Y-%m-%dT%H:%M:%SZ}, end: 2024-12-31T00:00:00Z}}
quality: {{columns: {{x: {{range: {{min: -100, max: 100}}}}}}}}
performance: {{metric: mae}}
retraining:
  when: {{trigger: metric_breach, metric: mae, limit: 1.0, k: 1, m: 1}}
training:
  window_days: 1.4  # only the drifted days, so that the challenger learns what is true now
  min_rows: 300
  parameters: {{n_estimators: 30, max_depth: 3, learning_rate: 0.3}}
validation: {{holdout_days: 0.5, min_rows: 100, non_inferiority_margin: 0.1}}
access: {{approve: [Grace, Ada]}}
rollout: {{shares: [0.5], min_units: 500, verdict: {{margin: 1.0}}}}
"""


def write_model(folder: Path, name: str = NAME) -> Path:
    """Write the YAML and, once for all models of the folder, the rows until DRIFT. Return the YAML's path."""
    path = folder / f"{name}.yaml"
    path.write_text(YAML.replace(NAME, name), encoding="utf-8")
    if not (folder / "rows").exists():
        (folder / "rows").mkdir()
        land(folder, START, DRIFT)
    return path


def land(folder: Path, start: datetime, end: datetime) -> None:
    """Write the rows of these days as another file of the source."""
    random = np.random.default_rng(start.toordinal())
    count = (end - start).days * ROWS_PER_DAY
    at = pd.date_range(start, periods=count, freq=timedelta(days=1) / ROWS_PER_DAY)
    drifted = at >= DRIFT
    x = random.normal(size=count) + np.where(drifted, 1.0, 0.0)
    rows = {
        "row": [f"{moment:%m%d%H%M%S%f}" for moment in at],
        "at": at,
        "x": x,
        "noise": random.normal(size=count),
        "colour": random.choice(["red", "green", "blue"], size=count),
        "y": np.where(drifted, -2.0, 2.0) * x + random.normal(scale=0.2, size=count),
    }
    pd.DataFrame(rows).to_parquet(folder / "rows" / f"{start:%Y-%m-%d}.parquet")
