"""Measure the guardrails of a rollout from the predictions that both versions logged.

What needs no labels is measured as soon as a window is scored; calibration and slices once their labels are due.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters import lake
from tasks.adapters.evaluation.prediction_log import ArmRows, arms_of, finite_answers, inside, predictions_of
from tasks.adapters.evaluation.rollout_labels import LabelledArms, LabelledPairs, LabelledSpan
from tasks.policy.comparison.guardrails import (
    ArmStatistics,
    GuardrailEvidence,
    Guardrails,
    LabelledEvidence,
    gain_in_slice,
    slow_answers,
)
from tasks.policy.comparison.predictions import MISSING_PREDICTION, shares_in
from tasks.policy.evidence.validation import PredictionHistogram, ValidationReport
from tasks.policy.records.base import Window
from tasks.policy.records.reports import LatencyComparison
from tasks.policy.rollout.state import RolloutState


def read_arms(config: ModelConfig, span: Window, champion: str, challenger: str) -> ArmRows:
    """Read what both versions predicted in the span: the champion's own rows, the challenger's served or as a shadow."""
    windows = lake.predicted_windows(config, span)
    logs = [inside(lake.read_predictions(config, window), "time", span) for window in windows]
    log = pa.concat_tables(logs or [lake.read_predictions(config, span)], promote_options="default")
    return arms_of(log, champion, challenger)


def measure_answers(
    config: ModelConfig, span: Window, validation: ValidationReport, timings: LatencyComparison | None = None
) -> GuardrailEvidence | None:
    """Measure what needs no labels, for both versions of a validation; None if the challenger answered nothing.

    `timings` are those of batch scoring; without them, the column `latency_s` of the log is used.
    """
    champion, challenger = validation.champion or "none", validation.challenger
    arms = read_arms(config, span, champion, challenger)
    if not len(arms.challenger):
        return None
    answers = GuardrailEvidence(
        span,
        arm_statistics(champion, arms.champion, validation.champion_predictions),
        arm_statistics(challenger, arms.challenger, validation.challenger_predictions),
    )
    if timings is None:
        timings = LatencyComparison(_seconds(arms.champion), _seconds(arms.challenger))
    return _with_latencies(answers, config.rollout.guardrails, timings)


def arm_statistics(version: str, log: pa.Table, validation: PredictionHistogram | None = None) -> ArmStatistics:
    """Summarise the rows that one version answered or refused.

    A row with an error was refused, except where the error is that its prediction is missing.
    """
    refused = 0
    if "error" in log.column_names:
        refused = int(pc.sum(pc.not_equal(log["error"].cast(pa.string()), MISSING_PREDICTION)).as_py() or 0)
    y_pred = predictions_of(finite_answers(log)["prediction"])
    counts = np.unique(y_pred, axis=0, return_counts=True)[1]
    return ArmStatistics(
        version=version,
        rows=len(log),
        refused=refused,
        missing=len(log) - refused - len(y_pred),
        most_common_share=float(counts.max() / len(y_pred)) if len(y_pred) else 0.0,
        histogram=shares_in(validation.edges, y_pred) if validation else (),
        validation=validation,
    )


def _with_latencies(answers: GuardrailEvidence, policy: Guardrails, timings: LatencyComparison) -> GuardrailEvidence:
    old, new = np.array(timings.champion), np.array(timings.challenger)
    if not len(old) or not len(new):
        return answers
    p95_s = [float(np.quantile(each, 0.95)) for each in (old, new)]
    return replace(
        answers,
        champion=replace(answers.champion, latency_p95_s=p95_s[0], timed=len(old)),
        challenger=replace(
            answers.challenger, latency_p95_s=p95_s[1], timed=len(new), slow=slow_answers(policy, old, new)
        ),
    )


def assigned_units(config: ModelConfig, state: RolloutState, at: LabelledSpan) -> tuple[int, int]:
    """Count the units of the current step that belong to (the champion, the challenger), as the log shows.

    A unit that the champion answered because the challenger failed belongs to the challenger. Left out are rows without a
    unit, which always get the champion, and windows in which the challenger had no row: it may not have been tried yet.
    """
    plan = state.plan
    units: tuple[list[pa.Array], list[pa.Array]] = ([], [])
    for window in lake.predicted_windows(config, at.span):
        log = inside(lake.read_predictions(config, window), "time", at.span)
        if window.name in at.excluding or "step" not in log.column_names:
            continue
        arms = arms_of(
            log.filter(pc.equal(log["step"].cast(pa.string()), state.current.name)), plan.champion, plan.version
        )
        if len(arms.challenger):
            for found, arm in zip(units, arms, strict=True):
                found.extend(_units(arm, plan.unit).chunks)
    champion, challenger = (pc.unique(pa.chunked_array(found, pa.string())) for found in units)
    tried = int(pc.sum(pc.is_in(champion, challenger)).as_py() or 0)
    return len(champion) - tried, len(challenger)


def _units(arm: pa.Table, column: str | None) -> pa.ChunkedArray:
    """Return the known units of the rows: as logged, or the row's id where that is the unit."""
    units = arm["unit"].cast(pa.string()) if "unit" in arm.column_names else pa.nulls(len(arm), pa.string())
    if column is None:
        units = pc.coalesce(units, arm["id"].cast(pa.string()))
    found = units if isinstance(units, pa.ChunkedArray) else pa.chunked_array([units])
    return found.drop_null()


def measure_labelled(config: ModelConfig, labelled: LabelledPairs | LabelledArms, look: int) -> LabelledEvidence:
    """Measure the guardrails that need labels. `look` counts the looks at labels in this rollout, from 1.

    Slices are those of `validation.slices` and the protected columns with at least `validation.slice_min_rows` rows.
    """
    metric, policy = config.primary_metric, config.validation
    slices = []
    for name, part in labelled.by_group(policy.slice_min_rows):
        if part.defines(metric):
            evidence = part.gain(metric)
            accepted = policy.margin_of_a_slice(metric.name, evidence.champion)
            slices.append(gain_in_slice(name, metric.name, evidence, accepted))
    calibration = labelled.calibration_gain() if config.task != "regression" else None
    return LabelledEvidence(look, calibration, tuple(gain for gain in slices if gain is not None))


def _seconds(log: pa.Table) -> tuple[float, ...]:
    """Return the seconds of each request in the log, or of each row where it names no requests; empty without times."""
    if "latency_s" not in log.column_names:
        return ()
    log = log.filter(pc.is_valid(log["latency_s"]))
    if "request_id" in log.column_names and log["request_id"].null_count < len(log):
        log = log.group_by("request_id").aggregate([("latency_s", "max")]).rename_columns(["request_id", "latency_s"])
    return tuple(log["latency_s"].to_pylist())
