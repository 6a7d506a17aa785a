"""What a condition may look at and what comes of it: the case and the finding, shared by every kind of trigger."""

from dataclasses import dataclass, field
from datetime import datetime

from tasks.policy.economics.costs import Budget
from tasks.policy.records.evidence import History, WindowEvidence


@dataclass(frozen=True, slots=True)
class Case:
    """All that a condition may look at."""

    evidence: WindowEvidence
    history: History
    as_of: datetime
    min_rows: int
    min_labelled_rows: int
    budget: Budget = field(default_factory=Budget)
    cost_usd: float | None = None
    """What a retrain is expected to cost; None while unknown."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One condition, judged. `triggers` names the leaves that hold; reasons and would_change are sentences."""

    holds: bool
    reasons: tuple[str, ...]
    would_change: tuple[str, ...]
    triggers: tuple[str, ...] = ()
    go_back_to: str | None = None
    """An earlier version that serves better than the champion, where no retrain is asked for."""
    details: tuple[str, ...] = ()
    """The policy's own figures, in sentences: shown last, folded."""


def one_finding(trigger: str, holds: bool, reason: str, would_change: str) -> Finding:
    """The finding of a leaf."""
    holds = bool(holds)  # comparing NumPy numbers gives a NumPy truth value, which no ledger can hold
    return Finding(holds, (reason,), (would_change,) if would_change else (), (trigger,) if holds else ())
