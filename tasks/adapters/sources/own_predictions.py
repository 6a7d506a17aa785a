"""Read predictions that a service of the user's own logged, and join them with the rows of a window.

An entry belongs to the row of its id whose time is near. Services log at least once, so entries that say the same again are
dropped, and so are failed attempts beside a usable answer. Two different answers for one row are an error of that row:
which of them was used is unknown.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from deployments.config.blocks.predictions import PredictionSource
from deployments.config.model import ModelConfig
from tasks.adapters.lake.casts import MOMENT, NUMERIC, is_text, to_utc
from tasks.adapters.lake.schemas import require_columns, row_key
from tasks.adapters.sources.read import inside, read_columns, time_form, where
from tasks.policy.comparison.predictions import MISSING_PREDICTION, NOT_A_PROBABILITY, invalid_rows, missing_rows
from tasks.policy.data_quality.logged_predictions import DUPLICATE
from tasks.policy.records.base import Window
from tasks.policy.records.errors import SourceError
from tasks.policy.rollout.traffic import Role
from tasks.policy.statistics.metrics import Floats

UNNAMED = "observed"
"""Version of predictions in a log that names none."""
NOT_A_NUMBER = "the prediction is not a number"
ROLES: tuple[Role, ...] = ("champion", "challenger", "shadow")
DECIMALS, NOTHING = 9, -1e300
"""Decimals to which repeated answers must agree, as logs write them with few, and what stands for a missing one."""
SUM_TOLERANCE = 0.01
"""How far the probabilities of a row may sum from 1; services round them."""


@dataclass(frozen=True)
class OwnPredictions:
    """The log of a window's rows: id, time, prediction, `version` (its name in the log), role, error and, if logged,
    `latency_s`.

    `orphans` are entries of no row, `repeats` those that say the same again. Orphans are counted among the entries made
    `delay_hours` before the window up to as long before its end: the rows that they may belong to have landed by then.
    """

    log: pa.Table
    orphans: int
    repeats: int

    @property
    def remark(self) -> str | None:
        """The counts in a sentence; None if both are 0."""
        counts = ((self.orphans, "belong to no row that has landed"), (self.repeats, "repeat another one"))
        return ", ".join(f"{count:,} entries {what}" for count, what in counts if count) or None


def read_own_predictions(
    config: ModelConfig,
    window: Window,
    rows: pa.Table,
    classes: Sequence[str] = (),
    known: pa.ChunkedArray | None = None,
) -> OwnPredictions:
    """Read the log of a window. `rows` has id and time of its rows, `classes` are those of the model, in its order.

    `known` are the ids of the rows in `known_span`, by which orphans are counted; without them none are. Entries after the
    time at which the window may be read are not used, so that a late run finds what a timely one did.
    Raises SourceError, SourceUnreachable.
    """
    own, view = _own(config), _view(config)
    slack = timedelta(hours=own.delay_hours)
    span = Window(window.start - slack, min(window.end + slack, max(config.read_at(window), window.end)))
    table = read_columns(view, span, _columns(view, own))
    require_columns(table.column_names, _columns(view, own), where(view))
    times = to_utc(table[own.time], f"{where(view)}: column {own.time!r}", time_form(view))
    keyed = pa.table({"id": row_key(view, table, where(view), time_form(view)), "time": times})
    table = table.append_column(_PLACE, pa.array(range(len(table))))
    near = inside(keyed.append_column(_PLACE, table[_PLACE]), span)
    table = table.take(near[_PLACE])
    entries = _entries(view, own, table, classes)
    entries.insert(0, "id", near["id"].cast(pa.string()).to_pandas())
    entries.insert(1, "logged", near["time"].to_pandas())
    first, repeats = _one_each(_of_rows(entries, rows, slack))
    orphans = 0 if known is None else _count_orphans(config, entries, window, known)
    return OwnPredictions(_as_table(first, rows.column(0), config.task == "multiclass"), orphans, repeats)


def known_span(config: ModelConfig, window: Window) -> Window:
    """Return the times of all rows to which an entry may belong that is counted as an orphan otherwise."""
    return Window(window.start - 2 * timedelta(hours=_own(config).delay_hours), window.end)


def read_known_ids(config: ModelConfig, window: Window) -> pa.ChunkedArray:
    """Read the ids of the rows in `known_span` from the source. Raises SourceError, SourceUnreachable."""
    found = read_columns(config, known_span(config, window), config.columns.id_columns)
    require_columns(found.column_names, config.columns.id_columns, where(config))
    return row_key(config, found, where(config), time_form(config))


_PLACE = "__place"


def _own(config: ModelConfig) -> PredictionSource:
    if config.predictions is None:
        raise AssertionError(f"{config.name} has no log of predictions")
    return config.predictions


def _view(config: ModelConfig) -> ModelConfig:
    """Return the configuration of the log's source, whose time is when a prediction was made."""
    own = _own(config)
    columns = config.columns.model_copy(update={"id": own.id or config.columns.id, "time": own.time})
    return config.model_copy(update={"source": own.source, "columns": columns})


def _columns(view: ModelConfig, own: PredictionSource) -> tuple[str, ...]:
    optional = (own.version, own.role, own.latency_s)
    named = (*view.columns.id_columns, own.time, *own.answer_columns(), *optional)
    return tuple(dict.fromkeys(name for name in named if name is not None))


def _entries(view: ModelConfig, own: PredictionSource, table: pa.Table, classes: Sequence[str]) -> pd.DataFrame:
    """Return prediction, version, role, error and latency of each entry."""
    predicted, unreadable = read_answers(view, own, table, classes)
    missing, invalid = missing_rows(predicted), invalid_rows(predicted, view.task)
    if predicted.ndim == 2 and len(predicted):
        sums = np.where(missing, 1.0, predicted.sum(axis=1))
        invalid |= np.abs(sums - 1) > SUM_TOLERANCE
    error = np.full(len(predicted), None, object)
    for faults, text in ((invalid, NOT_A_PROBABILITY), (missing, MISSING_PREDICTION), (unreadable, NOT_A_NUMBER)):
        error[faults] = text
    found = pd.DataFrame({"prediction": list(predicted), "error": error})
    found["version"] = _texts(table[own.version], UNNAMED) if own.version else UNNAMED
    found["role"] = _roles(view, table[own.role], own.role) if own.role else "champion"
    if own.latency_s:
        found["latency_s"] = _numbers(table[own.latency_s], f"{where(view)}: column {own.latency_s!r}")[0]
    return found


def read_answers(
    view: ModelConfig, own: PredictionSource, table: pa.Table, classes: Sequence[str]
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return (predictions, mask of those that are no number): (n,), or (n, classes) in the order of `classes`."""
    named = own.probabilities
    if named is None:
        return _value(view, table[str(own.prediction)], f"{where(view)}: column {own.prediction!r}")
    if isinstance(named, Mapping):
        wanted = classes[-1:] if view.task == "binary" and classes[-1] in named else classes
        if view.task == "binary" and not set(wanted) <= set(named):
            raise _other_classes(view, tuple(named), classes)
        if view.task == "multiclass" and set(named) != set(classes):
            raise _other_classes(view, tuple(named), classes)
        columns = [_value(view, table[named[name]], f"{where(view)}: column {named[name]!r}") for name in wanted]
    else:
        columns = _of_nested(view, table[named], f"{where(view)}: column {named!r}", classes)
    if view.task == "binary":
        return columns[-1]
    values, unreadable = zip(*columns, strict=True)
    return np.column_stack(values), np.asarray(np.column_stack(unreadable).any(axis=1), bool)


def _other_classes(view: ModelConfig, found: Sequence[str], classes: Sequence[str]) -> SourceError:
    return SourceError(
        f"{where(view)}: predictions.probabilities names {', '.join(found)}, expected the classes of the labels: "
        f"{', '.join(classes)}; fix the names in the YAML, or list the classes in columns.classes"
    )


_Values = tuple[Floats, NDArray[np.bool_]]


def _of_nested(view: ModelConfig, column: pa.ChunkedArray, at: str, classes: Sequence[str]) -> list[_Values]:
    """Return each class's probability from a list, a struct or a JSON text; an entry of another shape is no number."""
    values = column.to_pylist()
    if is_text(column.type):
        values = [_parsed(value) for value in values]
    if hasattr(column.type, "value_type") and not is_text(column.type) and not view.columns.classes:
        raise SourceError(
            f"{at} holds lists, expected columns.classes, which says in which order the classes come; add it to the YAML"
        )
    found = np.full((len(values), len(classes)), np.nan)
    unreadable = np.zeros(len(values), bool)
    for place, value in enumerate(values):
        if isinstance(value, Mapping):
            value = [value.get(name) for name in classes] if set(value) == set(classes) else ()
        if value is None:
            continue
        if isinstance(value, str) or len(value) != len(classes):
            unreadable[place] = True
            continue
        try:
            found[place] = [np.nan if each is None else float(each) for each in value]
        except (TypeError, ValueError):
            unreadable[place] = True
    if len(values) and unreadable.all():
        raise SourceError(
            f"{at} holds no probabilities of {', '.join(classes)}, expected a list of {len(classes)} numbers, or a struct "
            "or JSON object with a number for each class; fix predictions.probabilities"
        )
    return [(found[:, place], unreadable) for place in range(len(classes))]


def _parsed(text: str | None) -> object:
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return ""


def _value(view: ModelConfig, column: pa.ChunkedArray, at: str) -> _Values:
    """Return numbers, and which values are none. Raises SourceError for classes in place of probabilities."""
    kind = column.type
    is_class = pa.types.is_boolean(kind) or (pa.types.is_integer(kind) and column.null_count < len(column))
    if view.task != "regression" and is_class:
        raise SourceError(
            f"{at} is {kind}, expected probabilities: a class says too little to estimate and compare by; log the "
            "probability of the positive class, or of each class (predictions.probabilities)"
        )
    values, unreadable = _numbers(column, at)
    if len(values) and unreadable.sum() == len(values) - column.null_count and unreadable.any():
        expected = "numbers" if view.task == "regression" else "probabilities, not classes"
        raise SourceError(f"{at} is {kind} that holds no number, expected {expected}; fix the source or predictions")
    return values, unreadable


def _numbers(column: pa.ChunkedArray, at: str) -> _Values:
    """Return numbers, NaN where there is none, and which values are text that is no number."""
    if any(check(column.type) for check in NUMERIC):
        values: Floats = column.cast(pa.float64(), safe=False).to_numpy()
        return values, np.zeros(len(column), bool)
    if not is_text(column.type):
        raise SourceError(f"{at} is {column.type}, expected numbers; fix the source or the columns in predictions")
    texts = pc.utf8_trim_whitespace(column.cast(pa.string()))
    values = pd.to_numeric(texts.to_pandas(), errors="coerce").to_numpy(float)
    known = pc.and_(pc.is_valid(texts), pc.not_equal(texts, "")).fill_null(False).to_numpy()
    spelled = pc.is_in(pc.utf8_lower(texts), pa.array(["nan"])).fill_null(False).to_numpy()
    return values, known & np.isnan(values) & ~spelled


def _texts(column: pa.ChunkedArray, missing: str) -> "pd.Series[str]":
    named: pd.Series[str] = column.cast(pa.string()).to_pandas().fillna(missing)
    return named


def _roles(view: ModelConfig, column: pa.ChunkedArray, name: str) -> "pd.Series[str]":
    roles = _texts(column, "champion").str.strip().str.lower()
    strange = int((~roles.isin(ROLES)).sum())
    if strange:
        raise SourceError(
            f"{where(view)}: column {name!r} has {strange:,} other values than {', '.join(ROLES)}, expected these only; "
            "fix the source, or leave out predictions.role if every prediction was used"
        )
    return roles


def _of_rows(entries: pd.DataFrame, rows: pa.Table, slack: timedelta) -> pd.DataFrame:
    """Return the entries of these rows, oldest first."""
    known = pd.DataFrame({"id": rows.column(0).cast(pa.string()).to_pandas(), "row_time": rows.column(1).to_pandas()})
    known["place"] = np.arange(len(known))
    found = entries.merge(known.dropna(subset="id").drop_duplicates("id"), on="id")
    return found[(found["logged"] - found["row_time"]).abs() <= slack].sort_values("logged", kind="stable")


def _count_orphans(config: ModelConfig, entries: pd.DataFrame, window: Window, known: pa.ChunkedArray) -> int:
    """Count entries of no row; those that may belong to a row before the period are none."""
    slack = timedelta(hours=_own(config).delay_hours)
    first = max(window.start - slack, config.period.start + slack)
    is_due = (entries["logged"] >= first) & (entries["logged"] < window.end - slack)
    return int((is_due & ~entries["id"].isin(known.cast(pa.string()).to_pandas())).sum())


def _one_each(found: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return one entry for each row, role and version of a trial, and the number of those that say the same again.

    A used answer is one per row, whichever version gave it. A failed attempt is no answer where another entry is usable.
    """
    trial = np.where(found["role"] == "champion", "", found["version"])
    found = found.assign(trial=trial, answer=_answer_codes(found["prediction"]), usable=found["error"].isna())
    key = ["place", "role", "trial"]
    repeats = len(found) - len(found.drop_duplicates([*key, "answer"]))
    found = found[found["usable"] | ~found.groupby(key)["usable"].transform("any")].copy()
    different = found.groupby(key)["answer"].transform("nunique") > 1
    found["error"] = found["error"].mask(different & found["usable"], DUPLICATE)
    return found.drop_duplicates(key), repeats


def _answer_codes(answers: "pd.Series[Any]") -> NDArray[np.int64]:
    """Return a code (n,) that is equal for equal answers, missing ones included."""
    if answers.empty:
        return np.empty(0, np.int64)
    values = np.nan_to_num(np.round(np.stack(list(answers)).astype(float), DECIMALS), nan=NOTHING)
    codes: NDArray[np.int64] = np.unique(values, axis=0, return_inverse=True)[1].reshape(-1)
    return codes


def _as_table(found: pd.DataFrame, ids: pa.ChunkedArray, listed: bool) -> pa.Table:
    usable = found["error"].isna().to_numpy()
    answers = [answer if ok else None for answer, ok in zip(found["prediction"], usable, strict=True)]
    columns = {
        "id": ids.take(pa.array(found["place"].to_numpy(np.int64))),
        "time": pa.Array.from_pandas(found["row_time"]).cast(MOMENT, safe=False),
        "prediction": pa.array(answers, pa.list_(pa.float64()) if listed else pa.float64()),
        "version": pa.array(found["version"], pa.string()),
        "role": pa.array(found["role"], pa.string()),
        "error": pa.array(found["error"], pa.string()),
    }
    if "latency_s" in found.columns:
        columns["latency_s"] = pa.array(found["latency_s"].to_numpy(float), pa.float64(), from_pandas=True)
    return pa.table(columns)
