"""Build a model's performance matrix from its lake: one candidate and one probe per window, scored on later windows.

Each candidate is trained once, on the rows and labels known when its window ended, and stored as a file. An
interrupted back-test resumes from the files. Candidates are independent and can be trained in parallel. Probes are
those of `monitor` (`adapters/evaluation/probes.py`), processed run by run with the labels known at each run. If
labels are late, policies see a window's losses `lag` windows later, as `monitor` would.

Losses are 1 - metric where higher is better. Unbounded errors are divided by five times the median of the history,
which puts them around 0.2 and makes costs comparable between models. A window without rows, a quarantined one, and one
whose labels failed their checks are columns of NaN.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from prefect import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, lake, ledger, models, own_training, storage
from tasks.adapters.orchestration.stage import stage
from tasks.adapters.storage.atomic_files import atomic_file
from tasks.policy.backtest.own_condition import CandidateReports
from tasks.policy.evidence.ledger import windows_to_exclude
from tasks.policy.monitoring.performance import decide_maturity
from tasks.policy.records.base import Window, digest, to_json
from tasks.policy.records.errors import ModelConfigError
from tasks.policy.records.reports import MetricValue, PerformanceReport, ProbeColumn
from tasks.policy.statistics import metrics
from tasks.policy.statistics.intervals import metric_intervals
from tasks.policy.statistics.metrics import Floats

if TYPE_CHECKING:
    from tasks.adapters.models.files import Scorer


@dataclass(frozen=True)
class Plan:
    """Windows of a back-test in order.

    The first `history` windows precede service. `folder` stores the candidates. `lag` is the number of windows after
    which enough labels of a window are known. `excluding` names windows that no candidate is trained or scored on.
    """

    windows: tuple[Window, ...]
    history: int
    folder: Path
    lag: int = 0
    excluding: tuple[str, ...] = ()


def plan_candidates(config: ModelConfig, end: datetime) -> Plan:
    """Plan a back-test on all windows until `end`; history windows are cut backwards from the start of service.

    Raises ModelConfigError if the period has too few windows, or too few for the label delay.
    """
    step = timedelta(days=config.window_days)
    before = config.history_windows()
    history = len(before)
    served = config.windows(end=end)
    if history < 1 or len(served) < 2:
        raise ModelConfigError(
            f"{config.name}: period has {history} complete windows of history and {len(served)} served ones until "
            f"{end:%Y-%m-%d}, expected at least 1 and 2 to back-test on; make window_days smaller or the period longer"
        )
    lag = max(0, math.ceil(config.columns.label_delay / step - 1 + config.performance.maturing_at))
    if lag >= min(history, len(served) - 1):
        raise ModelConfigError(
            f"{config.name}: labels of a window are known {lag} windows after it (columns.label_delay_hours: "
            f"{config.columns.label_delay_hours:g}), expected fewer than the {history} windows of history and the {len(served)} "
            "served ones to back-test on; make the period longer"
        )
    folder = storage.workspace.make_folder(
        storage.workspace.workspace().home / "backtest" / f"{config.name}-{config.fingerprint[:8]}{_until(config, end)}"
    )
    return Plan(before + served, history, folder, lag)


def _until(config: ModelConfig, end: datetime) -> str:
    """Return a folder suffix that separates back-tests by their end and known labels; empty for all recorded data."""
    if end == config.period.end:
        return ""
    last = config.windows(end=end)[-1].end
    return f"-{last:%Y%m%dT%H%M%S}-{min(end, last + config.columns.label_delay):%Y%m%d}"


def exclude_windows(config: ModelConfig, plan: Plan, empty: Sequence[Window], as_of: datetime) -> Plan:
    """Exclude quarantined windows from the plan; a plan with empty or excluded windows gets its own folder."""
    excluding = windows_to_exclude(ledger.entries(config.name), as_of)
    names = (*(window.name for window in empty), *excluding)
    if not names:
        return plan
    folder = storage.workspace.make_folder(
        plan.folder.with_name(f"{plan.folder.name}-without-{digest(*names, length=8)}")
    )
    return replace(plan, folder=folder, excluding=excluding)


@stage(tags=["training"], task_run_name="candidate after {place}")
def record_candidate(config: ModelConfig, plan: Plan, place: int) -> Path:
    """Train the candidate after window `place` (0-based) and write its losses; keep an existing file."""
    path = plan.folder / f"{place:04}.npz"
    if not path.exists():
        if config.training.is_foreign and place == 0:
            get_run_logger().warning("backtest: XGBoost stands in for %s", config.training.trainer)
        full, rows, seconds, reports = _losses(config, plan, place)
        if config.retraining.has_own_trigger:
            record = CandidateReports(plan.windows[place], rows, reports)
            storage.atomic_files.write_atomically(path.with_suffix(".json"), to_json(record))
        with atomic_file(path) as own, own.open("wb") as file:
            np.savez(file, loss=full, rows=rows, secs=seconds)
        known = np.isfinite(full)
        get_run_logger().info(
            "backtest: candidate after %s on %d rows in %.1f CPU s; mean %s loss %s on %d later windows",
            plan.windows[place].name,
            rows,
            seconds,
            config.performance.metric,
            f"{full[known].mean():.4g}" if known.any() else "not measured",
            known.sum(),
        )
    return path


def _losses(config: ModelConfig, plan: Plan, place: int) -> tuple[Floats, int, float, tuple[PerformanceReport, ...]]:
    """Return (losses of the candidate, training rows, CPU seconds, reports); losses are NaN if training is refused.

    The reports of later windows are those that a condition of the user's own needs; without one there are none.
    """
    end, last = plan.windows[place].end, plan.windows[-1].end
    start = config.period.start
    if config.training.window_days:
        start = max(start, end - timedelta(days=config.training.window_days))
    training = lake.labelled_rows(config, Window(start, end), end, excluding=plan.excluding)
    empty = np.full(len(plan.windows), np.nan)
    if models.eligibility.why_not_train(config, training):
        return empty, len(training), 0.0, ()
    began = time.process_time()
    candidate = own_training.trainer.fit(config, training).scorer
    seconds = time.process_time() - began
    later = lake.labelled_rows(config, Window(end, last), last + config.columns.label_delay, excluding=plan.excluding)
    losses, reports = _by_window(config, plan, candidate, later)
    return losses, len(training), seconds, reports


def _by_window(
    config: ModelConfig, plan: Plan, scorer: "Scorer", rows: "pa.Table"
) -> tuple[Floats, tuple[PerformanceReport, ...]]:
    """Return the metric of each window as a loss, shape [W]; NaN without labelled rows or where it is undefined.

    With a condition of the user's own, also return a report of each window with labelled rows.
    """
    metric, reports = config.primary_metric, []
    losses = np.full(len(plan.windows), np.nan)
    if not len(rows):
        return losses, ()
    labels, (predicted,) = models.label_alignment.align_labels(
        rows.column(config.columns.label), [(scorer.classes, scorer.predict(rows))]
    )
    labels = models.label_alignment.with_columns(config, labels, rows)
    moments = rows.column(config.columns.time).to_numpy()
    known = np.isfinite(labels)
    for place, window in enumerate(plan.windows):
        bounds = [np.datetime64(bound.replace(tzinfo=None)) for bound in (window.start, window.end)]
        inside = known & (moments >= bounds[0]) & (moments < bounds[1])
        if inside.any() and not metrics.undefined(metric, labels[inside], max(2, len(scorer.classes))):
            value = metrics.compute(metric, labels[inside], predicted[inside])
            losses[place] = metrics.as_loss(metric, value)
        if inside.any() and config.retraining.has_own_trigger:
            reports.append(_report(config, window, labels[inside], predicted[inside]))
    return losses, tuple(reports)


def _report(config: ModelConfig, window: Window, y_true: Floats, y_pred: Floats) -> PerformanceReport:
    """Report the metrics that the condition reads on a window with all its labels, with their intervals."""
    classes = y_pred.shape[1] if y_pred.ndim == 2 else 2
    names = dict.fromkeys((config.performance.metric, *config.retraining.metrics()))
    measured = [each for each in map(config.metric, names) if not metrics.undefined(each, y_true, classes)]
    intervals, values = metric_intervals(measured, y_true, y_pred), []
    for metric in measured:
        value, (low, high) = metrics.compute(metric, y_true, y_pred), intervals[metric.name]
        if not (math.isnan(value) or math.isnan(low)):
            values.append(MetricValue(metric.name, value, low, high, len(y_true), metric.higher_is_better))
    as_of, count = window.end + config.columns.label_delay, len(y_true)
    return PerformanceReport(window, as_of, "", count, count, "closed", tuple(values), config.performance.metric)


@stage(tags=["training"])
def record_probes(config: ModelConfig, plan: Plan) -> Path:
    """Train and score the probes that `monitor` would have had, and write their losses; keep an existing file."""
    path = plan.folder / "probes.npz"
    if not path.exists():
        began = time.process_time()
        losses = np.full((len(plan.windows), len(plan.windows)), np.nan)
        places = {window.end: place for place, window in enumerate(plan.windows)}
        for column in _probe_columns(config, plan):
            for until, loss in column.losses:
                losses[places[until], places[column.window.end]] = loss
        with atomic_file(path) as own, own.open("wb") as file:
            np.savez(file, probe=losses)
        spent, scored = time.process_time() - began, np.isfinite(losses).sum()
        get_run_logger().info("backtest: probes scored %d times in %.1f CPU s", scored, spent)
    return path


def _probe_columns(config: ModelConfig, plan: Plan) -> Iterator[ProbeColumn]:
    """Yield the probe columns that `monitor` would record.

    Simulates one run after each window with rows that is not excluded, and `lag` more runs for the last labels.
    """
    waiting = [window for window in plan.windows[plan.history :] if _is_judged(config, plan, window)]
    runs = [config.read_at(window) for window in waiting]
    last = config.grid.number_at(waiting[-1].start) if waiting else 0
    runs += [config.read_at(config.grid.window(last + number)) for number in range(1, plan.lag + 1)] if runs else []
    folder = storage.workspace.make_folder(plan.folder / "probes")
    if runs:
        yield from evaluation.probes.score_history(config, runs[0], folder)
    for as_of in runs:
        landed = [window for window in waiting if config.read_at(window) <= as_of]
        for window in [window for window in landed if _has_enough_labels(config, window, as_of)]:
            waiting.remove(window)
            yield evaluation.probes.score_window_of_service(config, window, as_of, folder)


def _is_judged(config: ModelConfig, plan: Plan, window: Window) -> bool:
    landed = lake.landed_rows(config, window)
    return landed is not None and landed.rows > 0 and window.name not in plan.excluding


def _has_enough_labels(config: ModelConfig, window: Window, as_of: datetime) -> bool:
    """Return whether `monitor` would score probes on the window in its run at `as_of`."""
    landed = lake.landed_rows(config, window)
    labelled = len(lake.labelled_rows(config, window, as_of, [config.columns.key]))
    complete = as_of >= window.end + config.columns.all_labels_within
    limits = config.performance.maturing_at, config.performance.closed_at
    maturity = decide_maturity(landed.rows if landed else 0, labelled, complete, *limits)
    return maturity != "open" and labelled >= config.retraining.min_labelled_rows


@stage
def assemble_matrix(config: ModelConfig, plan: Plan, paths: list[Path], probes: Path) -> Path:
    """Assemble the files of candidates and probes into matrix.npz, which `--matrix` also reads; return its path."""
    count = len(plan.windows)
    parts = {"loss": np.full((count, count), np.nan), "rows": np.zeros(count), "secs": np.zeros(count)}
    for path in paths:
        with np.load(path) as stored:
            for key, part in parts.items():
                part[int(path.stem)] = stored[key]
    with np.load(probes) as stored:
        parts["probe"] = stored["probe"]
    scale = 1.0
    if config.performance.metric not in metrics.BOUNDED:
        known = parts["loss"][: plan.history, : plan.history]
        known = known if np.isfinite(known).any() else parts["loss"]
        scale = float(5 * abs(np.nanmedian(known))) or 1.0
    history, lag = plan.history - plan.lag, plan.lag
    for key, unknown in (("loss", np.nan), ("rows", 0.0), ("secs", 0.0)):
        # row i describes the candidate trained once window i's losses are known
        parts[key] = np.concatenate([parts[key][lag:], np.full_like(parts[key][:lag], unknown)])
    matrix = plan.folder / "matrix.npz"
    parts["loss"], parts["probe"] = parts["loss"] / scale, parts["probe"] / scale
    arrays: dict[str, Any] = {"H": np.array(history), "lag": np.array(lag), "scale": np.array(scale), **parts}
    np.savez_compressed(matrix, **arrays)
    return matrix
