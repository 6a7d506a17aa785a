"""Conditions of the user's own: `trigger: module:Class` in the block `retraining` of a model's YAML file."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from deployments.config.blocks.data import IMPORT_PATH, imported
from tasks.policy.triggers.base import Trigger


def with_own_triggers(value: Any) -> Any:
    """Replace each condition that names a class by an instance of it. Raises ValueError that says what is wrong with it."""
    if isinstance(value, list):
        return [with_own_triggers(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    found = {key: with_own_triggers(each) for key, each in value.items()}
    path = found.get("trigger")
    return _own(path, found) if isinstance(path, str) and ":" in path else found


def _own(path: str, content: dict[Any, Any]) -> Trigger:
    kind = _imported(path)
    try:
        return kind.model_validate({**content, "trigger": kind.kind()})
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        raise ValueError(f"retraining: trigger {path}: {'; '.join(faults)}") from None


def _imported(path: str) -> type[Trigger]:
    if not re.match(IMPORT_PATH, path):
        raise ValueError(f"retraining: trigger is {path!r}, expected module:Class, such as mycompany.churn:Campaign")
    kind = imported(
        path,
        lambda reason: ValueError(
            f"retraining: trigger is {path}, which cannot be imported ({reason}); expected module:Class, installed or on "
            "PYTHONPATH"
        ),
    )
    if not (isinstance(kind, type) and issubclass(kind, Trigger) and "trigger" in kind.model_fields):
        raise ValueError(
            f"retraining: trigger is {path}, expected a subclass of tasks.policy.triggers.base.Trigger with a field trigger: "
            "Literal[...] and the methods judge and describe"
        )
    return kind
