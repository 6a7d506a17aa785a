"""Settings of labels that have a source of their own: the block `labels` of a model's YAML file."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from deployments.config.blocks.data import ColumnName, Source, one_name_or_several
from tasks.policy.records.base import Settings

LABEL_TIME = "labels.time"
"""Internal name of the time of such labels; no column of the rows has it."""


def _names_or_none(value: Any) -> str | tuple[str, ...] | None:
    return None if value is None else one_name_or_several(value)


class LabelSource(Settings):
    """Labels that are elsewhere than the rows. They are joined by id, however late they come, are corrected or withdrawn.

    A label belongs to the latest row of its id at or before the time at which the label became known. A withdrawn label
    is a newer entry of the id without a label."""

    source: Source
    id: Annotated[str | tuple[str, ...] | None, BeforeValidator(_names_or_none)] = Field(
        None, examples=["account", ["account", "week"]]
    )
    """The column, or columns, with the id of the row. Default: the names in `columns.id`."""
    time: ColumnName = Field(examples=["booked_at"])
    """When the label became known; `columns.label_delay_hours` is added. A query's :start and :end are bound to this time."""
    label: ColumnName | None = Field(None, examples=["outcome"])
    """The column with the label. Default: the name in `columns.label`."""


def with_label_time(content: dict[str, Any]) -> dict[str, Any]:
    """Give labels of their own source a time of their own, under a name that no column of the rows has."""
    columns = content.get("columns")
    if content.get("labels") is None or not isinstance(columns, dict):
        return content
    if columns.get("label_time") not in (None, LABEL_TIME):
        raise ValueError(
            f"columns.label_time is {columns['label_time']!r} and labels is given, expected the time under labels.time only"
        )
    return {**content, "columns": {**columns, "label_time": LABEL_TIME}}
