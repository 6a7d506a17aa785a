"""One practice stream replayed in time order: the same retrain moments, each time trained in several ways.

The rows of a window share one day, so that the model's file reads as any other: windows of a day, a holdout of two. Every
arm trains by the product's own code. A loss is the window's log loss, or its mean absolute error over the stream's scale.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from time import process_time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.candidates import race, strategies
from tasks.adapters.models.estimators import FitPlan, Fitted
from tasks.adapters.models.files import Scorer
from tasks.adapters.online import prequential
from tasks.adapters.own_training import trainer
from tasks.adapters.search.forward_search import SearchJob, search
from tasks.policy.records.base import utc
from tasks.policy.statistics import metrics
from tasks.policy.statistics.resampling import Resampling
from tasks.policy.training.online import OnlinePolicy
from tasks.policy.training.race import RacePolicy, RaceReport, Strategy, decide_race
from tasks.policy.training.search import SearchPolicy, SearchReport
from tests.benchmarks.streams import Stream

START = utc("2001-01-01")
DAY = timedelta(days=1)
HISTORY_SHARE = 0.3
HOLDOUT_WINDOWS = 2
WINDOWS_APART = 2
"""Windows from one retrain to the next."""
SELDOM = 16
"""Windows from one search to the next, and between the retrains of the arms `seldom`."""
TRIALS = 12
FIXED = {"n_estimators": 300, "max_depth": 6, "learning_rate": 0.1, "subsample": 0.8, "colsample_bytree": 0.8}


def config_of(stream: Stream) -> ModelConfig:
    """Return a model file for the stream."""
    places = range(stream.features.shape[1])
    categorical = [f"f{place}" for place in places if place in stream.categorical]
    numeric = [f"f{place}" for place in places if place not in stream.categorical]
    history = round(HISTORY_SHARE * stream.windows)
    return ModelConfig.model_validate(
        {
            "name": stream.name,
            "owner": "bench@example.com",
            "purpose": "Measures ways to train.",
            "risk": "low",
            "task": "regression" if stream.scale else "binary",
            "source": {"kind": "parquet", "path": "rows.parquet"},
            "columns": {
                "id": "id", "time": "time", "label": "label", "features": {"numeric": numeric, "categorical": categorical},
            },
            "window_days": 1,
            "period": {"start": START, "history_until": START + history * DAY, "end": START + stream.windows * DAY},
            "performance": {"metric": "mae" if stream.scale else "log_loss"},
            "retraining": {"when": {"trigger": "every", "days": WINDOWS_APART}},
            "training": {"parameters": FIXED, "min_rows": 100, "race": {}},
            "validation": {"holdout_days": HOLDOUT_WINDOWS},
        }
    )  # fmt: skip


def rows_of(stream: Stream) -> pa.Table:
    """Return the stream's rows with a time in their window."""
    count = len(stream.target)
    edges = np.linspace(0, count, stream.windows + 1).round().astype(int)
    sizes = np.diff(edges)
    places = np.repeat(np.arange(stream.windows), sizes) + np.concatenate([np.arange(size) / size for size in sizes])
    times = [START + place * DAY for place in places]
    columns: dict[str, Any] = {
        "id": [str(row) for row in range(count)],
        "time": pa.array(times, pa.timestamp("us", "UTC")),
        "label": stream.target if stream.scale else stream.target.astype(int),
    }
    for place in range(stream.features.shape[1]):
        values = stream.features[:, place]
        is_category = place in stream.categorical
        texts = [None if np.isnan(value) else str(int(value)) for value in values] if is_category else None
        columns[f"f{place}"] = pa.array(texts, pa.string()) if texts else values.astype(float)
    return pa.table(columns)


@dataclass
class Arm:
    """Losses of one way to train on the served windows, in time order, with its CPU seconds of training."""

    losses: list[float] = field(default_factory=list)
    cpu_s: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass
class Replay:
    """The state of a stream's replay: its rows, its arms, the races so far and the models that served."""

    stream: Stream
    config: ModelConfig
    rows: pa.Table
    arms: dict[str, Arm] = field(default_factory=dict)
    races: list[RaceReport] = field(default_factory=list)
    champions: list[tuple[int, Scorer]] = field(default_factory=list)
    """Of each retrain: the window at which its rows end, and the validated model of the race."""
    searched: tuple[int, ModelConfig, SearchReport] | None = None
    """The latest search: the window before which it ran, the settings to train with, and its report."""

    def between(self, first: int, last: int) -> pa.Table:
        """Return the rows of windows [first, last)."""
        time = self.rows.column("time")
        start, end = pa.scalar(START + first * DAY), pa.scalar(START + last * DAY)
        return self.rows.filter(pc.and_(pc.greater_equal(time, start), pc.less(time, end)))

    def serve(self, name: str, scorer: Scorer, windows: range, cpu_s: float) -> None:
        """Add the model's losses on these windows."""
        arm = self.arms.setdefault(name, Arm())
        arm.losses += [self.loss(scorer, window) for window in windows]
        arm.cpu_s += cpu_s

    def loss(self, scorer: Scorer, window: int) -> float:
        return (race.window_loss(self.config, scorer, self.between(window, window + 1)) or 0.0) / (
            self.stream.scale or 1.0
        )


def replay(stream: Stream) -> dict[str, Arm]:
    """Return the arms of a stream.

    At each retrain moment: `fixed`, `refit`, `search`, `search + refit`, `race` and `race + refit`. Retrained only every
    SELDOM windows: `seldom`, a refitted model that serves unchanged in between, and `seldom + online`.
    """
    state = Replay(stream, config_of(stream), rows_of(stream))
    for moment in moments(stream):
        served = range(moment, min(stream.windows, moment + WINDOWS_APART))
        older, all_rows = state.between(0, moment - HOLDOUT_WINDOWS), state.between(0, moment)
        usual, spent = timed(lambda older=older: trainer.fit(state.config, older))
        state.serve("fixed", usual.scorer, served, spent)
        refitted, more = timed(lambda usual=usual, rows=all_rows: trainer.fit(state.config, rows, FitPlan(usual)))
        state.serve("refit", refitted.scorer, served, spent + more)
        _race(state, moment, served)
        _search(state, moment, served)
        if moment in list(moments(stream))[:: SELDOM // WINDOWS_APART]:
            until = range(moment, min(stream.windows, moment + SELDOM))
            state.serve("seldom", refitted.scorer, until, spent + more)
            _serve_online(state, refitted.scorer, until)
    return state.arms


def moments(stream: Stream) -> Iterator[int]:
    """Yield the windows before which the model is retrained."""
    yield from range(round(HISTORY_SHARE * stream.windows), stream.windows, WINDOWS_APART)


def timed(work: Any) -> tuple[Any, float]:
    began = process_time()
    return work(), process_time() - began


def _search(state: Replay, moment: int, served: range) -> None:
    """Train with the settings of the latest search, which runs again every SELDOM windows."""
    older, arm = state.between(0, moment - HOLDOUT_WINDOWS), "search"
    searched_s = 0.0
    if state.searched is None or moment >= state.searched[0] + SELDOM:
        found = state.searched[2] if state.searched else None
        end = START + (moment - HOLDOUT_WINDOWS) * DAY
        job = SearchJob(
            SearchPolicy(trials=TRIALS), f"{state.stream.name}-{moment}", f"{moment}", end.isoformat(),
            found.parameters if found else None, found.recipe if found else None,
        )  # fmt: skip
        (chosen, report), searched_s = timed(lambda: search(state.config, older, job))
        state.searched = (moment, chosen, report)
        state.arms.setdefault(arm, Arm()).notes.append(report.sentence)
    chosen = state.searched[1]
    usual, spent = timed(lambda: trainer.fit(chosen, older))
    refitted, more = timed(lambda: trainer.fit(chosen, state.between(0, moment), FitPlan(usual)))
    state.serve(arm, usual.scorer, served, searched_s + spent)
    state.serve("search + refit", refitted.scorer, served, searched_s + spent + more)


def _serve_online(state: Replay, scorer: Scorer, windows: range) -> None:
    """Serve the model with a corrector that learns from each window once it has ended."""
    label, metric = state.config.columns.label, state.config.primary_metric
    parts = [state.between(window, window + 1) for window in windows]
    encoded = [(scorer.encoding.encode(part), scorer.labels(part.column(label))) for part in parts]
    resampling = Resampling(0.95, 500, 0)
    judge = prequential.Judge(metric, bool(state.stream.scale), resampling)
    margin = state.config.validation.margin(
        metric.name, metrics.compute(metric, encoded[0][1], scorer.predict(parts[0]))
    )
    booster = scorer.estimator.get_booster()
    answers, spent = timed(lambda: prequential.served_in_order(booster, encoded, OnlinePolicy(), judge, margin))
    arm = state.arms.setdefault("seldom + online", Arm())
    losses = [metrics.compute(metric, y, own) for (_, y), own in zip(encoded, answers, strict=True)]
    arm.losses += [loss / (state.stream.scale or 1.0) for loss in losses]
    arm.cpu_s += state.arms["seldom"].cpu_s / len(state.arms["seldom"].losses) * len(windows) + spent


def _race(state: Replay, moment: int, served: range) -> None:
    """Race, train by the winner, and serve it with and without a refit."""
    config, policy, cut = state.config, state.config.training.race or RacePolicy(), moment - HOLDOUT_WINDOWS
    count = policy.windows * (1 if state.races else 2)
    windows = race.judged_windows(config, START, START + cut * DAY, count)
    first = round((windows[0].start - START) / DAY)
    known = {str(end): scorer for end, scorer in state.champions}
    judged = max((end for end, _ in state.champions if end <= first), default=None)
    bases = {"base": known[str(judged)]} if judged is not None else {}
    older = [end for end, _ in state.champions if end < (judged or 0)]
    bases |= {"older": known[str(older[-1])]} if older else {}
    since = START + (judged or 0) * DAY
    entrants = [
        replace(each, since=since) if each.kind == "continue_champion" else each
        for each in strategies.entrants(config, None, tuple(name for name in ("base", "older") if name in bases))
    ]
    report = decide_race(policy, race.run(config, state.between(0, cut), windows, entrants, bases), state.races)
    state.races.append(report)
    last = state.champions[-1] if state.champions else (0, None)
    strategy = report.winner
    if strategy.kind == "continue_champion":
        strategy = replace(strategy, since=START + last[0] * DAY)
    fitted, spent = timed(lambda: _fit(state, strategy, (0, cut), last[1]))
    refitted, more = timed(lambda: _fit(state, strategy, (0, moment), last[1], fitted))
    state.serve("race", fitted.scorer, served, report.cpu_s + spent)
    state.serve("race + refit", refitted.scorer, served, report.cpu_s + spent + more)
    state.arms["race"].notes.append(strategy.key)
    state.champions.append((cut, fitted.scorer))


def _fit(
    state: Replay, strategy: Strategy, span: tuple[int, int], base: Scorer | None, validated: Fitted | None = None
) -> Fitted:
    if strategy.kind == "earlier_champion":
        scorer = state.champions[-2][1]
        return Fitted(scorer, {}, {}, {}, None, 0, 0, 0)
    return strategies.fit(state.config, strategy, state.between(*span), base, FitPlan(validated))
