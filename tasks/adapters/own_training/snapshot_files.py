"""Hand training rows to code of the user's own: as a table, or as files in a folder.

Only the training snapshot is handed over. It ends before the holdout begins, so a model cannot have seen the rows that it
is validated on.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deployments.config.model import ModelConfig
from tasks.adapters.foreign import class_order
from tasks.policy.records.reports import Snapshot

ROWS, DESCRIPTION = "rows.parquet", "training.json"


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One training by code of the user's own: its rows, the decision that asked for it, and the place for the model."""

    training: Snapshot
    decision_id: str
    rows: pa.Table


def training_rows(config: ModelConfig, rows: pa.Table) -> pa.Table:
    """Return id, time, label, features and extra columns of the rows."""
    columns = config.columns
    wanted = dict.fromkeys((columns.key, columns.time, columns.label, *columns.features.names, *columns.extra))
    return rows.select([name for name in wanted if name in rows.column_names])


def snapshot_facts(training: Snapshot) -> dict[str, Any]:
    """Describe a snapshot in plain values: the Delta table and its version, the window [start, end) and the content hash."""
    return {
        "uri": training.uri,
        "version": training.version,
        "window": {"start": training.window.start.isoformat(), "end": training.window.end.isoformat()},
        "content_hash": training.content_hash,
    }


def describe(config: ModelConfig, job: TrainingJob, output: str) -> str:
    """Describe the rows, how to train on them, and the place for the model, as JSON."""
    columns = config.columns
    description = {
        "model": config.name,
        "task": config.task,
        "decision_id": job.decision_id,
        "snapshot": snapshot_facts(job.training),
        "id": columns.key,
        "time": columns.time,
        "label": columns.label,
        "classes": class_order.coded_classes(config, job.rows.column(columns.label)),
        "features": columns.features.model_dump(),
        "parameters": config.training.parameters,
        "seed": config.training.seed,
        "output": output,
    }
    return json.dumps(description, indent=1, sort_keys=True)


def write_files(config: ModelConfig, job: TrainingJob, folder: Path, output: Path) -> None:
    """Write the rows as Parquet and what they are as JSON."""
    (folder / DESCRIPTION).write_text(describe(config, job, str(output)), encoding="utf-8")
    pq.write_table(training_rows(config, job.rows), folder / ROWS)
