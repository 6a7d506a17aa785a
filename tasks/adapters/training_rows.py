"""Whether labelled rows can teach a model: enough of them, labels of the task's kind, more than one outcome."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deployments.model_config import ModelConfig
from tasks.adapters.encoding import encode_labels, is_number, label_classes

MAX_CLASSES = 1000
SHOWN = 5
"""Classes that are named where there are too many."""


def why_not_train(config: ModelConfig, rows: pa.Table) -> str | None:
    """A sentence that says why these rows must not be trained on; None when they may."""
    labels = rows.column(config.columns.label)
    known = len(labels) - labels.null_count
    if known == 0:
        return f"no row has a label in {config.columns.label}, expected labels that are known by now"
    if known < config.training.min_rows:
        return f"{known} labelled rows, expected at least {config.training.min_rows} (training.min_rows)"
    return _number_fault(config, labels) if config.task == "regression" else _class_fault(config, labels)


def _number_fault(config: ModelConfig, labels: pa.ChunkedArray) -> str | None:
    name = config.columns.label
    if not is_number(labels.type):
        return f"label {name} is of type {labels.type}, expected numbers for a regression"
    values = encode_labels(labels, ())
    broken = len(labels) - labels.null_count - int(np.isfinite(values).sum())
    if broken:
        return f"label {name} holds {broken} values that are not finite numbers"
    return f"label {name} has the same value in all rows" if np.nanmin(values) == np.nanmax(values) else None


def _class_fault(config: ModelConfig, labels: pa.ChunkedArray) -> str | None:
    name = config.columns.label
    classes = pc.count_distinct(labels, mode="only_valid").as_py()
    if classes < 2:
        return f"label {name} has a single class in these rows, expected at least 2"
    if config.task == "binary" and classes > 2:
        found = ", ".join(label_classes(labels)[:SHOWN])
        return f"label {name} has {classes} classes in these rows ({found}), expected 2 for task binary"
    positive, names = config.columns.positive_label, label_classes(labels)
    if positive is not None and positive not in names:
        return f"label {name} has the classes {' and '.join(names)}, expected columns.positive_label {positive!r} among them"
    if classes > MAX_CLASSES:
        return f"label {name} has {classes} classes, expected at most {MAX_CLASSES}; is the task a regression?"
    return None
