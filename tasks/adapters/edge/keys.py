"""Keys that devices sign their updates with: one per exported folder, readable by the owner of the workspace only.

The device has the other copy. A key proves that an update comes from the folder that it was exported with, not who runs the
device.
"""

import os
import re
import secrets
from pathlib import Path

from tasks.adapters.edge.device import key_id
from tasks.adapters.storage.workspace import OWNER_ONLY, make_folder, workspace
from tasks.policy.records.errors import ForeignUpdate, WorkspaceError

FOLDER = "edge-keys"
KEY_BYTES = 32


def make_key(model: str) -> bytes:
    """Create a key, store it in the workspace and return it. Raises WorkspaceError."""
    key = secrets.token_bytes(KEY_BYTES)
    path = _path(model, key_id(key))
    make_folder(path.parent, OWNER_ONLY)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(key.hex())
    except OSError as error:
        raise WorkspaceError(f"{path}: cannot be written ({error.strerror}), expected a writable workspace") from None
    return key


def find_key(model: str, identity: str) -> bytes:
    """Return the key with this id. Raises ForeignUpdate if this workspace exported none for the model."""
    try:
        known = re.fullmatch(r"[0-9a-f]{16}", identity)
        return bytes.fromhex(_path(model, identity).read_text(encoding="ascii")) if known else _unknown(model, identity)
    except FileNotFoundError:
        return _unknown(model, identity)


def _unknown(model: str, identity: str) -> bytes:
    raise ForeignUpdate(
        f"{model}: the update is signed with key {identity[:16]!r}, which this workspace has not exported for {model}; expected "
        "an update of a folder that perennial edge export wrote here"
    )


def _path(model: str, identity: str) -> Path:
    return workspace().home / FOLDER / model / f"{identity}.key"
