"""The parts of a model's YAML file that say where its data is and how a model is made of it.

Each policy owns its own settings (`tasks.policy`); what no policy owns stands here and in `watching.py`.
Every field has bounds, a description and a safe default, because these models are also what people see when they make a
mistake.
"""

import codecs
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from tasks.policy.records.base import Settings

IMPORT_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
ImportPath = Annotated[str, Field(pattern=IMPORT_PATH)]
LONGEST_NAME = 200
RESERVED = ("__filename", "__fragment_index", "__batch_index", "__last_in_fragment")
"""Arrow adds columns of these names to every file that it reads, so none of a model's can be told from them."""


def _not_reserved(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name!r} is a name that Arrow keeps for itself, expected another one; rename the column")
    return name


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is listed more than once, expected each column once")
    return names


def _one_name_or_several(value: Any) -> str | tuple[str, ...]:
    """A list of one column is that column. Its mistakes are said here: of a union pydantic says one for each member."""
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not names or not all(isinstance(name, str) and 0 < len(name) <= LONGEST_NAME for name in names):
        raise ValueError(
            "expected the name of a column, or a list of names such as [customer, week]; in quotes where it is a number"
        )
    names = _each_once(tuple(map(_not_reserved, names)))
    return names[0] if len(names) == 1 else names


ColumnName = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME), AfterValidator(_not_reserved)]
ColumnNames = Annotated[tuple[ColumnName, ...], AfterValidator(_each_once)]
Share = Annotated[float, Field(gt=0, le=1)]


class Source(Settings):
    """Where new production rows come from."""

    kind: Literal["parquet", "csv", "delta", "sql", "python"]
    """What reads it: files or a folder (parquet, csv), a Delta table, a SQL query, or a function of yours (python)."""
    path: str | None = Field(None, min_length=1)
    """File, folder or table: a path relative to the YAML file, or s3://, gs://, http(s)://."""
    url_env: str | None = Field(None, pattern=r"^[A-Z][A-Z0-9_]*$")
    """sql: the environment variable that holds the SQLAlchemy URL, so that no secret stands in the file."""
    query: str | None = None
    """sql: a query with :start and :end, bound as UTC times; returns the rows of one window."""
    function: ImportPath | None = None
    """python: `module:function`, called as function(start, end, **options) and returning a pyarrow.Table."""
    options: dict[str, str | int | float | bool] = Field({})
    """Passed to the reader (csv: delimiter, …) or to your function."""
    settle_hours: float = Field(0.0, ge=0, le=24 * 31)
    """Hours that a window's rows may come late: it is read, once and for good, so long after its end."""

    @model_validator(mode="after")
    def _can_be_parsed_so(self) -> Self:
        for name in ("delimiter", "quote_char", "decimal_point") if self.kind == "csv" else ():
            value = str(self.options.get(name, "."))
            if len(value) != 1:
                tab = '; a tab is "\\t" in double quotes' if value == "\\t" else ""
                raise ValueError(f"options.{name} is {value!r}, expected one character{tab}")
        encoding = str(self.options.get("encoding", "utf8")) if self.kind == "csv" else "utf8"
        try:
            codecs.lookup(encoding)
        except LookupError:
            raise ValueError(f"options.encoding is {encoding!r}, expected one such as utf8 or latin-1") from None
        return self

    @model_validator(mode="after")
    def _names_what_its_kind_needs(self) -> Self:
        needed = {"sql": ("url_env", "query"), "python": ("function",)}.get(self.kind, ("path",))
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"{name} is missing, a source of kind {self.kind} needs {' and '.join(needed)}")
        return self


class Features(Settings):
    """The model's inputs by kind; order is kept."""

    numeric: tuple[ColumnName, ...] = ()
    categorical: tuple[ColumnName, ...] = ()
    boolean: tuple[ColumnName, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.numeric + self.categorical + self.boolean

    @model_validator(mode="after")
    def _are_named_once(self) -> Self:
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} is listed more than once, expected each feature under one kind")
        if not self.names:
            raise ValueError("no feature is listed, expected at least one under numeric, categorical or boolean")
        return self


class Columns(Settings):
    """The roles that columns play. Labels may come in the same source; they land apart and when they are due."""

    id: Annotated[str | tuple[str, ...], BeforeValidator(_one_name_or_several)]
    """What tells a row from all others: a column, or several together such as [customer, week], `time` among them if need be.

    Labels and predictions are joined on it. Each occurs once in the history and once in a window; in later windows it
    may come again, as another row."""
    time: ColumnName
    """When the prediction was due (UTC, or with a zone); decides a row's window."""
    label: ColumnName
    """What came true; null while unknown, and for good where there is none."""
    label_unit: str = Field("", max_length=40)
    """Regression: what the label is counted in (minutes, USD), for the reports that people read."""
    positive_label: str | None = Field(None, min_length=1)
    """Binary: the class that F1 and predicted probabilities are of (fraud, churned); else the last by size or alphabet."""
    classes: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Classes: those that the label may have; any other label cannot be used. Left out, those of the training rows, and
    words such as NA, None and null mean that the label is unknown. `quality.labels` says what else labels must keep to."""
    label_time: ColumnName | None = None
    """When the label became known, if the source says so; label_delay_hours is added to it, else to `time`.

    A window is then closed once `performance.closed_at` of its labels have come, or none is sought any more."""
    label_delay_hours: float = Field(0.0, ge=0, le=24 * 365)
    """Hours until a label can be read."""
    label_lookback_days: float = Field(30.0, ge=0, le=366 * 10)
    """Days after that for which a label, or its correction, is still looked for; what comes later is not found.

    A closed window that gets some in this time is measured again."""
    features: Features
    protected: ColumnNames = ()
    """Columns whose groups are compared at validation: none may lose more than `validation.slice_margin` to a challenger.
    Of each the 20 largest groups; never features unless listed as such."""
    personal: ColumnNames = ()
    """Columns that identify people; reports and logs never show their values."""

    @model_validator(mode="after")
    def _keep_roles_apart(self) -> Self:
        if self.time in self.features.names:
            raise ValueError(
                f"time column {self.time!r} is also a feature, expected columns made of it, such as its hour or weekday"
            )
        for role in (
            "id",
            "label",
            "label_time",
        ):  # of an id of several columns each may be a feature: a shop of shop, day
            if getattr(self, role) in self.features.names:
                raise ValueError(
                    f"{role} column {getattr(self, role)!r} is also a feature, which leaks what is to be predicted; "
                    "expected it under its role only"
                )
        if self.label_time == self.label:
            raise ValueError(f"label_time is {self.label!r}, the label itself, expected when the label became known")
        apart = {self.label, self.label_time} - {self.time}
        mixed = [name for name in self.protected if name in apart]
        if mixed:
            raise ValueError(f"protected has {mixed[0]!r}, which comes with the label, expected columns that rows have")
        roles = [self.id, self.time, self.label]
        if len(set(roles)) < len(roles):
            raise ValueError(f"id, time and label are {roles}, expected three different columns")
        mixed = [name for name in self.id_columns if name in apart]
        if mixed:
            raise ValueError(f"id has {mixed[0]!r}, which comes with the label, expected columns that rows have")
        if len(self.id_columns) > 1 and self.key in (self.time, self.label, *self.features.names, *self.protected):
            raise ValueError(
                f"a column is called {self.key!r}, as the id's are together; expected it under another name"
            )
        return self

    @property
    def id_columns(self) -> tuple[str, ...]:
        """The columns that together identify a row."""
        return (self.id,) if isinstance(self.id, str) else self.id

    @property
    def key(self) -> str:
        """The column of the lake that identifies a row; joined from several where the id has several."""
        return "+".join(self.id_columns)

    @property
    def used(self) -> frozenset[str]:
        """Every column of the source that plays a role."""
        roles = (self.time, self.label, self.label_time, *self.id_columns, *self.features.names, *self.protected)
        return frozenset(name for name in roles if name is not None)

    @property
    def label_delay(self) -> timedelta:
        return timedelta(hours=self.label_delay_hours)

    @property
    def named_classes(self) -> tuple[str, ...]:
        """Classes that the model's file names, which may be spelled like a word for a missing value."""
        return self.classes if self.positive_label is None else (*self.classes, self.positive_label)

    @property
    def has_label_time(self) -> bool:
        """Whether the source says of each label when it became known, so that its delay is not the same for all."""
        return self.label_time not in (None, self.time)

    @property
    def all_labels_within(self) -> timedelta:
        """How long after a row's time its label may still be on its way; with a time of its own, while it is sought."""
        return self.label_delay + (timedelta(days=self.label_lookback_days) if self.has_label_time else timedelta())


class Period(Settings):
    """Recorded data that the first model may learn from, and how far a replay may go."""

    start: datetime
    """First moment of recorded data (UTC)."""
    history_until: datetime
    """The first model is trained on [start, history_until); replay serves from there."""
    end: datetime | None = None
    """Where recorded data ends, which is complete up to then; none while it keeps coming."""

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        for name in ("start", "history_until", "end"):
            moment = getattr(self, name)
            if moment is not None and moment.utcoffset() != timedelta(0):
                raise ValueError(f"{name} is {moment.isoformat()}, expected a UTC time such as 2013-01-01T00:00:00Z")
        if not self.start < self.history_until or (self.end is not None and self.end < self.history_until):
            raise ValueError("expected start < history_until <= end")
        return self


class Training(Settings):
    """How a challenger is made."""

    estimator: ImportPath | None = None
    """`module:Class` of a scikit-learn estimator; XGBoost when left out."""
    parameters: dict[str, str | int | float | bool | None] = Field({})
    """Passed to the estimator; for XGBoost n_estimators, max_depth, learning_rate, …"""
    window_days: float | None = Field(None, gt=0)
    """Train on this many trailing days; all history when left out."""
    validation_share: float = Field(0.15, gt=0, lt=0.5)
    """The latest share of the training rows, held back for early stopping."""
    early_stopping_rounds: int | None = Field(20, ge=1)
    """Stop when the validation slice has not improved for so many rounds."""
    min_rows: int = Field(1000, ge=10)
    """Fewer labelled rows than this and training refuses."""
    seed: int = Field(7, ge=0)
    """Same seed and rows, same model."""
