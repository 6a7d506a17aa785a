"""Triggers on drift of the features: the largest shift of a mean, and the share of drifted features.

A report with too few rows never triggers.
"""

import math
from typing import ClassVar, Literal

from pydantic import Field

from tasks.policy.records.reports import DriftReport
from tasks.policy.statistics.numbers import beside
from tasks.policy.triggers.base import Case, Trigger, TriggerResult


class MeanShift(Trigger):
    """The mean of a feature has moved by more than `sigma` standard deviations of the reference."""

    example: ClassVar[str] = "{trigger: mean_shift, sigma: 3}"
    trigger: Literal["mean_shift"]
    sigma: float = Field(3.0, gt=0)
    """Limit of the shift, in standard deviations of the reference."""

    def describe(self) -> str:
        return f"the mean of a feature shifts by more than {self.sigma:g} σ"

    def judge(self, case: Case) -> TriggerResult:
        drift, missing = _drift(case)
        would_retrain = f"would retrain at a mean shift > {self.sigma:g} σ in any feature"
        if drift is None:
            return self.result(False, f"mean shift: {missing}", would_retrain)
        shifts = [
            (abs(feature.mean_shift_sigma), feature.feature)
            for feature in drift.features
            if (feature.verdict != "insufficient" or feature.is_underpowered)
            and feature.mean_shift_sigma is not None
            and not math.isnan(feature.mean_shift_sigma)
        ]
        if not shifts:
            return self.result(False, "mean shift: no feature has a mean that can be compared", would_retrain)
        worst, name = max(shifts)
        holds = worst > self.sigma
        count = sum(shift > self.sigma for shift, _ in shifts)
        reason = (
            f"the mean of {name} moved by {beside(worst, self.sigma, 2, 'f')} reference σ, the largest shift "
            f"of {len(shifts)} features; {count} past the limit of {self.sigma:g} σ"
        )
        would_not_retrain = f"would not retrain at a mean shift ≤ {self.sigma:g} σ in every feature"
        return self.result(holds, reason, would_not_retrain if holds else would_retrain)


class DriftedShare(Trigger):
    """At least this share of the features drifted."""

    example: ClassVar[str] = "{trigger: drifted_share, share: 0.3}"
    trigger: Literal["drifted_share"]
    share: float = Field(0.3, gt=0, le=1)
    """Smallest share of drifted features that triggers."""

    def describe(self) -> str:
        return f"{self.share:.0%} of the features drift"

    def judge(self, case: Case) -> TriggerResult:
        drift, missing = _drift(case)
        limit = f"{100 * self.share:g}%"
        would_retrain = f"would retrain at a share of drifted features ≥ {limit}"
        if drift is None:
            return self.result(False, f"drift: {missing}", would_retrain)
        count = sum(feature.verdict == "drifted" for feature in drift.features)
        failed = drift.failed_as_drifted
        holds = drift.drifted_share >= self.share or bool(failed)
        weighed = " by importance" if any(feature.importance for feature in drift.features) else ""
        reason = (
            f"{count} of {len(drift.features)} features drifted, a share of "
            f"{beside(drift.drifted_share, self.share, 0, '%')}{weighed}; the limit is {limit}"
        )
        if failed:
            reason += f"; failed tests of drift.evidently that count as drift: {len(failed)}"
        if drift.unknown_tests:
            reason += f"; such tests that were not computed and count neither way: {len(drift.unknown_tests)}"
        would_not_retrain = f"would not retrain at a share of drifted features < {limit}"
        return self.result(holds, reason, would_not_retrain if holds else would_retrain)


def _drift(case: Case) -> tuple[DriftReport | None, str]:
    """The drift report if it may trigger, else None and the reason."""
    drift = case.evidence.drift
    if drift is None:
        return None, "not measured in this window"
    if drift.rows < case.min_rows:
        return None, f"insufficient, {drift.rows} rows in {drift.window.name}, at least {case.min_rows} are needed"
    if not drift.is_conclusive:
        return None, f"insufficient, {'; '.join(drift.reasons[:2]) or f'{drift.rows} rows in {drift.window.name}'}"
    return drift, ""
