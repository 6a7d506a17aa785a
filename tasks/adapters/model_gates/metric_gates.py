"""Measure the metric blessing: calibration, churn, fairness and robustness, on rows that neither model has seen."""

import numpy as np

from deployments.config.model import ModelConfig
from tasks.adapters.evaluation.challenger import ScoredRows
from tasks.adapters.model_gates.fairness import measure_fairness
from tasks.adapters.model_gates.faults import BothScorers, faulty_predictions
from tasks.adapters.registry import version_files
from tasks.policy.comparison.differences import DRAWS
from tasks.policy.model_gates import calibration, churn, fragility
from tasks.policy.records.errors import ModelFileError
from tasks.policy.records.evidence import GateMeasure, GateName, ModelVersion
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.resampling import Resampling

NO_CHAMPION = "there is no champion to compare with"
WITH_CHAMPION: tuple[GateName, ...] = ("churn", "fairness", "robustness")


def first_model_measures(config: ModelConfig, scored: ScoredRows) -> tuple[GateMeasure, ...]:
    """The measures of a first model: without a champion only its calibration has a meaning."""
    own = GateMeasure("calibration", skipped=calibration.NOT_A_PROBABILITY)
    if config.task != "regression":
        own = calibration.own_calibration(scored.y_true, scored.predictions[0])
    return (own, *(GateMeasure(name, skipped=NO_CHAMPION) for name in WITH_CHAMPION))


def compared_measures(
    config: ModelConfig, scored: ScoredRows, challenger: ModelVersion, champion: ModelVersion
) -> tuple[GateMeasure, ...]:
    """The measures of the challenger against the champion on these rows."""
    pairs, confidence = pairs_of(scored), config.validation.confidence
    calibrated = GateMeasure("calibration", skipped=calibration.NOT_A_PROBABILITY)
    tolerance = None
    if config.task == "regression":
        tolerance = config.validation.churn_tolerance * float(np.std(pairs.champion))
    else:
        calibrated = calibration.compare_calibration(pairs, confidence)
    return (
        calibrated,
        churn.compare_predictions(pairs, tolerance, confidence),
        *measure_fairness(config, scored.rows, pairs),
        *_robustness(config, scored, challenger, champion),
    )


def pairs_of(scored: ScoredRows) -> PairedPredictions:
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
    constant = fragility.loss_of_constant(config.primary_metric, pairs_of(scored))
    resampling = Resampling(config.validation.confidence, DRAWS, config.training.seed)
    return fragility.compare_faults(faults, fragility.FaultScale(config.primary_metric, constant, resampling))
