"""Decide between challenger and champion while the evidence is being collected, with a level that repeated looks keep.

The evidence is the gain on all labelled rows so far, with a standard error that respects clusters. Non-inferiority at the
margin comes first (Piaggio et al. 2012, JAMA 308:2594); superiority is reported, and a bound below zero stops the
challenger. Bounds are group-sequential by default, so most decisions fall before the planned end.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import scipy  # its submodules load on first use, so that reading a model's file does not wait for them
from numpy.typing import NDArray
from pydantic import Field, model_validator

from tasks.policy.records.base import Settings
from tasks.policy.records.profile import LARGEST, bounded
from tasks.policy.rollout.comparison import MatchedArms, ServedArm
from tasks.policy.statistics.group_sequential import WIDEST, boundaries, drift_for_power, spending_looks
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Metric, compute, row_losses
from tasks.policy.statistics.numbers import beside
from tasks.policy.statistics.resampling import Uncertainty, cluster_uncertainty, jackknife_uncertainty, skewed_quantile
from tasks.policy.statistics.sequential import sequence_width

Method = Literal["group_sequential", "confidence_sequence", "t_test"]
Conclusion = Literal["non_inferior", "superior", "worse", "undecided"]

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
    degrees_of_freedom: float | None = None
    """Degrees of freedom of the standard error; None for a normal distribution."""
    skewness: float = 0.0
    """Skewness of the gain's distribution, from that of the clusters."""
    effective_units: float | None = None
    """Units of each of two equal arms with the same information; None where it is `units`, as for pairs."""
    repeated: bool = False
    """Whether clusters have several rows; if they are units that return, their number does not measure the information."""
    undefined: str = ""
    """Why the gain or its standard error is unknown; their values are then 0."""


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


def why_not_paired(feedback: bool) -> str | None:
    """Why pairs are no evidence here, else None.

    If answers change what is observed, each row shows only the outcome under the served answer. The champion's own
    outcomes then judge the challenger.
    """
    if not feedback:
        return None
    return "answers can change the labels (rollout.feedback is true), so both versions must serve a part of the traffic"


def paired_evidence(
    metric: Metric, pairs: PairedPredictions, clusters: NDArray[np.generic], until: datetime
) -> Evidence:
    """The gain on rows that both models predicted; `clusters` (n,) is the unit or the day of each row.

    Means of rows have a cluster-robust standard error, other metrics that of a jackknife over groups of clusters.
    """
    if not len(pairs):
        return unknown_evidence(until, paired=True, reason="no labelled rows yet")
    sign = 1.0 if metric.higher_is_better else -1.0
    champion, challenger = (compute(metric, pairs.y_true, one) for one in (pairs.champion, pairs.challenger))
    gain, units = sign * (challenger - champion), len(np.unique(clusters))
    old, new = (row_losses(metric, pairs.y_true, one) for one in (pairs.champion, pairs.challenger))
    if old is not None and new is not None:
        found = cluster_uncertainty((sign * (new - old) - gain) / len(pairs), clusters)
    else:

        def gain_of(rows: NDArray[np.bool_]) -> float:
            part = pairs.where(rows)
            return sign * (compute(metric, part.y_true, part.challenger) - compute(metric, part.y_true, part.champion))

        found = jackknife_uncertainty(clusters, gain_of)
    evidence = Evidence(until, gain, found.standard_error, units, len(pairs), True, champion, challenger)
    return _with_uncertainty(evidence, found, repeated=units < len(pairs))


def served_evidence(metric: Metric, champion: ServedArm, challenger: ServedArm, until: datetime) -> Evidence:
    """The gain between the rows that each version answered, compared within windows.

    The share of the challenger may grow while the metric drifts, so the arms are weighted to the same mix of windows:
    n₁n₂/(n₁ + n₂) for each, which is best if rows vary alike (Mantel & Haenszel 1959). Windows in which a version has
    fewer than two clusters are left out. Degrees of freedom are those of Welch (1947), Biometrika 34:28.
    """
    arms = MatchedArms.of(champion, challenger)
    if not len(arms):
        return unknown_evidence(until, paired=False, reason="no window has labelled rows of both versions")
    values, losses = arms.values(metric), arms.row_losses(metric)
    sign = 1.0 if metric.higher_is_better else -1.0
    if losses is not None:
        found = arms.uncertainty(sign * losses)
    else:

        def gain_of(rows: NDArray[np.bool_]) -> float:
            champion_value, challenger_value = arms.values(metric, rows)
            return sign * (challenger_value - champion_value)

        found = jackknife_uncertainty(arms.clusters, gain_of)
    gain = sign * (values[1] - values[0])
    evidence = Evidence(until, gain, found.standard_error, arms.units, len(arms), False, *values)
    return replace(_with_uncertainty(evidence, found, arms.repeated), effective_units=arms.effective_units)


def unknown_evidence(until: datetime, paired: bool, reason: str) -> Evidence:
    """The evidence of a look without comparable rows."""
    return Evidence(until, 0.0, 0.0, 0, 0, paired, 0.0, 0.0, undefined=reason)


def _with_uncertainty(evidence: Evidence, found: Uncertainty, repeated: bool) -> Evidence:
    """The evidence with the shape of its error; undefined, with zeros, if JSON cannot hold its numbers."""
    evidence = replace(
        evidence, degrees_of_freedom=found.degrees_of_freedom, skewness=found.skewness, repeated=repeated
    )
    numbers = (evidence.gain, evidence.standard_error, evidence.champion, evidence.challenger)
    if all(map(math.isfinite, numbers)):
        return evidence
    champion, challenger = bounded(evidence.champion), bounded(evidence.challenger)
    reason = "the metric or its standard error is undefined on these rows"
    return replace(evidence, gain=0.0, standard_error=0.0, champion=champion, challenger=challenger, undefined=reason)


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
