"""Prepare encoded features for an estimator: fill missing values, scale numbers, turn categories into columns.

Trees take codes and missing values as they are. Estimators that weigh or compare features get what scikit-learn's users
would build for them. Constraints name features in the model's file, and positions for the estimator.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import get_tags

from deployments.config.model import ModelConfig
from tasks.adapters.models.encoding import Encoding, RawEncoding
from tasks.adapters.models.files import Floats
from tasks.policy.records.errors import EstimatorError

SCALED = (
    "sklearn.linear_model", "sklearn.svm", "sklearn.neural_network", "sklearn.neighbors", "sklearn.kernel_ridge",
    "sklearn.gaussian_process", "sklearn.discriminant_analysis",
)  # fmt: skip
"""Modules whose estimators weigh or compare features, so that scales matter and codes of categories mean nothing."""
MONOTONE = ("monotone_constraints", "monotonic_cst")
INTERACTION = ("interaction_constraints", "interaction_cst")
"""Parameters by which features are constrained: those of XGBoost, LightGBM and CatBoost, and scikit-learn's."""
MOST_CATEGORIES = 1000
"""One-hot columns of a feature; rarer categories share one."""
SPARSE_BELOW = 0.3
"""Share of values other than zero below which the matrix is sparse; scikit-learn's default."""


def preparation(estimator: Any, encoding: Encoding) -> SimpleImputer | ColumnTransformer:
    """Build the step that fills missing values, and for estimators that weigh or compare features scales and one-hot encodes.

    A category that training did not have, or a missing one, is a row of zeros.
    """
    filled = SimpleImputer(strategy="median", keep_empty_features=True)
    if not any(kind.__module__.startswith(SCALED) for kind in type(estimator).__mro__):
        return filled
    codes = [place for place, (_, kind) in enumerate(encoding.features) if kind == "categorical"]
    numbers = [place for place in range(len(encoding.inputs.names)) if place not in codes]
    one_hot = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MOST_CATEGORIES)
    return ColumnTransformer(
        [("numbers", make_pipeline(filled, StandardScaler()), numbers), ("categories", one_hot, codes)],
        sparse_threshold=SPARSE_BELOW if get_tags(estimator).input_tags.sparse else 0.0,
    )


def per_feature(prepared: ColumnTransformer, weights: Floats, features: int) -> Floats:
    """Sum the weights of the columns that each feature was turned into, which are named after its place: `…__x3_…`."""
    places = [int(name.partition("__x")[2].partition("_")[0]) for name in prepared.get_feature_names_out()]
    return np.bincount(places, weights, minlength=features).astype(np.float64)


def by_position(config: ModelConfig, encoding: Encoding, parameter: str, value: Any) -> Any:
    """Return constraints that name features in the estimator's form, by position; any other value unchanged.

    `{x: 1}` becomes a direction for each feature, `[[x, z]]` groups of positions. Raises EstimatorError for an unknown name.
    """
    if isinstance(encoding, RawEncoding) and parameter in (*MONOTONE, *INTERACTION):
        _check_places(config, parameter, value)
        return value
    if parameter in MONOTONE and isinstance(value, Mapping):
        places = _places(config, encoding, parameter, tuple(value))
        directions = [0] * len(encoding.inputs.names)
        for place, direction in zip(places, value.values(), strict=True):
            directions[place] = direction
        return tuple(directions)
    if parameter in INTERACTION and isinstance(value, list):
        groups = [group if isinstance(group, list) else [group] for group in value]
        return [
            [*_places(config, encoding, parameter, [name for name in group if isinstance(name, str)]),
             *(place for place in group if not isinstance(place, str))]
            for group in groups
        ]  # fmt: skip
    return value


def _check_places(config: ModelConfig, parameter: str, value: Any) -> None:
    """Raise EstimatorError for constraints on names, after a pipeline that makes columns of its own."""
    groups = [group if isinstance(group, list) else [group] for group in value] if isinstance(value, list) else []
    if isinstance(value, Mapping) or any(isinstance(name, str) for group in groups for name in group):
        raise EstimatorError(
            f"{config.name}: training.parameters.{parameter} names features, but training.pipeline makes columns of its own; "
            "expected positions among these"
        )


def _places(config: ModelConfig, encoding: Encoding, parameter: str, names: Sequence[str]) -> list[int]:
    for name in names:
        if name not in encoding.names:
            near = difflib.get_close_matches(name, encoding.names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(encoding.names)}."
            raise EstimatorError(f"{config.name}: training.parameters.{parameter} has {name!r}, no feature; {hint}")
    return [encoding.names.index(name) for name in names]
