"""Checkpoints of one training: each of its phases, an early stopping or the final fit, has one, replaced as rounds pass.

They are written by time, so a training that takes less than `every_s` seconds writes none. A phase that lasted longer than
a tenth of it leaves its result, so that a later kill does not repeat it.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from tasks.adapters.checkpoints.store import CheckpointStore
from tasks.policy.records.base import digest

History = dict[str, dict[str, list[float]]]
"""Values of each metric after each round, by data set, as XGBoost's callbacks have them."""
WORTH_KEEPING = 0.1
"""Share of `every_s` from which the end of a phase is written too."""


@dataclass
class TrainingCheckpoints:
    """The checkpoints of one training; `content_hash` is that of its rows."""

    store: CheckpointStore
    content_hash: str
    every_s: float
    _written: float = field(default_factory=time.monotonic)

    def phase(self, name: str) -> "Phase":
        return Phase(self, name)

    def is_due(self) -> bool:
        return time.monotonic() - self._written >= self.every_s

    def put(self, name: str, identity: str, content: bytes) -> None:
        self.store.put(name, identity, content)
        self._written = time.monotonic()  # also after a failure: a store that is away is not asked every round


@dataclass
class Phase:
    """One fit of a training. `identify` says what is fitted, before the checkpoint is read or written."""

    checkpoints: TrainingCheckpoints
    name: str
    _identity: Callable[[], str] = str
    _known: str | None = None
    _began: float = field(default_factory=time.monotonic)

    def identify(self, settings: Mapping[str, object], inputs: Sequence[Any]) -> None:
        """Note the settings and the matrices and targets of the fit; they are hashed only when it is needed."""
        listed = json.dumps({**settings, "library": version("xgboost")}, sort_keys=True, default=str)
        content_hash, name = self.checkpoints.content_hash, self.name
        self._identity = lambda: digest(content_hash, name, listed, *map(content_digest, inputs), length=64)
        self._known = None

    @property
    def identity(self) -> str:
        if self._known is None:
            self._known = self._identity()
        return self._known

    def load(self) -> tuple[bytes, History] | None:
        """Return the model so far and its history; None without a checkpoint of this fit."""
        content = self.checkpoints.store.get(self.name, lambda: self.identity)
        if content is None:
            return None
        history, _, model = content.partition(b"\n")
        return model, json.loads(history)

    def discard(self, why: str) -> None:
        self.checkpoints.store.discard(self.name, why)

    def save(self, model: bytes, history: History) -> None:
        self.checkpoints.put(self.name, self.identity, json.dumps(history).encode() + b"\n" + model)

    def is_due(self) -> bool:
        return self.checkpoints.is_due()

    def is_worth_keeping(self) -> bool:
        """Whether the phase took long enough for its result to be written at its end."""
        return time.monotonic() - self._began >= WORTH_KEEPING * self.checkpoints.every_s


def content_digest(values: Any) -> str:
    """Return the SHA-256 of an array, a sparse matrix or a data frame, with its type and shape."""
    if sparse.issparse(values):
        rows = values.tocsr()
        return digest(str(rows.shape), *map(content_digest, (rows.data, rows.indices, rows.indptr)), length=64)
    if isinstance(values, pd.DataFrame):
        values = pd.util.hash_pandas_object(values).to_numpy()
    values = np.asarray(values)
    found = hashlib.sha256(f"{values.dtype} {values.shape}".encode())
    found.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return found.hexdigest()
