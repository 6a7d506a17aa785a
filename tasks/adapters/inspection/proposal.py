"""All guesses about a table for a new model: the role of every column, the windows and the metric, each with its reason."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import pandas as pd
import pyarrow as pa

from tasks.adapters.inspection import identity, labels, times
from tasks.adapters.inspection.columns import ColumnFacts, decimal_comma, describe_columns, sentinel_of
from tasks.adapters.inspection.personal import looks_personal
from tasks.adapters.inspection.table import FoundTable
from tasks.adapters.inspection.times import Division, Guess
from tasks.adapters.lake import label_spellings

METRICS = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "mae"}
MOST_CATEGORIES = 1000
CODE = re.compile(r"(^|_)(code|id|zip|type|class|zone|region|store|shop|station|site|no)$")
RESERVED = ("__filename", "__fragment_index", "__batch_index", "__last_in_fragment")


@dataclass(frozen=True)
class Answers:
    """What the user has said about the table; None where it is guessed."""

    time: str | None = None
    id: tuple[str, ...] | None = None
    label: str | None = None
    task: str | None = None
    window_days: float | None = None
    months: bool = False
    label_delay_hours: float | None = None

    def but(self, **answers: Any) -> "Answers":
        """Return a copy with more answers."""
        return replace(self, **answers)


@dataclass(frozen=True)
class Proposal:
    """The guesses for one table. A guess without a value is an open question."""

    model: str
    table: FoundTable
    columns: Mapping[str, ColumnFacts]
    answers: Answers
    time: Guess
    id: Guess
    label: Guess

    @cached_property
    def task(self) -> Guess:
        if self.answers.task:
            return Guess(self.answers.task, "as given")
        return (
            Guess(None, "the label is open")
            if self.label.value is None
            else labels.choose_task(self.columns[self.label.value])
        )

    @cached_property
    def label_time(self) -> Guess:
        if self.time.value is None or self.label.value is None or self.answers.label_delay_hours is not None:
            return Guess(None, "")
        return times.choose_label_time(self.columns, self.time.value, self.label.value)

    @cached_property
    def label_delay_hours(self) -> Guess:
        if self.answers.label_delay_hours is not None:
            return Guess(self.answers.label_delay_hours, "as given")
        if self.time.value is None or self.label.value is None:
            return Guess(None, "time or label are open")
        if self.label_time.value:
            return Guess(0.0, "labels are known at their own time")
        return times.choose_delay(self.columns, self.time.value, self.label.value)

    @cached_property
    def positive(self) -> Guess:
        if self.task.value != "binary" or self.label.value is None:
            return Guess(None, "")
        return labels.choose_positive(self.table.sample.column(self.label.value))

    @property
    def metric(self) -> str | None:
        return METRICS.get(self.task.value or "")

    @cached_property
    def personal(self) -> dict[str, str]:
        """Columns that seem to identify people, and what they seem to hold."""
        texts = {name: facts for name, facts in self.columns.items() if facts.kind in ("text", "numeric", "time")}
        found = {name: looks_personal(name, facts.values) for name, facts in texts.items() if name != self.label.value}
        return {name: kind for name, kind in found.items() if kind}

    @cached_property
    def left_out(self) -> dict[str, str]:
        """Columns that are no features although they have no other role, and why."""
        return {name: why for name in self._free if (why := self._why_no_feature(self.columns[name]))} | self._leaks

    @cached_property
    def features(self) -> dict[str, tuple[str, ...]]:
        """Features by kind."""
        kinds: dict[str, list[str]] = {"numeric": [], "categorical": [], "boolean": []}
        for name in self._free:
            if name not in self.left_out:
                kinds[_feature_kind(self.columns[name])].append(name)
        return {kind: tuple(names) for kind, names in kinds.items() if names}

    @cached_property
    def calendar(self) -> tuple[str, ...]:
        """Features that follow the calendar, so that a window has few of their values and new ones come."""
        if self.time.value is None:
            return ()
        moments = self.columns[self.time.value].values
        names = [name for group in self.features.values() for name in group]
        return tuple(name for name in names if times.follows_calendar(self.columns[name], moments))

    @cached_property
    def sentinels(self) -> dict[str, tuple[float, float]]:
        """Features with a number that seems to mean a missing value, and its share of the rows."""
        found = {name: sentinel_of(self.columns[name]) for name in self.features.get("numeric", ())}
        return {name: each for name, each in found.items() if each}

    @cached_property
    def division(self) -> Division | None:
        """Windows and history; None while the time is open."""
        if self.time.value is None:
            return None
        moments = self.columns[self.time.value].values
        delay = self.label_delay_hours.value or 0.0
        return times.divide(moments, self.table.rows, self.answers.window_days, delay, self.answers.months)

    @cached_property
    def source_options(self) -> dict[str, Any]:
        """Options of the source: those of the file, and those that the times and numbers of the used columns need."""
        options = dict(self.table.source.get("options", {}))
        return options | times.common_options(self.columns, self.used)

    @property
    def used(self) -> tuple[str, ...]:
        """Columns that have a role, in the order of the table."""
        roles = {self.time.value, self.label.value, self.label_time.value, *(self.id.value or ())}
        roles |= {name for names in self.features.values() for name in names}
        return tuple(name for name in self.columns if name in roles)

    @property
    def is_complete(self) -> bool:
        """Whether the table can be back-tested: time, id, label and task are known, and there is a feature."""
        return None not in (self.time.value, self.id.value, self.label.value, self.task.value) and bool(self.features)

    @property
    def _free(self) -> list[str]:
        ids = self.id.value or ()
        entities = {
            name for name in ids if len(ids) > 1 and name != self.time.value and self._is_category(self.columns[name])
        }
        taken = {self.time.value, self.label.value, self.label_time.value, *ids} - entities
        return [name for name in self.columns if name not in taken]

    def _is_category(self, facts: ColumnFacts) -> bool:
        return 1 < facts.distinct <= 100 and facts.name not in self.personal

    @cached_property
    def _leaks(self) -> dict[str, str]:
        if self.label.value is None or self.task.value is None:
            return {}
        able = {name: self.columns[name] for name in self._free if not self._why_no_feature(self.columns[name])}
        found = labels.find_leaks(able, self.columns[self.label.value], self.task.value)
        return {name: f"leaks the label: it {why}" for name, why in found.items()}

    def _why_no_feature(self, facts: ColumnFacts) -> str | None:
        if facts.name in self.personal:
            return f"looks like {self.personal[facts.name]}"
        if facts.is_constant:
            return "has one value only" if facts.distinct else "is empty"
        if facts.kind == "other":
            return "holds lists, structures or bytes"
        if facts.unclear:
            return f"holds dates such as {facts.unclear}, which can be read both ways"
        if facts.kind == "time":
            return "is a time; a feature would be derived from it, such as its hour or the days since"
        if facts.name in RESERVED:
            return "has a name that Arrow reserves"
        if facts.is_prose:
            return "is free text"
        many = facts.distinct > max(MOST_CATEGORIES, 20) or facts.distinct > 0.5 * len(facts.values)
        if _feature_kind(facts) == "categorical" and many:
            return f"has {facts.distinct:,} different values, too many for categories"
        if identity.numbers_rows(facts):
            return "numbers the rows"
        if self.time.value and identity.rises_with(facts, self.columns[self.time.value].values):
            return "rises with the time, so later rows have values that no model has learned"
        return None


def _feature_kind(facts: ColumnFacts) -> str:
    if facts.kind == "boolean":
        return "boolean"
    return "categorical" if facts.kind == "text" or (facts.is_whole and CODE.search(facts.snake)) else "numeric"


def describe_table(table: FoundTable) -> dict[str, ColumnFacts]:
    """Describe every column of a table, once for all proposals."""
    delimiter = table.source.get("options", {}).get("delimiter", ",")
    comma = table.is_text and delimiter != "," and decimal_comma(table.sample, may_be_thousands=delimiter != ";")
    if comma:
        table.source["options"]["decimal_point"] = ","
    return describe_columns(table.sample, table.is_text, "," if comma else ".")


KINDS = {
    "numeric": "numbers",
    "boolean": "yes and no",
    "text": "text",
    "time": "times",
    "empty": "no value",
    "other": "lists, structures or bytes",
}


def misfit(answers: Answers, columns: Mapping[str, ColumnFacts]) -> tuple[str, str] | None:
    """Return the first role whose column cannot have it, and the column with why; None if all fit."""
    roles = {"time": (answers.time,), "id": answers.id or (), "label": (answers.label,)}
    for role, names in roles.items():
        for name in names:
            if name is not None and name not in columns:
                return role, f"{name!r}, expected a column of the table: {', '.join(columns)}"
    for role, name, why in (
        ("time", answers.time, _why_no_time),
        ("label", answers.label, partial(_why_no_label, answers=answers)),
    ):
        reason = why(columns[name]) if name is not None else None
        if reason:
            return role, f"{name!r}, which {reason}"
    if answers.label is not None and answers.label in (answers.id or ()):
        return "id", f"{answers.label!r}, which is the label, expected columns that are known before it"
    return None


def _why_no_time(facts: ColumnFacts) -> str | None:
    if facts.unclear:
        return (
            f"holds dates such as {facts.unclear}, which can be read both ways, expected dates such as 2023-02-01; or leave the "
            "time open, and write columns.time and source.options.time_format in the file"
        )
    if facts.kind != "time":
        return (
            f"holds {KINDS[facts.kind]}, expected times; numbers since 1970 are read as times in a column with a name such as "
            "ts or created_at"
        )
    return "holds one time only, expected at least 2" if facts.distinct < 2 else None


def _why_no_label(facts: ColumnFacts, answers: Answers) -> str | None:
    if facts.name == answers.time:
        return "is the time, expected another column"
    if facts.kind not in ("numeric", "boolean", "text"):
        return f"holds {KINDS[facts.kind]}, expected numbers, yes and no, or text"
    if facts.distinct < 2:
        return "has one value only, expected at least 2"
    if answers.task == "regression" and pd.to_numeric(facts.values, errors="coerce").isna().all():
        return "holds text, expected numbers for --task regression"
    if answers.task == "binary":
        seen = pa.array(facts.values.dropna().unique().astype(str).tolist(), pa.string())
        classes = label_spellings.seen_classes(pa.chunked_array([seen]), binary=True)
        if len(classes) > 2:
            shown = f"{', '.join(classes[:3])}{', …' if len(classes) > 3 else ''}"
            return (
                f"has {len(classes):,} values ({shown}), expected 2 for --task binary; choose multiclass or regression"
            )
    return None


def propose(model: str, table: FoundTable, columns: Mapping[str, ColumnFacts], answers: Answers) -> Proposal:
    """Guess what the user has not said."""
    if answers.time:
        time = Guess(answers.time, "; ".join(filter(None, ("as given", columns[answers.time].order))))
    else:
        time = times.choose_time(columns)
    if answers.label:
        label = Guess(answers.label, "as given")
    else:
        able = {
            name: facts
            for name, facts in columns.items()
            if not looks_personal(name, facts.values) and name not in (answers.id or ())
        }
        label = labels.choose_label(able, time.value, model)
    row = Guess(answers.id, "as given") if answers.id else identity.choose_id(columns, time.value, label.value)
    if isinstance(row.value, str):
        row = replace(row, value=(row.value,))
    return Proposal(model, table, columns, answers, time, row, label)


def trial_rows(proposal: Proposal, most: int) -> pd.DataFrame:
    """Return up to `most` rows in the used columns, with times in UTC and the values as the model's source would read them."""
    raw = proposal.table.sample
    label, task = proposal.label.value, proposal.task.value
    frame = pd.DataFrame(
        {
            name: raw.column(name).to_pandas()
            if name == label and task != "regression"
            else proposal.columns[name].values
            for name in proposal.used
        }
    )
    frame = frame[frame[proposal.time.value].notna()]
    return frame if len(frame) <= most else frame.sample(most, random_state=0).sort_index()
