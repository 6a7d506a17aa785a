"""Import functions that a model's file names, and call them as their signature asks."""

import inspect
from collections.abc import Callable
from typing import Any

from deployments.config.blocks import data
from deployments.config.model import ModelConfig
from tasks.policy.records.errors import EstimatorError


def imported(config: ModelConfig, setting: str) -> Callable[..., Any]:
    """Import the function that `training.<setting>` names. Raises EstimatorError naming what is missing."""
    path: str = getattr(config.training, setting)
    module_name, _, name = path.partition(":")
    at = f"{config.name}: training.{setting} is {path}"
    module = data.imported(
        module_name,
        lambda reason: EstimatorError(
            f"{at}, but {module_name} cannot be imported ({reason}); expected a module that is installed or on PYTHONPATH"
        ),
    )
    found = getattr(module, name, None)
    if not callable(found):
        raise EstimatorError(f"{at}, but {module_name} has no function {name}; expected a function; fix the path")
    return found


def check_parameters(config: ModelConfig, setting: str, /, *given: object, **named: object) -> None:
    """Raise EstimatorError unless the function that `training.<setting>` names can be called with these arguments."""
    try:
        inspect.signature(imported(config, setting)).bind(*given, **named)
    except TypeError as error:
        names = "rows, config" if len(given) > 1 else "config" * len((*given, *named))
        raise EstimatorError(
            f"{config.name}: training.{setting} is {getattr(config.training, setting)}, which cannot be called with "
            f"({names}): {error}; expected a function of these parameters"
        ) from None
