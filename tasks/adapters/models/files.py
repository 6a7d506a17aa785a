"""Store a model in files that run no code when loaded, and load the scorer from them.

Gradient boosting models are stored in their library's own format, other estimators as skops; encoder and classes are
JSON beside them. Files are read once, and their SHA-256 is compared with the ledger's before anything is parsed. The
types that skops may build come from the version's own record, written when it was trained: a list inside the file would
prove nothing. An attacker who can write to the registry could edit that record too, so types are further limited to the
packages that we train with.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from tasks.adapters.boosters.known import library_of, library_of_files
from tasks.adapters.models.encoding import (
    STORED,
    Encoding,
    Matrix,
    RawEncoding,
    Rows,
    arrow_type,
    encode_labels,
    fitted_encoder,
)
from tasks.adapters.models.label_alignment import align_labels
from tasks.adapters.models.resources import threads
from tasks.adapters.recipes.derived import DerivedFeatures
from tasks.policy.records.base import from_json, newer_format, to_json
from tasks.policy.records.errors import ModelFileError

Task = Literal["binary", "multiclass", "regression"]
Floats = NDArray[np.float64]

DESCRIPTION, ESTIMATOR, TRANSFORMER = "scorer.json", "model.skops", "transformer.skops"
TRUSTED_PACKAGES = ("sklearn", "numpy", "scipy")
"""Packages whose types any stored estimator may contain."""
REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Exceptions of an estimator that cannot predict. Shortages of the machine (memory, disk) are not the model's fault."""


@dataclass(frozen=True)
class Scorer:
    """A fitted pipeline. `classes` are in the order of the codes that metrics use; empty for regression.

    `order` is the column of `predict_proba` for each class, of an estimator that has them in another order.
    """

    pipeline: Pipeline
    encoding: Encoding
    task: Task
    classes: tuple[str, ...]
    order: tuple[int, ...] = ()

    def predict(self, rows: Rows) -> Floats:
        """Predict rows: P(last class) (n,) for binary, (n, k) for multiclass, (n,) in the label's unit for regression.

        Raises FeatureError on a missing column or a type other than in training.
        """
        if len(rows) == 0:
            return np.empty((0, len(self.classes)) if self.task == "multiclass" else 0)
        return self.predict_encoded(self.encoding.encode(rows))

    def predict_encoded(self, matrix: Matrix) -> Floats:
        """Predict rows that are encoded already, as `encoding.encode` does; at least one."""
        if self.task == "regression":
            return np.asarray(self.estimator.predict(matrix), float)
        shares = np.asarray(self.estimator.predict_proba(matrix), float)
        shares = shares[:, list(self.order)] if self.order else shares
        return shares[:, 1] if self.task == "binary" else shares

    def labels(self, column: pa.ChunkedArray) -> Floats:
        """Encode labels as codes into `classes`, or as numbers; NaN where null or unknown to the model."""
        return encode_labels(column, self.classes)

    def predict_labelled(self, rows: Rows, labels: pa.ChunkedArray) -> tuple[Floats, Floats]:
        """Return (labels, predictions) of the rows with a known label, encoded for metrics; see `align_labels`."""
        y_true, (y_pred,) = align_labels(labels, [(self.classes, self.predict(rows))])
        known = np.isfinite(y_true)
        return y_true[known], y_pred[known]

    @property
    def estimator(self) -> Any:
        return self.pipeline[-1]

    def synthetic_rows(self, count: int) -> pa.Table:
        """Return rows of its schema, with a null in each column and every category, for a smoke test.

        A model of the user's own gets nulls only where training had some.
        """
        columns: dict[str, pa.Array] = {}
        if self.encoding.derived.time:
            moments = [None, *(datetime(2024, 1, 1 + row % 31, row % 24, tzinfo=UTC) for row in range(count - 1))]
            columns[self.encoding.derived.time] = pa.array(moments, STORED["time"])
        for name, kind in self.encoding.features:
            raw = self.encoding if isinstance(self.encoding, RawEncoding) else None
            nulls = [None] if raw is None or name in raw.nullable else []
            if kind == "categorical":
                values = [*self.encoding.categories[name], *nulls] or [None]
                columns[name] = pa.array([values[row % len(values)] for row in range(count)], pa.string())
            elif kind == "boolean":
                columns[name] = pa.array([row % 2 == 0 for row in range(count)])
            elif raw and kind == "other":
                columns[name] = _synthetic_values(arrow_type(raw.types[name]), count, nulls)
            else:
                columns[name] = pa.array([*nulls, *np.linspace(-100.0, 100.0, count - len(nulls))], pa.float64())
        return pa.table(columns)


def _synthetic_values(kind: pa.DataType, count: int, nulls: list[None]) -> pa.Array:
    """Return text, dates, times or lists that any transformer should read."""
    if pa.types.is_list(kind):
        value: object = _synthetic_values(kind.value_type, 2, []).to_pylist()
    else:
        value = "a word and another" if pa.types.is_string(kind) else datetime(2024, 1, 1, tzinfo=UTC)
        value = 1 if pa.types.is_integer(kind) or pa.types.is_floating(kind) else value
        value = True if pa.types.is_boolean(kind) else value
    return pa.array([*nulls, *[value] * (count - len(nulls))], kind)


def save(scorer: Scorer, folder: Path) -> None:
    """Write the scorer's files into an empty folder."""
    description: dict[str, object] = {
        "task": scorer.task,
        "classes": scorer.classes,
        "features": scorer.encoding.features,
        "categories": scorer.encoding.categories,
    }
    if isinstance(scorer.encoding, RawEncoding):
        description["raw"] = {
            "types": scorer.encoding.types,
            "nullable": scorer.encoding.nullable,
            "order": scorer.order,
        }
        if scorer.encoding.transformer is not None:
            (folder / TRANSFORMER).write_bytes(_skops_content(scorer.encoding.transformer))
    if scorer.encoding.derived != DerivedFeatures():
        description["derived"] = json.loads(to_json(scorer.encoding.derived))
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True), encoding="utf-8")
    if library := library_of(scorer.estimator):
        (folder / library.file).write_bytes(library.dump(scorer.estimator, scorer.encoding.inputs.names))
    else:
        (folder / ESTIMATOR).write_bytes(_skops_content(scorer.estimator))


def _skops_content(estimator: Any) -> bytes:
    import skops.io  # imports all of scikit-learn's estimators, which a booster does not need

    content: bytes = skops.io.dumps(estimator)
    return content


def types_of(files: dict[str, bytes]) -> tuple[str, ...]:
    """Return the types that files of this process need; `load` still refuses those of packages that are not trusted."""
    parts = [files[name] for name in (ESTIMATOR, TRANSFORMER) if name in files]
    if not parts:
        return ()
    import skops.io  # imports all of scikit-learn's estimators, which a booster does not need

    return tuple({name for part in parts for name in skops.io.get_untrusted_types(data=part)})


def sha256(files: dict[str, bytes]) -> str:
    """Hash all files with their names: a swapped, added or removed file changes the hash."""
    parts = [f"{name}:{hashlib.sha256(files[name]).hexdigest()}" for name in sorted(files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read(folder: Path) -> dict[str, bytes]:
    """Read every file of a model's folder, by its path in it. Raises ModelFileError if it holds no model."""
    paths = sorted(folder.rglob("*")) if folder.is_dir() else []
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}
    if DESCRIPTION not in files:
        raise ModelFileError(
            f"{folder}: holds {', '.join(files) or 'no file'}, expected {DESCRIPTION} and model.ubj, or a file of another kind; "
            "the version cannot be served, roll back to another or train again"
        )
    return files


def load(
    files: dict[str, bytes],
    expected_sha256: str,
    trusted_types: tuple[str, ...] = (),
    packages: tuple[str, ...] = TRUSTED_PACKAGES,
) -> Scorer:
    """Load a scorer from its files. Raises ModelFileError if their hash is not the one registered.

    skops builds a type only if it is among `trusted_types` and belongs to one of `packages`.
    """
    check_unchanged(files, expected_sha256)
    return _parse(files, trusted_types, packages)


def check_unchanged(files: dict[str, bytes], expected_sha256: str) -> None:
    """Raise ModelFileError if the hash of the files is not the one registered."""
    found = sha256(files)
    if found != expected_sha256:
        raise ModelFileError(
            f"model files have sha256 {found[:12]}…, expected {expected_sha256[:12]}… as recorded when they were "
            "registered; they were changed or cut short since; do not serve them, roll back or train again"
        )


def trusted_packages(imported: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the packages whose types a model may hold: the standard ones, and those of the user's own import paths."""
    return (*TRUSTED_PACKAGES, *(path.partition(":")[0].partition(".")[0] for path in imported))


def _foreign(types: Iterable[str], packages: tuple[str, ...]) -> list[str]:
    return [name for name in types if name.partition(".")[0] not in packages]


def scorer_types(scorer: Scorer, packages: tuple[str, ...]) -> tuple[str, ...]:
    """Return the types that skops must trust to load this scorer, which was trained in this process.

    Raises ModelFileError for a type outside the given packages, and for a function without a name of its own.
    """
    transformer = getattr(scorer.encoding, "transformer", None)
    parts = [part for part in (transformer, scorer.estimator) if part is not None]
    return tuple(sorted({name for part in parts for name in needed_types(part, packages)}))


def needed_types(estimator: Any, packages: tuple[str, ...]) -> tuple[str, ...]:
    """Return the types of an estimator or transformer as `scorer_types` does."""
    if library_of(estimator):
        return ()
    import skops.io  # imports all of scikit-learn's estimators, which a booster does not need

    needed = tuple(sorted(skops.io.get_untrusted_types(data=skops.io.dumps(estimator))))
    if unnamed := [name for name in needed if "<" in name]:
        raise ModelFileError(
            f"the {type(estimator).__name__} holds {', '.join(unnamed)}, which cannot be stored without its code; expected "
            "functions defined at the top of a module, instead of a lambda or a function within a function"
        )
    if foreign := _foreign(needed, packages):
        raise ModelFileError(
            f"the {type(estimator).__name__} holds {', '.join(foreign)}, expected types from "
            f"{', '.join(packages)} only; use an estimator without callables or objects of other packages"
        )
    return needed


def _parse(
    files: dict[str, bytes], trusted_types: tuple[str, ...], packages: tuple[str, ...] = TRUSTED_PACKAGES
) -> Scorer:
    description = json.loads(files[DESCRIPTION])
    if newer := newer_format(description.get("format", 1)):
        raise ModelFileError(f"{DESCRIPTION} {newer}, or roll back to another version")
    encoding = Encoding(
        tuple((name, kind) for name, kind in description["features"]),
        {name: tuple(values) for name, values in description["categories"].items()},
        derived=from_json(DerivedFeatures, json.dumps(description.get("derived", {}))),
    )
    task: Task = description["task"]
    if library := library_of_files(files):
        estimator = library.load(files[library.file], task, threads())
    else:
        estimator = _skops(files[ESTIMATOR], trusted_types, packages)
    raw = description.get("raw")
    if raw is not None:
        transformer = _skops(files[TRANSFORMER], trusted_types, packages) if TRANSFORMER in files else None
        nullable = tuple(raw["nullable"])
        encoding = RawEncoding(encoding.features, encoding.categories, raw["types"], nullable, transformer)
    pipeline = Pipeline([("encoder", fitted_encoder(encoding)), ("estimator", estimator)])
    return Scorer(pipeline, encoding, task, tuple(description["classes"]), tuple(raw["order"]) if raw else ())


def _skops(content: bytes, trusted_types: tuple[str, ...], packages: tuple[str, ...]) -> Any:
    import skops.io  # imports all of scikit-learn's estimators, which a booster does not need

    needed = sorted(skops.io.get_untrusted_types(data=content))
    unknown = sorted(set(needed) - set(trusted_types))
    if unknown:
        raise ModelFileError(
            f"the model holds types that were not trusted when it was trained: {', '.join(unknown)}; expected "
            f"at most {', '.join(trusted_types) or 'what skops trusts itself'}; roll back or train again"
        )
    if foreign := _foreign(needed, packages):
        raise ModelFileError(
            f"{ESTIMATOR} holds {', '.join(foreign)}, expected types from {', '.join(packages)} only, whatever its "
            "version's tags say; train again, or, if it was trained with another estimator than training.estimator, "
            "name that one there to serve it"
        )
    return skops.io.loads(content, trusted=needed)


def _load_pyfunc(folder: str) -> Scorer:
    """Load a booster for `mlflow.pyfunc` and `mlflow models serve`; without a registry, no skops types are trusted."""
    return _parse(read(Path(folder)), ())
