"""A shop's model of returned orders, with text, a date and a list among its columns; trained by code of the shop's own."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

START, DAYS, ROWS_PER_DAY = datetime(2024, 1, 1, tzinfo=UTC), 30, 60
YAML = """\
name: returns
owner: shop@example.com
purpose: Decides which orders are packed again by hand.
risk: low
task: binary
source: {kind: parquet, path: rows.parquet}
columns:
  id: order
  time: at
  label: returned
  label_delay_hours: 12
  features: {numeric: [amount, visits]}
window_days: 2
period: {start: 2024-01-01T00:00:00Z, history_until: 2024-01-21T00:00:00Z, end: 2024-01-31T00:00:00Z}
performance: {metric: log_loss}
retraining: {when: {trigger: every, days: 8}, cooldown_days: 4}
training: {min_rows: 300, parameters: {n_estimators: 30, max_depth: 3}}
validation: {holdout_days: 1.5, min_rows: 50, non_inferiority_margin: 0.1}
rollout: {mode: none}
"""


def rows() -> pd.DataFrame:
    """Return orders: amount, the word `broken` in the comment, the tag `gift` and a recent sign-up make them returned."""
    random, count = np.random.default_rng(11), DAYS * ROWS_PER_DAY
    at = pd.date_range(START, periods=count, freq=timedelta(days=1) / ROWS_PER_DAY)
    amount, visits = random.normal(size=count), random.poisson(3, count)
    broken, gift = random.random(count) < 0.3, random.random(count) < 0.3
    recent = random.integers(0, 1000, count)
    score = amount + 2.5 * broken + 1.5 * gift - recent / 400 + random.normal(scale=0.5, size=count)
    comment = np.where(broken, "it came broken", random.choice(["all fine", "as described", "nice colour"], count))
    return pd.DataFrame(
        {
            "order": [f"o{number:06d}" for number in range(count)],
            "at": at,
            "amount": amount,
            "visits": visits,
            "comment": pd.Series(comment).mask(pd.Series(random.random(count) < 0.05)),
            "joined_on": (pd.Timestamp("2021-01-01") + pd.to_timedelta(recent, unit="D")).date,
            "tags": [["gift", "blue"] if is_gift else ["blue"] for is_gift in gift],
            "returned": (score > 0.5).astype(int),
        }
    )


def write_model(folder: Path, table: pd.DataFrame | None = None, **replacements: str) -> str:
    """Write the table and the YAML file, with text replacements, and return the YAML file's path."""
    (rows() if table is None else table).to_parquet(folder / "rows.parquet")
    text = YAML
    for old, new in replacements.items():
        assert old in text, f"{old!r} is not in the YAML"
        text = text.replace(old, new)
    path = folder / "returns.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)
