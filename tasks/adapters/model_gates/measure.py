"""Measure both blessings of a challenger: the metric's on the holdout, and the infrastructure's in a clean process.

`tasks.policy.model_gates` judges the measures. What cannot be measured comes back as a fault, which fails its gate.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import numpy as np
import pyarrow as pa

from deployments.config.model import ModelConfig
from tasks.adapters.evaluation.challenger import ScoredRows, score_rows
from tasks.adapters.model_gates.error_tree import worst_slices
from tasks.adapters.model_gates.fairness import measure_fairness
from tasks.adapters.model_gates.faults import BothScorers, faulty_predictions
from tasks.adapters.model_gates.packaged import service_measures
from tasks.adapters.registry import version_files
from tasks.policy.comparison.differences import DRAWS
from tasks.policy.evidence.validation import GateEvidence, GateMeasure, GateName, ReliabilityCurve
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.model_gates import calibration, churn, fragility, service
from tasks.policy.model_gates.dependence import time_blocks
from tasks.policy.records.errors import ModelFileError
from tasks.policy.statistics import metrics
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.resampling import Resampling

WITH_CHAMPION: tuple[GateName, ...] = ("churn", "fairness", "robustness")


def measure_gates(
    config: ModelConfig, challenger: ModelVersion, champion: ModelVersion | None, start: datetime, rows: pa.Table
) -> GateEvidence | None:
    """Measure every gate on these labelled rows; None if they cannot be scored, which fails the validation by itself.

    The metric's gates judge the models that have not seen rows from `start` on, the service's those that serve.
    """
    unseen = challenger.before(start), champion and champion.before(start)
    scored = score_rows(config, [version for version in unseen if version is not None], rows)
    if not isinstance(scored, ScoredRows):
        return None
    if metrics.undefined(config.primary_metric, scored.y_true, metrics.class_count(scored.predictions[0])):
        return None
    found = metric_evidence(config, *unseen, scored)
    return replace(found, measures=(*found.measures, *service_measures(config, challenger, champion, scored.rows)))


def metric_evidence(
    config: ModelConfig, challenger: ModelVersion, champion: ModelVersion | None, scored: ScoredRows
) -> GateEvidence:
    """Measure the gates of the metric blessing on these rows."""
    versions = [version for version in (challenger, champion) if version is not None]
    curves = _curves(config, versions, scored)
    if champion is None:
        return GateEvidence(_first_model_measures(config, scored), curves=curves)
    compared = _compared_measures(config, scored, challenger, champion)
    return GateEvidence(compared, worst_slices(config, scored.rows, _pairs_of(scored)), curves)


def _curves(config: ModelConfig, versions: Sequence[ModelVersion], scored: ScoredRows) -> tuple[ReliabilityCurve, ...]:
    if config.task == "regression":
        return ()
    return tuple(
        calibration.reliability_curve(version.version, scored.y_true, predicted)
        for version, predicted in zip(versions, scored.predictions, strict=True)
    )


def _first_model_measures(config: ModelConfig, scored: ScoredRows) -> tuple[GateMeasure, ...]:
    """The measures of a first model: without a champion only its calibration has a meaning."""
    own = GateMeasure("calibration", skipped=calibration.NOT_A_PROBABILITY)
    if config.task != "regression":
        own = calibration.own_calibration(scored.y_true, scored.predictions[0])
    return (own, *(GateMeasure(name, skipped=service.NO_CHAMPION) for name in WITH_CHAMPION))


def _compared_measures(
    config: ModelConfig, scored: ScoredRows, challenger: ModelVersion, champion: ModelVersion
) -> tuple[GateMeasure, ...]:
    """The measures of the challenger against the champion on these rows."""
    pairs, confidence = _pairs_of(scored), config.validation.confidence
    calibrated = GateMeasure("calibration", skipped=calibration.NOT_A_PROBABILITY)
    tolerance = None
    if config.task == "regression":
        tolerance = config.validation.churn_tolerance * float(np.std(pairs.champion))
    else:
        calibrated = calibration.compare_calibration(
            pairs, time_blocks(scored.rows.column(config.columns.time).to_numpy()), confidence
        )
    return (
        calibrated,
        churn.compare_predictions(pairs, tolerance, confidence),
        *measure_fairness(config, scored.rows, pairs),
        *_robustness(config, scored, challenger, champion),
    )


def _pairs_of(scored: ScoredRows) -> PairedPredictions:
    """The labels with the predictions of both versions."""
    return PairedPredictions(scored.y_true, champion=scored.predictions[1], challenger=scored.predictions[0])


def _robustness(
    config: ModelConfig, scored: ScoredRows, challenger: ModelVersion, champion: ModelVersion
) -> tuple[GateMeasure, ...]:
    logged = [one for one in (challenger, champion) if one.observed_as is not None]
    if logged:
        reason = f"version {logged[0].version} is only read from its service's log, so no other rows can be given to it"
        return (GateMeasure("robustness", skipped=reason),)
    imported = config.training.imported
    try:
        new, old = (version_files.load_scorer(one, imported) for one in (challenger, champion))
        importance = version_files.feature_importance(challenger)
    except ModelFileError as error:
        return (GateMeasure("robustness", fault=f"not measured ({error})"),)
    scorers = BothScorers(old, new, scored.classes)
    faults = faulty_predictions(config, scored.rows, scored.y_true, scorers, importance)
    constant = fragility.loss_of_constant(config.primary_metric, _pairs_of(scored))
    resampling = Resampling(config.validation.confidence, DRAWS, config.training.seed)
    return fragility.compare_faults(faults, fragility.FaultScale(config.primary_metric, constant, resampling))
