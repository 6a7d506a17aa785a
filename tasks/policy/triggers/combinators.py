"""Whether a group of conditions holds, and what would change that, from what was found of each condition.

Only conditions that stand on the group's present side can turn it: those that hold while it holds, those that are missing
while it does not. Where one of them is enough, each has a sentence of its own; where more must turn, one sentence names
them together.
"""

from collections.abc import Sequence

from tasks.policy.triggers.conditions import Condition, Group, leaves
from tasks.policy.triggers.result import Finding


def judge_group(group: Group, found: Sequence[Finding]) -> Finding:
    """`found` are the findings of the group's conditions, in their order. What holds stands first among the reasons."""
    needed = {"any_of": 1, "all_of": len(found)}.get(group.trigger, getattr(group, "n", 1))
    held = sum(finding.holds for finding in found)
    ordered = sorted(found, key=lambda finding: not finding.holds)
    reasons = [reason for finding in ordered for reason in finding.reasons]
    if needed > 1:
        reasons.insert(0, f"{held} of {len(found)} conditions hold, {needed} are needed")
    return Finding(
        holds=held >= needed,
        reasons=tuple(reasons),
        would_change=_what_would_change(group, found, held, needed),
        triggers=tuple(name for finding in found for name in finding.triggers),
        go_back_to=next((each.go_back_to for each in found if each.go_back_to), None) if needed == 1 else None,
        details=tuple(text for finding in ordered for text in finding.details),
    )


def _what_would_change(group: Group, found: Sequence[Finding], held: int, needed: int) -> tuple[str, ...]:
    """Sentences of which any one, come true, turns the group."""
    holds = held >= needed
    turning = [each for each in zip(group.conditions, found, strict=True) if each[1].holds == holds]
    count = held - needed + 1 if holds else needed - held
    if count == 1:
        return tuple(text for _, finding in turning for text in finding.would_change)
    opening = f"would {'not ' if holds else ''}retrain "
    parts = [_part(condition, finding, opening) for condition, finding in turning]
    if count == len(parts):
        return (f"{opening}{' and '.join(parts)}, {'both' if count == 2 else 'all'} at once",)
    return (f"{opening}with {count} of these {len(parts)}: {'; '.join(parts)}",)


def _part(condition: Condition, finding: Finding, opening: str) -> str:
    """What turns one condition of several, to be read after the opening; by its name where it says nothing itself."""
    if not finding.would_change:
        return f"once {_named(condition)} {'no longer holds' if finding.holds else 'holds'}"
    ways = " or ".join(text.removeprefix(opening) for text in finding.would_change)
    several = isinstance(condition, Group) and any(word in ways for word in (" or ", " and ", "; "))
    return f"({ways})" if several else ways


def _named(condition: Condition) -> str:
    names = [
        f"{leaf.trigger} of {metric}" if (metric := getattr(leaf, "metric", None)) else leaf.trigger
        for leaf in leaves(condition)
    ]
    return f"{condition.trigger} ({', '.join(names)})" if isinstance(condition, Group) else names[0]
