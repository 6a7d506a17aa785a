"""Read the ledgers of several models; a damaged one does not make the others unreadable."""

from collections.abc import Iterable

from tasks.adapters.ledger import chain as ledger
from tasks.policy.records.errors import LedgerError
from tasks.policy.records.evidence import LedgerEntry


def entries_of(models: Iterable[str]) -> dict[str, tuple[LedgerEntry, ...] | None]:
    """Each model's facts, oldest first; None where they cannot be read or do not verify."""
    return {model: _entries(model) for model in models}


def _entries(model: str) -> tuple[LedgerEntry, ...] | None:
    try:
        return ledger.entries(model)
    except LedgerError:
        return None
