"""Serve a model that was trained elsewhere like one of our own: the same predictions, encoding and files.

Its files stay as they were found, under `original/`, beside a `scorer.json` that names their format. They are covered by the
version's SHA-256, like those of our own models.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.pipeline import Pipeline

from tasks.adapters.foreign import native
from tasks.adapters.foreign.class_order import ClassOrder, class_order
from tasks.adapters.models.encoding import Encoding, Matrix, Rows, as_table, typed
from tasks.adapters.models.files import DESCRIPTION, Floats, Scorer, Task, check_unchanged, read, sha256
from tasks.policy.records.base import newer_format
from tasks.policy.records.errors import FeatureError, ForeignModelError, ModelFileError

ORIGINAL = "original/"
"""Folder of the files as they were found."""


@dataclass(frozen=True)
class GivenColumns:
    """What the model reads: the Arrow type of each column, the range of each number, and whether it accepts nulls.

    `given` are the columns in the order in which the model takes them.
    """

    types: Mapping[str, str]
    ranges: Mapping[str, tuple[float, float]]
    given: tuple[str, ...]
    accepts_nulls: bool = True


@dataclass(frozen=True)
class ForeignScorer(Scorer):
    """A model of another team, in the place of a fitted pipeline. Its last step, the estimator, reads a data frame."""

    model_format: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    inputs: GivenColumns = GivenColumns({}, {}, ())
    coded: tuple[str, ...] = ()
    """The classes in the order of the model's codes."""

    def predict(self, rows: Rows) -> Floats:
        """Predict rows as `Scorer.predict` does. Raises FeatureError also for nulls in a model that accepts none."""
        if len(rows) == 0:
            return np.empty((0, len(self.classes)) if self.task == "multiclass" else 0)
        try:
            found = self.estimator.predict(self._frame(rows))
        except ForeignModelError as error:  # the estimator's failure, as of any estimator of ours
            raise RuntimeError(str(error)) from error
        return shaped(found, len(rows), self.task, self.order_of_classes.columns)

    @property
    def order_of_classes(self) -> ClassOrder:
        """How the model's classes stand for those of the labels. Raises RuntimeError if it knows others."""
        own = self.estimator.classes
        found = class_order(own, self.classes, self.coded or self.classes)
        if found is None:
            raise RuntimeError(f"it knows the classes {', '.join(own or ())}, expected {', '.join(self.classes)}")
        return found

    def predict_encoded(self, matrix: Matrix) -> Floats:
        """Predict rows that were encoded: their values are restored first, unknown categories as nulls."""
        columns: dict[str, pa.Array] = {}
        for place, (name, kind) in enumerate(self.encoding.features):
            values = pa.array(matrix[:, place].astype(float), from_pandas=True)
            if kind == "categorical":
                known = pa.array(self.encoding.categories[name], pa.string())
                columns[name] = (
                    pc.take(known, values.cast(pa.int64())) if len(known) else pa.nulls(len(values), pa.string())
                )
            else:
                columns[name] = values.cast(pa.bool_()) if kind == "boolean" else values
        return self.predict(pa.table(columns))

    def table_of(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Return rows of JSON values, which the encoding accepts, as a table."""
        columns: dict[str, pa.Array] = {}
        for name, kind in self.encoding.features:
            values = [None if row[name] is None or row[name] != row[name] else row[name] for row in rows]
            if kind == "categorical":
                columns[name] = pa.array(
                    [None if value is None else native.class_text(value) for value in values], pa.string()
                )
            else:
                columns[name] = pa.array(values, pa.bool_() if kind == "boolean" else pa.float64())
        return pa.table(columns)

    def synthetic_rows(self, count: int) -> pa.Table:
        """Return rows within the ranges that it was taken in with; without nulls if it accepts none."""
        columns: dict[str, pa.Array] = {}
        first = [None] if self.inputs.accepts_nulls else []
        for name, kind in self.encoding.features:
            if kind == "categorical":
                values = [*self.encoding.categories[name], *first] or [None]
                columns[name] = pa.array([values[row % len(values)] for row in range(count)], pa.string())
            elif kind == "boolean":
                columns[name] = pa.array([row % 2 == 0 for row in range(count)])
            else:
                numbers = np.linspace(*self.inputs.ranges.get(name, (0.0, 1.0)), count - len(first))
                whole = self.inputs.types[name].startswith(("int", "uint"))
                columns[name] = pa.array([*first, *(numbers.round() if whole else numbers)], pa.float64())
        return pa.table(columns)

    def _frame(self, rows: Rows) -> pd.DataFrame:
        """Return the model's columns in its order, in the types that it was taken in with."""
        table = as_table(rows, self.encoding.names)
        columns = {name: self._column(table, name) for name in self.inputs.given}
        if not self.inputs.accepts_nulls:
            faulty = [f"{name} ({column.null_count})" for name, column in columns.items() if column.null_count]
            if faulty:
                raise FeatureError(
                    f"column {', '.join(faulty)}: holds nulls, which the adopted {self.estimator.name} cannot read; fill them in "
                    "the source, or adopt a pipeline that imputes them"
                )
        return pa.table(columns).to_pandas()

    def _column(self, table: pa.Table, name: str) -> pa.ChunkedArray:
        column = typed(table, name, dict(self.encoding.features)[name])
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
        wanted = pa.type_for_alias(self.inputs.types[name])
        if column.type == wanted:
            return column
        try:
            return column.cast(wanted)
        except pa.ArrowInvalid:  # such as 2.5 in a column of whole numbers, or a code that is no number
            return column


def shaped(found: Floats, count: int, task: Task, columns: Sequence[int]) -> Floats:
    """Bring predictions into the shape of the task; `columns` are the model's column for each class.

    Raises RuntimeError if the shape does not fit the task.
    """
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    width = {"regression": 0, "binary": 2}.get(task, len(columns))
    if found.shape == (count,) and width in (0, 2):
        return 1 - found if width and list(columns) == [1, 0] else found
    if width == 0 or found.shape != (count, width):
        raise RuntimeError(
            f"it predicts {' × '.join(map(str, found.shape))} values for {count} rows, expected "
            f"{'one number a row' if width == 0 else f'{width} probabilities a row, one for each class'}"
        )
    found = found[:, list(columns)]
    return found[:, 1] if task == "binary" else found


def build(
    description: tuple[str, Task, tuple[str, ...]], files: Mapping[str, bytes], encoding: Encoding, inputs: GivenColumns
) -> ForeignScorer:
    """Load the model's files as a scorer; `description` is (format, task, classes). Raises ForeignModelError."""
    model_format, task, classes = description
    pipeline = Pipeline([("estimator", native.load(model_format, files, task))])
    return ForeignScorer(pipeline, encoding, task, classes, model_format=model_format, files=files, inputs=inputs)


def save(scorer: ForeignScorer, folder: Path) -> None:
    """Write the original files, and what is known about them, into an empty folder."""
    description = {
        "foreign": scorer.model_format,
        "task": scorer.task,
        "classes": scorer.classes,
        "coded": scorer.coded,
        "features": scorer.encoding.features,
        "categories": scorer.encoding.categories,
        "types": scorer.inputs.types,
        "ranges": scorer.inputs.ranges,
        "given": scorer.inputs.given,
        "accepts_nulls": scorer.inputs.accepts_nulls,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True), encoding="utf-8")
    for name, content in scorer.files.items():
        path = folder / ORIGINAL / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def is_foreign(files: Mapping[str, bytes]) -> bool:
    """Whether the files of a version are those of a model that was trained elsewhere."""
    return "foreign" in json.loads(files[DESCRIPTION])


def load(files: dict[str, bytes], expected_sha256: str) -> ForeignScorer:
    """Load a foreign scorer from its files. Raises ModelFileError if they were changed or cannot be loaded."""
    check_unchanged(files, expected_sha256)
    stored = json.loads(files[DESCRIPTION])
    if newer := newer_format(stored.get("format", 1)):
        raise ModelFileError(f"{DESCRIPTION} {newer}, or roll back to another version")
    encoding = Encoding(
        tuple((name, kind) for name, kind in stored["features"]),
        {name: tuple(values) for name, values in stored["categories"].items()},
    )
    ranges = {name: (low, high) for name, (low, high) in stored["ranges"].items()}
    inputs = GivenColumns(stored["types"], ranges, tuple(stored["given"]), stored["accepts_nulls"])
    own = {name.removeprefix(ORIGINAL): content for name, content in files.items() if name.startswith(ORIGINAL)}
    try:
        found = build((stored["foreign"], stored["task"], tuple(stored["classes"])), own, encoding, inputs)
        return replace(found, coded=tuple(stored.get("coded", ())))
    except ForeignModelError as error:
        raise ModelFileError(f"{error}; roll back or train again") from None


def _load_pyfunc(folder: str) -> ForeignScorer:
    """Load a scorer for `mlflow.pyfunc` and `mlflow models serve`."""
    files = read(Path(folder))
    return load(files, sha256(files))
