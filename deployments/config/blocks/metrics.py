"""Settings of metrics of the user's own: the block `metrics` of a model's YAML file, and the rules made from it."""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, ValidationError, model_validator
from pydantic.fields import FieldInfo

from deployments.config.blocks.data import IMPORT_PATH, ColumnNames, imported
from tasks.policy.custom_metrics.ready_made import READY_MADE
from tasks.policy.custom_metrics.rules import CustomRule
from tasks.policy.records.base import Settings, is_share
from tasks.policy.records.errors import MetricError
from tasks.policy.statistics.metrics import HIGHER_IS_BETTER

SKLEARN = "sklearn:"
LOWER = ("_loss", "_error", "_deviance")
"""Endings of scikit-learn's functions whose values are to be minimised ("Which scoring function?", model evaluation)."""
REGRESSION, CLASSIFICATION = ("_regression",), ("_classification", "_ranking")
"""Modules of sklearn.metrics that define the metrics of a task; others are of clusters, distances and multiple labels."""
PROBABILITIES = ("y_score", "y_proba", "y_prob")
"""Names of the argument by which a function of scikit-learn takes probabilities instead of classes."""


def _known_function(value: str) -> str:
    if value in READY_MADE or value.startswith(SKLEARN) or re.match(IMPORT_PATH, value):
        return value
    raise ValueError(
        f"expected module:function, sklearn:NAME such as sklearn:fbeta_score, or one of {', '.join(READY_MADE)}"
    )


def _fault(fault: Any, accepted: Mapping[str, FieldInfo]) -> str:
    place = ".".join(map(str, ("parameters", *fault["loc"])))
    message = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "missing":
        return f"{place} is missing, expected a value"
    if not fault["loc"]:
        return message
    form = ", such as 0.6 or 60 %" if is_share(accepted[fault["loc"][0]]) and len(fault["loc"]) == 1 else ""
    return f"{place} is {fault['input']!r}: {message}{form}"


class CustomMetric(Settings):
    """A metric that Perennial does not have by itself. It is measured, compared and decided on like the built-in ones."""

    function: Annotated[str, AfterValidator(_known_function)] = Field(examples=["mycompany.churn:profit"])
    """`module:function`, called with labels and predictions; or a ready-made metric; or `sklearn:NAME`, a function of
    sklearn.metrics. Labels are codes (0 and 1 for two classes) or numbers; predictions are P(1), or (n, k) probabilities."""
    parameters: dict[str, JsonValue] = Field({}, examples=[{"beta": 2}])
    """Passed to the function by name."""
    higher_is_better: bool | None = Field(None, examples=[True])
    """Its direction. Required for a function of your own."""
    per: Literal["row", "table"] | None = Field(None, examples=["row"])
    """What a function of your own returns: a value for each `row`, whose mean is the metric, or one value of a `table`."""
    predictions: Literal["probability", "class"] | None = Field(None, examples=["class"])
    """Classification: whether the function gets probabilities or predicted classes. Default: probabilities, and for
    scikit-learn what the function asks for."""
    columns: ColumnNames = Field((), examples=[["loan_usd"]])
    """Columns of the rows that the function reads: a third argument, a mapping of arrays by name."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.is_own and self.higher_is_better is None:
            raise ValueError("higher_is_better is missing, expected true or false for a function of your own")
        if not self.is_own and (self.columns or self.per):
            given = "columns" if self.columns else "per"
            raise ValueError(f"{given} is given, expected it with a function of your own only")
        ready = READY_MADE.get(self.function)
        if ready is not None:
            accepted = ready.parameters.model_fields
            unknown = sorted(set(self.parameters) - set(accepted))
            if unknown:
                raise ValueError(
                    f"parameters has {unknown[0]!r}, but {self.function} takes {', '.join(accepted) or 'none'}"
                )
            try:
                ready.parameters.model_validate(self.parameters)
            except ValidationError as error:
                faults = [_fault(fault, accepted) for fault in error.errors()]
                raise ValueError(f"{self.function}: {'; '.join(faults)}") from None
        return self

    @property
    def is_own(self) -> bool:
        """Whether it is a function of the user's own."""
        return self.function not in READY_MADE and not self.function.startswith(SKLEARN)

    @property
    def is_higher_better(self) -> bool:
        if self.higher_is_better is not None:
            return self.higher_is_better
        ready = READY_MADE.get(self.function)
        return ready.higher_is_better if ready else not self.function.endswith(LOWER)

    def rule(self, name: str, task: str) -> CustomRule:
        """Return how the metric is computed. Raises MetricError if the function cannot be imported or called."""
        ready = READY_MADE.get(self.function)
        function = ready.function if ready else _imported(name, self.function)
        parameters = self.parameters
        if ready:
            parameters = ready.parameters.model_validate(parameters).model_dump(exclude_unset=True)
        else:
            self._refuse_unfit(name, task, function)
        decided = self.predictions == "class" or (
            self.predictions is None and not ready and self._asks_for_classes(function)
        )
        return CustomRule(
            name=name,
            function=function,
            higher_is_better=self.is_higher_better,
            is_regression=task == "regression",
            per_row=ready.per_row if ready else self.per == "row",
            decided=decided and task != "regression",
            needs_positives=ready is not None and ready.needs_positives,
            columns=self.columns,
            parameters=parameters,
        )

    def _refuse_unfit(self, name: str, task: str, function: Callable[..., Any]) -> None:
        """Raise MetricError unless the function can be called as a metric of this task."""
        at = f"metrics.{name}.function is {self.function}"
        if self.function.startswith(SKLEARN):
            fitting = REGRESSION if task == "regression" else CLASSIFICATION
            module = str(getattr(function, "__module__", "")).rpartition(".")[2]
            if module not in fitting or "pred_decision" in inspect.signature(function).parameters:
                raise MetricError(
                    f"{at}, which is no metric of scikit-learn for task {task}, expected one of "
                    f"{'regression' if task == 'regression' else 'classification'}; see its page Metrics and scoring"
                )
        if not callable(function):
            raise MetricError(f"{at}, which is a {type(function).__name__}, expected a function")
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # some functions written in C have none
            return
        given = ("labels", "predictions", "rows") if self.columns else ("labels", "predictions")
        try:
            signature.bind(*given, **self.parameters)
        except TypeError as error:
            called = ", ".join((*given, *self.parameters))
            raise MetricError(
                f"{at}, which cannot be called with ({called}): {error}; expected these parameters, the first {len(given)} by "
                "position"
            ) from None

    def _asks_for_classes(self, function: Callable[..., Any]) -> bool:
        """Whether a function of scikit-learn takes classes; the log loss takes probabilities under the same name."""
        names = inspect.signature(function).parameters if self.function.startswith(SKLEARN) else {}
        return "y_pred" in names and "log_loss" not in self.function

    def why_not(self, name: str, task: str) -> str | None:
        """Why the metric cannot be that of a model with this task, else None."""
        if name in HIGHER_IS_BETTER:
            return f"metrics.{name} has the name of a built-in metric, expected another name"
        ready = READY_MADE.get(self.function)
        if ready is not None and task not in ready.tasks:
            return f"metrics.{name} is {self.function}, which does not fit task {task}, expected task: {' or '.join(ready.tasks)}"
        costs = self.parameters.get("costs") if self.function == "cost_matrix" else None
        if isinstance(costs, list) and (len(costs) == 2) != (task == "binary"):
            return f"metrics.{name}.parameters.costs has {len(costs)} rows, expected one for each class of task {task}"
        return None


def with_directions(content: dict[str, Any]) -> dict[str, Any]:
    """Tell each `metric_breach` in the file's content the direction of its metric, where that is one of the user's own."""
    directions = {}
    for name, given in content["metrics"].items() if isinstance(content.get("metrics"), Mapping) else ():
        try:
            directions[name] = CustomMetric.model_validate(given).is_higher_better
        except ValidationError:  # reported when the file is validated as a whole
            continue
    return {**content, "retraining": _with_directions(content.get("retraining"), directions)} if directions else content


def _with_directions(value: Any, directions: Mapping[str, bool]) -> Any:
    if isinstance(value, list):
        return [_with_directions(each, directions) for each in value]
    if not isinstance(value, Mapping):
        return value
    found = {key: _with_directions(each, directions) for key, each in value.items()}
    if found.get("trigger") == "metric_breach" and found.get("metric") in directions:
        found.setdefault("higher_is_better", directions[str(found["metric"])])
    return found


@cache
def _imported(name: str, path: str) -> Callable[..., Any]:
    function: Callable[..., Any] = imported(
        path.replace(SKLEARN, "sklearn.metrics:", 1) if path.startswith(SKLEARN) else path,
        lambda reason: MetricError(
            f"metrics.{name}.function is {path}, which cannot be imported ({reason}); expected module:function, installed or "
            "on PYTHONPATH"
        ),
    )
    return function
