"""Score a window and write the predictions to the lake, where monitoring reads them.

The champion answers every row. During a rollout the challenger predicts the same rows as a shadow, or answers the rows of
its units. Where it cannot answer, the champion does, and the log says so. Both versions are timed on the same batches, in
turn: what else the machine does then slows both alike.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, lake, models, online
from tasks.adapters.orchestration.stage import stage
from tasks.policy.comparison.guardrails import MIN_TIMED
from tasks.policy.comparison.predictions import MISSING_PREDICTION, NOT_A_PROBABILITY, invalid_rows, missing_rows
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.reports import ChallengerScoring, Latency, LatencyComparison, Scoring, Snapshot
from tasks.policy.rollout.traffic import Role, TrafficSplit
from tasks.policy.statistics.metrics import Floats

BATCH_ROWS = 256
TIMED_BATCHES, TIMING_S = 20, 60.0
"""Batches of each window that both versions are timed on, and the seconds after which `MIN_TIMED` of them are enough."""


@dataclass(frozen=True, slots=True)
class _Answers:
    """One version's predictions of some rows, NaN where it gave none, its errors, and seconds per batch.

    `state` is the number of the online state that corrected them, None for the frozen model.
    """

    version: str
    predictions: Floats
    errors: list[str | None]
    seconds: list[float] = field(default_factory=list)
    state: int | None = None

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Mask of the rows with a prediction that can be served."""
        return np.array([error is None for error in self.errors], bool)


def is_answered(config: ModelConfig, snapshot: Snapshot) -> bool:
    """Return whether the gateway has answered rows of the window, whose log lands by itself: nothing is scored again."""
    log = lake.read_predictions(config, snapshot.window)
    answered = len(log) - log["request_id"].null_count if "request_id" in log.column_names else 0
    if not answered:
        return False
    say = get_run_logger().info if 2 * answered >= snapshot.rows else get_run_logger().warning
    say(
        "scoring: nothing is scored, the gateway logged %d answers for the %d rows of %s",
        answered, snapshot.rows, snapshot.window.name,
    )  # fmt: skip
    return True


# two retries: the lake or the registry may be briefly unavailable; storing a window twice changes nothing
@stage(
    retries=2,
    timeout_seconds=3600,
)
def score_window(
    config: ModelConfig,
    snapshot: Snapshot,
    champion: ModelVersion,
    split: TrafficSplit | None = None,
    challenger: ModelVersion | None = None,
) -> Scoring:
    """Score every row of the snapshot and store the predictions; measure seconds per batch and peak memory in MB."""
    rows = lake.read_rows(snapshot)
    split = split or TrafficSplit(config.name, champion.version)
    trial, assigned = None, np.zeros(len(rows), bool)
    if challenger is not None:
        assigned = _assigned(config, rows, split)
        trial = _trial(config, challenger, rows.filter(pa.array(assigned)))
    served_by_challenger = assigned.copy()
    if trial is not None and split.serves_challenger:
        served_by_challenger[assigned] = trial.answered
    served = ~served_by_challenger if split.serves_challenger else np.ones(len(rows), bool)
    answers = _champion(config, champion, rows.filter(pa.array(served)), snapshot.window.start)
    parts = [_logged(config, rows.filter(pa.array(served)), answers, "champion", split)]
    role: Role = "challenger" if split.serves_challenger else "shadow"
    if trial is not None:
        parts.append(_logged(config, rows.filter(pa.array(assigned)), trial, role, split))
    landed = lake.land_predictions(
        config, snapshot.window, champion.version, pa.concat_tables(parts, promote_options="default")
    )
    beside = None
    if challenger is not None and trial is not None:
        compared = _compare_latencies(config, (champion, challenger), rows.filter(pa.array(assigned)))
        beside = ChallengerScoring(
            trial.version, role, split.step, int(assigned.sum()), _latency(trial.seconds), compared
        )
    scoring = Scoring(snapshot.window, champion.version, landed, len(rows), _latency(answers.seconds), beside)
    get_run_logger().info(
        "scoring: %d rows with version %s%s, p99 %.4f s per %d rows%s",
        len(rows),
        champion.version,
        f" in online state {answers.state}" if answers.state is not None else "",
        scoring.latency.p99_s,
        BATCH_ROWS,
        f"; {beside.rows} rows with version {beside.version} as {beside.role}" if beside else "",
    )
    return scoring


def _assigned(config: ModelConfig, rows: pa.Table, split: TrafficSplit) -> NDArray[np.bool_]:
    """Return the mask of the rows that the challenger predicts: all as a shadow, else those of its units."""
    if not split.serves_challenger:
        return np.ones(len(rows), bool)
    name = split.unit or config.columns.key
    if name not in rows.column_names:
        get_run_logger().warning("traffic: the champion answers: these rows landed before they had the column %s", name)
        return np.zeros(len(rows), bool)
    units = rows.column(name).combine_chunks().dictionary_encode()
    roles = np.array([split.role_of(unit) == "challenger" for unit in units.dictionary.to_pylist()] + [False])
    mask: NDArray[np.bool_] = roles[units.indices.fill_null(len(roles) - 1).to_numpy(zero_copy_only=False)]
    return mask


def _champion(config: ModelConfig, version: ModelVersion, rows: pa.Table, start: datetime) -> _Answers:
    """Return the champion's answers, as its online state corrects them from `start` on; its errors are raised."""
    served = online.serving.load_champion(config, version, start)
    seconds, parts = _timed(served.scorer.predict, rows)
    predictions = np.concatenate(parts) if parts else served.scorer.predict(rows)
    return _Answers(version.version, predictions, [None] * len(rows), seconds, served.state)


def _trial(config: ModelConfig, version: ModelVersion, rows: pa.Table) -> _Answers:
    """Return the challenger's answers; what it cannot answer is a finding, not an error of this run.

    A prediction that is not finite is missing, for which the guardrails have a limit of its own.
    """
    faults: list[str] = []

    def answer(batch: pa.Table) -> Floats:
        found = evaluation.challenger.try_predict_rows(version, batch, config.training.imported)
        if isinstance(found, str):
            faults.extend([found] * len(batch))
            return np.full(len(batch), np.nan)
        faults.extend("" for _ in range(len(batch)))
        return found

    # loads the version, which the first batch would otherwise be timed with; the champion's is loaded before its batches
    evaluation.challenger.try_predict_rows(version, rows.slice(0, 1), config.training.imported)
    seconds, parts = _timed(answer, rows)
    wide = max((part.shape[1:] for part in parts), default=())
    parts = [part if part.shape[1:] == wide else np.full((len(part), *wide), np.nan) for part in parts]
    predictions = np.concatenate(parts) if parts else np.empty(0)
    missing, invalid = missing_rows(predictions), invalid_rows(predictions, config.task)
    errors = [
        fault or (MISSING_PREDICTION if lost else NOT_A_PROBABILITY if bad else None)
        for fault, lost, bad in zip(faults, missing, invalid, strict=True)
    ]
    return _Answers(version.version, predictions, errors, seconds)


def _timed(predict: Callable[[pa.Table], Floats], rows: pa.Table) -> tuple[list[float], list[Floats]]:
    """Return (seconds, predictions) of each batch of `BATCH_ROWS` rows."""
    seconds, parts = [], []
    for start in range(0, len(rows), BATCH_ROWS):
        begun = time.perf_counter()
        parts.append(predict(rows.slice(start, BATCH_ROWS)))
        seconds.append(time.perf_counter() - begun)
    return seconds, parts


def _compare_latencies(
    config: ModelConfig, versions: tuple[ModelVersion, ModelVersion], rows: pa.Table
) -> LatencyComparison | None:
    """Time champion and challenger on the same batches, each first in every other one; None without rows.

    Few rows are timed more than once: the number of batches decides how small a difference can be shown.
    """
    if not len(rows):
        return None
    size = min(BATCH_ROWS, max(1, len(rows) // TIMED_BATCHES))
    seconds: dict[str, list[float]] = {version.version: [] for version in versions}
    begun = time.perf_counter()
    for number in range(TIMED_BATCHES):
        batch = rows.slice(number * size % len(rows), size)
        for version in versions if number % 2 == 0 else versions[::-1]:
            started = time.perf_counter()
            evaluation.challenger.try_predict_rows(version, batch, config.training.imported)
            seconds[version.version].append(round(time.perf_counter() - started, 6))
        if number + 1 >= MIN_TIMED and time.perf_counter() - begun > TIMING_S:
            break
    return LatencyComparison(*(tuple(seconds[version.version]) for version in versions))


def _logged(config: ModelConfig, rows: pa.Table, answers: _Answers, role: Role, split: TrafficSplit) -> pa.Table:
    """Return the log's rows of one version, with their units where these are not their ids, and the online state."""
    ids, times, count = rows.column(config.columns.key), rows.column(config.columns.time), len(rows)
    further = {}
    if answers.state is not None:
        further["online_state"] = pa.array([answers.state] * count, pa.int64())
    if split.serves_challenger and split.unit is not None:
        further["unit"] = models.encoding.category_texts(rows.column(split.unit))
    predicted = answers.predictions
    return pa.table(
        {
            "id": ids,
            "time": times,
            "prediction": predicted if predicted.ndim == 1 else pa.array(list(predicted), pa.list_(pa.float64())),
            "model_version": pa.array([answers.version] * count, pa.string()),
            "role": pa.array([role] * count, pa.string()),
            "step": pa.array([split.step] * count, pa.string()),
            "error": pa.array(answers.errors, pa.string()),
        }
        | further
    )


def _latency(seconds: list[float]) -> Latency:
    """Return quantiles of the seconds per batch, 0 if none was scored, and the process's peak memory so far in MB."""
    p50, p95, p99 = np.quantile(seconds or [0.0], [0.5, 0.95, 0.99])
    return Latency(float(p50), float(p95), float(p99), models.resources.peak_memory_mb(), len(seconds))
