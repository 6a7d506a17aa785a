"""Decide whether labelled rows can train a model: enough rows, labels of the task's type, more than one class."""

import numpy as np
import pyarrow as pa

from deployments.config.model import ModelConfig
from tasks.adapters.lake.label_spellings import ambiguous_spellings, matching_class
from tasks.adapters.models.encoding import encode_labels, is_number, label_classes
from tasks.policy.data_quality.label_jumps import find_jump
from tasks.policy.statistics.metrics import Floats

MAX_CLASSES = 1000
SHOWN = 5
"""Maximum number of classes that a message names."""


def why_not_train(config: ModelConfig, rows: pa.Table) -> str | None:
    """Return a sentence on why a model must not be trained on these rows; None if it may."""
    labels = rows.column(config.columns.label)
    known = len(labels) - labels.null_count
    if known == 0:
        return f"no row has a label in {config.columns.label}, expected some known labels"
    if known < config.training.min_rows:
        return f"{known} labelled rows, expected at least {config.training.min_rows} (training.min_rows)"
    return _number_fault(config, rows, labels) if config.task == "regression" else _class_fault(config, labels)


def _number_fault(config: ModelConfig, rows: pa.Table, labels: pa.ChunkedArray) -> str | None:
    name = config.columns.label
    if not is_number(labels.type):
        return f"label {name} is of type {labels.type}, expected numbers for a regression"
    values = encode_labels(labels, ())
    broken = len(labels) - labels.null_count - int(np.isfinite(values).sum())
    if broken:
        return f"label {name} holds {broken} values that are not finite numbers"
    if np.nanmin(values) == np.nanmax(values):
        return f"label {name} has the same value in all rows"
    return _jump(config, rows, values)


def _jump(config: ModelConfig, rows: pa.Table, values: Floats) -> str | None:
    """Describe a change of the label's unit within the rows, which are in order of time; None without one."""
    jump = find_jump(values[np.isfinite(values)], config.quality.labels)
    if jump is None:
        return None
    known = rows.filter(rows.column(config.columns.label).is_valid())
    at = known.column(config.columns.time)[jump[0]].as_py()
    rules = config.quality.labels
    return (
        f"label {config.columns.label} jumped at about {at:%Y-%m-%d %H:%M}, as if its unit changed: {jump[1]}; "
        f"expected one unit in all rows (quality.labels.max_scale_ratio: {rules.max_scale_ratio:g}, max_shift: "
        f"{rules.max_shift:g}); fix the source, train on the rows of one unit (training.window_days), or accept it with "
        "quality.labels.on_unit_change: warn"
    )


def classes_of(config: ModelConfig, labels: pa.ChunkedArray) -> tuple[str, ...]:
    """Return the classes of a model trained on these labels, in the order of its codes; empty for a regression."""
    if config.task == "regression":
        return ()
    columns = config.columns
    return label_classes(labels, columns.positive_label, columns.named_classes, config.task == "binary")


def _class_fault(config: ModelConfig, labels: pa.ChunkedArray) -> str | None:
    name, positive, names = config.columns.label, config.columns.positive_label, classes_of(config, labels)
    if len(names) < 2:
        return f"label {name} has a single class in these rows, expected at least 2"
    if config.task == "binary" and len(names) > 2:
        found = ", ".join(names[:SHOWN])
        return f"label {name} has {len(names)} classes in these rows ({found}), expected 2 for task binary"
    if positive is not None and matching_class(positive, names) is None:
        return f"label {name} has the classes {' and '.join(names)}, expected columns.positive_label {positive!r} among them"
    if len(names) > MAX_CLASSES:
        return f"label {name} has {len(names)} classes, expected at most {MAX_CLASSES}; is the task a regression?"
    alike = ambiguous_spellings(names, config.columns.classes)
    if alike:
        return (
            f"label {name} has classes that may be one spelled twice ({', '.join(alike[:SHOWN])}), expected one spelling of "
            "each; fix the source, or list the classes in columns.classes"
        )
    return None
