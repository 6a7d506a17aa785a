"""A small model and its rows for tests of monitoring: two numeric features, one categorical, one boolean."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from deployments.config.model import ModelConfig
from tasks.adapters.gates.window_rows import Reader
from tasks.adapters.profiling.profile import freeze_reference, profile_batches
from tasks.adapters.profiling.reference_sample import draw_sample
from tasks.monitoring.drift import DriftReference, report_drift
from tasks.monitoring.quality import QualityReference, judge_quality
from tasks.policy.records.base import Window
from tasks.policy.records.profile import ReferenceProfile, WindowProfile
from tasks.policy.records.reports import DriftReport, FeatureDrift, QualityReport

HISTORY = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
WINDOW = Window(datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 2, 6, tzinfo=UTC))
COUNT = 2000
FEATURES = {"numeric": ["amount", "age"], "categorical": ["country"], "boolean": ["member"]}


def model(features: Mapping[str, Any] | None = None, **sections: Any) -> ModelConfig:
    """Return the model's configuration; sections such as quality= and drift= override defaults."""
    columns = {"id": "id", "time": "at", "label": "churned", "features": features or FEATURES}
    return ModelConfig.model_validate(
        {
            "name": "churn",
            "owner": "test",
            "purpose": "test",
            "risk": "low",
            "task": "binary",
            "source": {"kind": "parquet", "path": "rows.parquet"},
            "columns": columns | sections.pop("columns", {}),
            "window_days": 5,
            "period": {"start": HISTORY.start, "history_until": HISTORY.end},
            "performance": {"metric": "accuracy"},
            "retraining": {"when": {"trigger": "every", "days": 30}},
            "drift": {"plots": 1, "threshold": 0.15},  # detectable with 2,000 rows
        }
        | sections
    )


def rows(count: int = 2000, seed: int = 0, window: Window = WINDOW, **replaced: Any) -> pa.Table:
    """Return random rows of a window; `replaced` maps columns to other values, or to None to drop them."""
    random = np.random.default_rng(seed)
    span_us = (window.end - window.start) / timedelta(microseconds=1)
    moments = int(window.start.timestamp() * 1e6) + np.arange(count) * (span_us / max(count, 1))
    columns: dict[str, Any] = {
        "id": [f"{seed}-{number}" for number in range(count)],
        "at": pa.array(moments.astype(np.int64), pa.timestamp("us", "UTC")),
        "amount": random.gamma(2.0, 50.0, count),
        "age": random.integers(18, 90, count),
        "country": random.choice(["DE", "FR", "IT"], count, p=[0.5, 0.3, 0.2]),
        "member": random.random(count) < 0.4,
    }
    columns = {name: values for name, values in (columns | replaced).items() if values is not None}
    return pa.table(
        {name: pa.array(values) if not isinstance(values, pa.Array) else values for name, values in columns.items()}
    )


_LEARNED: dict[int, tuple[ReferenceProfile, pa.Table]] = {}
"""Rows of each reference, by the reference's id(); the reference is stored too, which prevents reuse of its id."""


def reference(config: ModelConfig, count: int = 10_000, **replaced: Any) -> ReferenceProfile:
    learned = rows(count, 99, HISTORY, **replaced)
    frozen = freeze_reference(learned.to_batches(), config, HISTORY, "hash")
    _LEARNED[id(frozen)] = frozen, learned
    return frozen


def baseline(config: ModelConfig, frozen: ReferenceProfile) -> DriftReference:
    """Return the profile with a sample of its rows, but no coded rows: no calendar match and no joint drift."""
    return DriftReference(frozen, sample=draw_sample(config, frozen, _LEARNED[id(frozen)][1]))


def profile(config: ModelConfig, frozen: ReferenceProfile, table: pa.Table, **options: Any) -> WindowProfile:
    return profile_batches(table.to_batches(max_chunksize=700), frozen, config, WINDOW, **options)


def reader(table: pa.Table, batch_rows: int = 700) -> Reader:
    """Return a reader of a table that yields batches as the lake does."""

    def read(columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        places = [place for place, name in enumerate(table.column_names) if columns is None or name in columns]
        yield from table.select(places).to_batches(max_chunksize=batch_rows)

    return read


def quality_of(config: ModelConfig, frozen: ReferenceProfile, table: pa.Table, **options: Any) -> QualityReport:
    """Judge a table of rows, profiled against a reference."""
    return judge_quality(config, profile(config, frozen, table), QualityReference(frozen), reader(table), **options)


def broken(report: QualityReport) -> set[tuple[str, str | None]]:
    """Return the failed checks of a report as (check, column)."""
    return {(check.name, check.column) for check in report.checks if check.verdict != "pass"}


def drift_of(report: DriftReport, feature: str) -> FeatureDrift:
    return next(drift for drift in report.features if drift.feature == feature)


def shifted(moment: datetime, hours: float) -> datetime:
    return moment + timedelta(hours=hours)


def amounts(count: int = COUNT) -> list[float]:
    return rows(count)["amount"].to_pylist()


def with_share(values: list, share: float, other) -> list:
    return [other if number < share * len(values) else value for number, value in enumerate(values)]


@dataclass
class Judged:
    """A profiled window, judged on access: `.quality`, `.drift`, or both by unpacking."""

    config: ModelConfig
    frozen: ReferenceProfile
    profiled: WindowProfile
    table: pa.Table
    recent_rows: Sequence[int]

    @property
    def quality(self) -> QualityReport:
        return judge_quality(
            self.config, self.profiled, QualityReference(self.frozen), reader(self.table), self.recent_rows
        )

    @property
    def drift(self) -> DriftReport:
        return report_drift(self.config, self.profiled, baseline(self.config, self.frozen))

    def __iter__(self) -> Iterator[QualityReport | DriftReport]:
        return iter((self.quality, self.drift))


def judge(folder: Path, config=None, frozen=None, count: int = COUNT, recent_rows=(), **replaced: Any) -> Judged:
    """Profile a window of rows, optionally changed, against its reference; write the sample to `folder`."""
    config = config or model()
    frozen = frozen or reference(config)
    table = rows(count, **replaced)
    profiled = profile(config, frozen, table, sample_path=folder / "sample.parquet")
    return Judged(config, frozen, profiled, table, recent_rows)
