"""Whether a challenger may take the champion's place."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ValidationPolicy(BaseModel):
    """What a challenger must show against the champion, on rows neither has seen."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    holdout_days: float = Field(5, gt=0)
    """The latest days of labelled rows, kept from both models' training, on which they are compared."""
    min_rows: int = Field(300, ge=10)
    """Fewer rows than this cannot validate anything: the challenger fails."""
    non_inferiority_margin: float = Field(0.01, ge=0)
    """The challenger's interval may reach this far below the champion, in units of the metric."""
    min_gain: float | None = None
    """Gain the challenger must show on average; none when no worse is enough."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Level of the paired intervals."""
    slices: tuple[str, ...] = ()
    """Categorical features by whose values the floor applies."""
    slice_margin: float = Field(0.05, ge=0)
    """No slice may lose significantly more than this."""
    slice_min_rows: int = Field(100, ge=10)
    """Slices with fewer rows are shown, not judged."""
    first_model_floor: float | None = None
    """What the very first model must reach on the primary metric; there is no champion to compare with."""


class PromotionPolicy(BaseModel):
    """How a validated challenger becomes champion."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    mode: Literal["automatic", "approval"] = "automatic"
    """automatic promotes at once; approval waits for a named person."""
