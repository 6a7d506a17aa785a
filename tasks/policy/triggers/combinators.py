"""Groups of conditions, and the union of all kinds that a model's file can name.

Only some conditions can change a group's result: those that hold, while the group holds; those that do not, while it
does not. If one of them is enough to change it, each gets its own sentence. If several must change, one sentence lists
them.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import reduce
from importlib import import_module
from operator import or_
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidatorFunctionWrapHandler,
    WrapSerializer,
    WrapValidator,
    model_validator,
)

from tasks.policy import triggers
from tasks.policy.triggers.base import Case, Trigger, TriggerResult


class Group(Trigger):
    """Several conditions that are judged together."""

    if TYPE_CHECKING:
        conditions: tuple["Condition", ...]  # not a Pydantic field, as `trigger` in the base

    @property
    @abstractmethod
    def needed(self) -> int:
        """The number of conditions that must hold."""

    def leaves(self) -> Iterator[Trigger]:
        for condition in self.conditions:
            yield from condition.leaves()

    def metrics(self) -> tuple[str, ...]:
        return tuple(metric for leaf in self.leaves() for metric in leaf.metrics())

    def judge(self, case: Case) -> TriggerResult:
        """Judge every condition; reasons of those that hold come first."""
        found = [condition.decide(case) for condition in self.conditions]
        held = sum(result.holds for result in found)
        ordered = sorted(found, key=lambda result: not result.holds)
        reasons = [reason for result in ordered for reason in result.reasons]
        if self.needed > 1:
            reasons.insert(0, f"{held} of {len(found)} conditions hold, {self.needed} are needed")
        back = next((each.go_back_to for each in found if each.go_back_to), None) if self.needed == 1 else None
        names = tuple(name for result in found for name in result.triggers)
        details = tuple(text for result in ordered for text in result.details)
        return TriggerResult(
            held >= self.needed, tuple(reasons), self._what_would_change(found, held), names, back, details
        )

    def _what_would_change(self, found: Sequence[TriggerResult], held: int) -> tuple[str, ...]:
        """Sentences any one of which would change the group's result."""
        holds = held >= self.needed
        turning = [each for each in zip(self.conditions, found, strict=True) if each[1].holds == holds]
        count = held - self.needed + 1 if holds else self.needed - held
        if count == 1:
            return tuple(text for _, result in turning for text in result.would_change)
        opening = f"would {'not ' if holds else ''}retrain "
        parts = [_part(condition, result, opening) for condition, result in turning]
        if count == len(parts):
            return (f"{opening}{' and '.join(parts)}, {'both' if count == 2 else 'all'} at once",)
        return (f"{opening}with {count} of these {len(parts)}: {'; '.join(parts)}",)


class AnyOf(Group):
    """At least one of the conditions holds."""

    example: ClassVar[str] = "{trigger: any_of, conditions: [{trigger: every, days: 30}, {trigger: drifted_share}]}"
    trigger: Literal["any_of"]
    conditions: tuple["Condition", ...] = Field(min_length=1)
    """The conditions that are combined."""

    @property
    def needed(self) -> int:
        return 1

    def describe(self) -> str:
        return " or ".join(condition.describe() for condition in self.conditions)


class AllOf(Group):
    """All of the conditions hold."""

    example: ClassVar[str] = "{trigger: all_of, conditions: [{trigger: every, days: 7}, {trigger: drifted_share}]}"
    trigger: Literal["all_of"]
    conditions: tuple["Condition", ...] = Field(min_length=1)
    """The conditions that are combined."""

    @property
    def needed(self) -> int:
        return len(self.conditions)

    def describe(self) -> str:
        return "(" + " and ".join(condition.describe() for condition in self.conditions) + ")"


class AtLeast(Group):
    """At least `n` of the conditions hold."""

    example: ClassVar[str] = (
        "{trigger: at_least, n: 2, conditions: [{trigger: every}, {trigger: drifted_share}, {trigger: new_rows}]}"
    )
    trigger: Literal["at_least"]
    n: int = Field(ge=1)
    """Conditions that must hold."""
    conditions: tuple["Condition", ...] = Field(min_length=1)
    """The conditions that are combined."""

    @model_validator(mode="after")
    def _can_hold(self) -> "AtLeast":
        if self.n > len(self.conditions):
            raise ValueError(
                f"n is {self.n} with {len(self.conditions)} conditions, expected n <= {len(self.conditions)}"
            )
        return self

    @property
    def needed(self) -> int:
        return self.n

    def describe(self) -> str:
        return f"at least {self.n} of: " + "; ".join(condition.describe() for condition in self.conditions)


def _part(condition: Trigger, result: TriggerResult, opening: str) -> str:
    """Phrase what would change one condition of several, to follow `opening`; name it if it gives no sentence."""
    if not result.would_change:
        return f"once {_named(condition)} {'no longer holds' if result.holds else 'holds'}"
    ways = " or ".join(text.removeprefix(opening) for text in result.would_change)
    several = isinstance(condition, Group) and any(word in ways for word in (" or ", " and ", "; "))
    return f"({ways})" if several else ways


def _named(condition: Trigger) -> str:
    names = [" of ".join((leaf.trigger, *leaf.metrics())) for leaf in condition.leaves()]
    return f"{condition.trigger} ({', '.join(names)})" if isinstance(condition, Group) else names[0]


def kinds(of: type[Trigger] = Trigger) -> tuple[type[Trigger], ...]:
    """Every kind of condition of this package, sorted by name; groups last.

    What was imported before, classes of the user among it, changes nothing.
    """
    found = [
        kind for each in of.__subclasses__() for kind in ((each,) if "trigger" in each.model_fields else kinds(each))
    ]
    ours = [kind for kind in found if kind.__module__.startswith(f"{triggers.__name__}.")]
    return tuple(sorted(ours, key=lambda kind: (issubclass(kind, Group), kind.kind())))


def _accept_own(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Accept a condition of the user's own class, which is no member of the union."""
    return value if isinstance(value, Trigger) and type(value) not in BUILT_IN else check(value)


def _write_own(value: Any, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
    return write(value) if type(value) in BUILT_IN else value.model_dump(mode=info.mode)


for _module in iter_modules(triggers.__path__, f"{triggers.__name__}."):
    import_module(_module.name)  # registers its kinds, so adding one touches only its own module

BUILT_IN = frozenset(kinds())
if TYPE_CHECKING:
    Condition = Trigger
else:
    Condition: Any = Annotated[
        reduce(or_, kinds()), Field(discriminator="trigger"), WrapValidator(_accept_own), WrapSerializer(_write_own)
    ]
    for _group in kinds(Group):
        _group.model_rebuild()
