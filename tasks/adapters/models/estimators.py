"""Fit a model on labelled rows: encoder and estimator in one scikit-learn pipeline, XGBoost by default.

Early stopping holds back the latest rows to choose the number of rounds, then the model is refitted on all rows with
that number. A model thus stops where it stops generalising forward in time. Where the latest rows contradict the
earlier ones, as after a concept change, early stopping would end almost at once. Then the training range is chosen too,
from all rows down to the latest `min_rows`, by the loss on every other block of the latest rows, and `remarks` reports
it. The result is the scorer that validation and serving use too.
"""

import difflib
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import get_tags
from threadpoolctl import threadpool_limits
from xgboost import XGBClassifier, XGBModel, XGBRegressor, XGBRFClassifier, XGBRFRegressor
from xgboost.core import XGBoostError

from deployments.config.model import CLASS_METRICS, REGRESSION_METRICS, ModelConfig
from tasks.adapters.models import eligibility
from tasks.adapters.models.encoding import Encoding, FeatureEncoder, Matrix, encode_labels
from tasks.adapters.models.files import Floats, Scorer, booster_estimator, threads
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


FEW_ROUNDS, FEW_SHARE = 10, 0.05
"""Rounds, and share of the allowed rounds, below which early stopping counts as premature."""
BLOCKS = 10
"""Blocks of the latest rows; after premature early stopping, every other block serves to choose the training range."""


def fit(config: ModelConfig, rows: pa.Table) -> Fitted:
    """Train on labelled rows. Same rows, seed and threads: same model. Raises EstimatorError and FeatureError."""
    rows = _in_order(rows, config.columns.time, config.columns.key)
    labels = rows.column(config.columns.label)
    classes = eligibility.classes_of(config, labels)
    codes = encode_labels(labels, classes)
    kind = estimator_class(config)
    encoder = FeatureEncoder(config.columns.features).fit(rows)
    matrix, target = encoder.transform(rows), codes if config.task == "regression" else codes.astype(np.int64)

    def unfitted() -> Any:
        return build(config, kind, encoder.encoding_, len(classes))

    # scikit-learn's OpenMP code ignores n_jobs; the limit is never reset, which would lift it for other threads' fits
    threadpool_limits(threads())
    stopped = _choose_rounds(config, kind, unfitted, matrix, target, len(classes))
    estimator = _with_rounds(unfitted(), stopped.rounds).fit(matrix[stopped.first :], target[stopped.first :])
    if isinstance(estimator, XGBModel):
        estimator = booster_estimator(_raw(estimator, encoder.encoding_), config.task)
    scorer = Scorer(Pipeline([("encoder", encoder), ("estimator", estimator)]), encoder.encoding_, config.task, classes)
    return Fitted(
        scorer,
        parameters={name: str(value) for name, value in sorted(config.training.parameters.items())},
        metrics=_achieved(config, codes[stopped.held_back], stopped.predicted),
        importance=_importance(estimator, encoder.encoding_),
        rounds=estimator.get_booster().num_boosted_rounds() if isinstance(estimator, XGBModel) else None,
        fitted_rows=len(codes) - stopped.first,
        held_back_rows=int(stopped.held_back.sum()),
        rows=len(codes),
        remarks=stopped.remarks,
    )


def _in_order(rows: pa.Table, time: str, row_id: str) -> pa.Table:
    """Sort rows by time, then id. Rows already in order, as from the lake, are returned without a copy."""
    if rows.num_rows < 2:
        return rows
    times, ids = (rows.column(name).combine_chunks() for name in (time, row_id))
    earlier = pc.less(times[:-1], times[1:])
    in_order = pc.or_(earlier, pc.and_(pc.equal(times[:-1], times[1:]), pc.less_equal(ids[:-1], ids[1:])))
    if pc.all(in_order, skip_nulls=False).as_py():
        return rows
    return rows.sort_by([(time, "ascending"), (row_id, "ascending")])


@dataclass(frozen=True)
class _Stopped:
    """The result of early stopping: rounds to fit (None for the estimator's own), held-back rows and their predictions.

    Rows before `first` are not used for fitting.
    """

    rounds: int | None
    held_back: NDArray[np.bool_]
    predicted: Floats
    first: int = 0
    remarks: tuple[str, ...] = ()


def _choose_rounds(
    config: ModelConfig, kind: Any, unfitted: Callable[[], Any], matrix: Matrix, target: Floats, classes: int
) -> _Stopped:
    """Choose the rounds by early stopping on the latest rows; if it ends prematurely, choose the training range too."""
    count, share = len(target), config.training.validation_share
    latest = np.arange(count) >= int(count * (1 - share))
    if (
        config.training.early_stopping_rounds is None
        or not _can_stop_early(kind)
        or not _teaches(target, latest, classes)
    ):
        return _Stopped(None, np.zeros(count, bool), np.empty(0))
    forward = _stop(config, unfitted(), matrix, target, latest)
    if forward.rounds is None or forward.rounds >= max(FEW_ROUNDS, FEW_SHARE * _allowed(unfitted())):
        return forward
    said = (
        f"early stopping ended after {forward.rounds} rounds on the latest {share:.0%} of the training rows: they contradict "
        "the earlier ones, or there is little to learn"
    )
    tried = [
        _stop(config, unfitted(), matrix, target, latest & _every_other_block(latest), first)
        for first in _beginnings(count, config.training.min_rows)
        if _teaches(target[first:], (latest & _every_other_block(latest))[first:], classes)
    ]
    if not tried:
        return replace(forward, remarks=(said,))
    best = min(tried, key=lambda one: _loss(config, target[one.held_back], one.predicted))
    rest = f"; {count - best.first:,} of {count:,} rows, the latest, predict them best: fitted on these, {best.rounds} rounds"
    return replace(best, remarks=(said + rest,))


def _beginnings(count: int, least: int) -> list[int]:
    """Return the first row of each candidate training range: all rows, the latest half, quarter, …, `least` rows."""
    sizes = [count >> halvings for halvings in range(20) if count >> halvings > least]
    return [count - size for size in (*sizes, *([least] if least <= count else []))]


def _every_other_block(latest: NDArray[np.bool_]) -> NDArray[np.bool_]:
    order = np.cumsum(latest) - 1
    chosen: NDArray[np.bool_] = (order * BLOCKS // max(1, int(latest.sum()))) % 2 == 1
    return chosen


def _loss(config: ModelConfig, truth: Floats, predicted: Floats) -> float:
    metric = config.performance.primary_metric
    value = metrics.compute(metric, truth, predicted)
    return metrics.as_loss(metric.name, value) if np.isfinite(value) else np.inf


def _teaches(target: Floats, held_back: NDArray[np.bool_], classes: int) -> bool:
    """Whether both parts are non-empty and the rows not held back include every class."""
    left = target[~held_back]
    return bool(held_back.any()) and len(left) > 0 and (not classes or len(np.unique(left)) == classes)


def _allowed(estimator: Any) -> int:
    given = estimator.get_params()
    return int(given.get("n_estimators") or given.get("max_iter") or 100)


def _can_stop_early(kind: Any) -> bool:
    """Whether it can stop early on given rows: XGBoost except forests, scikit-learn's gradient boosting since 1.7."""
    if issubclass(kind, XGBModel):
        return not issubclass(kind, XGBRFClassifier | XGBRFRegressor)
    return "X_val" in inspect.signature(kind.fit).parameters and "n_iter_no_change" in kind().get_params()


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
            f"{config.name}: training.estimator is {path}, which is no class with {', '.join(lacking) or 'methods'}; "
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
    ours = {"random_state": config.training.seed, "n_jobs": threads()}
    if issubclass(kind, XGBModel):
        return kind(**ours | _xgboost_settings(config, encoding, classes) | given)
    estimator = kind(**{name: value for name, value in ours.items() if name in accepted} | given)
    if get_tags(estimator).input_tags.allow_nan:
        return estimator
    return make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), estimator)


def try_out(config: ModelConfig) -> None:
    """Fit the YAML's estimator on synthetic rows. Raises EstimatorError if it rejects a parameter's value."""
    kind, random = estimator_class(config), np.random.default_rng(0)
    classes = {"binary": 2, "multiclass": 3}.get(config.task, 0)
    codes = np.arange(60) % classes if classes else random.normal(size=60)
    encoding = Encoding((("x", "numeric"), ("z", "numeric")))
    estimator = build(config, kind, encoding, classes)
    if "n_estimators" in config.training.parameters and isinstance(config.training.parameters["n_estimators"], int):
        estimator = _with_rounds(estimator, 1) if isinstance(estimator, XGBModel) else estimator
    try:
        estimator.fit(random.normal(size=(60, 2)), codes)
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
        "feature_types": encoding.feature_types,
        "eval_metric": watched,
    }
    if metric == "pinball":
        settings |= {"objective": "reg:quantileerror", "quantile_alpha": config.performance.quantile}
    return settings


def _stop(
    config: ModelConfig, estimator: Any, matrix: Matrix, target: Floats, held_back: NDArray[np.bool_], first: int = 0
) -> _Stopped:
    """Fit on the rows from `first` that are not held back; stop when the held-back rows improve no more."""
    kept, rounds = ~held_back & (np.arange(len(target)) >= first), config.training.early_stopping_rounds
    if isinstance(estimator, XGBModel):
        estimator.set_params(early_stopping_rounds=rounds)
        estimator.fit(matrix[kept], target[kept], eval_set=[(matrix[held_back], target[held_back])], verbose=False)
        found = estimator.best_iteration + 1
    else:
        estimator.set_params(early_stopping=True, n_iter_no_change=rounds)
        estimator.fit(matrix[kept], target[kept], X_val=matrix[held_back], y_val=target[held_back])
        found = int(estimator.n_iter_)
    if config.task == "regression":
        return _Stopped(found, held_back, np.asarray(estimator.predict(matrix[held_back]), float), first)
    probabilities = np.asarray(estimator.predict_proba(matrix[held_back]), float)
    return _Stopped(found, held_back, probabilities[:, 1] if probabilities.shape[1] == 2 else probabilities, first)


def _with_rounds(estimator: Any, rounds: int | None) -> Any:
    """Set the number of rounds and disable the estimator's own early stopping."""
    if rounds is None:
        return estimator
    if isinstance(estimator, XGBModel):
        return estimator.set_params(n_estimators=rounds)
    return estimator.set_params(max_iter=rounds, early_stopping=False)


def _raw(estimator: XGBModel, encoding: Encoding) -> bytearray:
    booster = estimator.get_booster()
    booster.feature_names = list(encoding.booster_names)
    return booster.save_raw("ubj")


def _achieved(config: ModelConfig, truth: Floats, predicted: Floats) -> dict[str, float]:
    """Compute every metric of the task that is defined on the held-back rows."""
    if not len(truth):
        return {}
    names = REGRESSION_METRICS if config.task == "regression" else CLASS_METRICS
    quantile = config.performance.quantile
    found = {name: metrics.compute(metrics.Metric(name, quantile), truth, predicted) for name in names}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _importance(estimator: Any, encoding: Encoding) -> dict[str, float]:
    """Return each feature's share of the total gain (XGBoost), of the estimator's importances or of its |weights|."""
    if isinstance(estimator, XGBModel):
        gains = estimator.get_booster().get_score(importance_type="total_gain")
        raw = np.array([float(gains.get(name, 0.0)) for name in encoding.booster_names])
    else:
        inner = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        own = getattr(inner, "feature_importances_", None)
        weights = getattr(inner, "coef_", None)
        if own is None and weights is None:
            return {}
        raw = np.asarray(own) if own is not None else np.abs(np.atleast_2d(weights)).sum(axis=0)
    total = float(raw.sum())
    return {name: float(value) / total for name, value in zip(encoding.names, raw, strict=True)} if total > 0 else {}
