"""SHAP values from the boosting library itself: each feature's contribution to a prediction, on a bounded number of rows.

Exact tree SHAP costs rows × leaves × depth². For models above EXACT_TREES trees, the library's own approximation is used
if it has one (one walk per tree). The choice depends on the model alone, so training and windows are always comparable.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tasks.adapters.boosters.known import library_of
from tasks.adapters.models.encoding import RawEncoding
from tasks.adapters.models.files import Floats, Scorer

ROWS = 500
FROZEN_ROWS = 1000
"""Sampled training rows: a mean's shift then has an error of 5.5 % of a contribution's σ; unlimited rows: 4.5 %."""
EXACT_TREES = 400


def contributions(scorer: Scorer, rows: pa.Table, limit: int = ROWS) -> Floats | None:
    """Return (n, features) contributions on the margin for evenly spaced rows.

    Multiclass: the contributions to each row's predicted class. Those of derived features count for their sources. None for
    other estimators, own features or missing columns.
    """
    encoding, library = scorer.encoding, library_of(scorer.estimator)
    if isinstance(encoding, RawEncoding):
        return None  # the booster sees what the user's transformer made of the features
    if not library or not len(rows) or not set(encoding.columns) <= set(rows.column_names):
        return None
    encoded = encoding.encode(rows.take(sample_indices(len(rows), limit)))
    approximate = library.rounds(scorer.estimator) * max(1, len(scorer.classes) - 1) > EXACT_TREES
    found = library.contributions(scorer.estimator, encoded, encoding.inputs, approximate)
    if found.ndim == 3:
        decided = found.sum(axis=2).argmax(axis=1)
        found = found[np.arange(len(found)), decided]
    return encoding.derived.by_source(encoding.names, found[:, :-1])


def sample_indices(rows: int, limit: int) -> Sequence[int]:
    """Return at most `limit` row positions, evenly spaced."""
    return np.unique(np.linspace(0, rows - 1, min(rows, limit)).round().astype(int)).tolist()
