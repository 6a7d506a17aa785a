"""The looks of a rollout on the scale of the gain: each with its interval, and the boundaries that end the comparison.

A gain is the challenger's improvement of the primary metric over the champion, in units of the metric; positive is
better, whatever the metric's direction. The intervals are sequential: they keep their level over all looks together
(Jennison & Turnbull 2000, "Group Sequential Methods", ch. 9).
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise

from tasks.policy.comparison.evidence import Evidence
from tasks.policy.comparison.plan import RolloutForecast
from tasks.policy.comparison.verdict import Conclusion, RolloutVerdict
from tasks.policy.records.profile import LARGEST
from tasks.policy.rollout.stages import RolloutPolicy
from tasks.policy.rollout.state import RolloutState
from tasks.policy.statistics.group_sequential import LEAST_STEP, boundaries

DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Boundary:
    """The gains that end a comparison at one time."""

    at: datetime
    passes_above: float
    """Gain from which the challenger passes: its interval is then above minus the margin."""
    harm_below: float
    """Gain below which traffic returns to the champion: the interval is then below 0, and the challenger did not pass."""

    @classmethod
    def of(cls, at: datetime, below: float, above: float, margin: float) -> "Boundary":
        """The boundary for an interval that reaches this far below and above the gain."""
        return cls(at, below - margin, min(-above, below - margin))


@dataclass(frozen=True, slots=True)
class LookPoint:
    """One look at the labelled rows: the gain with its interval, and the boundaries that it was compared with."""

    at: datetime
    look: int
    planned_looks: int
    gain: float
    low: float
    high: float
    boundary: Boundary
    standard_error: float
    information: float
    rows: int
    paired: bool
    """Whether both versions predicted the same rows; else the rows that each of them served are compared."""
    conclusion: Conclusion
    reason: str


def days_left(state: RolloutState) -> float | None:
    """Days until the planned information is reached: at the pace of the looks so far, before that as planned.

    None without a forecast.
    """
    planned = state.plan.forecast
    if planned is None:
        return None
    if state.verdict and state.verdict.days_left is not None:
        return state.verdict.days_left
    seen = state.looks[-1].at if state.looks else state.plan.started_at
    return max(0.0, planned.days - (seen - state.plan.started_at) / DAY)


def look_points(state: RolloutState) -> tuple[LookPoint, ...]:
    """The looks at which the gain was tested, oldest first; the others have no interval of their own."""
    found: list[LookPoint] = []
    for look in state.looks:
        evidence, judged = look.evidence, look.verdict
        if evidence is None or judged is None or state.plan.forecast is None or not _is_tested(evidence, judged):
            continue
        if not found or (found[-1].paired, found[-1].look) != (evidence.paired, judged.look):
            found.append(_point(look.at, evidence, judged, state.plan.forecast.margin))
    return tuple(found)


def _is_tested(evidence: Evidence, judged: RolloutVerdict) -> bool:
    bounded = max(abs(judged.low), abs(judged.high)) < LARGEST
    return judged.look > 0 and evidence.rows > 0 and not evidence.undefined and bounded


def _point(at: datetime, found: Evidence, judged: RolloutVerdict, margin: float) -> LookPoint:
    return LookPoint(
        at=at,
        look=judged.look,
        planned_looks=max(judged.look, judged.planned_looks),
        gain=found.gain,
        low=judged.low,
        high=judged.high,
        boundary=Boundary.of(at, found.gain - judged.low, judged.high - found.gain, margin),
        standard_error=found.standard_error,
        information=judged.information,
        rows=found.rows,
        paired=found.paired,
        conclusion=judged.conclusion,
        reason=judged.reason,
    )


def expected_boundaries(state: RolloutState, policy: RolloutPolicy) -> tuple[Boundary, ...]:
    """The boundaries at the looks that are left until the planned end, the latest look's first.

    Empty where they are not known: without a forecast, once the rollout ended, or by another method.
    """
    planned, left = state.plan.forecast, days_left(state)
    if not planned or not left or not state.is_active or policy.verdict.method != "group_sequential":
        return ()
    paired = state.evidence[-1].paired if state.evidence else True
    points = [point for point in look_points(state) if point.paired == paired and point.information > 0]
    known = [point.information for point in points] or [1 / planned.looks]
    if any(later - earlier < LEAST_STEP for earlier, later in pairwise([0.0, *known])) or known[-1] >= 1:
        return ()
    ahead = max(1, planned.looks - len(known))
    shares = [*known, *(known[-1] + (1 - known[-1]) * step / ahead for step in range(1, ahead + 1))]
    amounts = tuple(round(share, 6) for share in shares)
    efficacy, harm = (boundaries(amounts, policy.verdict.tail, shape) for shape in ("obrien_fleming", "pocock"))
    at = points[-1].at if points else state.plan.started_at + planned.days * known[-1] * DAY
    end = at + left * DAY if points else state.plan.started_at + planned.days * DAY
    error = points[-1].standard_error * math.sqrt(known[-1]) if points else _planned_error(planned)
    found = [points[-1].boundary] if points else []
    for share, passes, harms in list(zip(amounts, efficacy, harm, strict=True))[len(points) :]:
        when = at + (end - at) * ((share - known[-1]) / (1 - known[-1]))
        at_look = error / math.sqrt(share)
        found.append(Boundary.of(when, passes * at_look, harms * at_look, planned.margin))
    return tuple(found)


def _planned_error(planned: RolloutForecast) -> float:
    """Standard error of the gain at the planned information: of pairs, or of two arms."""
    if planned.effective_units is None:
        return planned.sigma / math.sqrt(planned.units)
    return planned.sigma * math.sqrt(2 / planned.effective_units)
