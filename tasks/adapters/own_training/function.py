"""Train by a function of the user's own, `training.function`, and take in the fitted model that it returns."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.pipeline import Pipeline

from deployments.config.model import ModelConfig
from tasks.adapters.boosters.known import library_of
from tasks.adapters.foreign import class_order
from tasks.adapters.models import eligibility, files
from tasks.adapters.models.encoding import RawEncoding, category_texts, fitted_encoder, raw_encoding
from tasks.adapters.models.estimators import Fitted, as_estimator_error, in_order
from tasks.adapters.models.files import Scorer
from tasks.adapters.models.resources import threads
from tasks.adapters.own_training.imports import imported
from tasks.adapters.own_training.snapshot_files import training_rows
from tasks.policy.comparison.predictions import prediction_fault
from tasks.policy.records.errors import EstimatorError, ModelFileError, PerennialError
from tasks.policy.records.text import raised

CHECKED_ROWS = 200
"""Rows that a model must predict before it is taken in."""


def fit(config: ModelConfig, rows: pa.Table) -> Fitted:
    """Call fit(rows, config) with a pandas DataFrame, oldest row first, and check the model that it returns.

    Raises EstimatorError if it fails, and for a model that cannot predict rows of the features, does not know the label's
    classes, or cannot be stored.
    """
    rows = in_order(rows, config.columns.time, config.columns.key)
    raw = raw_encoding(config.columns.features, rows)
    frame = training_rows(config, rows).to_pandas(date_as_object=False)
    features = raw.frame(rows)
    frame[list(raw.names)] = features  # in the form in which the model will be given them
    function = imported(config, "function")
    with as_estimator_error(_place(config)):
        model = function(frame, config)
    scorer = _with_classes(config, model, _scorer(config, model, _as_fitted(raw, model)), rows)
    _check_predictions(config, scorer, rows.slice(0, CHECKED_ROWS))
    try:
        files.scorer_types(scorer, files.trusted_packages(config.training.imported))
    except ModelFileError as error:
        raise EstimatorError(f"{_place(config)}: {error}") from None
    parameters = {name: str(value) for name, value in sorted(config.training.parameters.items())}
    library = library_of(scorer.estimator)
    rounds = library.rounds(scorer.estimator) if library else None
    return Fitted(scorer, parameters, {}, {}, rounds, fitted_rows=len(rows), held_back_rows=0, rows=len(rows))


def _as_fitted(raw: RawEncoding, model: Any) -> RawEncoding:
    """Return the encoding of the columns that the model was fitted to, in its order, if they are some of the features."""
    own = tuple(str(name) for name in getattr(model, "feature_names_in_", ()))
    if not own or own == raw.names or not set(own) <= set(raw.names):
        return raw
    kinds = dict(raw.features)
    return replace(
        raw,
        features=tuple((name, kinds[name]) for name in own),
        categories={name: seen for name, seen in raw.categories.items() if name in own},
        types={name: kind for name, kind in raw.types.items() if name in own},
        nullable=tuple(name for name in raw.nullable if name in own),
    )


def _check_predictions(config: ModelConfig, scorer: Scorer, rows: pa.Table) -> None:
    """Raise EstimatorError unless the model predicts rows of the features, in the shape of the task."""
    fit_so = (
        "fit it to rows[list(config.columns.features.names)], or to_numpy() of these if a library refuses their names"
    )
    try:
        predicted = scorer.predict(rows)
    except PerennialError:
        raise
    except Exception as error:
        raise EstimatorError(
            f"{_place(config)}, which returned a {type(scorer.estimator).__name__} that cannot predict rows of the features "
            f"({raised(error)}); {fit_so}"
        ) from error
    if fault := prediction_fault(predicted, len(rows), scorer.task):
        raise EstimatorError(
            f"{_place(config)}, which returned a model whose predictions cannot be used: {fault}; {fit_so}"
        )


def _scorer(config: ModelConfig, model: Any, raw: RawEncoding) -> Scorer:
    """Wrap the model; a booster at the end of a pipeline is stored in a format of its own."""
    needed = "predict" if config.task == "regression" else "predict_proba"
    if not hasattr(model, needed):
        raise EstimatorError(
            f"{_place(config)}, which returned a {type(model).__name__} without {needed}, expected a fitted scikit-learn "
            f"{config.task} estimator or pipeline"
        )
    if config.task == "regression" and hasattr(model, "classes_"):
        raise EstimatorError(
            f"{_place(config)}, which returned a {type(model).__name__} that was fitted to classes, expected a fitted "
            "scikit-learn regression estimator or pipeline"
        )
    transformer, estimator = None, model
    if isinstance(model, Pipeline) and library_of(model[-1]):
        transformer, estimator = (model[:-1] if len(model) > 1 else None), model[-1]
    if library := library_of(estimator):
        if library.package == "catboost":  # ours is wrapped, because it reads codes
            raise EstimatorError(
                f"{_place(config)}, which returned a CatBoost model, expected XGBoost, LightGBM or scikit-learn; train "
                "CatBoost by training.estimator, or by training.command, which saves it as a cbm file"
            )
        try:
            estimator = library.load(library.dump(estimator, ()), config.task, threads())
        except ModelFileError as error:
            raise EstimatorError(f"{_place(config)}: {error}") from None
    encoding = RawEncoding(raw.features, raw.categories, raw.types, raw.nullable, transformer)
    pipeline = Pipeline([("encoder", fitted_encoder(encoding)), ("estimator", estimator)])
    return Scorer(pipeline, encoding, config.task, ())


def _with_classes(config: ModelConfig, model: Any, scorer: Scorer, rows: pa.Table) -> Scorer:
    """Give the scorer of a classifier the labels' classes, and its column for each."""
    labels = rows.column(config.columns.label)
    classes = eligibility.classes_of(config, labels)
    if not classes:
        return scorer
    own = np.asarray(getattr(model, "classes_", ()))
    if own.dtype.kind == "f" and (own == own.astype(int)).all():
        own = own.astype(int)
    texts = pa.chunked_array([pa.array(own.tolist())]) if len(own) else pa.chunked_array([pa.array([], pa.string())])
    coded = class_order.coded_classes(config, labels)
    order = class_order.class_order(category_texts(texts).to_pylist(), classes, coded)
    if order is None:
        raise EstimatorError(
            f"{_place(config)}, which returned a {type(model).__name__} whose classes_ are "
            f"{', '.join(map(str, own)) or 'missing'}, expected those of the label: {', '.join(classes)}; fit it to "
            "rows[config.columns.label]"
        )
    agrees = order.columns == tuple(range(len(classes)))
    found = replace(scorer, classes=classes, order=() if agrees else order.columns)
    if order.are_codes and (fault := class_order.order_fault(found, order, rows, config.columns.label)):
        raise EstimatorError(f"{_place(config)}, which returned a {type(model).__name__}; {fault}")
    return found


def _place(config: ModelConfig) -> str:
    return f"{config.name}: training.function is {config.training.function}"
