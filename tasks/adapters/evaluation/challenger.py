"""Evaluate versions on real rows, loaded from the registry as for serving.

Failures are returned as sentences, not raised: a model that cannot be loaded or returns invalid predictions has failed
its evaluation, and `tasks.policy.rollout.validation` fails it with that reason.
"""

import json

import numpy as np
import pyarrow as pa

from deployments.config.model import ModelConfig
from tasks.adapters import registry
from tasks.adapters.models.files import Scorer
from tasks.adapters.models.label_alignment import align_labels, all_classes
from tasks.adapters.models.slice_values import groups_of
from tasks.adapters.registry import version_files
from tasks.adapters.storage.redaction import reason_of
from tasks.policy.monitoring.slices import largest_groups
from tasks.policy.records.base import Window
from tasks.policy.records.errors import FeatureError, ModelFileError
from tasks.policy.records.evidence import ModelVersion
from tasks.policy.rollout import comparison
from tasks.policy.rollout.comparison import Floats, prediction_fault
from tasks.policy.rollout.validation import Comparison
from tasks.policy.statistics import metrics

SMOKE_ROWS = 32
REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Exceptions of an estimator that cannot predict. Shortages of the machine (memory, disk) are not the model's fault."""


def compare(
    config: ModelConfig, challenger: ModelVersion, champion: ModelVersion | None, holdout: Window, rows: pa.Table
) -> Comparison:
    """Predict these labelled rows with both versions now, and measure the differences."""
    contenders = [version for version in (challenger, champion) if version is not None]
    answered = [answer(version, rows, config.training.estimator) for version in contenders]
    faults = tuple(found for found in answered if isinstance(found, str))
    answers = [found for found in answered if not isinstance(found, str)]
    if faults or not len(rows):
        return Comparison(challenger, champion, holdout, len(rows), faults=faults)
    classes = all_classes(scorer.classes for scorer, _ in answers)
    if config.task == "binary" and len(classes) > 2:
        fault = f"the two versions know different classes, {len(classes)} in all, expected the same two"
        return Comparison(challenger, champion, holdout, len(rows), faults=(fault,))
    labels = rows.column(config.columns.label)
    truth, aligned = align_labels(labels, [(scorer.classes, values) for scorer, values in answers])
    known = np.isfinite(truth)
    predicted = [values[known] for values in aligned]
    return _measured(
        config, challenger, champion, holdout, rows.filter(pa.array(known)), truth[known], predicted, classes
    )


def answer(
    version: ModelVersion, rows: pa.Table, estimator: str | None = None, fresh: bool = False
) -> tuple[Scorer, Floats] | str:
    """Return the version's scorer and predictions, or why it cannot serve; one row alone and in a batch must agree."""
    try:
        scorer = version_files.load_scorer(version, estimator, fresh)
    except ModelFileError as error:
        return f"version {version.version} does not serve: {error}"
    try:
        predicted = scorer.predict(rows)
        alone = scorer.predict(rows.slice(0, 1))
    except FeatureError as error:
        return f"version {version.version} does not serve: {error}"
    except REFUSALS as error:
        kind = type(scorer.estimator).__name__
        return f"version {version.version} does not serve: its {kind} cannot predict these rows ({reason_of(error)})"
    fault = prediction_fault(predicted, len(rows), scorer.task)
    if fault is None and not np.allclose(alone, predicted[:1], rtol=1e-5):
        fault = "a row is answered differently alone than among others"
    return f"version {version.version} does not serve: {fault}" if fault else (scorer, predicted)


def smoke_test(version: ModelVersion, estimator: str | None = None) -> str | None:
    """Reload a version and predict synthetic rows of its own schema; return why it cannot serve, None if it can."""
    try:
        encoding = version_files.load_scorer(version, estimator, fresh=True).encoding
    except ModelFileError as error:
        return f"version {version.version} does not serve: {error}"
    columns = {}
    for name, kind in encoding.features:
        if kind == "categorical":
            values = [*encoding.categories[name], None]
            columns[name] = pa.array([values[row % len(values)] for row in range(SMOKE_ROWS)], pa.string())
        elif kind == "boolean":
            columns[name] = pa.array([row % 2 == 0 for row in range(SMOKE_ROWS)])
        else:
            columns[name] = pa.array([None, *np.linspace(-100.0, 100.0, SMOKE_ROWS - 1)], pa.float64())
    found = answer(version, pa.table(columns), estimator)
    return found if isinstance(found, str) else None


def _prior(challenger: ModelVersion, classes: tuple[str, ...]) -> Floats | None:
    """Return the class shares in the challenger's training rows; None if unknown for any of the classes."""
    learned = version_files.reference_profile(challenger).labels if classes else None
    shares = dict(learned.shares) if learned else {}
    return np.array([shares[name] for name in classes]) if set(classes) <= set(shares) else None


def _measured(
    config: ModelConfig,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    holdout: Window,
    rows: pa.Table,
    truth: Floats,
    predicted: list[Floats],
    classes: tuple[str, ...],
) -> Comparison:
    policy, metric = config.validation, config.performance.metric
    quantile, seed = config.performance.quantile, config.training.seed
    remarks = tuple(json.loads(dict(challenger.tags).get(registry.REMARKS, "[]")))
    too_few = metrics.undefined(metric, truth, 2 if predicted[0].ndim == 1 else predicted[0].shape[1])
    if too_few:
        return Comparison(challenger, champion, holdout, len(rows), faults=(too_few,), remarks=remarks)
    prior = _prior(challenger, classes)
    constant = comparison.against_constant(metric, truth, predicted[0], policy.confidence, seed, quantile, prior)
    if champion is None:
        first = comparison.own_value(metric, truth, predicted[0], policy.confidence, seed, quantile)
        return Comparison(challenger, None, holdout, len(rows), first=first, constant=constant, remarks=remarks)
    new, old = predicted
    slices = {name: groups_of(config, name, rows.column(name)) for name in policy.slices}
    found = comparison.slice_differences(metric, truth, old, new, slices, policy.confidence, seed, quantile)
    for name in config.columns.protected:
        if (
            name not in slices and name in rows.column_names
        ):  # otherwise it is compared above, or absent from these rows
            groups = groups_of(config, name, rows.column(name))
            large = np.isin(groups, largest_groups(groups))
            found += comparison.slice_differences(
                metric, truth[large], old[large], new[large], {name: groups[large]}, policy.confidence, seed, quantile
            )
    return Comparison(
        challenger,
        champion,
        holdout,
        len(rows),
        primary=comparison.difference(metric, truth, old, new, policy.confidence, seed, quantile),
        slices=found,
        protected=config.columns.protected,
        constant=constant,
        remarks=remarks,
    )
