"""Where the ledger and its leases lie: a local folder, S3 or GCS, all with create-if-absent."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from tasks.adapters.workspace import make_folder, workspace
from tasks.policy.errors import PerennialError


class LedgerError(PerennialError):
    """The chain cannot be read or extended."""


def ledger_store() -> ObjectStore:
    return store_at(workspace().ledger)


@cache
def store_at(uri: str) -> ObjectStore:
    if "://" in uri:
        return from_url(uri)
    return LocalStore(make_folder(Path(uri)))


@contextmanager
def store_errors(where: str) -> Iterator[None]:
    """Say what failed where; the store's own first line says why."""
    try:
        yield
    except (BaseError, OSError) as error:
        if isinstance(error, (FileNotFoundError, AlreadyExistsError)):
            raise
        reason = str(error).strip().splitlines()[0]
        raise LedgerError(
            f"{workspace().ledger}: {where} cannot be read or written ({reason}); expected a store that this user may "
            "read and append to; set PERENNIAL_LEDGER, or free disk space"
        ) from error
