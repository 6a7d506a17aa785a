"""The cost of an iteration, the value of an improvement, and whether a retrain pays.

Costs are forecast from earlier iterations and measured afterwards. Values are money per unit of the primary metric and
day. A monthly limit is hard: it applies whatever the expected value. After a promotion the outcome is compared with its
forecast.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its submodules load on first use, so that reading a model's file does not wait for them
from pydantic import BaseModel, ConfigDict, Field

from tasks.policy.evidence.versions import Usage
from tasks.policy.statistics.intervals import Gain

HOUR_S = 3600
FIT_FROM = 3
"""Number of iterations from which cost is fitted on rows; with fewer the latest cost is scaled by rows."""


class Budget(BaseModel):
    """The cost of a retrain, the value of a better metric, and the monthly limit, in USD."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    compute_usd_per_hour: float = Field(0.1, ge=0, examples=[2.5])
    """Price of one hour in the work pool that trains."""
    cpu_usd_per_hour: float = Field(0.0, ge=0, examples=[0.05])
    """Price of one CPU hour, for pools that bill by use."""
    memory_usd_per_gb_hour: float = Field(0.0, ge=0, examples=[0.005])
    """Price of one GB of peak memory for one hour, for pools that bill memory separately."""
    usd_per_inference: float = Field(0.0, ge=0, examples=[0.0001])
    """Price of one prediction."""
    fixed_usd_per_retrain: float = Field(0.0, ge=0, examples=[30])
    """Fixed cost of a retrain, such as review and rollout."""
    oversight_usd_per_day: float = Field(0.0, ge=0, examples=[400])
    """Cost of a person who watches a rollout, per day."""
    oversight_days_per_retrain: float = Field(0.0, ge=0, examples=[0.5])
    """Days for which a rollout is watched."""
    value_usd_per_metric_unit_per_day: float | None = Field(None, ge=0, examples=[9.2])
    """Value of one unit of the primary metric per day of service. Default: unknown."""
    horizon_days: float = Field(30.0, gt=0, examples=[60])
    """Days for which an improvement is expected to last."""
    max_usd_per_month: float | None = Field(None, ge=0, examples=[200])
    """Refuse a retrain that would exceed this sum in 30 days. Default: no limit."""


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of money in USD with its 90 % bounds."""

    usd: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class NetBenefit:
    """Value minus cost over a horizon; `payback_days` is None if it never pays back."""

    value: Amount
    cost: Amount
    net: Amount
    payback_days: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a promotion: its realised value so far compared with the forecast for the same number of days."""

    days: float
    realised_usd: Amount
    forecast_usd: float
    cost_usd: float
    verdict: str
    reason: str


def measured_cost(budget: Budget, usage: Usage) -> float:
    """USD of one iteration: machine time, memory, predictions, oversight and fixed cost."""
    hours = usage.wall_s / HOUR_S
    machine = hours * budget.compute_usd_per_hour + usage.cpu_s / HOUR_S * budget.cpu_usd_per_hour
    memory = hours * usage.peak_memory_mb / 1000 * budget.memory_usd_per_gb_hour
    return machine + memory + usage.inferences * budget.usd_per_inference + _fixed(budget)


def _fixed(budget: Budget) -> float:
    return budget.fixed_usd_per_retrain + budget.oversight_usd_per_day * budget.oversight_days_per_retrain


def forecast_cost(budget: Budget, past: Sequence[Usage], rows: int) -> Amount | None:
    """Forecast USD of an iteration on `rows` rows from earlier ones; None before the first.

    From three iterations with different row counts on: least squares on rows, with Student's prediction interval
    (Draper & Smith 1998, 1.4). Before that the latest cost is scaled by rows, with bounds of half and twice that.
    """
    if not past:
        return None
    fixed = _fixed(budget)
    sizes = np.array([usage.rows for usage in past], float)
    prices = np.array([measured_cost(budget, usage) - fixed for usage in past])
    spread = float(((sizes - sizes.mean()) ** 2).sum())
    if len(past) < FIT_FROM or spread == 0:
        scaled = float(prices[-1]) * (rows / float(sizes[-1]) if sizes[-1] else 1.0)
        return Amount(fixed + scaled, fixed + scaled / 2, fixed + scaled * 2)
    slope, intercept = np.polyfit(sizes, prices, 1)
    freedom = len(past) - 2
    noise = float(((prices - slope * sizes - intercept) ** 2).sum()) / freedom
    error = math.sqrt(noise * (1 + 1 / len(past) + (rows - sizes.mean()) ** 2 / spread))
    price, half = max(0.0, float(slope * rows + intercept)), float(scipy.stats.t.ppf(0.95, freedom)) * error
    return Amount(fixed + price, fixed + max(0.0, price - half), fixed + price + half)


def net_benefit(
    budget: Budget, gain: Gain, cost: Amount, days: float | None = None, other_usd: float = 0.0
) -> NetBenefit | None:
    """Value minus cost of a gain (in units of the metric, positive if better); None if no value per unit is set.

    `other_usd` is a one-time benefit, such as customers retained or a penalty avoided. Bounds of value and cost are
    combined as independent.
    """
    if budget.value_usd_per_metric_unit_per_day is None:
        return None
    days = budget.horizon_days if days is None else days
    per_unit = budget.value_usd_per_metric_unit_per_day * days
    value = Amount(*(per_unit * bound + other_usd for bound in gain))
    net = value.usd - cost.usd
    down = math.hypot(value.usd - value.low, cost.high - cost.usd)
    up = math.hypot(value.high - value.usd, cost.usd - cost.low)
    per_day = value.usd / days
    return NetBenefit(value, cost, Amount(net, net - down, net + up), cost.usd / per_day if per_day > 0 else None)


def expected_cost_usd(budget: Budget, forecast_usd: float | None) -> float:
    """The forecast, or the fixed cost if there is none."""
    return _fixed(budget) if forecast_usd is None else forecast_usd


def over_budget(budget: Budget, spent_usd_this_month: float, cost_usd: float | None) -> str | None:
    """Why the monthly limit refuses a retrain, else None. An unknown cost counts as the fixed cost."""
    if budget.max_usd_per_month is None:
        return None
    expected = expected_cost_usd(budget, cost_usd)
    if spent_usd_this_month + expected <= budget.max_usd_per_month:
        return None
    return (
        f"the budget of {budget.max_usd_per_month:,.2f} USD a month refuses: {spent_usd_this_month:,.2f} USD are spent "
        f"and this retrain is expected to cost {expected:,.2f} USD"
    )


@dataclass(frozen=True, slots=True)
class BudgetCheck:
    """Whether a retrain is within budget: USD spent in 30 days, USD that it is forecast to cost, and any refusal."""

    spent_usd: float
    cost_usd: float | None
    """None before a first retrain."""
    refusal: str | None
    """Why the model's own budget or the shared one refuses; None if both allow it."""


def score_outcome(
    budget: Budget, forecast: NetBenefit | None, gains: Sequence[tuple[Gain, float]], cost_usd: float
) -> Outcome:
    """Compare a promotion's realised value with its cost. `gains` are over the replaced champion, each with days.

    Gains are weighted by days of service; the bounds of windows are combined as independent. `paid` requires the entire
    interval to be above the cost.
    """
    price = budget.value_usd_per_metric_unit_per_day or 0.0
    days = sum(served for _, served in gains)
    brought = price * sum(gain.gain * served for gain, served in gains)
    down = price * math.hypot(*((gain.gain - gain.low) * served for gain, served in gains))
    up = price * math.hypot(*((gain.high - gain.gain) * served for gain, served in gains))
    realised = Amount(brought, brought - down, brought + up)
    expected = forecast.value.usd * days / budget.horizon_days if forecast else 0.0
    verdict = "paid" if realised.low >= cost_usd else "not paid" if realised.high < cost_usd else "open"
    reason = (
        f"{days:g} days after promotion it has brought {brought:,.2f} USD ({realised.low:,.2f} to {realised.high:,.2f}), "
        f"{expected:,.2f} USD were forecast and it cost {cost_usd:,.2f} USD: {verdict}"
    )
    return Outcome(days, realised, expected, cost_usd, verdict, reason)


def score_gains(gains: Sequence[tuple[Gain, float]], metric: str) -> Outcome:
    """The same without a value per unit: whether the model was better, in units of the metric."""
    days = sum(served for _, served in gains)
    mean = sum(gain.gain * served for gain, served in gains) / days
    down = math.hypot(*((gain.gain - gain.low) * served for gain, served in gains)) / days
    up = math.hypot(*((gain.high - gain.gain) * served for gain, served in gains)) / days
    verdict = "better" if mean - down > 0 else "worse" if mean + up < 0 else "open"
    reason = (
        f"{days:g} days after promotion its {metric} is better by {mean:.4g} ({mean - down:.4g} to {mean + up:.4g}) than "
        f"the replaced model's on the same rows: {verdict}; to express this in USD, set "
        "budget.value_usd_per_metric_unit_per_day"
    )
    return Outcome(days, Amount(0.0, 0.0, 0.0), 0.0, 0.0, verdict, reason)


@dataclass(frozen=True, slots=True)
class Request:
    """A model's request for a retrain from the shared budget."""

    model: str
    cost_usd: float
    net_usd: float | None
    """Expected value less cost; None where it is not known."""


def share_budget(requests: Sequence[Request], budget_usd: float) -> dict[str, str | None]:
    """Requests that a shared budget grants (None), and why it refuses the others.

    It grants the affordable set with the largest net benefit, exactly: a 0/1 knapsack by integer programming, not the
    greedy order. Requests with unknown benefit are granted from the rest, in their order.
    """
    answers: dict[str, str | None] = {
        request.model: f"the expected net benefit is {request.net_usd:,.2f} USD, so it would not pay"
        for request in requests
        if request.net_usd is not None and request.net_usd <= 0
    }
    granted = _best_set(
        [request for request in requests if request.model not in answers and request.net_usd], budget_usd
    )
    left = budget_usd - sum(request.cost_usd for request in granted)
    for request in requests:
        if request.net_usd is None and request.cost_usd <= left:
            granted.append(request)
            left -= request.cost_usd
    for request in requests:
        brings = "" if request.net_usd is None else f"; this one is expected to bring {request.net_usd:,.2f} USD"
        refusal = (
            f"{request.cost_usd:,.2f} USD do not fit into the shared budget of {budget_usd:,.2f} USD alongside retrains "
            f"that bring more{brings}"
        )
        answers.setdefault(request.model, None if request in granted else refusal)
    return answers


def _best_set(worthwhile: Sequence[Request], budget_usd: float) -> list[Request]:
    if not worthwhile:
        return []
    chosen = scipy.optimize.milp(
        [-(request.net_usd or 0.0) for request in worthwhile],
        constraints=scipy.optimize.LinearConstraint([request.cost_usd for request in worthwhile], ub=budget_usd),
        integrality=1,
        bounds=scipy.optimize.Bounds(0, 1),
        options={"mip_rel_gap": 0.0},  # the default stops within 1e-4 of the optimum
    ).x
    return [request for request, share in zip(worthwhile, chosen, strict=True) if round(share)]
