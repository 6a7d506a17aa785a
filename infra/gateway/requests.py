"""Read requests in MLflow's shapes as rows, and rows of JSON as model input.

`RowEncoder` encodes one row of plain Python values as `Encoding.encode` encodes a table of one row, without Arrow and
pandas, which would take longer than the model. A test compares the two.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from http import HTTPStatus
from typing import Any, TypeAlias

import numpy as np
import orjson
import pyarrow as pa

from deployments.config.blocks.data import Columns
from tasks.adapters.lake.row_identity import ESCAPE, SEPARATOR
from tasks.adapters.models.encoding import EXPECTED, Encoding, RawEncoding, arrow_type
from tasks.adapters.recipes.derived import DerivedFeatures
from tasks.policy.records.errors import FeatureError, RequestRefused
from tasks.policy.rollout.traffic import canonical_unit

Row: TypeAlias = Mapping[str, Any]

MAX_BODY_BYTES = 8 * 2**20
MAX_ROWS = 1000
MAX_ID_CHARACTERS = 1000
SHAPES = "dataframe_split, dataframe_records or inputs"
ROUNDED_TO_INFINITY = 2.0**128 - 2.0**103
"""The smallest number that rounds to infinity as a 32-bit float."""
_NAN = math.nan
_MISSING = object()
_ID_TYPES = (str, int, float, bool)
_TYPES = {str: "text", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}


def read_rows(body: bytes) -> Sequence[Row]:
    """Read the rows of a request. Raises RequestRefused for other JSON, no rows, or more than MAX_ROWS."""
    content = _read_json(body)
    given = [name for name in _READERS if name in content] if isinstance(content, dict) else []
    if len(given) != 1:
        found = ", ".join(given) or (f"the keys {_quoted(content)}" if isinstance(content, dict) else _type(content))
        raise RequestRefused(f"body: holds {found}, expected exactly one of {SHAPES}")
    rows = _READERS[given[0]](content[given[0]], given[0])
    if not 0 < len(rows) <= MAX_ROWS:
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if rows else HTTPStatus.BAD_REQUEST
        raise RequestRefused(
            f"{given[0]}: holds {len(rows)} rows, expected 1 to {MAX_ROWS}; send several requests", status
        )
    return rows


def _read_json(body: bytes) -> Any:
    """Read JSON, also with NaN for a missing value, as MLflow's client and pandas write it."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            content = json.loads(body)
            json.dumps(content, ensure_ascii=False).encode()  # half of a character could neither be logged nor hashed
        except (ValueError, RecursionError) as error:
            raise RequestRefused(f"body: is not JSON ({type(error).__name__}); expected {SHAPES}") from None
        return content


def is_null(value: object) -> bool:
    """Whether a value is null, or NaN, which stands for null."""
    return value is None or value != value


def _quoted(content: Mapping[str, Any]) -> str:
    return ", ".join(repr(name[:40]) for name in sorted(content)[:8]) or "of an empty object"


def _records(content: object, at: str) -> Sequence[Row]:
    if not isinstance(content, list):
        raise RequestRefused(f"{at}: is {_type(content)}, expected a list of objects, one for each row")
    for number, row in enumerate(content):
        if type(row) is not dict:
            raise RequestRefused(f"{at}, row {number}: is {_type(row)}, expected an object of columns and values")
    return content


def _split(content: object, at: str) -> Sequence[Row]:
    if not isinstance(content, dict) or not {"columns", "data"} <= content.keys():
        raise RequestRefused(f"{at}: lacks columns or data, expected {{'columns': [...], 'data': [[...], ...]}}")
    names, data = content["columns"], content["data"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not isinstance(data, list):
        raise RequestRefused(f"{at}: expected columns as a list of names, and data as a list of rows")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestRefused(f"{at}.columns: lists {twice!r} more than once, expected each column once")
    for number, values in enumerate(data):
        if type(values) is not list or len(values) != len(names):
            found = f"{len(values)} values" if isinstance(values, list) else _type(values)
            raise RequestRefused(f"{at}.data, row {number}: is {found}, expected {len(names)}, one for each column")
    return [dict(zip(names, values, strict=True)) for values in data]


def _inputs(content: object, at: str) -> Sequence[Row]:
    """Read a list of rows, one row, or lists of values by column."""
    if not isinstance(content, dict):
        return _records(content, at)
    lists = [name for name, values in content.items() if isinstance(values, list)]
    if not lists:
        return [content]
    lengths = {len(content[name]) for name in lists}
    if len(lists) < len(content) or len(lengths) > 1:
        raise RequestRefused(f"{at}: its columns differ in length, expected a list of equal length for each column")
    return [dict(zip(content, values, strict=True)) for values in zip(*content.values(), strict=True)]


_READERS = {"dataframe_split": _split, "dataframe_records": _records, "inputs": _inputs}


def _type(value: object) -> str:
    return _TYPES.get(type(value), "null")


class RowEncoder:
    """Encode rows of JSON values with a model's frozen encoding."""

    def __init__(self, encoding: Encoding) -> None:
        codes = {
            name: {text: float(code) for code, text in enumerate(texts)} for name, texts in encoding.categories.items()
        }
        self._features = [(name, kind, codes.get(name, {})) for name, kind in encoding.features]
        self._names, self._derived = encoding.names, encoding.derived
        self._derives = encoding.derived != DerivedFeatures()

    def encode(self, row: Row, moment: datetime | None = None) -> list[float]:
        """Return one number for each input, NaN for null and unseen values. Raises FeatureError naming the column.

        `moment` is the row's time, in UTC; without one, calendar parts are missing.
        """
        encoded = self._encode_features(row)
        return self._with_derived(encoded, moment) if self._derives else encoded

    def _with_derived(self, encoded: list[float], moment: datetime | None) -> list[float]:
        times = np.array([moment.replace(tzinfo=None) if moment else None], "datetime64[us]")
        inputs: list[float] = self._derived.applied(self._names, np.array([encoded], np.float32), times)[0].tolist()
        return inputs

    def _encode_features(self, row: Row) -> list[float]:
        encoded = []
        for name, kind, codes in self._features:
            value = row.get(name, _MISSING)
            found = type(value)
            if value is None:
                encoded.append(_NAN)
            elif kind == "categorical" and found is str:
                encoded.append(codes.get(value, _NAN))
            elif kind == "numeric" and (found is float or found is int):
                encoded.append(float(value) if -ROUNDED_TO_INFINITY < value < ROUNDED_TO_INFINITY else _NAN)
            elif found is bool and kind != "numeric":
                encoded.append(float(value) if kind == "boolean" else codes.get("true" if value else "false", _NAN))
            elif kind == "categorical" and (found is int or (found is float and value.is_integer())):
                encoded.append(codes.get(str(int(value)), _NAN))
            elif value is _MISSING:
                raise self._missing(row)
            elif found is float and not math.isfinite(value):
                encoded.append(_NAN)
            else:
                raise FeatureError(
                    f"column {name}: is {_type(value)}, expected {EXPECTED[kind]} for a {kind} feature, or null"
                )
        return encoded

    def _missing(self, row: Row) -> FeatureError:
        missing = [name for name, _, _ in self._features if name not in row]
        return FeatureError(
            f"column {', '.join(missing)}: is missing, expected all {len(self._features)} features of the model; "
            "send null for an unknown value"
        )


def raw_table(encoding: RawEncoding, rows: Sequence[Row]) -> pa.Table:
    """Return rows of JSON values as a table for a model of the user's own. Raises FeatureError naming the column."""
    columns = {}
    for name, kind in encoding.features:
        missing = next((row for row in rows if name not in row), None)
        if missing is not None:
            raise FeatureError(
                f"column {name}: is missing, expected all {len(encoding.features)} features of the model; send null for an "
                "unknown value"
            )
        expected = encoding.types[name] if kind == "other" else _RAW_KINDS[kind]
        values = [_raw_value(row[name], name, expected) for row in rows]
        try:
            columns[name] = pa.array(values, arrow_type(expected))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            raise FeatureError(f"column {name}: holds another type, expected {expected}, or null") from None
    return pa.table(columns)


_RAW_KINDS = {"numeric": "number", "categorical": "text", "boolean": "boolean"}


def _raw_value(value: Any, name: str, expected: str) -> Any:
    if is_null(value):
        return None
    if expected in ("date", "time"):
        moment = read_time(value, name)
        return moment.date() if expected == "date" else moment
    if expected == "text" and isinstance(value, bool | int):
        return str(value).lower()
    return float(value) if expected == "number" and type(value) is int else value


def jsonable(row: Row) -> dict[str, Any]:
    """Return a row of Python values as a request sends it."""
    return {name: value.isoformat() if isinstance(value, date) else value for name, value in row.items()}


def read_time(value: object, column: str) -> datetime:
    """Parse the time of a row; without a zone it is UTC. Raises FeatureError."""
    try:
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise FeatureError(
            f"column {column}: is {_type(value)} that is no time, expected ISO 8601 such as 2026-06-05T12:00:00Z"
        ) from None


def read_id(row: Row, columns: Columns) -> str | None:
    """Return a row's id as text, as `row_identity.joined_key` makes it; None without one. Raises FeatureError."""
    if not columns.has_joined_id or columns.key in row:
        value = row.get(columns.key)
        return None if is_null(value) else _id_text(value, columns.key)
    values = [row.get(name) for name in columns.id_columns]
    if any(map(is_null, values)):
        return None
    texts = [
        _stored_time(read_time(value, name)) if name == columns.time else _id_text(value, name)
        for name, value in zip(columns.id_columns, values, strict=True)
    ]
    return SEPARATOR.join(text.replace(ESCAPE, ESCAPE * 2).replace(SEPARATOR, ESCAPE + SEPARATOR) for text in texts)


def read_unit(value: object, column: str) -> str | None:
    """Return the unit of a row as the traffic split writes it; None without one. Raises FeatureError."""
    return None if is_null(value) else _bounded(canonical_unit(value), column)


def _id_text(value: object, column: str) -> str:
    if type(value) not in _ID_TYPES:
        raise FeatureError(f"column {column}: is {_type(value)}, expected text or a number for an id")
    return _bounded(str(value).lower() if isinstance(value, bool) else canonical_unit(value), column)


def _bounded(text: str, column: str) -> str:
    """Return the text. Raises FeatureError for a long one, which every row of the log would repeat."""
    if len(text) > MAX_ID_CHARACTERS:
        raise FeatureError(f"column {column}: has {len(text):,} characters, expected at most {MAX_ID_CHARACTERS:,}")
    return text


def _stored_time(moment: datetime) -> str:
    """Return a time as the lake writes it in an id of several columns."""
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}Z"
