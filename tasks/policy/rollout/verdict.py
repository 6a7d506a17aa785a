"""Decide between challenger and champion while the evidence is being collected, with a level that repeated looks keep."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import Field

from tasks.policy.records.base import Settings

Conclusion = Literal["non_inferior", "superior", "worse", "undecided"]


class VerdictPolicy(Settings):
    """How the challenger is compared with the champion while it is rolled out: `rollout.verdict` in the model's file."""

    method: Literal["group_sequential", "confidence_sequence", "t_test"] = Field(
        "group_sequential", examples=["confidence_sequence"]
    )
    """`group_sequential`: Lan-DeMets spending with looks at closed windows, for a planned number of units.
    `confidence_sequence`: valid at any time, for a rollout without a planned end. `t_test`: one Welch test at the end."""
    margin: float | None = Field(None, gt=0, examples=[0.01])
    """Loss of the primary metric, in its units, that is still accepted. Default: the margin of `validation`."""
    confidence: float = Field(0.95, gt=0.5, lt=1, examples=[0.99])
    """Two-sided confidence level over all looks together."""
    power: float = Field(0.8, gt=0.5, lt=1, examples=[0.9])
    """Probability that an equally good challenger passes with the planned number of units."""
    cluster: Literal["unit", "day"] = Field("unit", examples=["day"])
    """Rows that count as one observation: those of one unit, or those of one day."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The gain of the challenger measured on all labelled rows since the comparison began; positive is better."""

    until: datetime
    """End of the rows whose labels are known."""
    gain: float
    standard_error: float
    units: int
    """Clusters in the smaller arm, for pairs the number of clusters."""
    rows: int
    paired: bool
    champion: float
    """The champion's value of the primary metric on these rows."""
    challenger: float


@dataclass(frozen=True, slots=True)
class RolloutForecast:
    """What a rollout needs: units and days to show non-inferiority at the planned power, and what is at stake meanwhile."""

    units: int
    days: float
    looks: int
    margin: float
    sigma: float
    """Standard deviation of one unit's gain, from validation."""
    exposed_usd: float | None = None
    """Cost of a challenger that is worse by the margin, for the traffic that it serves until then; None without a value."""


@dataclass(frozen=True, slots=True)
class RolloutVerdict:
    """The verdict at one look. `low` and `high` bound the gain; they hold at all looks together."""

    conclusion: Conclusion
    low: float
    high: float
    information: float
    """Share of the planned information, 1 at the planned end."""
    look: int
    planned_looks: int
    reason: str
