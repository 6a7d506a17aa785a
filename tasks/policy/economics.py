"""What an iteration costs and what an improvement is worth."""

from pydantic import BaseModel, ConfigDict, Field


class Budget(BaseModel):
    """Money: prices, value per unit of metric, and the hard limit per month."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    compute_usd_per_hour: float = Field(0.1, ge=0)
    """Price of one hour of the work pool that trains."""
    fixed_usd_per_retrain: float = Field(0.0, ge=0)
    """Oversight and rollout, per retrain."""
    value_usd_per_metric_unit_per_day: float | None = Field(None, ge=0)
    """What one unit of the primary metric is worth per day of service; none when unknown."""
    max_usd_per_month: float | None = Field(None, ge=0)
    """A retrain that would exceed this is refused."""
