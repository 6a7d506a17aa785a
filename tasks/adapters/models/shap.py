"""SHAP values from XGBoost itself: each feature's contribution to a prediction, on a bounded number of rows.

Exact tree SHAP costs rows × leaves × depth². For models above EXACT_TREES trees, XGBoost's own approximation is used
(one walk per tree). The choice depends on the model alone, so training and windows are always comparable.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from xgboost import DMatrix, XGBModel

from tasks.adapters.models.encoding import RawEncoding
from tasks.adapters.models.files import Floats, Scorer
from tasks.adapters.models.resources import threads

ROWS = 500
FROZEN_ROWS = 1000
"""Sampled training rows: a mean's shift then has an error of 5.5 % of a contribution's σ; unlimited rows: 4.5 %."""
EXACT_TREES = 400


def contributions(scorer: Scorer, rows: pa.Table, limit: int = ROWS) -> Floats | None:
    """Return (n, features) contributions on the margin for evenly spaced rows.

    Multiclass: the contributions to each row's predicted class. None for other estimators, own features or missing columns.
    """
    names = scorer.encoding.names
    if isinstance(scorer.encoding, RawEncoding):
        return None  # the booster sees what the user's transformer made of the features
    if not isinstance(scorer.estimator, XGBModel) or not len(rows) or not set(names) <= set(rows.column_names):
        return None
    drawn = rows.take(sample_indices(len(rows), limit))
    booster = scorer.estimator.get_booster()
    types = scorer.encoding.feature_types
    encoded = scorer.encoding.encode(drawn)
    matrix = DMatrix(
        encoded, feature_names=booster.feature_names, feature_types=types, enable_categorical=True, nthread=threads()
    )
    approximate = booster.num_boosted_rounds() * max(1, len(scorer.classes) - 1) > EXACT_TREES
    found = np.asarray(booster.predict(matrix, pred_contribs=True, approx_contribs=approximate), float)
    if found.ndim == 3:
        decided = found.sum(axis=2).argmax(axis=1)
        found = found[np.arange(len(found)), decided]
    return found[:, :-1]


def sample_indices(rows: int, limit: int) -> Sequence[int]:
    """Return at most `limit` row positions, evenly spaced."""
    return np.unique(np.linspace(0, rows - 1, min(rows, limit)).round().astype(int)).tolist()
