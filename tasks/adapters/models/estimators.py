"""Fit a model on labelled rows: encoder and estimator in one scikit-learn pipeline, XGBoost by default.

`early_stopping` chooses the number of rounds; the model is then fitted on all rows with that number. The result is the
scorer that validation and serving use too.
"""

import difflib
import importlib
import inspect
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import get_tags
from threadpoolctl import threadpool_limits
from xgboost import XGBClassifier, XGBModel, XGBRegressor
from xgboost.core import XGBoostError

from deployments.config.model import ModelConfig
from tasks.adapters.models import eligibility
from tasks.adapters.models.early_stopping import SplitEncoder, TrainingData, choose_rounds, with_rounds
from tasks.adapters.models.encoding import Encoding, FeatureEncoder, RawEncoding, encode_labels, kinds
from tasks.adapters.models.files import Floats, Scorer, booster_estimator
from tasks.adapters.models.label_alignment import with_columns
from tasks.adapters.models.preparation import by_position, per_feature, preparation
from tasks.adapters.models.resources import threads
from tasks.policy.records.errors import EstimatorError
from tasks.policy.statistics import metrics


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


def fit(config: ModelConfig, rows: pa.Table, own: SplitEncoder | None = None) -> Fitted:
    """Train on labelled rows; equal rows, seed and threads give an equal model. Raises EstimatorError, FeatureError.

    `own` encodes the rows by features of the user's own.
    """
    rows = in_order(rows, config.columns.time, config.columns.key)
    given = rows.column(config.columns.label)
    classes = eligibility.classes_of(config, given)
    codes = encode_labels(given, classes)
    kind = estimator_class(config)
    encoder = own or FeatureEncoder(config.columns.features).fit(rows)
    target = codes if config.task == "regression" else codes.astype(np.int64)  # scikit-learn wants whole class codes
    labels = with_columns(config, codes, rows)
    data = TrainingData(rows, None if own else encoder.transform(rows), target, labels, len(classes), own)

    def unfitted() -> Any:
        return build(config, kind, encoder.encoding_, len(classes))

    # scikit-learn's OpenMP code ignores n_jobs; the limit is never reset, which would lift it for other threads' fits
    threadpool_limits(threads())
    stopped = choose_rounds(config, unfitted, data)
    estimator = with_rounds(unfitted(), stopped.rounds).fit(data.since(stopped.first), target[stopped.first :])
    if isinstance(estimator, XGBModel):
        estimator = booster_estimator(_raw(estimator, encoder.encoding_), config.task)
    scorer = Scorer(Pipeline([("encoder", encoder), ("estimator", estimator)]), encoder.encoding_, config.task, classes)
    return Fitted(
        scorer,
        parameters={name: str(value) for name, value in sorted(config.training.parameters.items())},
        metrics=_held_back_metrics(config, labels[stopped.held_back], stopped.y_pred),
        importance=_importance(estimator, encoder.encoding_),
        rounds=estimator.get_booster().num_boosted_rounds() if isinstance(estimator, XGBModel) else None,
        fitted_rows=len(codes) - stopped.first,
        held_back_rows=int(stopped.held_back.sum()),
        rows=len(codes),
        remarks=stopped.remarks,
    )


def in_order(rows: pa.Table, time: str, row_id: str) -> pa.Table:
    """Sort rows by time, then id. Rows already in order, as from the lake, are returned without a copy."""
    if rows.num_rows < 2:
        return rows
    times, ids = (rows.column(name).combine_chunks() for name in (time, row_id))
    earlier = pc.less(times[:-1], times[1:])
    in_order = pc.or_(earlier, pc.and_(pc.equal(times[:-1], times[1:]), pc.less_equal(ids[:-1], ids[1:])))
    if pc.all(in_order, skip_nulls=False).as_py():
        return rows
    return rows.sort_by([(time, "ascending"), (row_id, "ascending")])


def estimator_class(config: ModelConfig) -> Any:
    """Import the configured estimator class, XGBoost's by default. Raises EstimatorError naming the missing part."""
    path = config.training.estimator
    if path is None:
        return XGBRegressor if config.task == "regression" else XGBClassifier
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise EstimatorError(
            f"{config.name}: training.estimator is {path}, but {module_name} cannot be imported ({error}); "
            "install it or fix the path"
        ) from error
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
    accepted, given = set(kind().get_params()), config.training.parameters
    for name in given:
        if name not in accepted:
            near = difflib.get_close_matches(name, accepted, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(accepted))}."
            raise EstimatorError(f"{config.name}: training.parameters.{name} is not known to {kind.__name__}; {hint}")
    is_raw = isinstance(encoding, RawEncoding)
    given = {name: by_position(config, encoding, name, value) for name, value in given.items()}
    ours = {"random_state": config.training.seed, "n_jobs": threads()}
    if issubclass(kind, XGBModel):
        groups = given.get("interaction_constraints")
        if isinstance(groups, list):  # as text, because the matrix has no names to look positions up by
            given["interaction_constraints"] = json.dumps(groups)
        return kind(**ours | _xgboost_settings(config, encoding, classes) | given)
    estimator = kind(**{name: value for name, value in ours.items() if name in accepted} | given)
    if is_raw or get_tags(estimator).input_tags.allow_nan:
        return estimator
    return make_pipeline(preparation(estimator, encoding), estimator)


def try_out(config: ModelConfig) -> None:
    """Fit the YAML's estimator on synthetic rows. Raises EstimatorError if it rejects a parameter's value."""
    kind, random = estimator_class(config), np.random.default_rng(0)
    classes = {"binary": 2, "multiclass": 3}.get(config.task, 0)
    codes = np.arange(60) % classes if classes else random.normal(size=60)
    own = RawEncoding if config.training.pipeline else Encoding
    encoding = own(kinds(config.columns.features))
    estimator = build(config, kind, encoding, classes)
    if "n_estimators" in config.training.parameters and isinstance(config.training.parameters["n_estimators"], int):
        estimator = with_rounds(estimator, 1) if isinstance(estimator, XGBModel) else estimator
    try:
        estimator.fit(random.integers(0, 3, (60, max(1, len(encoding.features)))).astype(np.float32), codes)
    except (TypeError, ValueError, XGBoostError) as error:
        raise EstimatorError(
            f"{config.name}: training.parameters cannot be used by {kind.__name__} ({_first_line(error)}); expected values "
            "that its documentation lists"
        ) from None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.strip().startswith("[")]
    return lines[0][:200] if lines else type(error).__name__


def _xgboost_settings(config: ModelConfig, encoding: Encoding, classes: int) -> dict[str, Any]:
    """XGBoost settings: native categories; early stopping on the primary metric if XGBoost has it, else on log loss."""
    loss = "mlogloss" if classes > 2 else "logloss"
    metric = config.performance.metric
    watched = {"mae": "mae", "rmse": "rmse", "pinball": "quantile", "roc_auc": "auc"}.get(metric, loss)
    settings: dict[str, Any] = {
        "tree_method": "hist",
        "enable_categorical": True,
        "feature_types": None if isinstance(encoding, RawEncoding) else encoding.feature_types,
        "eval_metric": watched,
    }
    if metric == "pinball":
        settings |= {"objective": "reg:quantileerror", "quantile_alpha": config.performance.quantile}
    return settings


def _raw(estimator: XGBModel, encoding: Encoding) -> bytearray:
    booster = estimator.get_booster()
    if not isinstance(encoding, RawEncoding):
        booster.feature_names = list(encoding.booster_names)
    return booster.save_raw("ubj")


def _held_back_metrics(config: ModelConfig, y_true: Floats, y_pred: Floats) -> dict[str, float]:
    """Compute every metric of the task that is defined on the held-back rows."""
    if not len(y_true):
        return {}
    found = {metric.name: metrics.compute(metric, y_true, y_pred) for metric in config.measured_metrics}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _importance(estimator: Any, encoding: Encoding) -> dict[str, float]:
    """Return each feature's share of the total gain (XGBoost), of the estimator's importances or of its |weights|.

    Empty for an estimator without any, and for features of the user's own, which make other columns of them.
    """
    if isinstance(encoding, RawEncoding):
        return {}
    if isinstance(estimator, XGBModel):
        gains = estimator.get_booster().get_score(importance_type="total_gain")
        raw = np.array([float(gains.get(name, 0.0)) for name in encoding.booster_names])
    else:
        inner, step = (estimator[-1], estimator[0]) if isinstance(estimator, Pipeline) else (estimator, None)
        own = getattr(inner, "feature_importances_", None)
        weights = getattr(inner, "coef_", None)
        if own is None and weights is None:
            return {}
        raw = np.abs(np.atleast_2d(np.asarray(weights))).sum(axis=0) if own is None else np.asarray(own)
        if isinstance(step, ColumnTransformer):
            raw = per_feature(step, raw, len(encoding.names))
    total = float(raw.sum())
    return {name: float(value) / total for name, value in zip(encoding.names, raw, strict=True)} if total > 0 else {}
