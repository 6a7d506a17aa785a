"""Settings of the gate for labels: `quality.labels` in the model's file."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MIN_LABELS = 50
"""Number of labels from which their distribution is judged."""


class LabelRules(BaseModel):
    """The label gate. Labels that break a rule are a fault: nothing is trained on them or decided from them."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    min_usual_share: float = Field(0.2, ge=0, le=1, examples=[0.5])
    """Labels that must have arrived once all are due, as a share of the usual number. 0 expects none."""
    max_unusable_share: float = Field(0.05, ge=0, le=1, examples=[0.01])
    """Share of labels that may be unusable: infinite, not a number, contradictory, or a third class of two."""
    max_unknown_class_share: float = Field(0.5, ge=0, le=1, examples=[0.2])
    """Multiclass: share of labels that may be of classes the model has never seen. Each counts as an error of the model."""
    max_scale_ratio: float = Field(8.0, gt=1, examples=[4])
    """Regression: how many times wider or narrower than the training labels the labels may spread."""
    max_shift: float = Field(3.0, gt=0, examples=[2])
    """Regression: how far the median label may move, in widths of the training labels (5th to 95th percentile)."""
    on_unit_change: Literal["warn", "fail"] = Field("fail", examples=["warn"])
    """Verdict on labels past `max_scale_ratio` or `max_shift`: `fail` keeps them out of training and triggers."""
    on_constant: Literal["warn", "fail"] = Field("warn", examples=["fail"])
    """Verdict on a window with one label in all rows, where the reference has several."""
