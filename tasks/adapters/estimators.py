"""Fits a model on labelled rows: encoder and estimator as one scikit-learn pipeline, XGBoost unless the YAML says else.

The latest rows are held back for early stopping, so a model stops where it stops generalising forward in time
(an estimator that cannot stop early is fitted on all rows). What comes out is the scorer that validation and serving
use too.
"""

import difflib
import importlib
import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import get_tags
from threadpoolctl import threadpool_limits
from xgboost import XGBClassifier, XGBModel, XGBRegressor, XGBRFClassifier, XGBRFRegressor

from deployments.model_config import CLASS_METRICS, REGRESSION_METRICS, ModelConfig
from tasks.adapters.encoding import Encoding, FeatureEncoder, Matrix, encode_labels, label_classes
from tasks.adapters.model_files import Floats, Scorer, booster_estimator, threads
from tasks.policy import metrics
from tasks.policy.errors import PerennialError


class EstimatorError(PerennialError):
    """The YAML names an estimator or a parameter that cannot be used."""


@dataclass(frozen=True)
class Fitted:
    """A scorer and what its making showed. `metrics` are of the held-back rows, empty where none were held back."""

    scorer: Scorer
    parameters: dict[str, str]
    metrics: dict[str, float]
    importance: dict[str, float]
    rounds: int | None
    fitted_rows: int
    held_back_rows: int


def fit(config: ModelConfig, rows: pa.Table) -> Fitted:
    """Train on labelled rows. Same rows, seed and threads: same model. Raises EstimatorError and FeatureError."""
    rows = _in_order(rows, config.columns.time, config.columns.id)
    labels = rows.column(config.columns.label)
    classes = () if config.task == "regression" else label_classes(labels, config.columns.positive_label)
    codes = encode_labels(labels, classes)
    kind = estimator_class(config)
    cut = _cut(config, kind, codes, len(classes))
    encoder = FeatureEncoder(config.columns.features).fit(rows.slice(0, cut))
    estimator = build(config, kind, encoder.encoding_, len(classes))
    # scikit-learn's OpenMP code knows no n_jobs; the limit stays, as giving it up would lift it for a fit in another thread
    threadpool_limits(threads())
    estimator = _fit(estimator, encoder.transform(rows), codes, cut, config)
    if isinstance(estimator, XGBModel):
        estimator = booster_estimator(_trimmed(estimator, encoder.encoding_), config.task)
    pipeline = Pipeline([("encoder", encoder), ("estimator", estimator)])
    scorer = Scorer(pipeline, encoder.encoding_, config.task, classes)
    return Fitted(
        scorer,
        parameters={name: str(value) for name, value in sorted(config.training.parameters.items())},
        metrics=_achieved(config, codes[cut:], scorer.predict(rows.slice(cut))),
        importance=_importance(estimator, encoder.encoding_.names),
        rounds=estimator.get_booster().num_boosted_rounds() if isinstance(estimator, XGBModel) else None,
        fitted_rows=cut,
        held_back_rows=len(codes) - cut,
    )


def _in_order(rows: pa.Table, time: str, row_id: str) -> pa.Table:
    """Rows by time, then id; as they are where they lie so already, as the lake's do, for sorting copies every column."""
    if rows.num_rows < 2:
        return rows
    times, ids = (rows.column(name).combine_chunks() for name in (time, row_id))
    earlier = pc.less(times[:-1], times[1:])
    in_order = pc.or_(earlier, pc.and_(pc.equal(times[:-1], times[1:]), pc.less_equal(ids[:-1], ids[1:])))
    if pc.all(in_order, skip_nulls=False).as_py():
        return rows
    return rows.sort_by([(time, "ascending"), (row_id, "ascending")])


def _cut(config: ModelConfig, kind: Any, codes: Floats, classes: int) -> int:
    """Rows before this one are fitted, later ones held back; none are held back if the earlier ones lack a class."""
    cut = int(len(codes) * (1 - config.training.validation_share))
    stops = config.training.early_stopping_rounds is not None and _can_stop_early(kind)
    complete = not classes or len(np.unique(codes[:cut])) == classes
    return cut if stops and complete and 0 < cut < len(codes) else len(codes)


def _can_stop_early(kind: Any) -> bool:
    """Whether it takes rows to stop on: XGBoost but for its forests; scikit-learn's gradient boosting since 1.7."""
    if issubclass(kind, XGBModel):
        return not issubclass(kind, XGBRFClassifier | XGBRFRegressor)
    return "X_val" in inspect.signature(kind.fit).parameters and "n_iter_no_change" in kind().get_params()


def estimator_class(config: ModelConfig) -> Any:
    """XGBoost's, or the class at the YAML's import path. Raises EstimatorError saying which part is missing."""
    path = config.training.estimator
    if path is None:
        return XGBRegressor if config.task == "regression" else XGBClassifier
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise EstimatorError(
            f"{config.name}: training.estimator is {path}, but {module_name} cannot be imported ({error}); "
            "install it or mend the path"
        ) from error
    kind = getattr(module, name, None)
    needed = ("fit", "predict", "get_params") + (() if config.task == "regression" else ("predict_proba",))
    lacking = [method for method in needed if not hasattr(kind, method)]
    if not inspect.isclass(kind) or lacking:
        raise EstimatorError(
            f"{config.name}: training.estimator is {path}, which is no class with {', '.join(lacking) or 'methods'}; "
            f"expected a scikit-learn {config.task} estimator such as sklearn.ensemble:RandomForest"
            f"{'Regressor' if config.task == 'regression' else 'Classifier'}"
        )
    return kind


def build(config: ModelConfig, kind: Any, encoding: Encoding, classes: int) -> Any:
    """The unfitted estimator; the YAML's parameters go before ours. Raises EstimatorError on one it does not know."""
    accepted, given = set(kind().get_params()), config.training.parameters
    for name in given:
        if name not in accepted:
            near = difflib.get_close_matches(name, accepted, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(accepted))}."
            raise EstimatorError(f"{config.name}: training.parameters.{name} is not known to {kind.__name__}; {hint}")
    ours = {"random_state": config.training.seed, "n_jobs": threads()}
    if issubclass(kind, XGBModel):
        return kind(**ours | _xgboost_settings(config, encoding, classes) | given)
    estimator = kind(**{name: value for name, value in ours.items() if name in accepted} | given)
    if get_tags(estimator).input_tags.allow_nan:
        return estimator
    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), estimator)


def _xgboost_settings(config: ModelConfig, encoding: Encoding, classes: int) -> dict[str, Any]:
    """Native categories, and early stopping on the primary metric where XGBoost has it, else on the log loss."""
    loss = "mlogloss" if classes > 2 else "logloss"
    metric = config.performance.metric
    watched = {"mae": "mae", "rmse": "rmse", "pinball": "quantile", "roc_auc": "auc"}.get(metric, loss)
    settings: dict[str, Any] = {
        "tree_method": "hist",
        "enable_categorical": True,
        "feature_types": encoding.feature_types,
        "eval_metric": watched,
    }
    if metric == "pinball":
        settings |= {"objective": "reg:quantileerror", "quantile_alpha": config.performance.quantile}
    return settings


def _fit(estimator: Any, matrix: Matrix, codes: Floats, cut: int, config: ModelConfig) -> Any:
    """Fit on the rows before the cut; later ones only say when to stop."""
    target = codes if config.task == "regression" else codes.astype(np.int64)
    if cut == len(codes):
        return estimator.fit(matrix, target)
    rounds = config.training.early_stopping_rounds
    if isinstance(estimator, XGBModel):
        estimator.set_params(early_stopping_rounds=rounds)
        return estimator.fit(matrix[:cut], target[:cut], eval_set=[(matrix[cut:], target[cut:])], verbose=False)
    estimator.set_params(early_stopping=True, n_iter_no_change=rounds)
    return estimator.fit(matrix[:cut], target[:cut], X_val=matrix[cut:], y_val=target[cut:])


def _trimmed(estimator: XGBModel, encoding: Encoding) -> bytearray:
    """The booster up to its best round, so that what is stored is all that predicts, whoever reads the file."""
    booster = estimator.get_booster()
    if estimator.early_stopping_rounds is not None:
        booster = booster[: estimator.best_iteration + 1]
    booster.feature_names = list(encoding.names)
    return booster.save_raw("ubj")


def _achieved(config: ModelConfig, truth: Floats, predicted: Floats) -> dict[str, float]:
    """Every metric of the task on the held-back rows that is defined there."""
    if not len(truth):
        return {}
    names = REGRESSION_METRICS if config.task == "regression" else CLASS_METRICS
    found = {name: metrics.compute(name, truth, predicted, config.performance.quantile) for name in names}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _importance(estimator: Any, names: tuple[str, ...]) -> dict[str, float]:
    """Share of each feature in the model's total gain; the estimator's own importances or |weights| elsewhere."""
    if isinstance(estimator, XGBModel):
        gains = estimator.get_booster().get_score(importance_type="total_gain")
        raw = np.array([float(gains.get(name, 0.0)) for name in names])
    else:
        inner = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        own = getattr(inner, "feature_importances_", None)
        weights = getattr(inner, "coef_", None)
        if own is None and weights is None:
            return {}
        raw = np.asarray(own) if own is not None else np.abs(np.atleast_2d(weights)).sum(axis=0)
    total = float(raw.sum())
    return {name: float(value) / total for name, value in zip(names, raw, strict=True)} if total > 0 else {}
