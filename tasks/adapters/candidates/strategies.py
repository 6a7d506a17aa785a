"""Fit a model by a strategy: which rows, with which weights, from which earlier model.

A strategy changes only what is learned from; the estimator, its parameters and early stopping are those of the model's
file.
"""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.candidates import incremental
from tasks.adapters.models import eligibility
from tasks.adapters.models.estimators import PLAIN, FitPlan, Fitted, in_order
from tasks.adapters.models.files import Scorer
from tasks.adapters.own_training import trainer
from tasks.policy.records.errors import EstimatorError, TrainingRefused
from tasks.policy.statistics.metrics import Floats
from tasks.policy.training.race import RacePolicy, Strategy

REFRESHED_WINDOWS = 16
"""Trailing windows whose rows refresh the leaves of the champion."""


def entrants(
    config: ModelConfig, changed_at: datetime | None = None, versions: tuple[str, ...] = ()
) -> tuple[Strategy, ...]:
    """Return the file's own settings, then the strategies of `training.race` that this model can run.

    `changed_at` is when its data or its relationship last changed; `versions` are the champion and earlier ones, newest first.
    """
    policy = config.training.race or RacePolicy()
    found = [Strategy()]
    for kind in policy.strategies:
        if kind == "recency_weighted" and not config.training.function and config.training.engine == "memory":
            found += [Strategy(kind, amount) for amount in policy.half_life_windows]
        elif kind == "trailing":
            found += [Strategy(kind, amount) for amount in policy.trailing_windows]
        elif kind == "since_change" and changed_at is not None:
            found.append(Strategy(kind, since=changed_at))
        elif kind in ("continue_champion", "refresh_leaves") and versions and incremental.is_possible(config):
            found.append(Strategy(kind, version=versions[0]))
        elif kind == "earlier_champion":
            found += [Strategy(kind, version=version) for version in versions[1:2]]
    return tuple(found)


def fit(
    config: ModelConfig, strategy: Strategy, rows: pa.Table, base: Scorer | None = None, plan: FitPlan = PLAIN
) -> Fitted:
    """Train by the strategy on labelled rows; with a validated model in the plan, on more rows with as many rounds.

    `base` is the model that is continued or refreshed. Raises EstimatorError, FeatureError, and TrainingRefused for too few
    rows.
    """
    rows = in_order(rows, config.columns.time, config.columns.key)
    if strategy.kind == "usual":
        return trainer.fit(config, rows, plan)
    chosen = _chosen(config, strategy, rows)
    if strategy.kind in ("continue_champion", "refresh_leaves"):
        if base is None:
            raise EstimatorError(f"{config.name}: version {strategy.version} has no model here that could be continued")
        return incremental.fit(config, strategy, base, chosen, plan.validated)
    if strategy.kind == "recency_weighted":
        plan = replace(plan, weights=row_weights(config, strategy, chosen))
    return trainer.fit(config, chosen, plan)


def row_weights(config: ModelConfig, strategy: Strategy, rows: pa.Table) -> Floats:
    """Return 0.5 to the power of each row's age over the half-life, (n,); the age counts from the newest row."""
    times = (
        pc.cast(rows.column(config.columns.time), pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy().astype(float)
    )
    half_life_us = (strategy.amount or 1.0) * _window_length(config) / timedelta(microseconds=1)
    weights: Floats = np.power(0.5, (times.max(initial=-np.inf) - times) / half_life_us)
    return weights


def _chosen(config: ModelConfig, strategy: Strategy, rows: pa.Table) -> pa.Table:
    """Return the rows that the strategy learns from. Raises TrainingRefused if they cannot train a model."""
    start = _start(config, strategy, rows)
    chosen = (
        rows if start is None else rows.filter(pc.greater_equal(rows.column(config.columns.time), pa.scalar(start)))
    )
    if refusal := eligibility.why_not_train(config, chosen):
        raise TrainingRefused(f"{config.name}: {strategy.name}: {refusal}")
    return chosen


def _start(config: ModelConfig, strategy: Strategy, rows: pa.Table) -> datetime | None:
    """Return the time of the first row that the strategy learns from; None for all rows."""
    if strategy.kind in ("since_change", "continue_champion"):
        return strategy.since
    if strategy.kind not in ("trailing", "refresh_leaves"):
        return None
    newest: datetime = pc.max(rows.column(config.columns.time)).as_py()
    return newest - (strategy.amount or REFRESHED_WINDOWS) * _window_length(config)


def _window_length(config: ModelConfig) -> timedelta:
    return timedelta(days=config.window_days)
