"""Move a model's aliases as one transaction, verified by loading the champion through its alias.

The previous aliases are recorded as tags of the new champion before anything moves, and read back from there. Otherwise
a move that is killed and run again would restore its own half-finished state. The order in which aliases are set leaves
a serving champion at every step.
"""

import json
from collections.abc import Mapping
from dataclasses import replace

from prefect.transactions import Transaction, transaction

from tasks.adapters import ledger, registry
from tasks.adapters.evaluation import challenger as trial
from tasks.policy.records.errors import MoveFailed
from tasks.policy.rollout.versions import quarantined, why_not_move


def why_not_move_aliases(model: str, aliases: Mapping[str, str], needs_previous: bool = False) -> str | None:
    """Return what must be fixed before these aliases move, if someone else moved them; None if nothing must."""
    return why_not_move(ledger.entries(model), replace(registry.state(model), aliases=aliases), needs_previous)


def was_rolled_back(model: str, number: str) -> bool:
    """Whether the ledger holds a rollback of this version, whatever its tags are."""
    return number in quarantined(ledger.entries(model))


def aliases_before_move(model: str, number: str, decision_id: str) -> dict[str, str]:
    """Return the aliases before this decision's move to this version began, whether or not it was interrupted."""
    before = recorded_aliases(registry.tags(model, number), decision_id)
    return registry.aliases(model) if before is None else before


def recorded_aliases(tags: Mapping[str, str], decision_id: str) -> dict[str, str] | None:
    """Return the aliases before this decision's move, from the version's tags; None if another decision moved it last."""
    if tags.get("move_by") != decision_id:
        return None
    before: dict[str, str] = json.loads(tags["move_from"])
    return before


def interrupted_promotion(model: str, now: Mapping[str, str]) -> tuple[str, dict[str, str]] | None:
    """Find a promotion interrupted after its first alias: (new version, aliases before); None if there is none.

    In this state `previous` points to the champion itself, and only the recorded tags name the version before. The
    result is None as well if several interrupted moves recorded different ones.
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


def undo_interrupted_promotion(model: str, number: str, before: Mapping[str, str]) -> None:
    """Restore the one alias that an interrupted promotion had moved; the promotion can then be run again."""
    registry.set_aliases(model, {registry.PREVIOUS: before.get(registry.PREVIOUS)})
    registry.tag(model, number, move_by="")


def move(
    model: str,
    decision_id: str,
    before: Mapping[str, str],
    wanted: Mapping[str, str | None],
    imported: tuple[str, ...] = (),
) -> None:
    """Set the aliases `wanted` and load the champion through its alias; on any failure restore `before`.

    `wanted` names the champion; `before` is passed in, never read here. `estimator` is the configured one
    (`version_files.load_scorer`). Raises MoveFailed, or the registry's error, after restoring.
    """
    champion = wanted[registry.CHAMPION]
    if champion is None:
        raise ValueError(f"{model}: the move names no champion, expected the version that is to serve")
    registry.tag(model, champion, move_from=json.dumps(dict(before)))
    registry.tag(model, champion, move_by=decision_id)

    def restore(_: Transaction) -> None:
        registry.set_aliases(model, {alias: before.get(alias) for alias in wanted})
        registry.tag(model, champion, move_by="")

    with transaction() as moved:
        _check_not_moved(model, before, wanted)
        moved.stage(dict(before), on_rollback_hooks=[restore])
        registry.set_aliases(model, wanted)
        serving = registry.version(model, registry.CHAMPION)
        fault = None if serving.version == champion else f"the alias points to version {serving.version}"
        fault = fault or trial.smoke_test(serving, imported)
        if fault:
            raise MoveFailed(
                f"{model}: version {champion} cannot serve as champion, so the aliases are restored: {fault}"
            )


def _check_not_moved(model: str, before: Mapping[str, str], wanted: Mapping[str, str | None]) -> None:
    """Check that each alias is at its value before or after this move. Raises MoveFailed if someone else moved it."""
    now = registry.aliases(model)
    moved = [alias for alias in wanted if now.get(alias) not in (before.get(alias), wanted[alias])]
    if moved:
        raise MoveFailed(
            f"{model}: {', '.join(moved)} was moved by someone else in the meantime (now {now}); nothing was changed; "
            "check which version serves and decide again"
        )
