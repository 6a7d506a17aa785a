"""Load a champion as it serves: its frozen booster, or the same one with the leaves of its current online state.

A state that cannot be used leaves the answers to the frozen champion, with the reason.
"""

import logging
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from deployments.config.model import ModelConfig
from tasks.adapters import ledger, registry
from tasks.adapters.models.files import Scorer
from tasks.adapters.online.booster import with_changes
from tasks.adapters.online.store import folder, read_state
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.errors import ModelFileError, OnlineStateError
from tasks.policy.training.online import OnlineState, serving_state, updates_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedChampion:
    """A champion's scorer; `state` is the number of the online state in it, None for the frozen model."""

    scorer: Scorer
    state: int | None = None


def load_champion(config: ModelConfig, version: ModelVersion, start: datetime | None = None) -> ServedChampion:
    """Load the champion as it serves rows from `start` on, or as it serves now. Raises ModelFileError as `load_scorer` does."""
    frozen = registry.version_files.load_scorer(version, config.training.imported)
    state = current_state(config, version.version, start)
    if state is None:
        return ServedChampion(frozen)
    try:
        scorer = _corrected(folder(config.name), version, state, config.training.imported)
    except (OnlineStateError, ModelFileError) as error:
        logger.warning("%s: the frozen champion %s serves: %s", config.name, version.version, error)
        return ServedChampion(frozen)
    return ServedChampion(scorer, state.number)


def current_state(config: ModelConfig, version: str, start: datetime | None = None) -> OnlineState | None:
    """Return the recorded state that serves rows from `start` on, or now; None without one, or without `training.online`."""
    if config.training.online is None:
        return None
    return serving_state(updates_of(ledger.entries(config.name), version), start)


@lru_cache(maxsize=4)
def _corrected(place: str, version: ModelVersion, state: OnlineState, imported: tuple[str, ...]) -> Scorer:
    stored = read_state(place, version.model, version.version, state)
    if stored.version_sha256 != version.sha256:
        raise OnlineStateError(
            f"state {state.number}: learned on model files {stored.version_sha256[:12]}…, expected {version.sha256[:12]}…"
        )
    return with_changes(registry.version_files.load_scorer(version, imported), stored.array)
