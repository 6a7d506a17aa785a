"""Would a fresh model do better? After each window small models are scored on rows that none of them has seen.

A window is taken up once, when enough of its labels are known; then its rows teach the next probe. The windows before
service are taken up together the first time. What was scored stands in the window's judgement in the ledger, so a
decision can be told again without the probes. A plain function, no task: it has no outcome of its own.
"""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import chain
from time import process_time

import pyarrow as pa
from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, lake
from tasks.policy.records.base import Window
from tasks.policy.records.evidence import History, ModelVersion
from tasks.policy.records.reports import PerformanceReport, ProbeColumn
from tasks.policy.triggers.conditions import Perennial, Probe, leaves

LATEST = 8
"""Probes scored on a window: the latest so many, and those of the age of the champion and of each that may return."""


def score_probes(
    config: ModelConfig,
    window: Window,
    as_of: datetime,
    history: History,
    champion: ModelVersion,
    reports: Sequence[PerformanceReport],
) -> tuple[ProbeColumn, ...]:
    """Columns of the windows up to `window` whose labels have come since the last time; none without such a trigger.

    `reports` are this run's performance reports: the window's own and those that late labels changed.
    """
    if not any(isinstance(leaf, Probe | Perennial) for leaf in leaves(config.retraining.when)):
        return ()
    began = process_time()
    columns = new_columns(config, window, as_of, history, champion, reports)
    scored, spent = sum(len(column.losses) for column in columns), process_time() - began
    get_run_logger().info("probes: %s scored on %s windows in %.2f CPU s", scored, len(columns), spent)
    return columns


def new_columns(
    config: ModelConfig,
    window: Window,
    as_of: datetime,
    history: History,
    champion: ModelVersion,
    reports: Sequence[PerformanceReport],
) -> tuple[ProbeColumn, ...]:
    """The same, whatever the policy."""
    known = {column.window for evidence in history.evidence for column in evidence.probes}
    columns = [] if known else _before_service(config, as_of)
    floor = config.retraining.min_labelled_rows
    latest = {report.window: report for report in (*history.performances, *reports) if report.window <= window}
    sound = {found: report for found, report in latest.items() if report.has_sound_labels}
    ready = [found for found, report in sound.items() if report.maturity != "open" and report.labelled_rows >= floor]
    aged = (champion.trained.end, *(served.learned_until for served in history.returnable))
    columns += [_take_up(config, other, as_of, aged) for other in sorted(set(ready) - known)]
    return tuple(columns)


def _before_service(config: ModelConfig, as_of: datetime) -> list[ProbeColumn]:
    """The whole windows of history, cut backwards from where service begins, each scored by the probes before it."""
    rows = lake.labelled_rows(config, config.history(), as_of)
    columns = []
    for window in _history_windows(config):
        inside = evaluation.probes.within(config, rows, window)
        if len(inside):
            columns.append(_column(config, window, inside, ()))
            evaluation.probes.keep_sample(config, window, inside)
    return columns


def _take_up(config: ModelConfig, window: Window, as_of: datetime, aged: Sequence[datetime]) -> ProbeColumn:
    rows = lake.labelled_rows(config, window, as_of)
    column = _column(config, window, rows, aged)
    evaluation.probes.keep_sample(config, window, rows)
    return column


def _column(config: ModelConfig, window: Window, rows: "pa.Table", aged: Sequence[datetime]) -> ProbeColumn:
    """Every probe that had learned before the window and counts, scored on its labelled rows.

    `aged`: until when the champion had learned, then those that may serve again; empty before service.
    """
    taught = [earlier for earlier in _all_windows(config, window) if evaluation.probes.has_sample(config, earlier)]
    peers = [[place for place, earlier in enumerate(taught) if earlier.end <= until][-1:] for until in aged]
    places = sorted({*range(max(0, len(taught) - LATEST), len(taught)), *chain.from_iterable(peers)})
    if not aged:
        places = list(range(len(taught)))
    found = [
        (taught[place].end, evaluation.probes.probe(config, _trailing(config, taught[: place + 1]))) for place in places
    ]
    scorers = [(until, scorer) for until, scorer in found if scorer is not None]
    values = evaluation.probes.losses(config, [scorer for _, scorer in scorers], rows)
    losses = tuple((until, value) for (until, _), value in zip(scorers, values, strict=True) if math.isfinite(value))
    return ProbeColumn(window, config.performance.metric, len(rows), losses, aged[0] if aged else None)


def _history_windows(config: ModelConfig) -> list[Window]:
    step, first = timedelta(days=config.window_days), config.period.start
    count = int((config.period.history_until - first) / step)
    return (
        list(Window(config.period.history_until - count * step, config.period.history_until).split(config.window_days))
        if count
        else []
    )


def _all_windows(config: ModelConfig, before: Window) -> list[Window]:
    served = () if before.start <= config.period.history_until else config.windows(end=before.start)
    return [found for found in (*_history_windows(config), *served) if found < before]


def _trailing(config: ModelConfig, windows: Sequence[Window]) -> list[Window]:
    """Those that a model trained after the last of them would learn from."""
    if not config.training.window_days:
        return list(windows)
    start = windows[-1].end - timedelta(days=config.training.window_days)
    return [window for window in windows if window.end > start]
