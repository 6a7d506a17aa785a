"""Decide whether retraining has solved the problem that triggered it; if not, action is required.

If a metric stays past its limit through several retrains, the cause is not the model's age: labels or rows with a
changed meaning, a missing feature, or a limit that cannot be reached.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.triggers.base import Trigger
from tasks.policy.triggers.combinators import kinds

PERFORMANCE_TRIGGERS = frozenset(each.kind() for each in kinds() if each.judges_performance)
"""Triggers of ours on the model's performance; a timer, for example, is not one."""


def performance_triggers(when: Trigger) -> frozenset[str]:
    """Names of the triggers on the model's performance: ours, and the user's own classes in `when`."""
    return PERFORMANCE_TRIGGERS | {leaf.trigger for leaf in when.leaves() if leaf.judges_performance}


class Unresolved(NamedTuple):
    """Start of the run of windows past the metric's limit, and the number of retrains since."""

    since: datetime
    retrains: int

    @property
    def sentence(self) -> str:
        return (
            f"{self.retrains} retrains since {self.since:%Y-%m-%d} have not solved this: check labels, features and the "
            "limit itself; another retrain is unlikely to help"
        )


def unresolved(
    judgements: Sequence[Judgement], retrained_at: Sequence[datetime], after: int, when: Trigger
) -> Unresolved | None:
    """The unresolved run of windows if it includes at least `after` retrains, else None. Judgements: oldest first."""
    names = performance_triggers(when)
    since = None
    for judgement in reversed(judgements):
        if not names & set(judgement.decision.triggers):
            break
        since = judgement.evidence.window.start
    count = sum(moment > since for moment in retrained_at) if since else 0
    return Unresolved(since, count) if since and count >= after else None
