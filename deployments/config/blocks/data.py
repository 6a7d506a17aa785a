"""Settings of a model's data: the blocks `source`, `columns` and `period` of its YAML file.

Each policy owns its settings (`tasks.policy`); the others are here and in the modules beside this one. Every field has bounds, a
description, an example and a safe default; error messages and `deployments/README.md` are generated from them.
"""

import codecs
import importlib
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tasks.policy.records.base import Settings

IMPORT_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
ImportPath = Annotated[str, Field(pattern=IMPORT_PATH)]
LONGEST_NAME = 200
RESERVED = ("__filename", "__fragment_index", "__batch_index", "__last_in_fragment")
"""Arrow adds columns with these names to every file it reads; a model's columns must not have them."""


def imported(path: str, refuse: Callable[[str], Exception]) -> Any:
    """Import what a model's file names: `module:name`, or a module. Raises the error that `refuse` makes of the reason."""
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
        return getattr(module, name) if name else module
    except (ImportError, AttributeError) as error:
        raise refuse(str(error)) from error
    except (Exception, SystemExit) as error:  # a module of the user's own may raise anything
        message = str(error).strip()
        reason = f"{type(error).__name__}: {message.splitlines()[0]}" if message else type(error).__name__
        raise refuse(reason) from error


def _not_reserved(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name!r} is a name that Arrow reserves, expected another one; rename the column")
    return name


def _without_duplicates(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is listed more than once, expected each column once")
    return names


def one_name_or_several(value: Any) -> str | tuple[str, ...]:
    """Normalise one name or a list of names; a list of one name becomes that name.

    Errors are raised here, because pydantic reports one error per member of a union.
    """
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not names or not all(isinstance(name, str) and 0 < len(name) <= LONGEST_NAME for name in names):
        raise ValueError(
            "expected the name of a column, or a list of names such as [customer, week]; put a number in quotes"
        )
    names = _without_duplicates(tuple(map(_not_reserved, names)))
    return names[0] if len(names) == 1 else names


ColumnName = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_not_reserved)]
ColumnNames = Annotated[tuple[ColumnName, ...], AfterValidator(_without_duplicates)]
Share = Annotated[float, Field(gt=0, le=1)]


class Source(Settings):
    """Where production rows come from."""

    kind: Literal["parquet", "csv", "delta", "sql", "python"] = Field(examples=["parquet"])
    """How the source is read: files or a folder (`parquet`, `csv`), a Delta table, a SQL query, or a Python function."""
    path: str | None = Field(None, min_length=1, examples=["s3://warehouse/churn/"])
    """parquet, csv, delta: file, folder or table. A path relative to the YAML file, or s3://, gs://, http(s)://."""
    url_env: str | None = Field(None, pattern=r"^[A-Z][A-Z0-9_]*$", examples=["WAREHOUSE_URL"])
    """sql: the environment variable that holds the SQLAlchemy URL. The file itself never holds a password."""
    query: str | None = Field(None, examples=["SELECT * FROM churn WHERE week >= :start AND week < :end"])
    """sql: a query that returns the rows of one window; :start and :end are bound as UTC times."""
    function: ImportPath | None = Field(None, examples=["mycompany.churn:read_rows"])
    """python: `module:function`, called as function(start, end, **options). Returns a pyarrow, pandas or Polars table (also
    a lazy one), or any other with the Arrow PyCapsule interface, with the rows of [start, end); times need a zone."""
    options: dict[str, str | int | float | bool] = Field({}, examples=[{"delimiter": ";"}])
    """Passed to the reader (csv: `delimiter`, `encoding`, `time_format`, …) or to the Python function."""
    settle_hours: float = Field(0.0, ge=0, le=24 * 31, examples=[6.0])
    """Hours to wait after a window's end before it is read. A window is read once, so rows that arrive later are missed."""

    @model_validator(mode="after")
    def _check_csv_options(self) -> Self:
        for name in ("delimiter", "quote_char", "decimal_point") if self.kind == "csv" else ():
            value = str(self.options.get(name, "."))
            if len(value) != 1:
                tab = '; a tab is "\\t" in double quotes' if value == "\\t" else ""
                raise ValueError(f"options.{name} is {value!r}, expected one character{tab}")
        encoding = str(self.options.get("encoding", "utf8")) if self.kind == "csv" else "utf8"
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ValueError(
                f"options.encoding is {encoding!r}, expected an encoding such as utf8 or latin-1"
            ) from None
        return self

    @model_validator(mode="after")
    def _check_required(self) -> Self:
        needed = {"sql": ("url_env", "query"), "python": ("function",)}.get(self.kind, ("path",))
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"{name} is missing, a source of kind {self.kind} needs {' and '.join(needed)}")
        return self


class Features(Settings):
    """The model's inputs by kind, in the order in which the model sees them. At least one feature is required."""

    numeric: tuple[ColumnName, ...] = Field((), examples=[["tenure_days", "spend_usd"]])
    """Columns of numbers."""
    categorical: tuple[ColumnName, ...] = Field((), examples=[["plan", "region"]])
    """Columns of categories: text, or codes without an order."""
    boolean: tuple[ColumnName, ...] = Field((), examples=[["has_discount"]])
    """Columns of true and false."""
    other: tuple[ColumnName, ...] = Field((), examples=[["complaint", "joined_on"]], exclude_if=lambda names: not names)
    """Text, dates, times and lists, stored as they are, for `training.pipeline` or a model of your own. Of these columns only
    the share of missing values is monitored."""

    @property
    def names(self) -> tuple[str, ...]:
        return self.tabular + self.other

    @property
    def tabular(self) -> tuple[str, ...]:
        """Features that every estimator can read: numbers, categories and booleans."""
        return self.numeric + self.categorical + self.boolean

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed more than once, expected each feature under one kind")
        if not self.names:
            raise ValueError("no feature is listed, expected at least one under numeric, categorical, boolean or other")
        return self


class Columns(Settings):
    """The role of each column. Labels may be in the same source; they are stored separately, once they are due."""

    id: Annotated[str | tuple[str, ...], BeforeValidator(one_name_or_several)] = Field(
        examples=[["customer", "week"], "customer_week"]
    )
    """The column, or list of columns, that identifies a row. Labels and predictions are joined on it. It may be the time.

    An id occurs at most once in the history and once in a window. A later window may contain it again, as another row."""
    time: ColumnName = Field(examples=["week"])
    """When the prediction was due, in UTC or with a zone. It determines the window of a row."""
    label: ColumnName = Field(examples=["left"])
    """The outcome that the model predicts; null while it is unknown."""
    label_unit: str = Field("", max_length=40, examples=["minutes"])
    """Regression: the label's unit (minutes, USD), shown in reports."""
    positive_label: str | None = Field(None, min_length=1, examples=["churned"])
    """Binary: the class that F1 and the predicted probabilities refer to. Default: the last by size or alphabet."""
    classes: tuple[Annotated[str, Field(min_length=1)], ...] = Field((), examples=[["basic", "plus", "pro"]])
    """Classification: the classes that a label may have; any other label is unusable. Default: those of the training
    rows, where words such as NA, None and null mean an unknown label."""
    label_time: ColumnName | None = Field(None, examples=["left_at"])
    """The column with the time when a label became known. `label_delay_hours` is added to it, or to `time` without it.

    A window then closes once `performance.closed_at` of its labels have arrived, or the look-back has passed."""
    label_delay_hours: float = Field(0.0, ge=0, le=24 * 365, examples=[336.0])
    """Hours until a label can be read."""
    label_lookback_days: float = Field(30.0, ge=0, le=366 * 10, examples=[60.0])
    """Days after the label delay in which late or corrected labels are still read. A closed window that receives some is
    measured again. Labels that arrive later are missed."""
    features: Features
    protected: ColumnNames = Field((), examples=[["age_band"]])
    """Columns whose groups, the 20 largest of each, are compared at validation. A challenger may not lose more than
    `validation.slice_margin` in any of them. The columns are features only if they are also listed as features."""
    extra: ColumnNames = Field((), examples=[["branch"]])
    """Further columns that are stored with the rows, for expectations of `quality.suite`. Models do not read them."""
    personal: ColumnNames = Field((), examples=[["email"]])
    """Columns that identify people. Reports and logs never show their values."""

    @model_validator(mode="after")
    def _check_roles(self) -> Self:
        if self.time in self.features.names:
            raise ValueError(
                f"time column {self.time!r} is also a feature, expected columns derived from it, such as its hour or weekday"
            )
        for role in (
            "id",
            "label",
            "label_time",
        ):  # a column of a composite id may be a feature, such as shop in [shop, day]
            if getattr(self, role) in self.features.names:
                raise ValueError(
                    f"{role} column {getattr(self, role)!r} is also a feature, which leaks the label; "
                    "expected it under its role only"
                )
        if self.label_time == self.label:
            raise ValueError(f"label_time is {self.label!r}, the label itself, expected when the label became known")
        apart = {self.label, self.label_time} - {self.time}
        for role in ("protected", "extra"):
            mixed = [name for name in getattr(self, role) if name in apart]
            if mixed:
                raise ValueError(
                    f"{role} has {mixed[0]!r}, which comes with the label, expected columns that rows have"
                )
        if self.label in (self.time, self.id):
            raise ValueError(f"label is {self.label!r}, which is also id or time, expected another column")
        mixed = [name for name in self.id_columns if name in apart]
        if mixed:
            raise ValueError(f"id has {mixed[0]!r}, which comes with the label, expected columns that rows have")
        if self.has_joined_id and self.key in (self.time, self.label, *self.features.names, *self.protected):
            raise ValueError(f"a column is called {self.key!r}, the name of the stored id; expected another name")
        return self

    @property
    def id_columns(self) -> tuple[str, ...]:
        """Columns that together identify a row."""
        return (self.id,) if isinstance(self.id, str) else self.id

    @property
    def has_joined_id(self) -> bool:
        """Whether the stored id is a text of its own, made from several columns or from the time."""
        return len(self.id_columns) > 1 or self.id == self.time

    @property
    def key(self) -> str:
        """Name of the lake column that identifies a row: the id columns joined by "+", or `id+` and the time."""
        return f"id+{self.time}" if self.id == self.time else "+".join(self.id_columns)

    @property
    def used(self) -> frozenset[str]:
        """Columns of the source that have a role."""
        roles = (
            self.time,
            self.label,
            self.label_time,
            *self.id_columns,
            *self.features.names,
            *self.protected,
            *self.extra,
        )
        return frozenset(name for name in roles if name is not None)

    @property
    def label_delay(self) -> timedelta:
        return timedelta(hours=self.label_delay_hours)

    @property
    def named_classes(self) -> tuple[str, ...]:
        """Classes named in the model's file; they may be spelled like a word for a missing value."""
        return self.classes if self.positive_label is None else (*self.classes, self.positive_label)

    @property
    def has_label_time(self) -> bool:
        """Whether the source has a time for each label, in which case the label delay differs between rows."""
        return self.label_time not in (None, self.time)

    @property
    def all_labels_within(self) -> timedelta:
        """Longest time from a row to its label: the label delay, plus the look-back if labels have their own time."""
        return self.label_delay + (timedelta(days=self.label_lookback_days) if self.has_label_time else timedelta())


class Period(Settings):
    """The history that the first model is trained on, and the end of a replay."""

    start: datetime = Field(examples=["2026-01-01T00:00:00Z"])
    """Start of the recorded data (UTC)."""
    history_until: datetime = Field(examples=["2026-06-01T00:00:00Z"])
    """The first model is trained on [start, history_until). Windows are served from here on."""
    end: datetime | None = Field(None, examples=["2027-01-01T00:00:00Z"])
    """End of the recorded data, for a replay. Leave it out for a live model."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for name in ("start", "history_until", "end"):
            moment = getattr(self, name)
            if moment is not None and moment.utcoffset() != timedelta(0):
                raise ValueError(f"{name} is {moment.isoformat()}, expected a UTC time such as 2013-01-01T00:00:00Z")
        if not self.start < self.history_until or (self.end is not None and self.end < self.history_until):
            raise ValueError("expected start < history_until <= end")
        return self
