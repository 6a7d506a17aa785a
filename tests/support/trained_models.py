"""Small models for tests: a configuration, rows with a learnable signal, and an empty registry."""

import shutil
import tempfile
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from mlflow.tracking import MlflowClient

from deployments.config.model import ModelConfig
from tasks.adapters import lake
from tasks.adapters.lake.schemas import conform_labels
from tasks.adapters.models import estimators
from tasks.adapters.profiling.profile import freeze_reference
from tasks.adapters.registry import registration
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import Window, digest, utc
from tasks.policy.records.reports import Snapshot

START = utc("2024-01-01")
TRAINING = Window(START, utc("2024-03-01"))
HOLDOUT = Window(utc("2024-03-01"), utc("2024-03-06"))
METRICS = {"binary": "log_loss", "multiclass": "log_loss", "regression": "mae"}


def make_config(task: str = "binary", **changes: Any) -> ModelConfig:
    """Return the configuration of a model named after its task; `changes` replace complete sections."""
    return ModelConfig.model_validate(
        {
            "name": f"{task}_model",
            "owner": "tests@example.com",
            "purpose": "Shows that a model can be trained.",
            "risk": "low",
            "task": task,
            "source": {"kind": "parquet", "path": "rows.parquet"},
            "columns": {
                "id": "id",
                "time": "time",
                "label": "label",
                "features": {"numeric": ["x", "noise"], "categorical": ["colour"], "boolean": ["flag"]},
            },
            "window_days": 5,
            "period": {"start": START, "history_until": TRAINING.end, "end": utc("2024-06-01")},
            "performance": {"metric": METRICS[task]},
            "retraining": {"when": {"trigger": "every", "days": 30}},
            "training": {"parameters": {"n_estimators": 30, "max_depth": 3}, "min_rows": 200},
            "validation": {"slices": ["colour"], "min_rows": 100},
            "rollout": {"mode": "none"},
            **changes,
        }
    )


def make_rows(
    task: str = "binary", rows: int = 1000, window: Window = TRAINING, seed: int = 0, turn: float = 1.0
) -> pa.Table:
    """Return rows over the window; the label depends on turn · x, colour and flag (turn = -1: another concept)."""
    random = np.random.default_rng(seed)
    x, noise = random.normal(size=rows), random.normal(size=rows)
    colour, flag = random.choice(["blue", "green", "red"], rows), random.random(rows) < 0.5
    score = turn * 2 * x + np.where(colour == "red", 1.0, 0.0) + flag + random.normal(0, 0.3, rows)
    label: dict[str, Any] = {
        "binary": pa.array((score > 0.8).astype(int)),
        "multiclass": pa.array(np.select([score < -0.5, score < 1.5], ["low", "middle"], "high")),
        "regression": pa.array(score),
    }
    step = (window.end - window.start) / rows
    return pa.table(
        {
            "id": [f"{window.name}-{seed}-{row}" for row in range(rows)],
            "time": pa.array([window.start + row * step for row in range(rows)], pa.timestamp("us", "UTC")),
            "x": x,
            "noise": noise,
            "colour": colour,
            "flag": flag,
            "label": label[task],
        }
    )


def make_snapshot(window: Window = TRAINING, rows: int = 1000, version: int = 3) -> Snapshot:
    content_hash = digest(window.name, str(rows), length=64)
    return Snapshot("memory://rows", version, window, rows, content_hash, labelled_rows=rows)


def prepare_registry(home: Path) -> None:
    """Copy an empty registry into a workspace: creating MLflow's tables takes seconds, a copy takes no time."""
    home.mkdir()
    shutil.copy(empty_registry(), home / "mlflow.db")


def register(
    config: ModelConfig, decision_id: str = "d1", window: Window = TRAINING, seed: int = 0, turn: float = 1.0
) -> ModelVersion:
    """Register a version trained on `make_rows`, without the lake."""
    rows = make_rows(config.task, window=window, seed=seed, turn=turn)
    snapshot = make_snapshot(window, len(rows))
    profile = freeze_reference(rows.to_batches(), config, window, snapshot.content_hash)
    return registration.register(
        config, registration.TrainedModel(estimators.fit(config, rows), snapshot, profile), decision_id
    )


def land(config: ModelConfig, window: Window, rows: pa.Table) -> Snapshot:
    """Store a window's rows and labels in the lake; return a snapshot with all labels known."""
    lake.land_rows(config, window, rows)
    as_of = window.end + timedelta(days=1)
    lake.land_labels(config, conform_labels(config, rows, "test"), as_of)
    return lake.labelled_snapshot(config, window, as_of)


@cache
def empty_registry() -> Path:
    """Return an SQLite file with MLflow's empty tables, created once per process."""
    place = Path(tempfile.mkdtemp(prefix="perennial-tests-"))
    uri = f"sqlite:///{place / 'mlflow.db'}"
    MlflowClient(tracking_uri=uri, registry_uri=uri).search_registered_models(max_results=1)
    return place / "mlflow.db"
