"""Plan a verdict: how it is reached, and the units and days that it needs at the planned power."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # its submodules load on first use, so that reading a model's file does not wait for them
from pydantic import Field, model_validator

from tasks.policy.records.base import Settings
from tasks.policy.statistics.group_sequential import drift_for_power
from tasks.policy.statistics.sequential import sequence_width

Method = Literal["group_sequential", "confidence_sequence", "t_test"]
LEAST_UNITS = 10
"""Units below which nothing is tested: the standard error of fewer is too uncertain."""
SIGMA_QUANTILE = 0.1
"""How often the standard deviation in a forecast may be below the true one."""
MOST_UNITS, MOST_DAYS, MOST_LOOKS = 10**9, 10**5, 100
"""Upper limits of a forecast."""
INFLATING_LOOKS = 30
"""Looks from which more of them cost less than one percent more units; a forecast does not integrate over more."""


class VerdictPolicy(Settings):
    """How the challenger is compared with the champion while it is rolled out: `rollout.verdict` in the model's file.

    A method alone, such as `verdict: t_test`, is accepted as well.
    """

    method: Method = Field("group_sequential", examples=["confidence_sequence"])
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

    @model_validator(mode="before")
    @classmethod
    def _read_method(cls, content: object) -> object:
        return {"method": content} if isinstance(content, str) else content

    @property
    def tail(self) -> float:
        """The level of each one-sided test."""
        return (1 - self.confidence) / 2


@dataclass(frozen=True, slots=True)
class ExpectedTraffic:
    """What a rollout can expect: units a day, the length of its windows, and when labels are known."""

    units_per_day: float
    """New units a day, of both versions together; 1 where days are the clusters."""
    window_days: float
    label_delay_days: float = 0.0
    share: float | None = None
    """The challenger's share of the units; None for pairs, where the challenger serves nothing."""
    usd_per_metric_unit: float | None = None
    """Value in USD of one unit of the primary metric for one day's traffic."""


@dataclass(frozen=True, slots=True)
class RolloutForecast:
    """What a rollout needs: units and days to show non-inferiority at the planned power, and what is at stake meanwhile."""

    units: int
    days: float
    looks: int
    margin: float
    sigma: float
    """Standard deviation from validation of one unit's gain; for served arms of one unit's contribution to the metric."""
    exposed_usd: float | None = None
    """Cost of a challenger that is worse by the margin, for the traffic that it serves until then; None without a value."""
    effective_units: float | None = None
    """The planned `Evidence.effective_units`; None where they are `units`."""


def forecast(policy: VerdictPolicy, margin: float, sigma: float, traffic: ExpectedTraffic) -> RolloutForecast:
    """Units and days until an equal challenger passes with the planned power, with a look at each closed window.

    `sigma` is the standard deviation of one unit's gain, for served arms (`traffic.share`) that of one unit's
    contribution to the metric; see `unit_sigma`. Pairs need (σ · drift / margin)² units, two equal arms twice as many
    each, and a smaller arm of a share s needs 1/2(1 - s) of those.
    """
    share = traffic.share or 0.0
    served = share > 0 and policy.cluster == "unit"
    per_day = traffic.units_per_day * (2 * share * (1 - share) if served else 1.0)  # in effective units
    needed, looks = float(MOST_UNITS), 1
    for _ in range(MOST_LOOKS):  # more looks need more units, and those need more looks
        errors = _planned_drift(policy, looks) * _student_ratio(policy, needed)
        variance = (2 if served else 1) * sigma**2
        needed = min(max(variance * (errors / margin) ** 2, LEAST_UNITS), MOST_UNITS) if margin > 0 else MOST_UNITS
        windows = math.ceil(min(needed / per_day / traffic.window_days, MOST_DAYS)) if per_day > 0 else MOST_DAYS
        if looks >= min(windows, MOST_LOOKS):
            break
        looks = min(windows, MOST_LOOKS)
    days = min(windows * traffic.window_days + traffic.label_delay_days, MOST_DAYS)
    value = traffic.usd_per_metric_unit
    return RolloutForecast(
        units=math.ceil(needed / (2 * (1 - share))) if served else math.ceil(needed),
        days=days,
        looks=looks,
        margin=margin,
        sigma=sigma,
        exposed_usd=None if value is None else value * margin * share * days,
        effective_units=needed if served else None,
    )


def _planned_drift(policy: VerdictPolicy, looks: int) -> float:
    """Distance of an equal challenger from the margin at the planned end, in standard errors."""
    power = float(scipy.special.ndtri(policy.power))
    if policy.method == "group_sequential":
        return drift_for_power(min(looks, INFLATING_LOOKS), policy.tail, policy.power)
    if policy.method == "confidence_sequence":
        return float(sequence_width(1.0, 2 * policy.tail)) + power
    return float(-scipy.special.ndtri(policy.tail)) + power


def _student_ratio(policy: VerdictPolicy, units: float) -> float:
    """How much wider one test is with the t distribution of this many units than with the normal one."""
    probabilities = np.array([1 - policy.tail, policy.power])
    student, normal = scipy.special.stdtrit(max(units - 1, 1), probabilities), scipy.special.ndtri(probabilities)
    return float(student.sum() / normal.sum())


def unit_sigma(low: float, high: float, units: int, confidence: float) -> float:
    """Standard deviation of one unit, from a metric's or gain's interval on `units` units.

    It is the 90 % upper confidence limit: with the estimate itself, every second rollout would be planned
    with too few units (Browne 1995, Statistics in Medicine 14:1933).
    """
    estimate = (high - low) / 2 / float(scipy.special.ndtri((1 + confidence) / 2)) * math.sqrt(units)
    freedom = max(units - 1, 1)
    return estimate * math.sqrt(freedom / float(scipy.special.chdtri(freedom, 1 - SIGMA_QUANTILE)))


def horizon_warning(forecast: RolloutForecast, max_days: float) -> str | None:
    """Say that the rollout is unlikely to reach a verdict in time; None if the forecast fits."""
    if forecast.days <= max_days:
        return None
    return (
        f"expect this rollout to end inconclusive: {forecast.units:,} units are needed to show a loss below the margin of "
        f"{forecast.margin:.4g}, about {forecast.days:,.0f} days, and max_days is {max_days:g}; "
        "widen the margin, raise the challenger's share or allow more days"
    )
