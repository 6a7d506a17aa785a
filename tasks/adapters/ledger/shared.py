"""Read the ledgers of several models; a damaged ledger does not affect the others."""

from collections.abc import Iterable

from tasks.adapters.ledger import chain as ledger
from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.records.errors import LedgerError


def entries_of(models: Iterable[str]) -> dict[str, tuple[LedgerEntry, ...] | None]:
    """Return each model's facts, oldest first; None if they cannot be read or verified."""
    return {model: _entries(model) for model in models}


def _entries(model: str) -> tuple[LedgerEntry, ...] | None:
    try:
        return ledger.entries(model)
    except LedgerError:
        return None
