"""The ledger's record of each version, and the aliases that follow from it. The ledger decides, not the registry.

Anyone with access to MLflow's page can edit the registry: change a tag, move an alias, or delete a model and create it
again, so that its version 1 is a different one. A version is therefore identified by its run, its decision and the
SHA-256 of its files, all in the ledger.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from pydantic import Field, ValidationError

from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.records.base import Settings, digest, from_json
from tasks.policy.rollout.state import ENDED, RolloutMove

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
FOREIGN = "foreign_format"
"""Tag of a version that was trained elsewhere: the format of its files, as `tasks.adapters.foreign` names it."""
RUNS_CODE = frozenset({"joblib", "pyfunc"})
"""Formats that may run any code when loaded: they need `training.trust`, and a process of their own."""
MOVES = ("champion.promoted", "champion.rolled_back")
OUTSIDE = "mlflow"
"""Actor of a move that someone made in MLflow."""
STATE_TAGS = frozenset(
    (
        "status", "validation", "promoted_by", "restored_by", "replaced_by", "move_by", "move_from", "quarantined_by",
        "quarantine_reason",
    )
)  # fmt: skip
"""Tags that change over a version's lifetime; all other tags from its registration are permanent."""


class RegistryRules(Settings):
    """What happens when someone else moves the model's aliases in MLflow."""

    outside_moves: Literal["refuse", "record"] = Field("refuse", examples=["record"])
    """`refuse`: a moved champion is reported, and nothing is promoted or rolled back until the alias is set back. `record`:
    the next `score` or `monitor` checks the version, takes it in if it is unknown, and records the move (see "Your champion");
    not accepted where a person must approve promotions."""


@lru_cache(maxsize=2048)
def recorded_version(body: str) -> ModelVersion:
    """The version in the body of a ledger entry. Older entries, without a hash, give an empty `sha256`."""
    try:
        return from_json(ModelVersion, body)
    except ValidationError:
        return from_json(ModelVersion, json.dumps({"sha256": "", **json.loads(body)}))


def registered(entries: Sequence[LedgerEntry]) -> dict[str, ModelVersion]:
    """The latest registered version by its number; numbers restart if a model was created anew."""
    made = (recorded_version(entry.body) for entry in entries if entry.kind == "challenger.registered")
    return {version.version: version for version in made}


def on_trial(entries: Sequence[LedgerEntry], decision_id: str) -> ModelVersion | None:
    """The version that this decision's verdict is about; None if the ledger does not hold it."""
    kinds = ("challenger.registered", "challenger.recalled")
    made = [entry for entry in entries if entry.kind in kinds and entry.decision_id == decision_id]
    return recorded_version(made[-1].body) if made else None


def quarantined(entries: Sequence[LedgerEntry]) -> frozenset[str]:
    """Versions that were rolled back or returned by their rollout, except numbers that were registered again later."""
    serving: str | None = None
    barred: set[str] = set()
    for entry in entries:
        if entry.kind == "challenger.registered":
            barred.discard(recorded_version(entry.body).version)
        if entry.kind == ENDED and (move := from_json(RolloutMove, entry.body)).end == "returned":
            barred.add(move.version)
        if entry.kind in MOVES:
            if entry.kind == "champion.rolled_back" and serving is not None:
                barred.add(serving)
            serving = from_json(Promotion, entry.body).champion
    return frozenset(barred)


def why_not_serve(entries: Sequence[LedgerEntry], number: str) -> str | None:
    """Why the version that the alias champion is on must not serve, and what to do; None if the ledger allows it.

    It was rolled back or returned by its rollout, or its last verdict is a refusal, of the validation or of a person.
    """
    serving: str | None = None
    refused: dict[str, str] = {}
    for entry in entries:
        if entry.kind == "challenger.registered":
            refused.pop(recorded_version(entry.body).version, None)
        elif entry.kind == "challenger.validated":
            refused.pop(from_json(ValidationReport, entry.body).challenger, None)
        elif entry.kind == "challenger.refused":
            report = from_json(ValidationReport, entry.body)
            refused[report.challenger] = f"whose validation says {report.verdict} ({'; '.join(report.reasons[:1])})"
        elif entry.kind == "challenger.rejected" and entry.decision_id:
            tried = on_trial(entries, entry.decision_id)
            refused |= {tried.version: "whose promotion was rejected"} if tried else {}
        elif entry.kind in MOVES:
            serving = from_json(Promotion, entry.body).champion
            refused.pop(serving, None)
    if number in quarantined(entries):
        refused[number] = "which was rolled back and does not serve again"
    if number == serving or number not in refused:
        return None
    fix = f"set it back to version {serving}" if serving else "remove it"
    return f"alias {CHAMPION} is on version {number}, {refused[number]}; {fix} in MLflow"


@dataclass(frozen=True, slots=True)
class Registry:
    """A model's current state in the registry: version by alias; run and last move's decision by version."""

    aliases: Mapping[str, str]
    runs: Mapping[str, str]
    moves: Mapping[str, str]

    def holds(self, version: ModelVersion | None) -> bool:
        """Whether the registry holds this version, and not a different one under its number."""
        return version is not None and self.runs.get(version.version) == version.run_id


@dataclass(frozen=True, slots=True)
class OutsideMove:
    """A champion that someone else set in the registry: its number, and its version if the ledger knows it."""

    address: str
    """The version in MLflow, as `models:/name/number`."""
    version: ModelVersion | None
    replaced: str
    """The champion after the ledger's last move."""
    decision_id: str

    @property
    def number(self) -> str:
        return self.address.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class ExpectedAliases:
    """Aliases after the last move in the ledger; `entry` is the sequence number of that move."""

    champion: str
    previous: str | None
    entry: int


def last_move(entries: Sequence[LedgerEntry], registry: Registry) -> ExpectedAliases | None:
    """The expected champion and previous; None before the first promotion.

    A promotion counts if its aliases moved and a verdict allowed it, even if its run ended before it was recorded.
    """
    moves = [entry for entry in entries if entry.kind in MOVES]
    if not moves:
        return None
    last = from_json(Promotion, moves[-1].body)
    expected = ExpectedAliases(last.champion, last.previous, moves[-1].sequence)
    serving = registry.aliases.get(CHAMPION)
    if serving is not None and serving != expected.champion and _is_unfinished(entries, registry, serving):
        return ExpectedAliases(serving, expected.champion, expected.entry)
    return expected


def _is_unfinished(entries: Sequence[LedgerEntry], registry: Registry, number: str) -> bool:
    decision_id = registry.moves.get(number)
    ours = [entry for entry in entries if decision_id and entry.decision_id == decision_id and entry.actor != OUTSIDE]
    facts = {entry.kind for entry in ours}
    tried = on_trial(entries, decision_id) if decision_id else None
    return "challenger.validated" in facts and not facts & {*MOVES, "challenger.rejected"} and registry.holds(tried)


def outside_move(model: str, entries: Sequence[LedgerEntry], registry: Registry) -> OutsideMove | None:
    """The champion that was set outside Perennial since the ledger's last move; None if there is none.

    A version whose number now belongs to another run is none: the model was recreated, which no move can repair.
    """
    expected, now = last_move(entries, registry), registry.aliases.get(CHAMPION)
    if expected is None or now is None or now == expected.champion:
        return None
    known = registered(entries).get(now)
    if known is not None and not registry.holds(known):
        return None
    decision_id = digest(model, "outside", now, registry.runs.get(now, ""), str(expected.entry))
    return OutsideMove(f"models:/{model}/{now}", known, expected.champion, decision_id)


def why_not_trusted(version: ModelVersion, is_trusted: bool) -> str | None:
    """Why a version may not be loaded: it can run code, and the model's file does not say `training.trust` (any more)."""
    kind = dict(version.tags).get(FOREIGN)
    if kind not in RUNS_CODE or is_trusted:
        return None
    return (
        f"version {version.version} was adopted from a {kind} file, which can run any code when loaded, so it does not serve; "
        "set training.trust: true in the model's file if you trust who made it, or roll back to another version"
    )


def why_not_approved(entries: Sequence[LedgerEntry], registry: Registry, number: str) -> str | None:
    """Why the version that the alias champion is on may not serve where a person must approve; None if it may.

    It was never champion in the ledger. A promotion that was interrupted before it was recorded counts.
    """
    expected = last_move(entries, registry)
    served = {from_json(Promotion, entry.body).champion for entry in entries if entry.kind in MOVES}
    if expected is None or number in served or number == expected.champion:
        return None
    return (
        f"alias {CHAMPION} is on version {number}, whose promotion nobody approved; set it back to version "
        f"{expected.champion} in MLflow"
    )


def changed_outside(entries: Sequence[LedgerEntry], registry: Registry) -> tuple[str, ...]:
    """A sentence for each alias moved and each version deleted outside Perennial."""
    known, expected = registered(entries), last_move(entries, registry)
    found = []
    if expected:
        for alias, wanted in ((CHAMPION, expected.champion), (PREVIOUS, expected.previous)):
            found += _moved(alias, wanted, registry, known, f"after the ledger's last move (entry {expected.entry})")
    elif registry.aliases.get(CHAMPION) and known:
        found.append(
            f"alias {CHAMPION} is on version {registry.aliases[CHAMPION]}, though the ledger holds no promotion; remove the "
            "alias in MLflow and promote a version that passed"
        )
    return (*found, *_challenger_moved(entries, registry, known))


def _moved(
    alias: str, wanted: str | None, registry: Registry, known: Mapping[str, ModelVersion], since: str
) -> list[str]:
    now = registry.aliases.get(alias)
    if wanted is not None and wanted in known and not registry.holds(known[wanted]):
        gone = "is a different version now" if wanted in registry.runs else "was deleted"
        return [
            f"version {wanted}, which is {alias} {since}, {gone} in the registry; alias {alias} is on {now or 'no version'}"
        ]
    if now == wanted:
        return []
    fix = f"set it back to version {wanted}" if wanted else "remove it"
    return [f"alias {alias} is on {_named(now)}, expected {_named(wanted)} {since}; {fix} in MLflow"]


def _named(number: str | None) -> str:
    return f"version {number}" if number else "no version"


def _challenger_moved(
    entries: Sequence[LedgerEntry], registry: Registry, known: Mapping[str, ModelVersion]
) -> list[str]:
    """Check that the challenger is the latest version and not yet promoted; one not in the ledger is accepted."""
    now = registry.aliases.get(CHALLENGER)
    if now is None or now not in known:
        return []
    last, served = "", set()
    for entry in entries:
        if entry.kind == "challenger.registered":
            last = recorded_version(entry.body).version
            served.discard(last)
        elif entry.kind == "champion.promoted":
            served.add(from_json(Promotion, entry.body).champion)
    if now == last and now not in served:
        return []
    return [f"alias {CHALLENGER} is on version {now}, which does not await promotion; remove it in MLflow"]


def why_not_move(entries: Sequence[LedgerEntry], registry: Registry, needs_previous: bool = False) -> str | None:
    """Why aliases changed outside Perennial must be restored before a move; None if they are as expected.

    A champion that is missing in the registry cannot be restored; the current one is then accepted.
    """
    known, expected = registered(entries), last_move(entries, registry)
    if expected is None:
        return None
    since = f"after the ledger's last move (entry {expected.entry})"
    if expected.champion not in known or registry.holds(known[expected.champion]):
        moved = _moved(CHAMPION, expected.champion, registry, known, since)
        if moved:
            return moved[0]
    previous = _moved(PREVIOUS, expected.previous, registry, known, since) if needs_previous else []
    return previous[0] if previous else None


def edited(version: ModelVersion, tags: Mapping[str, str]) -> tuple[str, ...]:
    """Names of tags that differ from those recorded in the ledger at registration."""
    fixed = dict(version.tags)
    return tuple(sorted(name for name in fixed if name not in STATE_TAGS and tags.get(name) != fixed[name]))


def as_recorded(recorded: ModelVersion, tags: Mapping[str, str]) -> ModelVersion:
    """The recorded version with the current state tags; all other tags are those of its registration."""
    fixed = {name: value for name, value in recorded.tags if name not in STATE_TAGS}
    return replace(
        recorded,
        decision_id=fixed.get("decision_id", recorded.decision_id),
        sha256=recorded.sha256 or tags.get("sha256", ""),
        tags=tuple(sorted({**tags, **fixed}.items())),
    )
