"""Evaluate versions on real rows, loaded from the registry as for serving.

Failures are returned as sentences, not raised: a model that cannot be loaded or returns invalid predictions has failed
its evaluation, and `tasks.policy.rollout.validation` fails it with that reason.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa

from deployments.config.model import ModelConfig
from tasks.adapters import registry
from tasks.adapters.evaluation.prediction_log import groups_of, logged_answers
from tasks.adapters.models.files import REFUSALS, Scorer
from tasks.adapters.models.label_alignment import align_labels, all_classes, with_columns
from tasks.adapters.registry import version_files
from tasks.policy.comparison import differences
from tasks.policy.comparison.predictions import prediction_fault, prediction_histogram
from tasks.policy.evidence.validation import MetricDifference, PredictionHistogram
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.monitoring.slices import largest_groups
from tasks.policy.records.base import Window
from tasks.policy.records.errors import FeatureError, ModelFileError
from tasks.policy.records.text import reason_of
from tasks.policy.rollout.validation import Comparison
from tasks.policy.statistics import metrics
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Floats
from tasks.policy.statistics.resampling import Resampling

SMOKE_ROWS = 32


@dataclass(frozen=True)
class ScoredRows:
    """Rows with a label, and each version's predictions for them, in one order of classes, the challenger's first."""

    rows: pa.Table
    y_true: Floats
    predictions: list[Floats]
    classes: tuple[str, ...]
    histograms: list[PredictionHistogram | None]
    """Of each version's predictions as it would serve them, the challenger's first."""


def compare(
    config: ModelConfig, challenger: ModelVersion, champion: ModelVersion | None, holdout: Window, rows: pa.Table
) -> Comparison:
    """Predict these labelled rows with both versions now, and measure the differences.

    Of a version that was refitted with some of these rows, the model before the refit is compared. A champion with an online
    corrector is compared as it served: by the answers that it logged before these labels were known.
    """
    challenger, champion = challenger.before(holdout.start), champion and champion.before(holdout.start)
    as_served = champion.version if champion and config.training.online else None
    scored = score_rows(config, [version for version in (challenger, champion) if version is not None], rows, as_served)
    if not isinstance(scored, ScoredRows):
        return Comparison(challenger, champion, holdout, len(rows), faults=scored)
    remarks = tuple(json.loads(dict(challenger.tags).get(registry.REMARKS, "[]")))
    compared = Comparison(challenger, champion, holdout, len(scored.rows), remarks=remarks)
    classes = metrics.class_count(scored.predictions[0])
    too_few = metrics.undefined(config.primary_metric, scored.y_true, classes)
    return replace(compared, faults=(too_few,)) if too_few else _measured(config, compared, scored)


def compare_refit(
    config: ModelConfig, challenger: ModelVersion, start: datetime, rows: pa.Table
) -> MetricDifference | str:
    """Return the gain of a version's serving model over the validated one on the holdout's rows, or why there is none."""
    scored = score_rows(config, [challenger, challenger.before(start)], rows)
    if not isinstance(scored, ScoredRows):
        return scored[0] if scored else "the holdout has no labelled rows"
    pairs = PairedPredictions(scored.y_true, champion=scored.predictions[1], challenger=scored.predictions[0])
    resampling = Resampling(config.validation.confidence, differences.DRAWS, config.training.seed)
    return differences.difference(config.primary_metric, pairs, resampling)


def score_rows(
    config: ModelConfig, versions: Sequence[ModelVersion], rows: pa.Table, as_served: str | None = None
) -> ScoredRows | tuple[str, ...]:
    """Return the rows with the predictions of all versions; else the faults, none if there are no rows.

    A version of somebody else's service gave its answers already: rows without one are left out for all versions. Of the
    version `as_served`, the answers that were logged replace the predictions.
    """
    for version in versions:
        if version.observed_as is not None:
            rows = rows.filter(pa.array(logged_answers(config, version.version, rows)[0]))
    outcomes = [_answers(config, version, rows, version.version == as_served) for version in versions]
    faults = tuple(found for found in outcomes if isinstance(found, str))
    answers = [found for found in outcomes if not isinstance(found, str)]
    if faults or not len(rows):
        return faults
    classes = all_classes(own for own, _ in answers)
    if config.task == "binary" and len(classes) > 2:
        return (f"the two versions have different classes ({len(classes)} in all), expected the same two",)
    labels = rows.column(config.columns.label)
    y_true, aligned = align_labels(labels, answers)
    known = np.isfinite(y_true)
    histograms = [
        prediction_histogram(version.version, values) for version, (_, values) in zip(versions, answers, strict=True)
    ]
    own = rows.filter(pa.array(known))
    return ScoredRows(
        own, with_columns(config, y_true[known], own), [values[known] for values in aligned], classes, histograms
    )


def _answers(
    config: ModelConfig, version: ModelVersion, rows: pa.Table, as_served: bool
) -> tuple[tuple[str, ...], Floats] | str:
    """Return the version's classes and predictions, as it logged them or as it predicts now; else why it cannot serve."""
    if version.observed_as is not None:
        classes = registry.classes(config.name, version.version) if config.task != "regression" else ()
        return classes, logged_answers(config, version.version, rows)[1]
    found = try_predict(version, rows, config.training.imported)
    if isinstance(found, str):
        return found
    scorer, predictions = found
    if as_served:
        logged, answers = logged_answers(config, version.version, rows)
        predictions[logged] = answers
    return scorer.classes, predictions


def try_predict(
    version: ModelVersion, rows: pa.Table, imported: tuple[str, ...] = (), fresh: bool = False
) -> tuple[Scorer, Floats] | str:
    """Return the version's scorer and predictions, or why it cannot serve; one row alone and in a batch must agree."""
    try:
        scorer = version_files.load_scorer(version, imported, fresh)
    except ModelFileError as error:
        return f"version {version.version} does not serve: {error}"
    try:
        predicted = scorer.predict(rows)
        single = scorer.predict(rows.slice(0, 1))
    except FeatureError as error:
        return f"version {version.version} does not serve: {error}"
    except REFUSALS as error:
        kind = type(scorer.estimator).__name__
        return f"version {version.version} does not serve: its {kind} cannot predict these rows ({reason_of(error)})"
    fault = prediction_fault(predicted, len(rows), scorer.task)
    if fault is None and not np.allclose(single, predicted[:1], rtol=1e-5):
        fault = "the prediction of a row differs between a single row and a batch"
    return f"version {version.version} does not serve: {fault}" if fault else (scorer, predicted)


def try_predict_rows(version: ModelVersion, rows: pa.Table, imported: tuple[str, ...] = ()) -> Floats | str:
    """Return the version's predictions, valid or not, or why it gave none; for rows that it answers in service."""
    try:
        predicted = version_files.load_scorer(version, imported).predict(rows)
    except (ModelFileError, FeatureError) as error:
        return f"version {version.version} does not serve: {error}"
    except REFUSALS as error:
        return f"version {version.version} cannot predict these rows ({reason_of(error)})"
    return predicted if len(predicted) == len(rows) else f"{len(predicted)} predictions for {len(rows)} rows"


def smoke_test(version: ModelVersion, imported: tuple[str, ...] = ()) -> str | None:
    """Reload a version and predict synthetic rows of its own schema; return why it cannot serve, None if it can."""
    try:
        rows = version_files.load_scorer(version, imported, fresh=True).synthetic_rows(SMOKE_ROWS)
    except ModelFileError as error:
        return f"version {version.version} does not serve: {error}"
    found = try_predict(version, rows, imported)
    return found if isinstance(found, str) else None


def _prior(challenger: ModelVersion, classes: tuple[str, ...]) -> Floats | None:
    """Return the class shares in the challenger's training rows; None if unknown for any of the classes."""
    learned = version_files.reference_profile(challenger).labels if classes else None
    shares = dict(learned.shares) if learned else {}
    return np.array([shares[name] for name in classes]) if set(classes) <= set(shares) else None


def _measured(config: ModelConfig, compared: Comparison, scored: ScoredRows) -> Comparison:
    """Return the comparison with its measurements: the paired differences, or the first model's own value."""
    metric, y_true, new = config.primary_metric, scored.y_true, scored.predictions[0]
    resampling = Resampling(config.validation.confidence, differences.DRAWS, config.training.seed)
    prior = _prior(compared.challenger, scored.classes)
    constant = differences.against_constant(metric, y_true, new, resampling, prior)
    if compared.champion is None:
        first = differences.own_value(metric, y_true, new, resampling)
        return replace(compared, constant=constant, first=first, challenger_predictions=scored.histograms[0])
    pairs = PairedPredictions(y_true, champion=scored.predictions[1], challenger=new)
    return replace(
        compared,
        primary=differences.difference(metric, pairs, resampling),
        slices=_slice_differences(config, scored.rows, pairs, resampling),
        protected=config.columns.protected,
        constant=constant,
        challenger_predictions=scored.histograms[0],
        champion_predictions=scored.histograms[1],
    )


def _slice_differences(
    config: ModelConfig, rows: pa.Table, pairs: PairedPredictions, resampling: Resampling
) -> tuple[MetricDifference, ...]:
    """Return the differences by `validation.slices`, then by the protected columns that are not among them."""
    metric = config.primary_metric
    slices = {name: groups_of(config, name, rows.column(name)) for name in config.validation.slices}
    found = differences.slice_differences(metric, pairs, slices, resampling)
    for name in config.columns.protected:
        if name not in slices and name in rows.column_names:  # else compared above, or absent from these rows
            groups = groups_of(config, name, rows.column(name))
            large = np.isin(groups, largest_groups(groups))
            found += differences.slice_differences(metric, pairs.where(large), {name: groups[large]}, resampling)
    return found
