"""The expected cost and gain of a retrain: from earlier retrains, and from the lead of a fresh model.

The gain is per day of service. With probes it is the mean lead of fresh probes over the champion's on the latest
windows. Without, it is the champion's loss on its latest windows above that of models when they were fresh. The best
past level is not used: it is partly luck, so every stable model would seem to gain from a retrain.
"""

import math
from collections.abc import Sequence
from statistics import fmean, variance

from scipy import stats

from tasks.policy.economics.costs import Amount, Budget, NetBenefit, forecast_cost, net_benefit
from tasks.policy.evidence.monitoring import History
from tasks.policy.statistics.intervals import Gain
from tasks.policy.triggers.base import Case
from tasks.policy.triggers.probe import known_columns, lead_of
from tasks.policy.triggers.series import excess_losses

LATEST = 5
"""Number of latest windows whose mean is the expected gain."""


def expected_cost(budget: Budget, history: History, grows: bool = True) -> Amount | None:
    """Expected USD of the next iteration; None before the first. `grows` means training on all history."""
    rows = history.training_rows + (history.rows_since_training if grows else 0)
    return forecast_cost(budget, history.usages, rows)


def expected_gain(case: Case, metric: str) -> Gain | None:
    """Lead of a fresh model in units of the metric, positive if better, with a 90 % interval; None while unknown."""
    since = case.history.champion_since
    columns = [column for column in known_columns(case) if since is None or column.window.start >= since]
    leads = [lead for column in columns if (lead := lead_of(column)) is not None]
    if leads:
        return _mean(leads[-LATEST:], ()) if len(leads) >= 2 else None
    found = excess_losses(case, metric)
    latest = [worse for _, worse in found.series][-LATEST:] if found else []
    return _mean(latest, found.fresh) if found and len(latest) >= 2 else None


def _mean(values: Sequence[float], level: Sequence[float]) -> Gain:
    """Mean of the values, with an interval that includes the uncertainty of the level they are measured from.

    Welch (1947), Biometrika 34:28; without a level, Student's interval.
    """
    parts = [(variance(part) / len(part), len(part) - 1) for part in (values, level) if part]
    mean, squared = fmean(values), sum(error for error, _ in parts)
    if not squared:
        return Gain(mean, mean, mean)
    freedom = squared**2 / sum(error**2 / own for error, own in parts)
    half = float(stats.t.ppf(0.95, freedom)) * math.sqrt(squared)
    return Gain(mean, mean - half, mean + half)


def expected_benefit(case: Case, metric: str, cost: Amount | None) -> NetBenefit | None:
    """Value minus cost over the budget's horizon; None if the value of the metric or the gain is not known."""
    gain = expected_gain(case, metric)
    return None if gain is None or cost is None else net_benefit(case.budget, gain, cost)


def describe(benefit: NetBenefit, budget: Budget) -> str:
    """Describe net benefit, its interval and the payback time in a sentence."""
    value, cost, net = benefit.value, benefit.cost, benefit.net
    back = "it never pays back" if benefit.payback_days is None else f"it pays back in {benefit.payback_days:.1f} days"
    return (
        f"a retrain now is expected to gain {value.usd:,.2f} USD ({value.low:,.2f} to {value.high:,.2f}) in "
        f"{budget.horizon_days:g} days and to cost {cost.usd:,.2f} USD: net {net.usd:,.2f} USD "
        f"({net.low:,.2f} to {net.high:,.2f}); {back}"
    )
