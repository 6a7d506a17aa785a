"""Whether to retrain: evidence + history + policy → Decision, with its reasons in sentences.

A condition says when; cooldown, budget and sample floors say when not, whatever the condition says.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class MetricBreach(_Rule):
    """The metric lies past a limit in at least k of the last m windows, the latest among them."""

    trigger: Literal["metric_breach"]
    metric: str
    """Which metric; its own direction says which side of the limit is bad."""
    limit: float
    """Level that the metric must keep."""
    k: int = Field(1, ge=1, le=100)
    """Breaches needed."""
    m: int = Field(1, ge=1, le=100)
    """Among so many latest windows."""


class MetricShift(_Rule):
    """The metric is significantly worse than its best past level, by at least a margin, in k of the last m windows."""

    trigger: Literal["metric_shift"]
    metric: str
    margin: float = Field(0.0, ge=0)
    """How much worse than the baseline counts, in units of the metric."""
    alpha: float = Field(0.01, gt=0, lt=1)
    """Largest p-value of the shift."""
    k: int = Field(1, ge=1, le=100)
    m: int = Field(1, ge=1, le=100)


class MeanShift(_Rule):
    """Any feature's mean lies further than `sigma` reference standard deviations from the reference's."""

    trigger: Literal["mean_shift"]
    sigma: float = Field(3.0, gt=0)


class DriftedShare(_Rule):
    """At least this share of the features drifted."""

    trigger: Literal["drifted_share"]
    share: float = Field(0.3, gt=0, le=1)


class NewRows(_Rule):
    """Rows landed since the champion's training reach this fraction of its training rows."""

    trigger: Literal["new_rows"]
    fraction: float = Field(0.05, gt=0)


class Every(_Rule):
    """So many days have passed since the last training."""

    trigger: Literal["every"]
    days: float = Field(30, gt=0)


class AnyOf(_Rule):
    trigger: Literal["any_of"]
    conditions: tuple["Condition", ...] = Field(min_length=1)


class AllOf(_Rule):
    trigger: Literal["all_of"]
    conditions: tuple["Condition", ...] = Field(min_length=1)


class AtLeast(_Rule):
    """At least n of the conditions hold."""

    trigger: Literal["at_least"]
    n: int = Field(ge=1)
    conditions: tuple["Condition", ...] = Field(min_length=1)


Condition = Annotated[
    MetricBreach | MetricShift | MeanShift | DriftedShare | NewRows | Every | AnyOf | AllOf | AtLeast,
    Field(discriminator="trigger"),
]


class RetrainingPolicy(_Rule):
    """When to retrain, and what keeps it from happening too often or on too little."""

    when: Condition
    cooldown_days: float = Field(0, ge=0)
    """No retraining within so many days of the last one."""
    max_retrains_per_month: int | None = Field(None, ge=0)
    """Refuse, with a reason, past so many retrains in 30 days."""
    min_rows: int = Field(200, ge=1)
    """Below so many rows in the window nothing is triggered from its data."""
    min_labelled_rows: int = Field(200, ge=1)
    """Below so many labels in a window nothing is triggered from its performance."""

    def metrics(self) -> tuple[str, ...]:
        """Every metric that a condition names."""
        return tuple(rule.metric for rule in _flatten(self.when) if isinstance(rule, (MetricBreach, MetricShift)))


def _flatten(condition: "Condition") -> Iterator["Condition"]:
    yield condition
    if isinstance(condition, (AnyOf, AllOf, AtLeast)):
        for part in condition.conditions:
            yield from _flatten(part)
