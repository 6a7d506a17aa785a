"""Settings of predictions that a service of the user's own logs: the block `predictions` of a model's YAML file."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from deployments.config.blocks.data import ColumnName, Columns, Source, one_name_or_several
from tasks.policy.records.base import Settings


def _names_or_none(value: Any) -> str | tuple[str, ...] | None:
    return None if value is None else one_name_or_several(value)


class PredictionSource(Settings):
    """Predictions that a service of yours makes and logs. Nothing is scored here: `score` reads the window's log instead.

    An entry belongs to the row of its id whose time is at most `delay_hours` away. Entries that repeat another one are
    dropped, and failed attempts beside a usable prediction; of two different predictions for one row neither is used."""

    source: Source
    id: Annotated[str | tuple[str, ...] | None, BeforeValidator(_names_or_none)] = Field(
        None, examples=["request", ["account", "week"]]
    )
    """The column, or columns, with the id of the row. Default: the names in `columns.id`."""
    time: ColumnName = Field(examples=["answered_at"])
    """When the prediction was made. A query's :start and :end are bound to this time."""
    delay_hours: float = Field(1.0, ge=0, le=24 * 31, examples=[6.0])
    """Most hours between a row's time and its prediction. Later ones than `source.settle_hours` after a window are missed."""
    prediction: ColumnName | None = Field(None, examples=["risk"])
    """Regression: the predicted value. Binary: the probability of the positive class, never the class itself."""
    probabilities: ColumnName | dict[str, ColumnName] | None = Field(
        None, examples=[{"basic": "p_basic", "plus": "p_plus", "pro": "p_pro"}, "scores"]
    )
    """Classes: the column with each class's probability. One column instead holds a list in the order of
    `columns.classes`, or a struct or JSON object with a field for each class."""
    version: ColumnName | None = Field(None, examples=["model_version"])
    """The version that answered, under any name. Default: all predictions are those of one version."""
    role: ColumnName | None = Field(None, examples=["role"])
    """`champion` for answers that were used, `challenger` in a trial, `shadow` for predictions that nobody saw. Default:
    all were used."""
    latency_s: ColumnName | None = Field(None, examples=["seconds"])
    """Seconds that the answer took."""
    max_missing_share: float = Field(0.01, ge=0, le=1, examples=[0.05])
    """Share of a window's rows that may have no logged prediction; more are a data fault."""
    max_duplicate_share: float = Field(0.01, ge=0, le=1, examples=[0.0])
    """Share of a window's rows that may have two different predictions; more are a data fault."""
    max_invalid_share: float = Field(0.01, ge=0, le=1, examples=[0.0])
    """Share of a window's rows whose prediction may be unusable: not a number, or not a probability; more are a data fault."""

    @model_validator(mode="after")
    def _check_answers(self) -> Self:
        if (self.prediction is None) == (self.probabilities is None):
            given = "neither" if self.prediction is None else "both"
            raise ValueError(f"{given} of prediction and probabilities is given, expected one of them")
        return self

    def named_classes(self) -> tuple[str, ...]:
        """Classes that have a column of their own."""
        return tuple(self.probabilities) if isinstance(self.probabilities, Mapping) else ()

    def answer_columns(self) -> tuple[str, ...]:
        """Columns that hold the predictions."""
        if isinstance(self.probabilities, Mapping):
            return tuple(self.probabilities.values())
        return (self.prediction or str(self.probabilities),)

    @staticmethod
    def why_not_promote(number: str) -> str:
        """Return why no version is promoted here."""
        return (
            f"version {number} is not promoted: your own service answers (predictions), expected to be told by its log; let it "
            "serve this version, and the log's next window shows that"
        )

    def why_not(self, task: str, columns: Columns) -> str | None:
        """Return why the block does not fit the model; None if it does."""
        named = self.named_classes()
        if self.source.settle_hours:
            return "predictions.source.settle_hours is set, expected source.settle_hours: rows and log are read at once"
        if task == "regression" and self.probabilities is not None:
            return "predictions.probabilities does not fit task regression, expected predictions.prediction"
        if task == "multiclass" and self.probabilities is None:
            return "predictions.prediction does not fit task multiclass, expected predictions.probabilities with each class"
        if named and columns.classes and set(named) != set(columns.classes):
            return (
                f"predictions.probabilities names {', '.join(named)}, expected the classes in columns.classes: "
                f"{', '.join(columns.classes)}"
            )
        if task == "binary" and named and columns.positive_label not in named and len(named) != 2:
            return (
                f"predictions.probabilities names {', '.join(named)}, expected both classes, or columns.positive_label"
            )
        own = 1 if isinstance(self.id, str) else len(self.id or columns.id_columns)
        if own != len(columns.id_columns):
            return f"predictions.id is {self.id!r}, expected as many columns as columns.id has: {', '.join(columns.id_columns)}"
        return None


def with_advice_only(content: dict[str, Any]) -> dict[str, Any]:
    """Let the policy of a model that somebody else serves only advise, unless its file says how to train."""
    policy = content.get("retraining")
    if content.get("predictions") is None or not isinstance(policy, Mapping) or "advise_only" in policy:
        return content
    return {**content, "retraining": {**policy, "advise_only": content.get("training") is None}}
