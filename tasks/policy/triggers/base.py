"""The interface of a trigger: user-written settings, a judgement of one case, and a description.

A trigger decides whether a retrain is worth requesting. Cooldown, caps, budget and minimum sample sizes
(`decision/retraining.py`) can block the request. To add a trigger, write one class: `combinators.py` finds it in any
module of this package.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, get_args

from tasks.policy.economics.costs import Budget
from tasks.policy.evidence.monitoring import History, WindowEvidence
from tasks.policy.records.base import Settings
from tasks.policy.records.errors import PerennialError, TriggerError
from tasks.policy.records.text import raised


@dataclass(frozen=True, slots=True)
class Case:
    """All inputs of a trigger."""

    evidence: WindowEvidence
    history: History
    as_of: datetime
    min_rows: int
    min_labelled_rows: int
    budget: Budget = field(default_factory=Budget)
    cost_usd: float | None = None
    """Expected cost of a retrain; None while unknown."""


@dataclass(frozen=True, slots=True)
class TriggerResult:
    """The result of one trigger. `triggers` names the leaves that hold; reasons and would_change are sentences."""

    holds: bool
    reasons: tuple[str, ...]
    would_change: tuple[str, ...]
    triggers: tuple[str, ...] = ()
    go_back_to: str | None = None
    """An earlier version that performs better than the champion, where no retrain is requested."""
    details: tuple[str, ...] = ()
    """The policy's own numbers, in sentences: shown last, collapsed."""


class Trigger(Settings):
    """One kind of condition. A subclass names itself by `trigger: Literal[...]`, its docstring and an `example`."""

    if TYPE_CHECKING:
        # Not a Pydantic field: a base class's fields come first in the JSON, whose hash is part of decision ids.
        trigger: str

    example: ClassVar[str]
    """As a model's file may write it."""
    judges_performance: ClassVar[bool] = False
    """Whether it holds because the model performs badly; a timer, for example, does not."""
    needs_probes: ClassVar[bool] = False
    """Whether it is judged by probes, which are trained only for models that have such a trigger."""

    @abstractmethod
    def judge(self, case: Case) -> TriggerResult:
        """Decide whether the trigger holds for the case, with reasons and what would change the result."""

    def decide(self, case: Case) -> TriggerResult:
        """Judge a case. Raises TriggerError, which names the class, if one of the user's own raises or returns something else."""
        if not self.is_own:
            return self.judge(case)
        name, window = f"{type(self).__module__}:{type(self).__name__}", case.evidence.window.name
        try:
            result = self.judge(case)
        except PerennialError:
            raise
        except Exception as error:
            raise TriggerError(
                f"retraining: trigger {name}: judge {raised(error)} in {window}; expected a "
                "TriggerResult, also where a report or a metric of the case is None"
            ) from error
        if not isinstance(result, TriggerResult):
            raise TriggerError(
                f"retraining: trigger {name}: judge returned {type(result).__name__} in {window}, expected a TriggerResult; "
                "return self.result(holds, reason)"
            )
        return result

    @property
    def is_own(self) -> bool:
        """Whether the class is the user's own."""
        return not type(self).__module__.startswith("tasks.policy.")

    @abstractmethod
    def describe(self) -> str:
        """Describe the settings as a clause that follows `retrains when`."""

    def leaves(self) -> Iterator["Trigger"]:
        """Yield the triggers that are not groups, in the order of the YAML."""
        yield self

    def metrics(self) -> tuple[str, ...]:
        """The metrics that it refers to."""
        return ()

    @classmethod
    def kind(cls) -> str:
        """The value of `trigger` in a model's file."""
        return str(get_args(cls.model_fields["trigger"].annotation)[0])

    @classmethod
    def documentation(cls) -> tuple[str, str, str]:
        """Kind, meaning and example: the trigger's row in the settings README."""
        return cls.kind(), " ".join((cls.__doc__ or "").split()), cls.example

    def result(self, holds: bool, reason: str, would_change: str = "") -> TriggerResult:
        """Result of a leaf: one reason, and the sentence on what would change it."""
        holds = bool(holds)  # comparing NumPy numbers gives a np.bool, which the ledger cannot store
        return TriggerResult(
            holds, (reason,), (would_change,) if would_change else (), (self.trigger,) if holds else ()
        )
