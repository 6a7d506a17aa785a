"""Features of the user's own: an unfitted scikit-learn transformer that `training.pipeline` builds, before the estimator.

It is fitted to the rows that the estimator is fitted to, no others: early stopping fits it without the held-back rows.
"""

import inspect
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline

from deployments.config.model import ModelConfig
from tasks.adapters.models import files
from tasks.adapters.models.encoding import Encoding, RawEncoding, raw_encoding
from tasks.adapters.models.estimators import as_estimator_error
from tasks.adapters.own_training.imports import check_parameters, imported
from tasks.policy.records.errors import EstimatorError, ModelFileError


def build(config: ModelConfig) -> Any:
    """Call the function, with the configuration if it asks for it. Raises EstimatorError if it fails or for another result.

    It asks by a parameter named `config`, or by a positional one without a default.
    """
    function, at = imported(config, "pipeline"), _place(config)
    parameters = inspect.signature(function).parameters
    named = {"config": config} if _is_named(parameters.get("config")) else {}
    given = (config,) if not named and any(map(_must_be_given, parameters.values())) else ()
    check_parameters(config, "pipeline", *given, **named)
    with as_estimator_error(at):
        built = function(*given, **named)
    lacking = [name for name in ("fit", "transform", "get_params") if not hasattr(built, name)]
    if lacking:
        raise EstimatorError(
            f"{at}, which returned a {type(built).__name__} without {', '.join(lacking)}, expected an unfitted scikit-learn "
            "transformer or pipeline of transformers; an estimator belongs to training.estimator or training.function"
        )
    return built


def try_build(config: ModelConfig) -> None:
    """Build the transformer and check that it can be stored. Raises EstimatorError."""
    built = build(config)
    try:
        files.needed_types(built, files.trusted_packages(config.training.imported))
    except ModelFileError as error:
        raise EstimatorError(f"{_place(config)}: {error}") from None


def _place(config: ModelConfig) -> str:
    return f"{config.name}: training.pipeline is {config.training.pipeline}"


def _is_named(parameter: inspect.Parameter | None) -> bool:
    return parameter is not None and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def _must_be_given(parameter: inspect.Parameter) -> bool:
    positional = parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    return positional and parameter.default is parameter.empty


class PipelineEncoder:
    """Encode rows by the user's transformer; `encoding_` is that of the latest fit."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._unfitted = build(config)
        self.encoding_: Encoding = RawEncoding(())

    def fit_transform(self, rows: pa.Table, y: Any) -> Any:
        """Fit a fresh transformer to these rows and return them transformed. Raises EstimatorError for other than numbers."""
        raw, transformer = raw_encoding(self._config.columns.features, rows), clone(self._unfitted)
        frame = raw.frame(rows)
        with as_estimator_error(_place(self._config)):
            found = transformer.fit_transform(frame, y)
        if fault := _fault(found, len(rows)):
            raise EstimatorError(f"{_place(self._config)}, which {fault}")
        if hasattr(found, "columns"):  # their names may be ones that a boosting library refuses
            unnamed = ColumnTransformer([("columns", "passthrough", slice(None))]).set_output(transform="default")
            transformer, found = make_pipeline(transformer, unnamed), unnamed.fit_transform(found)
        self.encoding_ = RawEncoding(raw.features, raw.categories, raw.types, raw.nullable, transformer)
        return found

    def transform(self, rows: pa.Table) -> Any:
        with as_estimator_error(_place(self._config)):
            return self.encoding_.encode(rows)


def _fault(found: Any, rows: int) -> str | None:
    """Return what is wrong with a transformer's output, None if it is a matrix of numbers with one line per row."""
    shape: tuple[int, ...] = getattr(found, "shape", ())
    if len(shape) != 2 or shape[0] != rows:
        made = f"the shape {shape}" if shape else f"a {type(found).__name__}"
        return f"turned {rows:,} rows into {made}, expected {rows:,} rows and columns of numbers"
    if isinstance(found, pd.DataFrame):
        texts = [str(name) for name, kind in found.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
        return f"returned columns that are not numbers: {', '.join(texts[:5])}; encode them" if texts else None
    if sparse.issparse(found) or np.issubdtype(np.asarray(found).dtype, np.number) or np.asarray(found).dtype == bool:
        return None
    return f"returned values of type {np.asarray(found).dtype}, expected numbers; encode text, dates and lists"
