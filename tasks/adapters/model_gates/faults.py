"""Predict the same rows again with one feature missing, or shifted by a standard deviation, by both models.

The cost is bounded: a sample of the rows, and the features that matter most to either model by what losing them costs. A
model that refuses such rows gives no wrong answer, so that fault is left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.config.model import ModelConfig
from tasks.adapters.models.encoding import is_number
from tasks.adapters.models.files import REFUSALS, Scorer
from tasks.adapters.models.label_alignment import in_order
from tasks.policy.comparison.predictions import prediction_fault
from tasks.policy.records.errors import FeatureError
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Floats
from tasks.policy.statistics.resampling import thin

ROWS = 1000
"""Rows that are predicted under each fault."""
FEATURES = 20
"""Features that are tried, in the order of their importance to the challenger."""


@dataclass(frozen=True)
class BothScorers:
    """Champion and challenger, and the classes of the labels' codes."""

    champion: Scorer
    challenger: Scorer
    classes: tuple[str, ...]


def faulty_predictions(
    config: ModelConfig, rows: pa.Table, y_true: Floats, scorers: BothScorers, importance: Mapping[str, float]
) -> dict[str, PairedPredictions]:
    """Both models' predictions under each fault that both answer, by its description."""
    places = thin(len(rows), -(-len(rows) // ROWS), config.training.seed)
    if scorers.classes:  # a label of a class unknown to both models tells nothing about a fault
        places = places[y_true[places] < len(scorers.classes)]
    sample, labels = rows.take(pa.array(places)), y_true[places]
    known = [name for name in scorers.challenger.encoding.names if name in rows.column_names]
    tried = sorted(known, key=lambda name: -importance.get(name, 0.0))[:FEATURES]
    found: dict[str, PairedPredictions] = {}
    for name in tried:
        for words, column in _faults(name, sample.column(name)):
            faulty = sample.set_column(sample.column_names.index(name), name, column)
            old, new = (_predict(one, faulty, scorers.classes) for one in (scorers.champion, scorers.challenger))
            if old is not None and new is not None:
                found[words] = PairedPredictions(labels, champion=old, challenger=new)
    return found


def _faults(name: str, column: pa.ChunkedArray) -> Iterator[tuple[str, pa.Array]]:
    """The feature without any value, and numbers shifted by one standard deviation of these rows."""
    yield f"{name} missing", pa.nulls(len(column), column.type)
    if not is_number(column.type):
        return
    values = pc.cast(column, pa.float64())
    deviation = pc.stddev(pc.if_else(pc.is_finite(values), values, None)).as_py()
    if deviation:
        shift = max(1.0, round(deviation)) if pa.types.is_integer(column.type) else deviation
        shifted = pc.add(values, shift)
        if pa.types.is_integer(column.type):
            shifted = pc.cast(shifted, pa.int64(), safe=False)
        yield f"{name} shifted by a standard deviation", shifted


def _predict(scorer: Scorer, rows: pa.Table, classes: tuple[str, ...]) -> Floats | None:
    """The predictions in the order of the classes, with no probability for classes unknown to all; None if refused."""
    try:
        predicted = scorer.predict(rows)
    except (FeatureError, *REFUSALS):
        return None
    if prediction_fault(predicted, len(rows), scorer.task):
        return None
    return in_order(scorer.classes, predicted, classes) if scorer.classes else np.asarray(predicted, float)
