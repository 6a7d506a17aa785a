"""Decide between challenger and champion while the evidence is being collected, with a level that repeated looks keep.

The evidence is the gain on all labelled rows so far, with a standard error that respects clusters. Non-inferiority at the
margin comes first (Piaggio et al. 2012, JAMA 308:2594); superiority is reported, and a bound below zero stops the
challenger. Bounds are group-sequential by default, so most decisions fall before the planned end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

import scipy  # its submodules load on first use, so that reading a model's file does not wait for them

from tasks.policy.comparison.evidence import Evidence
from tasks.policy.comparison.plan import LEAST_UNITS, MOST_UNITS, RolloutForecast, VerdictPolicy
from tasks.policy.records.profile import LARGEST, bounded
from tasks.policy.statistics.group_sequential import WIDEST, boundaries, spending_looks
from tasks.policy.statistics.numbers import beside
from tasks.policy.statistics.resampling import skewed_quantile
from tasks.policy.statistics.sequential import sequence_width

Conclusion = Literal["non_inferior", "superior", "worse", "undecided"]


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
    days_left: float | None = None
    """Days until the planned end, at the pace of the looks so far; None before the first test."""


def decide_verdict(
    policy: VerdictPolicy, forecast: RolloutForecast, earlier: Sequence[Evidence], now: Evidence
) -> RolloutVerdict:
    """Judge the evidence of this look, given that of all `earlier` looks, oldest first.

    Only looks of the same kind count, with pairs or between served arms. A loss that is shown to lie within the margin is
    accepted, as at validation, even where it is significant. After the planned end no further test is made.
    """
    before = [look for look in earlier if look.paired == now.paired and look.until < now.until]
    looks = [look for look in before if _untestable(policy, forecast, look) is None]
    share, reason = _information(policy, forecast, now), _untestable(policy, forecast, now)
    if reason is not None:
        text = f"no verdict, {len(looks)} of {forecast.looks} looks: {reason}"
        return RolloutVerdict("undecided", -LARGEST, LARGEST, share, len(looks), forecast.looks, text)
    looks.append(now)
    tested, count, efficacy, harm = _widths(policy, forecast, looks)
    low = tested.gain - _quantile(policy, efficacy, tested) * tested.standard_error
    high = tested.gain - _quantile(policy, -harm, tested) * tested.standard_error
    conclusion: Conclusion = "undecided"
    if count and low > -forecast.margin:
        conclusion = "superior" if low > 0 else "non_inferior"
    elif count and high < 0:
        conclusion = "worse"
    verdict = RolloutVerdict(conclusion, bounded(low), bounded(high), share, count, forecast.looks, "")
    arrived = share - _information(policy, forecast, looks[0])
    pace = (now.until - looks[0].until) / timedelta(days=1) / arrived if arrived > 0 else forecast.days
    days = max(0.0, (1 - share) * pace)
    return replace(verdict, days_left=days, reason=_describe(verdict, forecast, tested, days))


def _information(policy: VerdictPolicy, forecast: RolloutForecast, evidence: Evidence) -> float:
    """Information as a share of the planned: the number of units or, where units return, what the standard error shows.

    A fleet of machines is complete on the first day, and yet each day adds information (Mehta & Tsiatis 2001, Drug
    Information Journal 35:1095). Days do not return. Rounded, so that rollouts with the same looks share a cache.
    """
    planned = forecast.units if forecast.effective_units is None else forecast.effective_units
    units = float(evidence.units) if evidence.effective_units is None else evidence.effective_units
    if policy.cluster == "unit" and evidence.repeated and evidence.standard_error > 0:
        ratio = min(forecast.sigma / evidence.standard_error, MOST_UNITS)  # its square must stay a number
        units = (1 if evidence.paired else 2) * ratio**2
    return round(units / planned, 6)


def _untestable(policy: VerdictPolicy, forecast: RolloutForecast, evidence: Evidence) -> str | None:
    """Why this evidence is not tested, else None. Such a look spends nothing of the level."""
    if not evidence.rows:
        return f"no traffic ({evidence.undefined})" if evidence.undefined else "no traffic"
    if evidence.undefined:
        return evidence.undefined
    if evidence.units < LEAST_UNITS:
        return f"{evidence.units} units, expected at least {LEAST_UNITS}"
    if evidence.standard_error == 0 and _information(policy, forecast, evidence) < 1:
        return f"both versions did equally well on each of {evidence.units:,} units"
    return None


def _widths(
    policy: VerdictPolicy, forecast: RolloutForecast, looks: Sequence[Evidence]
) -> tuple[Evidence, int, float, float]:
    """The look that decides, the number of looks tested, and the distances of both bounds in standard errors.

    The distances are those of `low` and of `high`, for a normal distribution.
    """
    information = [_information(policy, forecast, look) for look in looks]
    if policy.method == "confidence_sequence":
        width = float(sequence_width(information[-1], 2 * policy.tail))
        return looks[-1], len(looks), width, width
    if policy.method == "t_test":
        ended = next((place for place, amount in enumerate(information) if amount >= 1), None)
        if ended is None:
            return looks[-1], 0, WIDEST, WIDEST
        width = float(-scipy.special.ndtri(policy.tail))
        return looks[ended], 1, width, width
    tested = spending_looks(information)
    if not tested:
        return looks[-1], 0, WIDEST, WIDEST
    amounts = tuple(information[place] for place in tested)
    efficacy, harm = (boundaries(amounts, policy.tail, shape)[-1] for shape in ("obrien_fleming", "pocock"))
    return looks[tested[-1]], len(tested), efficacy, harm


def _quantile(policy: VerdictPolicy, normal: float, evidence: Evidence) -> float:
    """The value that the studentized gain exceeds as rarely as a normal one exceeds `normal`.

    Student's for few clusters and, except in the plain t-test, corrected for skewness.
    """
    student = normal
    if evidence.degrees_of_freedom is not None:
        tail = scipy.special.ndtr(-abs(normal))
        student = math.copysign(scipy.special.stdtrit(evidence.degrees_of_freedom, tail), normal)
    return student if policy.method == "t_test" else float(skewed_quantile(student, evidence.skewness))


def _describe(verdict: RolloutVerdict, forecast: RolloutForecast, tested: Evidence, days: float) -> str:
    """The verdict in one sentence; `days` is how long the rollout still takes."""
    look = f"look {verdict.look} of {max(verdict.look, verdict.planned_looks)}"
    gain = f"the gain is {tested.gain:.4g}"
    if verdict.conclusion == "worse":
        return f"worse at {look}: {gain} and at most {beside(verdict.high, 0)}, below 0 ({tested.units:,} units)"
    if verdict.conclusion == "superior":
        return f"superior at {look}: {gain} and at least {beside(verdict.low, 0)}, above 0 ({tested.units:,} units)"
    limit = -forecast.margin
    if verdict.conclusion == "non_inferior":
        low = beside(verdict.low, limit)
        return f"not inferior at {look}: {gain} and at least {low}, above {limit:.4g} ({tested.units:,} units)"
    bounds = (
        f"{gain} ({beside(verdict.low, limit)} to {beside(verdict.high, 0)}), its lower bound must exceed {limit:.4g}"
    )
    if verdict.information >= 1:
        return f"inconclusive, the planned {forecast.units:,} units are reached ({look}): {bounds}"
    done = look.removeprefix("look ")
    return f"inconclusive, {done} looks, about {days:,.0f} {'day' if round(days) == 1 else 'days'} to go: {bounds}"
