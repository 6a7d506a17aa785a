"""Whether retraining has answered what it was asked for; where it has not, a person is asked instead of training on.

A metric that stays past its limit through several retrains has another cause than an old model: labels or rows that changed
their meaning, a feature that is gone, a limit that cannot be reached.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from tasks.policy.records.evidence import Judgement
from tasks.policy.triggers.combinators import kinds

OF_THE_METRIC = frozenset(each.kind() for each in kinds() if each.judges_performance)
"""Triggers that say that the model performs badly; a timer says nothing of that."""


class Unresolved(NamedTuple):
    """Since when windows one after the other have been past the metric's limit, and how many retrains came since."""

    since: datetime
    retrains: int

    @property
    def sentence(self) -> str:
        return (
            f"{self.retrains} retrains since {self.since:%Y-%m-%d} have not cleared this: look at labels, features and the "
            "limit itself, another retrain is not likely to help"
        )


def unresolved(judgements: Sequence[Judgement], retrained_at: Sequence[datetime], after: int) -> Unresolved | None:
    """What the latest windows (oldest first) have been past for at least `after` retrains; None where they are not."""
    since = None
    for judgement in reversed(judgements):
        if not OF_THE_METRIC & set(judgement.decision.triggers):
            break
        since = judgement.evidence.window.start
    count = sum(moment > since for moment in retrained_at) if since else 0
    return Unresolved(since, count) if since and count >= after else None
