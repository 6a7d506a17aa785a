"""The journal of a search: what it started from and each trial, written after every trial.

A search that was killed continues from its journal, and a later one starts from what earlier ones found. The journal lies
beside the model's tables, on disk or in a bucket. It holds settings and losses, no rows.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from obstore.exceptions import BaseError, NotFoundError
from pydantic import JsonValue, ValidationError

from tasks.adapters.search.features import Derivable
from tasks.adapters.storage.object_store import store_at
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.base import from_json, to_json
from tasks.policy.records.errors import WorkspaceError
from tasks.policy.records.text import reason_of, without_secrets
from tasks.policy.training.search import SearchTrial

logger = logging.getLogger(__name__)
SEARCHES = "searches"
MOST_SEARCHES = 5
"""Latest searches of a model that a new one starts from."""


@dataclass(frozen=True, slots=True)
class EarlierTrial:
    """A trial of an earlier search: what was drawn, and its loss above that of the settings before, as a share of it."""

    drawn: dict[str, JsonValue]
    excess: float


@dataclass(frozen=True, slots=True)
class SearchJournal:
    """A search so far. `identity` is a digest of its rows, settings and seed: a journal of another one is not continued."""

    decision_id: str
    identity: str
    family: str
    """Digest of estimator, task, metric and features; only searches of one family learn from each other."""
    until: str
    """End of the training rows; a search starts from searches of earlier rows only."""
    share: float = 1.0
    """Share of the rows that the trials use."""
    derivable: Derivable = field(default_factory=Derivable)
    earlier: tuple[EarlierTrial, ...] = ()
    trials: tuple[SearchTrial, ...] = ()
    spent_s: float = 0.0
    spent_cpu_s: float = 0.0

    def as_earlier(self) -> tuple[EarlierTrial, ...]:
        """Return its complete trials as a later search uses them."""
        champion = next((trial for trial in self.trials if trial.origin == "champion"), None)
        if champion is None or not champion.losses or champion.loss == 0:
            return ()
        return tuple(
            EarlierTrial(trial.drawn, (trial.loss - champion.loss) / abs(champion.loss))
            for trial in self.trials
            if trial.state == "complete"
        )


def _name(decision_id: str) -> str:
    return f"{decision_id}.json"


def _folder(model: str) -> str:
    return workspace().table(model, SEARCHES)


def write(model: str, journal: SearchJournal) -> None:
    """Store a journal. Raises WorkspaceError."""
    try:
        store_at(_folder(model)).put(_name(journal.decision_id), to_json(journal).encode())
    except (BaseError, OSError) as error:
        raise _cannot(model, "written", error) from error


def read(model: str, decision_id: str, identity: str) -> SearchJournal | None:
    """Return the journal of this search; None if there is none, or it is one of other rows or settings."""
    found = _read(model, _name(decision_id))
    if found is None:
        return None
    if found.identity != identity:
        logger.warning(
            "search: the journal of decision %s is of other rows or settings; it is not continued", decision_id
        )
        return None
    return found


def read_earlier(model: str, journal: SearchJournal) -> tuple[EarlierTrial, ...]:
    """Return the trials of the latest searches of the same family on earlier rows, the latest search first."""
    try:
        names = [str(each["path"]) for page in store_at(_folder(model)).list() for each in page]
    except (BaseError, OSError) as error:
        raise _cannot(model, "listed", error) from error
    found = [_read(model, name) for name in sorted(names) if name.endswith(".json") and "/" not in name]
    related = [each for each in found if each and each.family == journal.family and each.until < journal.until]
    latest: Sequence[SearchJournal] = sorted(related, key=lambda each: (each.until, each.decision_id))[-MOST_SEARCHES:]
    return tuple(trial for each in reversed(latest) for trial in each.as_earlier())


def _read(model: str, name: str) -> SearchJournal | None:
    """Return a stored journal; one that cannot be parsed counts as none."""
    try:
        content = bytes(store_at(_folder(model)).get(name).bytes())
    except (NotFoundError, FileNotFoundError):
        return None
    except (BaseError, OSError) as error:
        raise _cannot(model, "read", error) from error
    try:
        return from_json(SearchJournal, content)
    except ValidationError:
        logger.warning("search: %s is no journal that this Perennial can read; it is left out", name)
        return None


def _cannot(model: str, done: str, error: Exception) -> WorkspaceError:
    return WorkspaceError(
        f"{without_secrets(_folder(model))}: journals of searches cannot be {done} ({reason_of(error)}); expected a store "
        "that this user may read and write; check PERENNIAL_LAKE"
    )
