"""The model of the drill: a regression on rows that arrive every few seconds of production time, one window at a time."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from tasks.policy.rollout.traffic import HaproxyControl

NAME = "drill"
START = datetime(2026, 1, 5, tzinfo=UTC)
WINDOW = timedelta(minutes=72)  # 0.05 days
ROWS_PER_WINDOW = 600
HISTORY_WINDOWS, LIVE_WINDOWS = 40, 12
HISTORY_UNTIL = START + HISTORY_WINDOWS * WINDOW
CUSTOMERS = 500
SHARE = 0.2

YAML = """\
name: {name}
owner: tests@example.com
purpose: Shows how a bad challenger loses its traffic.
risk: low
task: regression
source: {{kind: parquet, path: rows.parquet}}
columns:
  id: row
  time: at
  label: y
  label_delay_hours: 1
  features: {{numeric: [amount, tenure], categorical: [region]}}
  extra: [customer]
window_days: 0.05
period: {{start: {start:%Y-%m-%dT%H:%M:%SZ}, history_until: {until:%Y-%m-%dT%H:%M:%SZ}}}
performance: {{metric: mae}}
drift: {{plots: 1}}
retraining:
  when: {{trigger: metric_breach, metric: mae, limit: 100, k: 2, m: 3}}
training:
  window_days: 2
  min_rows: 300
  parameters: {{n_estimators: 60, max_depth: 4, learning_rate: 0.2}}
validation: {{holdout_days: 0.5, min_rows: 100, non_inferiority_margin: 0.1, slices: [region], slice_min_rows: 20}}
rollout:
  shares: [{share}]
  unit: customer
  min_units: 100
  bake_hours: 0
  verdict: {{margin: 0.1}}
"""


def rows() -> pd.DataFrame:
    """Return `ROWS_PER_WINDOW` rows per window, history first: y = 3 + 2·amount + the region's effect + noise."""
    random = np.random.default_rng(7)
    count = (HISTORY_WINDOWS + LIVE_WINDOWS) * ROWS_PER_WINDOW
    amount, tenure = random.gamma(2.0, 0.5, count), random.exponential(3.0, count)
    region = random.choice(["north", "south", "east", "west"], count, p=[0.25, 0.25, 0.25, 0.25])
    effect = pd.Series(region).map({"north": 1.0, "south": 0.0, "east": -0.5, "west": 0.5}).to_numpy()
    return pd.DataFrame(
        {
            "row": [f"r{number:06d}" for number in range(count)],
            "at": pd.date_range(START, periods=count, freq=WINDOW / ROWS_PER_WINDOW),
            "customer": [f"c{number:04d}" for number in random.integers(0, CUSTOMERS, count)],
            "amount": amount,
            "tenure": tenure,
            "region": region,
            "y": 3 + 2 * amount + 0.1 * tenure + effect + random.normal(0, 0.3, count),
        }
    )


def write_model(folder: Path, control: HaproxyControl | None) -> Path:
    """Write the rows and the YAML file, and return the file's path."""
    rows().to_parquet(folder / "rows.parquet")
    path = folder / f"{NAME}.yaml"
    text = YAML.format(name=NAME, start=START, until=HISTORY_UNTIL, share=SHARE)
    served = f"  control: {control.model_copy(update={'probes': 100}).model_dump_json()}\n" if control else ""
    path.write_text(text + served, encoding="utf-8")
    return path
