"""Compare wanted definitions with those on the server: what would be created, changed and removed.

Both sides are flat lists of named definitions with plain JSON fields. The comparison is independent of Prefect, and a
snapshot test of the wanted side makes every change of a deployment a reviewed diff.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

Kind = Literal["work pool", "limit", "variable", "deployment", "schedule", "trigger", "automation"]
KINDS: tuple[Kind, ...] = ("work pool", "limit", "variable", "deployment", "schedule", "trigger", "automation")
SWITCHES = {
    "limit": "active",
    "deployment": "paused",
    "schedule": "active",
    "trigger": "enabled",
    "automation": "enabled",
}
"""For each kind, the field that a person can switch in the dashboard."""
LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Definition:
    """One definition, deployed or to be deployed. `identity` is its id on the server, empty if it has none."""

    kind: Kind
    name: str
    fields: dict[str, JsonValue]
    identity: str = ""

    @property
    def key(self) -> tuple[Kind, str]:
        return self.kind, self.name


@dataclass(frozen=True)
class Change:
    """One line of a plan."""

    verb: Literal["created", "changed", "removed"]
    definition: Definition
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        details = f": {'; '.join(self.details)}" if self.details else ""
        return f"{self.verb}  {self.definition.kind:<11} {self.definition.name}{details}"


def plan(wanted: Iterable[Definition], found: Iterable[Definition]) -> tuple[Change, ...]:
    """Return the changes that turn `found` into `wanted`, sorted by kind and name; empty if they are equal."""
    after = {definition.key: definition for definition in wanted}
    before = {definition.key: definition for definition in found}
    changes = []
    for key, definition in after.items():
        if key not in before:
            changes.append(Change("created", definition))
        elif before[key].fields != definition.fields:
            details = tuple(_differences(before[key].fields, definition.fields))
            changes.append(Change("changed", Definition(*key, definition.fields, before[key].identity), details))
    changes += [Change("removed", definition) for key, definition in before.items() if key not in after]
    return tuple(sorted(changes, key=lambda change: (KINDS.index(change.definition.kind), change.definition.name)))


def summary(wanted: Sequence[Definition], changes: Sequence[Change]) -> str:
    """Summarise the plan in one line: counts of changes, or that nothing has to change."""
    if changes:
        verbs = Counter(change.verb for change in changes)
        return ", ".join(f"{verbs[verb]} {verb}" for verb in ("created", "changed", "removed"))
    kinds = Counter(definition.kind for definition in wanted)
    return "nothing to change: " + ", ".join(
        f"{kinds[kind]} {kind}{'s' * (kinds[kind] != 1)}" for kind in KINDS if kinds[kind]
    )


def _differences(before: JsonValue, after: JsonValue, where: str = "") -> Iterator[str]:
    """Yield each leaf that differs, as `field before → after`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted({*before, *after}):
            yield from _differences(before.get(name), after.get(name), f"{where}.{name}" if where else name)
    elif before != after:
        yield f"{where} {_shown(before)} → {_shown(after)}"


def _shown(value: JsonValue) -> str:
    text = " ".join(str("none" if value is None else value).split())
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
