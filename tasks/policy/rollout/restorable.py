"""Earlier champions that may be restored: when a season returns, a trial on current rows can replace a retrain.

A version that was rolled back is quarantined and is never restored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.evidence.monitoring import EarlierChampion
from tasks.policy.evidence.versions import Promotion
from tasks.policy.records.base import from_json
from tasks.policy.rollout.versions import recorded_version


@dataclass(frozen=True, slots=True)
class RollbackPlan:
    """The versions that a rollback would move now, and why it would be refused; a version is None if there is none."""

    champion: str | None
    previous: str | None
    refusal: str | None


def returnable(entries: Sequence[LedgerEntry]) -> tuple[EarlierChampion, ...]:
    """Earlier champions from a model's ledger (oldest first), without the current one, in order of first service."""
    learned: dict[str, datetime] = {}
    serving: str | None = None
    known: dict[str, EarlierChampion] = {}
    for entry in entries:
        if entry.kind == "challenger.registered":
            version = recorded_version(entry.body)
            learned[version.version] = version.trained.end
            known.pop(version.version, None)  # version numbers restart if a model was created anew in the registry
        if entry.kind not in ("champion.promoted", "champion.rolled_back"):
            continue
        now = from_json(Promotion, entry.body).champion
        if entry.kind == "champion.rolled_back" and serving is not None:
            known.pop(serving, None)
        elif now in learned:
            known.setdefault(now, EarlierChampion(now, learned[now], entry.at))
        serving = now
    return tuple(earlier for version, earlier in known.items() if version != serving)
