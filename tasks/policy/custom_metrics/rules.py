"""Metrics that `metrics.py` does not have: a value per row, or one value for a table of rows.

A metric of rows is the mean of its values, so intervals, paired differences and tests are those of means. A metric of
tables is computed again on resamples of rows. `metrics.compute` and its siblings take either as `Metric.rule`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.policy.custom_metrics.labels import Labels
from tasks.policy.records.errors import MetricError
from tasks.policy.records.text import raised
from tasks.policy.statistics.metrics import LEAST_OF_A_CLASS, Floats, predicted_codes

FEW_SHOWN = 100


@dataclass(frozen=True)
class CustomRule:
    """A metric as a function of labels (n,), predictions and, if it reads `columns`, a mapping of these columns.

    `per_row`: the function returns (n,) values, else one number. Predictions have the shapes of `metrics`; `decided` gives
    the function predicted classes (n,) instead of probabilities.
    """

    name: str
    function: Callable[..., Any]
    higher_is_better: bool
    is_regression: bool = False
    per_row: bool = False
    decided: bool = False
    needs_positives: bool = False
    columns: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def rows(self, y_true: Floats, y_pred: Floats) -> Floats | None:
        """The value of each row (n,); None for a metric of tables. Raises MetricError for any other shape."""
        if not self.per_row:
            return None
        found = self._call(y_true, y_pred, float)
        if found.shape != (len(y_true),):
            raise MetricError(
                f"metrics.{self.name}: the function returned shape {found.shape} for {len(y_true)} rows, expected one value a "
                "row; for one value of all rows set per: table"
            )
        return found

    def value(self, y_true: Floats, y_pred: Floats) -> float:
        """The metric on these rows; NaN where it is undefined. Raises MetricError if it is no number."""
        rows = self.rows(y_true, y_pred)
        if rows is not None:
            return float(rows.mean())
        found = self._call(y_true, y_pred)
        if found.size != 1 or found.dtype.kind not in "biuf":
            raise MetricError(
                f"metrics.{self.name}: the function returned {str(found)[:FEW_SHOWN]!r}, expected a number; for a value of each "
                "row set per: row"
            )
        return float(found.reshape(()))

    def undefined(self, y_true: NDArray[Any], least: int = LEAST_OF_A_CLASS) -> str | None:
        """Why these labels (codes) do not define the metric, else None."""
        if not self.needs_positives:
            return None
        positive, total = int((np.asarray(y_true) > 0).sum()), len(y_true)
        few = "positive" if positive < least else "negative" if total - positive < least else None
        count = positive if few == "positive" else total - positive
        return (
            f"{self.name} is undefined: {count} of {total} labels are {few}, expected at least {least}" if few else None
        )

    def _call(self, y_true: Floats, y_pred: Floats, dtype: type | None = None) -> NDArray[Any]:
        """What the function returns, as an array. Raises MetricError for what the function raises."""
        columns: Mapping[str, Any] = y_true.columns if isinstance(y_true, Labels) else {}
        missing = [name for name in self.columns if name not in columns]
        if missing:
            raise MetricError(
                f"metrics.{self.name} reads {', '.join(missing)}, which these rows do not have; expected columns that are "
                "stored with the rows"
            )
        read = ({name: columns[name] for name in self.columns},) if self.columns else ()
        predictions = predicted_codes(y_pred) if self.decided else y_pred
        try:
            return np.asarray(self.function(np.asarray(y_true), predictions, *read, **self.parameters), dtype)
        except Exception as error:
            raise MetricError(
                f"metrics.{self.name}: the function {raised(error)} (on {len(y_true)} rows); expected a number, or a value of "
                "each row with per: row"
            ) from error
