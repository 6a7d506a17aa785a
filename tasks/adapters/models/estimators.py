"""Fit a model on labelled rows: encoder and estimator in one scikit-learn pipeline, XGBoost by default.

`early_stopping` chooses the number of rounds; the model is then fitted on all rows with that number. The result is the
scorer that validation and serving use too.
"""

import difflib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import has_fit_parameter
from threadpoolctl import threadpool_limits
from xgboost import XGBClassifier, XGBRegressor

from deployments.config.blocks.data import imported
from deployments.config.model import ModelConfig
from tasks.adapters.boosters.known import library_of
from tasks.adapters.boosters.library import FitOptions, Setup, missing
from tasks.adapters.checkpoints.training import TrainingCheckpoints
from tasks.adapters.engines import dask_cluster, device
from tasks.adapters.engines.row_batches import ROWS_PER_BATCH, Engine, RowBatches
from tasks.adapters.models import eligibility
from tasks.adapters.models.early_stopping import SplitEncoder, Stopped, TrainingData, choose_rounds, with_rounds
from tasks.adapters.models.encoding import Encoding, FeatureEncoder, Matrix, RawEncoding, encode_labels, kinds
from tasks.adapters.models.files import Floats, Scorer
from tasks.adapters.models.label_alignment import with_columns
from tasks.adapters.models.preparation import by_position, per_feature, preparation
from tasks.adapters.models.resources import threads
from tasks.policy.records.errors import EstimatorError, PerennialError
from tasks.policy.records.text import raised, reason_of
from tasks.policy.statistics import metrics

FAILURES: tuple[type[Exception], ...] = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
"""What an estimator raises for rows or parameters that it cannot use, beside its library's own failures."""


@contextmanager
def as_estimator_error(place: str, failures: tuple[type[Exception], ...] = (Exception,)) -> Iterator[None]:
    """Raise EstimatorError, which is not retried, for what code of the user's own or an estimator raises."""
    try:
        yield
    except PerennialError:
        raise
    except failures as error:
        raise EstimatorError(f"{place}, which {raised(error)}") from error


@dataclass(frozen=True)
class Fitted:
    """A fitted scorer and what training measured.

    `metrics` are those of the held-back rows, empty if none were held back. They are measured with the model before the
    refit, which had not seen these rows; `scorer` has seen them. `remarks` report an unusual number of rounds.
    """

    scorer: Scorer
    parameters: dict[str, str]
    metrics: dict[str, float]
    importance: dict[str, float]
    rounds: int | None
    fitted_rows: int
    held_back_rows: int
    rows: int
    remarks: tuple[str, ...] = ()
    chosen_rounds: int | None = None
    """Rounds that early stopping chose; None without it."""


@dataclass(frozen=True)
class FitPlan:
    """How to fit beside the model's file.

    With a `validated` model, which was fitted to the first of the rows, its number of rounds and its first row are used, and no
    rows are held back. `weights` are those of the rows, which are then given oldest first, (n,). XGBoost continues from
    `checkpoints` and writes others; with an `engine` it holds no encoded matrix of all rows.
    """

    validated: Fitted | None = None
    weights: Floats | None = None
    checkpoints: TrainingCheckpoints | None = None
    engine: Engine | None = None


PLAIN = FitPlan()


def fit(
    config: ModelConfig,
    rows: pa.Table,
    own: SplitEncoder | None = None,
    plan: FitPlan = PLAIN,
) -> Fitted:
    """Train on labelled rows; equal rows, seed and threads give an equal model. Raises EstimatorError, FeatureError.

    `own` encodes the rows by features of the user's own.
    """
    rows = in_order(rows, config.columns.time, config.columns.key)
    given = rows.column(config.columns.label)
    classes = eligibility.classes_of(config, given)
    codes = encode_labels(given, classes)
    kind = estimator_class(config)
    encoder = own or FeatureEncoder(config.columns.features).fit(rows)
    matrix: Any = None
    if isinstance(encoder, FeatureEncoder) and plan.engine is None:
        matrix = _encode(config, encoder, rows, codes)
    target = codes if config.task == "regression" else codes.astype(np.int64)  # scikit-learn wants whole class codes
    labels = with_columns(config, codes, rows)
    if plan.engine:
        matrix = RowBatches(rows, target, np.ones(len(target), bool), encoder.transform, plan.engine)
    data = TrainingData(rows, matrix, target, labels, len(classes), own, plan.weights, plan.checkpoints)

    def unfitted() -> Any:
        return build(config, kind, encoder.encoding_, len(classes))

    # scikit-learn's OpenMP code ignores n_jobs; the limit is never reset, which would lift it for other threads' fits
    threadpool_limits(threads())
    device.require(config.training.device, config.name)
    library = library_of(kind)
    failures = (*FAILURES, *(library.failures if library else ()))
    with as_estimator_error(f"{config.name}: training by {kind.__name__}", failures):
        stopped = _like(plan.validated, len(codes)) if plan.validated else choose_rounds(config, unfitted, data)
        last, phase = slice(stopped.first, None), "refit" if plan.validated else "final-fit"
        estimator = fit_weighted(
            with_rounds(unfitted(), stopped.rounds),
            (data.since(stopped.first), target[last]),
            data.options(last, phase),
        )
    if library:
        estimator = library.load(library.dump(estimator, encoder.encoding_.inputs.names), config.task, threads())
    scorer = Scorer(Pipeline([("encoder", encoder), ("estimator", estimator)]), encoder.encoding_, config.task, classes)
    return Fitted(
        scorer,
        parameters={name: str(value) for name, value in sorted(config.training.parameters.items())},
        metrics=_held_back_metrics(config, labels[stopped.held_back], stopped.y_pred),
        importance=importance_of(estimator, encoder.encoding_),
        rounds=library.rounds(estimator) if library else None,
        fitted_rows=len(codes) - stopped.first,
        held_back_rows=int(stopped.held_back.sum()),
        rows=len(codes),
        remarks=stopped.remarks,
        chosen_rounds=stopped.rounds,
    )


def _encode(config: ModelConfig, encoder: FeatureEncoder, rows: pa.Table, codes: Floats) -> Matrix:
    """Encode the training rows, with the derived features that the settings ask for."""
    recipe = config.training.recipe
    if recipe is None or recipe.is_empty:
        return encoder.transform(rows)
    return encoder.derive(recipe, config.columns.time, rows, codes)


def fit_weighted(estimator: Any, fitted: tuple[Any, Any], options: FitOptions) -> Any:
    """Fit an estimator to rows with weights. Raises EstimatorError for one that takes none."""
    if library := library_of(estimator):
        return library.fit(estimator, fitted, options)
    if options.weights is None:
        return estimator.fit(*fitted)
    last = estimator[-1] if isinstance(estimator, Pipeline) else estimator
    if not has_fit_parameter(last, "sample_weight"):
        raise EstimatorError(f"{type(last).__name__} takes no weights of rows (sample_weight)")
    named = f"{estimator.steps[-1][0]}__sample_weight" if isinstance(estimator, Pipeline) else "sample_weight"
    return estimator.fit(*fitted, **{named: options.weights})


def _like(validated: Fitted, count: int) -> Stopped:
    """Return the rounds and the first row of an earlier fit, for `count` rows that begin with the same ones."""
    first = validated.rows - validated.fitted_rows
    return Stopped(validated.chosen_rounds, np.zeros(count, bool), np.empty(0), first)


def in_order(rows: pa.Table, time: str, row_id: str) -> pa.Table:
    """Sort rows by time, then id. Rows already in order, as from the lake, are returned without a copy."""
    if rows.num_rows < 2:
        return rows
    if all(_is_in_order(*part.columns) for part in _overlapping(rows.select([time, row_id]))):
        return rows
    return rows.sort_by([(time, "ascending"), (row_id, "ascending")])


def _overlapping(rows: pa.Table) -> Iterator[pa.Table]:
    """Yield parts of a table that each begin with the last row of the one before, so that a part is all that is held."""
    for first in range(0, rows.num_rows, ROWS_PER_BATCH):
        yield rows.slice(max(0, first - 1), ROWS_PER_BATCH + 1).combine_chunks()


def _is_in_order(times: pa.ChunkedArray, ids: pa.ChunkedArray) -> bool:
    if len(times) < 2:
        return True
    earlier = pc.less(times[:-1], times[1:])
    in_order = pc.or_(earlier, pc.and_(pc.equal(times[:-1], times[1:]), pc.less_equal(ids[:-1], ids[1:])))
    return bool(pc.all(in_order, skip_nulls=False).as_py())


def estimator_class(config: ModelConfig) -> Any:
    """Import the configured estimator class, XGBoost's by default. Raises EstimatorError naming the missing part."""
    path = config.training.estimator
    if path is None:
        return XGBRegressor if config.task == "regression" else XGBClassifier
    module_name, _, name = path.partition(":")
    module = imported(
        module_name,
        lambda reason: EstimatorError(
            f"{config.name}: training.estimator is {path}, but {missing(module_name, reason)}"
        ),
    )
    kind = getattr(module, name, None)
    needed = ("fit", "predict", "get_params") + (() if config.task == "regression" else ("predict_proba",))
    lacking = [method for method in needed if not hasattr(kind, method)]
    if not inspect.isclass(kind) or lacking:
        raise EstimatorError(
            f"{config.name}: training.estimator is {path}, which is not a class with {', '.join(lacking) or 'methods'}; "
            f"expected a scikit-learn {config.task} estimator such as sklearn.ensemble:RandomForest"
            f"{'Regressor' if config.task == 'regression' else 'Classifier'}"
        )
    return kind


def build(config: ModelConfig, kind: Any, encoding: Encoding, classes: int) -> Any:
    """Build the unfitted estimator; the YAML's parameters override ours. Raises EstimatorError on an unknown one."""
    library, given = library_of(kind), config.training.parameters
    accepted = set(library.accepted(kind) if library else kind().get_params())
    for name in given:
        if name not in accepted:
            near = difflib.get_close_matches(name, accepted, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(accepted))}."
            raise EstimatorError(f"{config.name}: training.parameters.{name} is not known to {kind.__name__}; {hint}")
    is_raw = isinstance(encoding, RawEncoding)
    given = {name: by_position(config, encoding, name, value) for name, value in given.items()}
    if library:
        metric, seed = config.performance, config.training.seed
        setup = Setup(
            encoding.inputs,
            config.task,
            classes,
            metric.metric,
            metric.quantile,
            seed,
            threads(),
            config.training.device,
        )
        return library.build(kind, setup, given)
    ours = {"random_state": config.training.seed, "n_jobs": threads()}
    estimator = kind(**{name: value for name, value in ours.items() if name in accepted} | given)
    if is_raw or get_tags(estimator).input_tags.allow_nan:
        return estimator
    return make_pipeline(preparation(estimator, encoding), estimator)


def try_out(config: ModelConfig) -> None:
    """Fit the YAML's estimator on synthetic rows. Raises EstimatorError if it rejects a parameter's value."""
    kind, random = estimator_class(config), np.random.default_rng(0)
    device.require(config.training.device, config.name)
    if config.training.engine == "dask":
        with dask_cluster.connected(Engine(config.name, "dask", config.training.dask_scheduler)):
            pass
    classes = {"binary": 2, "multiclass": 3}.get(config.task, 0)
    codes = np.arange(60) % classes if classes else random.normal(size=60)
    own = RawEncoding if config.training.pipeline else Encoding
    encoding = own(kinds(config.columns.features))
    estimator = build(config, kind, encoding, classes)
    library = library_of(kind)
    failures: tuple[type[Exception], ...] = (TypeError, ValueError, *(library.failures if library else ()))
    try:
        if library and library.allowed_rounds(estimator) > 1:
            estimator = library.with_rounds(estimator, 1)
        estimator.fit(random.integers(0, 3, (60, max(1, len(encoding.features)))).astype(np.float32), codes)
    except failures as error:
        raise EstimatorError(
            f"{config.name}: training.parameters cannot be used by {kind.__name__} ({reason_of(error)}); expected values "
            "that its documentation lists"
        ) from None


def _held_back_metrics(config: ModelConfig, y_true: Floats, y_pred: Floats) -> dict[str, float]:
    """Compute every metric of the task that is defined on the held-back rows."""
    if not len(y_true):
        return {}
    found = {metric.name: metrics.compute(metric, y_true, y_pred) for metric in config.measured_metrics}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def importance_of(estimator: Any, encoding: Encoding) -> dict[str, float]:
    """Return each feature's share of the total gain (boosting), of the estimator's importances or of its |weights|.

    Empty for an estimator without any, and for features of the user's own, which make other columns of them.
    """
    if isinstance(encoding, RawEncoding):
        return {}
    if library := library_of(estimator):
        raw = library.gains(estimator)
    else:
        inner, step = (estimator[-1], estimator[0]) if isinstance(estimator, Pipeline) else (estimator, None)
        own = getattr(inner, "feature_importances_", None)
        weights = getattr(inner, "coef_", None)
        if own is None and weights is None:
            return {}
        raw = np.abs(np.atleast_2d(np.asarray(weights))).sum(axis=0) if own is None else np.asarray(own)
        if isinstance(step, ColumnTransformer):
            raw = per_feature(step, raw, len(encoding.inputs.names))
    raw = encoding.derived.by_source(encoding.names, np.asarray(raw, float))
    total = float(raw.sum())
    return {name: float(value) / total for name, value in zip(encoding.names, raw, strict=True)} if total > 0 else {}
