"""Somebody else's service: the small model's rows in a file, its answers and the late outcomes in a database."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy

from tests.support.small_model import rows, write_model
from tests.support.ways_in import example


class ForeignService:
    """Write what the service logs and what becomes known of it; `predict` answers rows as version `first` does."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.address = f"sqlite:///{folder / 'service.db'}"
        for name in ("LABELS_URL", "SERVICE_DB"):
            patch.setenv(name, self.address)
        self.rows = rows()
        self.log = self.predict(self.rows)
        self.write("outcomes", self.outcomes())
        self.save()

    @staticmethod
    def predict(rows: pd.DataFrame, version: str = "2024-01-a", factor: float = 2.0) -> pd.DataFrame:
        noise = np.random.default_rng(5).normal(scale=0.1, size=len(rows))
        return pd.DataFrame(
            {
                "row_id": rows["row"],
                "answered_at": rows["at"] + timedelta(seconds=1),
                "answer": factor * rows["x"] + noise,
                "model_version": version,
                "seconds": 0.02,
            }
        )

    def outcomes(self) -> pd.DataFrame:
        known = self.rows["at"] + timedelta(hours=20)
        return pd.DataFrame({"row_id": self.rows["row"], "known_at": known, "outcome": self.rows["y"]})

    def write(self, table: str, content: pd.DataFrame) -> None:
        engine = sqlalchemy.create_engine(self.address)
        content.to_sql(table, engine, index=False, if_exists="replace")
        engine.dispose()

    def save(self) -> None:
        """Write the log as it is now."""
        self.write("answers", self.log)

    def between(self, start: str, end: str) -> pd.Series:
        """Mask of the log's entries for rows of this time."""
        at = self.rows.set_index("row")["at"].reindex(self.log["row_id"])
        return pd.Series(
            at.between(pd.Timestamp(start, tz="UTC"), pd.Timestamp(end, tz="UTC"), "left").to_numpy(), self.log.index
        )


def write_foreign_model(folder: Path, service: ForeignService, block: str | None = None, **replacements: str) -> str:
    """Write the small model as one that the service trains and serves: no training, predictions and labels elsewhere."""
    own = (block or example("predictions")) + example("labels")
    training = "training:\n  window_days: 8\n  min_rows: 300\n  parameters: {n_estimators: 30, max_depth: 3, learning_rate: 0.3}\n"
    return write_model(
        folder,
        service.rows.drop(columns="y"),
        **{"window_days: 2\nperiod": f"{own}window_days: 2\nperiod", training: "", **replacements},
    )
