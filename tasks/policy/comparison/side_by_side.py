"""The verdict on two versions of somebody else's service: on the rows that both predicted, or between those of each."""

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
    """One look at the comparison of two versions of a service, on all labelled rows of both so far."""

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
    split: bool = False
    """Whether each version answered a part of the rows; else both predicted the same ones."""
    mismatch: str | None = None
    """Why the rows of a split are no random parts of the traffic, so that the versions cannot be compared."""
    answered_until: datetime | None = None
    """End of the last window that both versions answered. Labels of its rows can mature in later windows."""

    @property
    def is_decided(self) -> bool:
        return self.verdict is not None and self.verdict.conclusion != "undecided"

    def is_news_after(self, earlier: Sequence["SideBySide"]) -> bool:
        """Whether this is the first verdict, or the first look that shows that there can be none."""
        decided, unfit = any(look.is_decided for look in earlier), any(look.mismatch for look in earlier)
        return (self.is_decided and not decided) or (self.mismatch is not None and not unfit)


def judge_side_by_side(
    policy: VerdictPolicy, look: SideBySide, earlier: Sequence[SideBySide], margin: float, traffic: ExpectedTraffic
) -> SideBySide:
    """Return the look with its verdict; `margin` is the accepted loss, `earlier` are the looks before, oldest first.

    The first look with evidence plans how much a verdict needs, as validation does for a rollout. Two equal groups of n
    units have the standard error σ√(2/n).
    """
    if look.evidence is None:
        return look
    found = look.evidence
    plan = next((before.plan for before in earlier if before.plan is not None), None)
    if plan is None and not found.undefined:
        half = Z_95 * found.standard_error
        units, effective = found.units, found.effective_units
        if effective is None:
            traffic = replace(traffic, share=None)
        else:
            units = max(1, round(effective / 2))
        plan = forecast(policy, margin, unit_sigma(found.gain - half, found.gain + half, units, 0.95), traffic)
    if plan is None:
        return replace(look, reason=found.undefined)
    before = [each.evidence for each in earlier if each.evidence is not None]
    verdict = decide_verdict(policy, plan, before, found)
    return replace(look, plan=plan, verdict=verdict, reason=verdict.reason)
