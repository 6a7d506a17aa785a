"""Moves the aliases of a model together or not at all, verified by loading through them.

What the aliases were is written down on the version that shall serve before anything moves, and read back from there:
a move that is killed half-way and run again would otherwise take its own half-done work for the state to return to.
The aliases are set in an order that leaves a serving champion at every step.
"""

import json
from collections.abc import Mapping
from dataclasses import replace

from prefect.transactions import Transaction, transaction

from tasks.adapters import ledger, registry
from tasks.adapters.evaluation import challenger as trial
from tasks.policy.records.errors import MoveFailed
from tasks.policy.rollout.versions import quarantined, why_not_move


def why_aliases_stay(model: str, aliases: Mapping[str, str], needs_previous: bool = False) -> str | None:
    """What must be set right before these aliases move, where others than Perennial moved them; None where nothing must."""
    return why_not_move(ledger.entries(model), replace(registry.state(model), aliases=aliases), needs_previous)


def was_rolled_back(model: str, number: str) -> bool:
    """Whether the ledger holds a rollback of this version, whatever its tags say."""
    return number in quarantined(ledger.entries(model))


def remembered(model: str, number: str, decision_id: str) -> dict[str, str]:
    """The aliases as they were before this decision's move to this version began, whether or not it was cut off."""
    before = noted(registry.tags(model, number), decision_id)
    return registry.aliases(model) if before is None else before


def noted(tags: Mapping[str, str], decision_id: str) -> dict[str, str] | None:
    """The aliases before this decision's move to the version with these tags; None where its last move was another one."""
    if tags.get("move_by") != decision_id:
        return None
    before: dict[str, str] = json.loads(tags["move_from"])
    return before


def begun(model: str, now: Mapping[str, str]) -> tuple[str, dict[str, str]] | None:
    """(the version, the aliases before) of a promotion that was cut off after its first alias; None where there is none.

    `previous` then names the champion itself, and the version it named is known only from what was written down. Where
    several moves were cut off and tell different versions, nobody knows which one it was.
    """
    champion = now.get(registry.CHAMPION)
    if champion is None or now.get(registry.PREVIOUS) != champion:
        return None
    cut_off = {
        number: json.loads(tags["move_from"])
        for number, tags in registry.all_tags(model).items()
        if tags.get("move_by") and tags["move_by"] not in (tags.get("promoted_by"), tags.get("restored_by"))
    }
    ours = [(number, before) for number, before in cut_off.items() if before.get(registry.CHAMPION) == champion]
    return ours[-1] if len({before.get(registry.PREVIOUS) for _, before in ours}) == 1 else None


def take_back(model: str, number: str, before: Mapping[str, str]) -> None:
    """Put back the one alias that a promotion had moved when it was cut off; run again, it begins anew."""
    registry.set_aliases(model, {registry.PREVIOUS: before.get(registry.PREVIOUS)})
    registry.tag(model, number, move_by="")


def move(
    model: str,
    decision_id: str,
    champion: str,
    before: Mapping[str, str],
    wanted: Mapping[str, str | None],
    estimator: str | None = None,
) -> None:
    """Set `wanted`, load the champion through its alias; any failure puts the aliases back to `before`.

    `before` is passed in and never read in here; `estimator` is the configured one (`version_files.load_scorer`).
    Raises MoveFailed, or what the registry raised, after putting back.
    """
    registry.tag(model, champion, move_from=json.dumps(dict(before)))
    registry.tag(model, champion, move_by=decision_id)

    def put_back(_: Transaction) -> None:
        registry.set_aliases(model, {alias: before.get(alias) for alias in wanted})
        registry.tag(model, champion, move_by="")

    with transaction() as moved:
        _still_ours(model, before, wanted)
        moved.stage(dict(before), on_rollback_hooks=[put_back])
        registry.set_aliases(model, wanted)
        serving = registry.version(model, registry.CHAMPION)
        fault = None if serving.version == champion else f"the alias leads to version {serving.version}"
        fault = fault or trial.smoke_test(serving, estimator)
        if fault:
            raise MoveFailed(f"{model}: version {champion} does not serve as champion, putting back: {fault}")


def _still_ours(model: str, before: Mapping[str, str], wanted: Mapping[str, str | None]) -> None:
    """Each alias is where it was, or already where this move puts it; else somebody else has moved it."""
    now = registry.aliases(model)
    moved = [alias for alias in wanted if now.get(alias) not in (before.get(alias), wanted[alias])]
    if moved:
        raise MoveFailed(
            f"{model}: {', '.join(moved)} was moved by somebody else meanwhile (now {now}); nothing was changed; "
            "look at who serves and decide again"
        )
