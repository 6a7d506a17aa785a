"""Checkpoints of long work: named blobs of one decision, `<lake>/<model>/checkpoints/<decision>/<name>`.

They lie beside the model's tables, so the process that continues the work finds them on the same disk, a shared one or in
a bucket. A blob carries a digest of what it was made from and a hash of its content: one of other data or settings, or a
damaged one, is never used. A checkpoint only saves time, so a store that fails is a warning and not an error.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import obstore
from obstore.exceptions import BaseError, NotFoundError

from tasks.adapters.storage import lease
from tasks.adapters.storage.object_store import store_at
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.base import digest
from tasks.policy.records.errors import WorkspaceError
from tasks.policy.records.text import reason_of

logger = logging.getLogger(__name__)
FOLDER = "checkpoints"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """The checkpoints of one decision of a model.

    >>> store = CheckpointStore("churn", "3f2a")
    >>> store.put("trial 7", "digest of rows and settings", b"...")  # doctest: +SKIP
    >>> store.get("trial 7", lambda: "digest of rows and settings")  # doctest: +SKIP
    b'...'
    """

    model: str
    decision_id: str

    def put(self, name: str, identity: str, content: bytes) -> bool:
        """Replace the blob of this name, atomically; return whether it was stored. `identity`: what it was made from.

        Raises FencedOut if another run has taken over the model's lease.
        """
        lease.check(self.model)
        header = {"format": FORMAT, "identity": identity, "sha256": hashlib.sha256(content).hexdigest()}
        try:
            obstore.put(store_at(self._root), self._path(name), json.dumps(header).encode() + b"\n" + content)
        except (BaseError, OSError, WorkspaceError) as error:
            logger.warning("%s: checkpoint %s not written: %s", self.model, name, reason_of(error))
            return False
        return True

    def get(self, name: str, identity: Callable[[], str]) -> bytes | None:
        """Return the content of this name; None if there is none, or it is damaged or was made from something else.

        `identity` is computed only if there is a blob. A blob that cannot be used is deleted.
        """
        try:
            stored = bytes(obstore.get(store_at(self._root), self._path(name)).bytes())
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError, WorkspaceError) as error:
            logger.warning("%s: checkpoint %s not read, starting over: %s", self.model, name, reason_of(error))
            return None
        first, _, content = stored.partition(b"\n")
        header = _header(first)
        if header.get("format") != FORMAT or header.get("sha256") != hashlib.sha256(content).hexdigest():
            self.discard(name, "is damaged")
        elif header.get("identity") != identity():
            self.discard(name, "was made from other rows or settings")
        else:
            return content
        return None

    def discard(self, name: str, why: str) -> None:
        """Delete a blob that cannot be used, with one line in the log."""
        logger.warning("%s: checkpoint %s %s; it is deleted, starting over", self.model, name, why)
        self._delete([self._path(name)])

    def delete_all(self) -> None:
        """Delete the model's checkpoints, also those that earlier decisions left behind."""
        try:
            listed = [str(found["path"]) for batch in obstore.list(store_at(self._root), FOLDER) for found in batch]
        except (BaseError, OSError, WorkspaceError) as error:
            logger.warning("%s: checkpoints not deleted: %s", self.model, reason_of(error))
            return
        self._delete(listed)
        if "://" not in self._root:
            shutil.rmtree(Path(self._root, FOLDER), ignore_errors=True)

    def _delete(self, paths: list[str]) -> None:
        try:
            if paths:
                obstore.delete(store_at(self._root), paths)
        except (NotFoundError, FileNotFoundError):
            return
        except (BaseError, OSError) as error:
            logger.warning("%s: checkpoints not deleted: %s", self.model, reason_of(error))

    @property
    def _root(self) -> str:
        return f"{workspace().lake}/{self.model}"

    def _path(self, name: str) -> str:
        return f"{FOLDER}/{digest(self.decision_id)}/{name}"


def _header(line: bytes) -> dict[str, object]:
    """Return the fields of a blob's first line; none if it is not ours."""
    try:
        found = json.loads(line)
    except ValueError:  # also of bytes that are no UTF-8
        return {}
    return found if isinstance(found, dict) else {}
