"""Group rows by the values of a slice or protected column."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deployments.config.model import ModelConfig
from tasks.adapters.models.encoding import category_texts


def groups_of(config: ModelConfig, name: str, column: pa.ChunkedArray) -> NDArray[np.str_]:
    """Return each row's group. Values of a personal column are hidden: its groups are numbered, largest first."""
    texts = np.array([value or "(null)" for value in category_texts(column).to_pylist()], dtype=np.str_)
    if name not in config.columns.personal or not len(texts):
        return texts
    _, indices, counts = np.unique(texts, return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), int)
    rank[np.argsort(-counts, kind="stable")] = np.arange(1, len(counts) + 1)
    return np.array([f"group {number}" for number in rank[indices]], dtype=np.str_)
