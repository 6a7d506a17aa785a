"""Open a device's update, and build the model that it describes: the trees of the exported one with other leaf values.

The bytes of an update are its only accepted form, so that a file with any byte changed is refused. Nothing in it is parsed
beyond JSON before its signature is checked.
"""

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tasks.adapters.boosters.with_xgboost import XGBoostLibrary
from tasks.adapters.edge import device
from tasks.adapters.edge.keys import find_key
from tasks.adapters.models.estimators import Fitted
from tasks.adapters.models.files import Scorer, load
from tasks.adapters.models.resources import threads
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import from_json
from tasks.policy.records.errors import TamperedUpdate
from tasks.policy.training.edge import EdgeUpdate, find_excess

MOST_BYTES = 64 * 2**20
"""An update of ten million leaves; a larger file is no update."""


@dataclass(frozen=True)
class SignedUpdate:
    """An update whose signature is right, and its leaf values in the order of the exported model's."""

    update: EdgeUpdate
    leaves: NDArray[np.float32]


def open_update(model: str, content: bytes, key_of: Callable[[str, str], bytes] = find_key) -> SignedUpdate:
    """Return the content of an update for this model. Raises TamperedUpdate, or ForeignUpdate for an unknown key."""
    signed = _parse(model, content)
    body, identity = signed["body"], str(signed["key_id"])
    if not hmac.compare_digest(device.sign(body, key_of(model, identity)), str(signed["signature"])):
        raise _tampered(model, "its signature does not fit its content")
    if body.get("format") != device.FORMAT:
        raise _tampered(
            model, f"it has format {str(body.get('format'))[:20]}, but this Perennial reads {device.FORMAT}"
        )
    try:
        update = from_json(EdgeUpdate, device.canonical(body))
        leaves = device.unpack(body["leaves"])
    except (ValidationError, ValueError, KeyError, TypeError):
        raise _tampered(model, "it lacks what an update has") from None
    own = hashlib.sha256(content).hexdigest()
    return SignedUpdate(replace(update, key_id=identity, content_sha256=own), leaves)


def _parse(model: str, content: bytes) -> dict[str, Any]:
    if len(content) > MOST_BYTES:
        raise _tampered(model, f"it has {len(content):,} bytes, expected at most {MOST_BYTES:,}")
    try:
        signed = json.loads(content)
        exact = device.canonical(signed).encode() == content
    except (ValueError, RecursionError):
        raise _tampered(model, "it is not JSON") from None
    if not exact or not isinstance(signed, dict) or set(signed) != {"body", "key_id", "signature"}:
        raise _tampered(model, "it is not in the form that a device writes")
    if not isinstance(signed["body"], dict):
        raise _tampered(model, "it has no body")
    return signed


def _tampered(model: str, problem: str) -> TamperedUpdate:
    return TamperedUpdate(
        f"{model}: the update cannot be trusted: {problem}; it was changed or cut short after the device wrote it: copy it again"
    )


def corrected(base: ModelVersion, files: dict[str, bytes], signed: SignedUpdate, max_change: float) -> Fitted:
    """Return the exported model with the update's leaf values, ready to register. Raises UpdateBeyondLimits."""
    leaves, update = device.Leaves(files[device.MODEL]), signed.update
    excess = find_excess(update, leaves.frozen, signed.leaves, leaves.starts, max_change)
    if excess is not None:
        raise excess
    content = bytes(leaves.with_values(signed.leaves).save_raw("ubj"))
    frozen = load(files, base.sha256)
    return _fitted(base, _with_estimator(frozen, content), update)


def _with_estimator(scorer: Scorer, content: bytes) -> Scorer:
    estimator = XGBoostLibrary().load(content, scorer.task, threads())
    return replace(scorer, pipeline=type(scorer.pipeline)([scorer.pipeline.steps[0], ("estimator", estimator)]))


def _fitted(base: ModelVersion, scorer: Scorer, update: EdgeUpdate) -> Fitted:
    """Return it with its origin; nothing was measured, as the rows are on the device."""
    lineage = {
        "edge_base_version": base.version,
        "edge_base_sha256": base.sha256,
        "edge_key_id": update.key_id,
        "edge_update": str(update.number),
        "edge_update_sha256": update.content_sha256,
    }
    return Fitted(
        scorer,
        parameters=lineage,
        metrics={},
        importance={},
        rounds=XGBoostLibrary().rounds(scorer.estimator),
        fitted_rows=base.training_rows,
        held_back_rows=0,
        rows=base.training_rows,
    )
