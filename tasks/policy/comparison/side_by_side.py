"""The verdict on a version that predicts beside the champion of somebody else's service, on the rows that both predicted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from tasks.policy.comparison.evidence import Evidence
from tasks.policy.comparison.plan import ExpectedTraffic, RolloutForecast, VerdictPolicy, forecast, unit_sigma
from tasks.policy.comparison.verdict import RolloutVerdict, decide_verdict
from tasks.policy.records.base import Window

Z_95 = 1.96
"""Half-width of a two-sided 95 % interval in standard errors."""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """One look at the comparison of two versions of a service, on all labelled rows that both predicted so far."""

    comparison: str
    """Id of the comparison, the same for all its looks."""
    champion: str
    challenger: str
    window: Window
    at: datetime
    evidence: Evidence | None = None
    plan: RolloutForecast | None = None
    """What the verdict needs, planned at the first look with evidence."""
    verdict: RolloutVerdict | None = None
    reason: str = ""
    """The verdict, or why there is none, in one sentence."""

    @property
    def is_decided(self) -> bool:
        return self.verdict is not None and self.verdict.conclusion != "undecided"


def judge_side_by_side(
    policy: VerdictPolicy, look: SideBySide, earlier: Sequence[SideBySide], margin: float, traffic: ExpectedTraffic
) -> SideBySide:
    """Return the look with its verdict; `margin` is the accepted loss, `earlier` are the looks before, oldest first.

    The first look with evidence plans how much a verdict needs, as validation does for a rollout.
    """
    if look.evidence is None:
        return look
    found = look.evidence
    plan = next((before.plan for before in earlier if before.plan is not None), None)
    if plan is None and not found.undefined:
        half = Z_95 * found.standard_error
        plan = forecast(policy, margin, unit_sigma(found.gain - half, found.gain + half, found.units, 0.95), traffic)
    if plan is None:
        return replace(look, reason=found.undefined)
    before = [each.evidence for each in earlier if each.evidence is not None]
    verdict = decide_verdict(policy, plan, before, found)
    return replace(look, plan=plan, verdict=verdict, reason=verdict.reason)
