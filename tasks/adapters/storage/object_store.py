"""Object store of the ledger and the leases: a local folder, S3 or GCS, all with create-if-absent."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path

from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from tasks.adapters.storage.aws_profile import provider
from tasks.adapters.storage.workspace import make_folder, workspace
from tasks.policy.records.errors import LedgerError
from tasks.policy.records.text import reason_of, without_secrets

# GCS limits writes to one object to about one per second and returns 429 above it (cloud.google.com/storage/quotas).
# With these retries, concurrent writers of the ledger's head take turns; obstore's default fails after two or three.
PATIENCE = {
    "backoff": {"init_backoff": timedelta(seconds=0.25), "max_backoff": timedelta(seconds=2), "base": 2},
    "max_retries": 60,
    "retry_timeout": timedelta(seconds=30),
}


def ledger_store() -> ObjectStore:
    return store_at(workspace().ledger)


@cache
def store_at(uri: str) -> ObjectStore:
    if "://" in uri:
        return from_url(uri, retry_config=PATIENCE, credential_provider=provider(uri))
    return LocalStore(make_folder(Path(uri)))


@contextmanager
def store_errors(where: str) -> Iterator[None]:
    """Raise errors of the store as LedgerError with `where`, the first line of the store's message and a remedy.

    Readers of optional files catch FileNotFoundError themselves, so here it means that a folder or bucket is missing.
    AlreadyExistsError passes through.
    """
    try:
        yield
    except AlreadyExistsError:
        raise
    except (BaseError, OSError) as error:
        remote = "://" in workspace().ledger
        fix = "renew credentials that are wrong or have expired" if remote else "or free disk space"
        raise LedgerError(
            f"{without_secrets(workspace().ledger)}: {where} cannot be read or written ({reason_of(error)}); expected a store "
            f"that this user may read and append to; set PERENNIAL_LEDGER to an existing bucket or folder, {fix}"
        ) from None  # the store quotes the complete URL, which may contain a signature
