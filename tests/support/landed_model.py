"""The small monitored model with rows and labels in the lake: shared by the tests of the lake."""

from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa

from deployments.config.model import ModelConfig
from tasks.adapters import lake
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.base import Window
from tests.support.monitored_model import WINDOW, model

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SECOND = WINDOW.next()
SPAN = Window(WINDOW.start, SECOND.end)
CONFIG = model(columns={"label_delay_hours": 24})


def row_folder(config: ModelConfig = CONFIG) -> Path:
    return Path(workspace().table(config.name, "rows"))


def parquet_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("window=*/*.parquet"))


def labels(ids: list[str], values: list[int], known: list[datetime], at: datetime = WINDOW.start) -> pa.Table:
    """Build a label table as `schemas.conform_labels` returns it: id, time, label, label_at."""
    moments = pa.timestamp("us", "UTC")
    return pa.table(
        {"id": ids, "at": pa.array([at] * len(ids), moments), "churned": values, "label_at": pa.array(known, moments)}
    )


def label_of(as_of: datetime, window: Window = WINDOW) -> dict[str, int]:
    table = lake.read_labelled(lake.labelled_snapshot(CONFIG, window, as_of), ["id", "churned"])
    return dict(zip(table["id"].to_pylist(), table["churned"].to_pylist(), strict=True))
