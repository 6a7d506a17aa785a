"""Decide whether a fresh champion is rolled back: worse in service than at validation, and worse than its predecessor.

The cheap check comes first: is its realised metric worse than validation predicted, by more than the margin that
validation accepts? With drifting data that alone proves nothing, because the previous champion may have worsened as
well. So both models predict the same rows, served since the promotion and unseen by both. The champion is degraded if
the entire paired interval of its gain is below minus the margin. Each of the first `probation_windows` windows is one
look, and the level of the interval is divided among them (Bonferroni), so a sound champion is rolled back with a
probability of at most 5 % / 2.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from tasks.policy.records.base import Window
from tasks.policy.records.reports import MetricValue
from tasks.policy.rollout.validation import Comparison, PromotionPolicy, ValidationPolicy, seen_before
from tasks.policy.triggers.schedule import LATE

FALSE_ALARMS = 0.05
"""Two-sided level shared by all looks; only the lower side causes a rollback."""


@dataclass(frozen=True, slots=True)
class Degradation:
    """A fresh champion that must be rolled back, and why."""

    champion: str
    previous: str
    at: datetime
    reasons: tuple[str, ...]


def confidence_per_look(policy: PromotionPolicy) -> float:
    """Confidence level of the interval at each look."""
    return 1 - FALSE_ALARMS / max(1, policy.probation_windows)


def probation(
    policy: PromotionPolicy, since: datetime | None, as_of: datetime, window_days: float, label_delay: timedelta
) -> Window | None:
    """The champion's time in service; None if it is not on probation or no window's labels are due."""
    if since is None or policy.probation_windows == 0:
        return None
    labelled_until = as_of - label_delay
    looks = math.ceil((labelled_until - since) / timedelta(days=window_days) - LATE)
    return Window(since, as_of) if 1 <= looks <= policy.probation_windows else None


def is_below_forecast(realised: MetricValue, forecast: float, margin: float) -> bool:
    """Whether the realised value is worse than the validation's, by more than the margin."""
    gain = realised.value - forecast if realised.higher_is_better else forecast - realised.value
    return gain < -margin


def decide_degradation(
    policy: ValidationPolicy, comparison: Comparison, realised: MetricValue, forecast: float, at: datetime
) -> Degradation | None:
    """Judge the fresh champion (as challenger) against the previous one on the same rows; None if it stays."""
    previous, difference = comparison.champion, comparison.primary
    if previous is None or difference is None or comparison.faults or seen_before(comparison):
        return None
    if comparison.rows < policy.min_rows or not math.isfinite(difference.high):
        return None
    if not is_below_forecast(realised, forecast, policy.margin(realised.name, forecast)):
        return None
    accepted = policy.margin(difference.name, difference.champion)
    if difference.high >= -accepted:
        return None
    champion = comparison.challenger.version
    reasons = (
        f"champion {champion} loses {-difference.gain:.4g} {difference.name} against version {previous.version}, which "
        f"it replaced, on the same {difference.rows} rows served since then (gain {difference.low:+.4g} to "
        f"{difference.high:+.4g}, accepted -{accepted:.4g})",
        f"{realised.name} is {realised.value:.4g} in service; validation measured {forecast:.4g}",
    )
    return Degradation(champion, previous.version, at, reasons)
