"""The earlier models that a strategy goes on from, or that race themselves.

In a race, models that have learned from the judged windows are replaced by the newest ones that have not.
"""

from datetime import datetime

from deployments.config.model import ModelConfig
from tasks.adapters import registry
from tasks.adapters.models.files import Scorer
from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import from_json
from tasks.policy.rollout.restorable import returnable
from tasks.policy.rollout.versions import registered
from tasks.policy.training.race import Strategy

CHANGES = ("concept_drift", "harmful_covariate_shift")


def champions(config: ModelConfig, entries: tuple[LedgerEntry, ...]) -> list[ModelVersion]:
    """Return the champion and the earlier ones that may serve again, newest first; only those with a model file."""
    serving = registry.aliases(config.name).get(registry.CHAMPION)
    known = registered(entries)
    numbers = [*([serving] if serving else []), *(one.version for one in reversed(returnable(entries)))]
    return [known[number] for number in dict.fromkeys(numbers) if number in known and not known[number].observed_as]


def load_bases(
    config: ModelConfig, champions: list[ModelVersion], start: datetime
) -> tuple[dict[str, Scorer], datetime | None]:
    """Return the models that stand in for the champion and the one before it: the newest that have not seen the windows.

    Also returns where the rows of the first end.
    """
    unseen = [view for view in (version.before(start) for version in champions) if view.trained.end <= start][:2]
    loaded = [registry.version_files.load_scorer(view, config.training.imported) for view in unseen]
    bases = {version.version: scorer for version, scorer in zip(champions, loaded, strict=False)}
    return bases, unseen[0].trained.end if unseen else None


def load_base(config: ModelConfig, strategy: Strategy, until: datetime) -> Scorer | None:
    """Return the model that a strategy goes on from, which has not seen rows from `until` on; None if it trains afresh."""
    if strategy.kind not in ("continue_champion", "refresh_leaves") or strategy.version is None:
        return None
    version = registry.version(config.name, strategy.version)
    return registry.version_files.load_scorer(version.before(until), config.training.imported)


def changed_at(entries: tuple[LedgerEntry, ...]) -> datetime | None:
    """Return when the latest change began that was diagnosed as harmful; None without one."""
    judged = {one.evidence.window: one for one in map(_judgement, entries) if one is not None}
    onset: datetime | None = None
    before = "none"
    for window in sorted(judged):
        kind = judged[window].decision.diagnosis
        if kind in CHANGES and before not in CHANGES:
            onset = window.start
        before = kind
    return onset


def _judgement(entry: LedgerEntry) -> Judgement | None:
    return from_json(Judgement, entry.body) if entry.kind == "window.judged" else None
