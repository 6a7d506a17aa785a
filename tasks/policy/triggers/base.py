"""What every trigger is: settings that a person writes, whether they hold for a case, and what they mean in words.

A trigger says when retraining is worth asking for. Cooldown, caps, budget and sample floors (`decision/retraining.py`)
say when not, whatever it says. To add one, write one class: `combinators.py` finds it in any module of this package.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, get_args

from tasks.policy.economics.costs import Budget
from tasks.policy.records.base import Settings
from tasks.policy.records.evidence import History, WindowEvidence


@dataclass(frozen=True, slots=True)
class Case:
    """All that a trigger may look at."""

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
    """One trigger, judged. `triggers` names the leaves that hold; reasons and would_change are sentences."""

    holds: bool
    reasons: tuple[str, ...]
    would_change: tuple[str, ...]
    triggers: tuple[str, ...] = ()
    go_back_to: str | None = None
    """An earlier version that serves better than the champion, where no retrain is asked for."""


class Trigger(Settings):
    """One kind of condition. A subclass names itself by `trigger: Literal[...]`, its docstring and an `example`."""

    if TYPE_CHECKING:
        # No field for Pydantic: fields of a base come first in the JSON, whose hash is part of decision ids.
        trigger: str

    example: ClassVar[str]
    """As a model's file may write it."""
    judges_performance: ClassVar[bool] = False
    """Whether it says that the model performs badly; a timer says nothing of that."""
    needs_probes: ClassVar[bool] = False
    """Whether it is judged by probes, which are trained only for models that have such a trigger."""

    @abstractmethod
    def judge(self, case: Case) -> Finding:
        """Whether it holds for the case, why, and what would change that."""

    @abstractmethod
    def describe(self) -> str:
        """The settings as a clause that follows `retrains when`."""

    def leaves(self) -> Iterator["Trigger"]:
        """The triggers that are no groups, in the order of the YAML."""
        yield self

    def metrics(self) -> tuple[str, ...]:
        """The metrics that it names."""
        return ()

    @classmethod
    def kind(cls) -> str:
        """The value of `trigger` in a model's file."""
        return str(get_args(cls.model_fields["trigger"].annotation)[0])

    @classmethod
    def documentation(cls) -> tuple[str, str, str]:
        """The row of the settings' README: kind, meaning, example."""
        return cls.kind(), " ".join((cls.__doc__ or "").split()), cls.example

    def finding(self, holds: bool, reason: str, would_change: str = "") -> Finding:
        """What a leaf found: one reason, and the sentence that would change it."""
        holds = bool(holds)  # comparing NumPy numbers gives a NumPy truth value, which no ledger can hold
        return Finding(holds, (reason,), (would_change,) if would_change else (), (self.trigger,) if holds else ())
