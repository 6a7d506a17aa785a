"""Evaluate whether a promotion paid off, once the windows after it have closed.

The replaced champion scores the same rows, which makes the gain a paired difference. The forecast is the gain that the
rollout measured, or validation where there was none. The outcome is written once per promotion, to the ledger and an
artifact. This is a plain function, not a task, because it rarely has work to do.
"""

import math
from datetime import datetime
from itertools import islice

import numpy as np
from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import lake, ledger, models, registry, reports
from tasks.policy.economics.costs import Amount, Outcome, measured_cost, net_benefit, score_gains, score_outcome
from tasks.policy.evidence.ledger import Fact, Past
from tasks.policy.evidence.monitoring import MonitorRun
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import USAGE, ModelVersion, Promotion, Usage
from tasks.policy.records.base import Window, from_json
from tasks.policy.records.errors import VersionGone
from tasks.policy.records.events import RunMode
from tasks.policy.records.reports import PerformanceReport
from tasks.policy.rollout.state import ENDED, RolloutMove
from tasks.policy.statistics.intervals import Gain, PairedPredictions, paired_bootstrap
from tasks.policy.statistics.metrics import class_count, undefined
from tasks.policy.statistics.resampling import Resampling

LOOK_BACK = 3
"""Number of closed windows after a promotion on which it is judged."""
RESAMPLING = Resampling(draws=500)
Z_95 = 1.96
"""Half-width of a two-sided 95 % interval in standard errors."""


def evaluate_promotion(config: ModelConfig, run: MonitorRun) -> Outcome | None:
    """Return the outcome of the latest promotion and record it; None if it is not due or already recorded."""
    champion, past, as_of = run.champion, run.past, run.as_of
    if champion.observed_as is not None:  # the version before has no model file that could score the same rows
        return None
    promotions = past.of("champion.promoted")
    latest = from_json(Promotion, promotions[-1].body) if promotions else None
    if latest is None or latest.previous is None or latest.champion != champion.version or run.mode is RunMode.DRY_RUN:
        return None
    scored = {entry.decision_id for entry in past.of("promotion.scored")}
    windows = [
        report.window for report in run.history.performances if _counts_as_evidence(report, champion, promotions[-1].at)
    ]
    if latest.decision_id in scored or len(windows) < LOOK_BACK:
        return None
    outcome = judge_outcome(config, run, latest, windows)
    if outcome is None:
        return None
    ledger.append(config.name, Fact("promotion.scored", outcome, as_of, latest.decision_id))
    reports.artifacts.publish_outcome(config.name, champion.version, outcome)
    get_run_logger().info("outcome: version %s: %s", champion.version, outcome.reason)
    return outcome


def _counts_as_evidence(report: PerformanceReport, champion: ModelVersion, promoted: datetime) -> bool:
    return (
        report.maturity == "closed"
        and report.has_sound_labels
        and report.model_version == champion.version
        and report.window.start >= promoted
        and report.labelled_rows > 0
    )


def judge_outcome(config: ModelConfig, run: MonitorRun, promotion: Promotion, windows: list[Window]) -> Outcome | None:
    """Compare the realised gains over the replaced champion with the cost and the gain forecast at validation.

    Uses the first `LOOK_BACK` windows in which the metric is defined; an AUC, for example, needs both classes. None
    if there are fewer, or if the replaced version no longer exists.
    """
    champion, past, as_of = run.champion, run.past, run.as_of
    try:
        previous = registry.version(config.name, promotion.previous or "")
    except VersionGone as error:
        get_run_logger().warning("outcome: the promotion of version %s is not judged: %s", champion.version, error)
        return None
    measured = ((_gain(config, previous, champion, window, as_of), window.days) for window in windows)
    defined = ((gain, days) for gain, days in measured if all(map(math.isfinite, gain)))
    gains = list(islice(defined, LOOK_BACK))
    if len(gains) < LOOK_BACK:
        return None
    if config.budget.value_usd_per_metric_unit_per_day is None:
        return score_gains(gains, config.performance.metric)
    cost = _cost(config, champion, past, promotion.decision_id)
    forecast_gain = _forecast_gain(past, promotion.decision_id)
    forecast = net_benefit(config.budget, forecast_gain, Amount(cost, cost, cost)) if forecast_gain else None
    return score_outcome(config.budget, forecast, gains, cost)


def _gain(config: ModelConfig, old: ModelVersion, new: ModelVersion, window: Window, as_of: datetime) -> Gain:
    rows = lake.labelled_rows(config, window, as_of)
    rows = rows.filter(rows.column(config.columns.label).is_valid())
    scorers = [registry.version_files.load_scorer(version, config.training.imported) for version in (old, new)]
    answers = [(scorer.classes, scorer.predict(rows)) for scorer in scorers]
    y_true, (before, after) = models.label_alignment.align_labels(rows.column(config.columns.label), answers)
    labels = models.label_alignment.with_columns(config, y_true, rows)
    pairs = PairedPredictions(labels, champion=before, challenger=after).where(np.isfinite(y_true))
    metric = config.primary_metric
    if undefined(metric, pairs.y_true, class_count(after)):
        return Gain(math.nan, math.nan, math.nan)
    return paired_bootstrap(metric, pairs, RESAMPLING)


def _cost(config: ModelConfig, version: ModelVersion, past: Past, decision_id: str) -> float:
    """Return the training cost of this decision in USD; 0 for an earlier version validated again."""
    if past.holds(decision_id, ("challenger.recalled",)):
        return 0.0
    noted = dict(version.tags).get(USAGE)
    usage = from_json(Usage, noted) if noted else Usage(version.training_rows, wall_s=0.0)
    return measured_cost(config.budget, usage)


def _forecast_gain(past: Past, decision_id: str) -> Gain | None:
    """Return the gain that the rollout measured, else that of validation on its holdout; None if neither measured one."""
    ends = (from_json(RolloutMove, entry.body) for entry in past.of(ENDED) if entry.decision_id == decision_id)
    measured = next((move.uplift for move in ends if move.uplift is not None), None)
    if measured is not None:
        half = Z_95 * measured.standard_error
        return Gain(measured.gain, measured.gain - half, measured.gain + half)
    verdicts = past.of("challenger.validated")
    own = [from_json(ValidationReport, entry.body) for entry in verdicts if entry.decision_id == decision_id]
    overall = [found for report in own for found in report.differences if found.slice_name is None]
    return Gain(overall[0].gain, overall[0].low, overall[0].high) if overall else None
