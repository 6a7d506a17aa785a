"""Score a window with one version and write the predictions to the lake, where monitoring reads them.

Rows are scored in batches of the size that an online service would receive, which makes latencies comparable.
"""

import time

import numpy as np
import pyarrow as pa
from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import lake, models, registry
from tasks.adapters.orchestration.stage import stage
from tasks.policy.records.evidence import ModelVersion
from tasks.policy.records.reports import Latency, Scoring, Snapshot

BATCH_ROWS = 256


# two retries: the lake or the registry may be briefly unavailable; storing a window twice changes nothing
@stage(
    retries=2,
    timeout_seconds=3600,
)
def score_window(config: ModelConfig, snapshot: Snapshot, version: ModelVersion) -> Scoring:
    """Score every row of the snapshot and store the predictions; measure seconds per batch and peak memory in MB."""
    scorer = registry.version_files.load_scorer(version, config.training.estimator)
    rows = lake.read_rows(snapshot)
    parts, seconds = [], []
    for start in range(0, len(rows), BATCH_ROWS):
        begun = time.perf_counter()
        parts.append(scorer.predict(rows.slice(start, BATCH_ROWS)))
        seconds.append(time.perf_counter() - begun)
    predicted = np.concatenate(parts) if parts else scorer.predict(rows)
    ids, times = rows.column(config.columns.key), rows.column(config.columns.time)
    table = pa.table({"id": ids, "time": times, "prediction": predicted if predicted.ndim == 1 else list(predicted)})
    landed = lake.land_predictions(config, snapshot.window, version.version, table)
    scoring = Scoring(snapshot.window, version.version, landed, len(rows), _latency(seconds))
    get_run_logger().info(
        "scoring: %d rows with version %s, p99 %.4f s per %d rows",
        len(rows),
        version.version,
        scoring.latency.p99_s,
        BATCH_ROWS,
    )
    return scoring


def _latency(seconds: list[float]) -> Latency:
    """Return quantiles of the seconds per batch, 0 if none was scored, and the process's peak memory so far in MB."""
    p50, p95, p99 = np.quantile(seconds or [0.0], [0.5, 0.95, 0.99])
    return Latency(float(p50), float(p95), float(p99), models.resources.peak_memory_mb())
