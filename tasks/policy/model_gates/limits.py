"""Settings of the gates that a challenger must pass beside those of the primary metric.

The defaults let ordinary retrains pass: on the practice streams (`make bench-training`) each of them stops at most a few
retrains in a thousand, while the gate's planted challenger fails it.
"""

from pydantic import BaseModel, ConfigDict, Field


class GateLimits(BaseModel):
    """How much worse than the champion a challenger may be, beside the primary metric."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    max_calibration_loss: float = Field(0.05, ge=0, le=1, examples=[0.02], exclude_if=lambda limit: bool(limit == 0.05))
    """Largest significant increase of the expected calibration error over the champion's. 1 turns the gate off."""
    max_churn: float = Field(0.2, ge=0, le=1, examples=[0.1], exclude_if=lambda limit: bool(limit == 0.2))
    """Largest share of the rows whose prediction changes for the worse. Classes: the champion's class was right, the
    challenger's is wrong. Regression: the prediction moves by more than `churn_tolerance` and away from the label."""
    churn_tolerance: float = Field(0.5, gt=0, examples=[0.25], exclude_if=lambda limit: bool(limit == 0.5))
    """Distance from which a prediction of a regression counts as changed, in standard deviations of the champion's."""
    max_unfairness_increase: float = Field(
        0.1, ge=0, le=1, examples=[0.05], exclude_if=lambda limit: bool(limit == 0.1)
    )
    """Largest significant increase, over the champion's, of the difference between protected groups: demographic parity and
    equalized odds for two classes, accuracy for more, and the mean error as a share of the champion's in a regression."""
    max_fragility: float = Field(1.0, ge=0, examples=[0.5], exclude_if=lambda limit: bool(limit == 1.0))
    """Largest significant extra loss over the champion's while one feature is missing or shifted by a standard deviation, as
    a share of the loss of the best constant prediction."""
    max_latency_ratio: float = Field(3.0, gt=1, examples=[1.5], exclude_if=lambda limit: bool(limit == 3.0))
    """Largest 95th percentile of the time to answer one row, relative to the champion's in the same run. Up to 5 ms more than
    the champion always pass."""
    max_memory_ratio: float = Field(2.0, gt=1, examples=[1.5], exclude_if=lambda limit: bool(limit == 2.0))
    """Largest peak memory of loading the model and answering, relative to the champion's in the same run. Up to 50 MB more
    than the champion always pass."""
