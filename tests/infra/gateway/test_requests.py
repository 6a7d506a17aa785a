"""MLflow's request shapes are read, and a faulty request is refused with the place, what was found and what is expected."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from deployments.config.blocks.data import Columns
from infra.gateway.requests import MAX_ID_CHARACTERS, MAX_ROWS, RowEncoder, read_id, read_rows, read_unit
from tasks.adapters.lake.row_identity import joined_key
from tasks.adapters.models.encoding import Encoding
from tasks.policy.records.errors import FeatureError, RequestRefused

ENCODING = Encoding(
    (("size", "numeric"), ("colour", "categorical"), ("code", "categorical"), ("flag", "boolean")),
    {"colour": ("blue", "false", "red", "true"), "code": ("-1", "2", "7")},
)
ROWS = [{"x": 1, "colour": "red"}, {"x": None, "colour": "blue"}]
NUMBERS = st.one_of(st.none(), st.floats(), st.integers(-(2**53), 2**53))
VALUES = {
    "size": NUMBERS,
    "colour": st.one_of(st.none(), st.sampled_from(["blue", "red", "green", "", "true"]), st.booleans()),
    "code": st.one_of(
        st.none(),
        st.integers(-3, 9),
        st.sampled_from(["2", "7", "x"]),
        st.sampled_from([2.0, -1.0, math.nan, math.inf]),
    ),
    "flag": st.one_of(st.none(), st.booleans()),
}


@pytest.mark.parametrize(
    "shape",
    [
        {"dataframe_records": ROWS},
        {"dataframe_split": {"columns": ["x", "colour"], "data": [[1, "red"], [None, "blue"]], "index": [0, 1]}},
        {"inputs": ROWS},
        {"inputs": {"x": [1, None], "colour": ["red", "blue"]}},
        {"dataframe_records": ROWS, "params": {}},
    ],
    ids=lambda shape: next(iter(shape)),
)
def test_mlflow_shapes_are_read(shape):
    assert list(read_rows(json.dumps(shape).encode())) == ROWS


def test_nan_is_null():
    """MLflow's client and pandas write NaN for a missing value, which JSON does not have."""
    rows = read_rows(
        b'{"dataframe_split": {"columns": ["size", "colour", "code", "flag"], "data": [[NaN, NaN, NaN, NaN]]}}'
    )
    assert all(map(math.isnan, RowEncoder(ENCODING).encode(rows[0])))
    assert read_id({"id": math.nan}, columns("id")) is None


def test_one_row_of_inputs_is_read():
    assert list(read_rows(b'{"inputs": {"x": 1, "colour": "red"}}')) == ROWS[:1]


@pytest.mark.parametrize(
    ("body", "message", "status"),
    [
        (b"{", "body: is not JSON", 400),
        (b"[" * 100_000, "body: is not JSON", 400),
        (b"\xff", "body: is not JSON", 400),
        (b"[1]", "body: holds a list, expected exactly one of dataframe_split, dataframe_records or inputs", 400),
        (b'{"rows": []}', "body: holds the keys 'rows', expected exactly one of", 400),
        (b'{"inputs": [], "dataframe_records": []}', "body: holds dataframe_records, inputs, expected exactly one", 400),
        (b'{"dataframe_records": []}', "holds 0 rows, expected 1 to", 400),
        (b'{"dataframe_records": {}}', "dataframe_records: is an object, expected a list", 400),
        (b'{"dataframe_records": [{}, 3]}', "dataframe_records, row 1: is a number, expected an object", 400),
        (b'{"dataframe_split": {"columns": ["a"]}}', "dataframe_split: lacks columns or data", 400),
        (b'{"dataframe_split": {"columns": ["a", "a"], "data": []}}', "lists 'a' more than once", 400),
        (b'{"dataframe_split": {"columns": ["a"], "data": [[1], [1, 2]]}}', "data, row 1: is 2 values, expected 1", 400),
        (b'{"dataframe_split": {"columns": [1], "data": []}}', "expected columns as a list of names", 400),
        (b'{"inputs": {"x": [1], "y": [1, 2]}}', "inputs: its columns differ in length", 400),
        (json.dumps({"inputs": [{}] * (MAX_ROWS + 1)}).encode(), f"holds {MAX_ROWS + 1} rows", 413),
    ],
)  # fmt: skip
def test_a_faulty_request_is_refused(body, message, status):
    with pytest.raises(RequestRefused) as refused:
        read_rows(body)
    assert message in str(refused.value)
    assert refused.value.status == status


@given(st.fixed_dictionaries(VALUES))
@settings(max_examples=300, deadline=None)
def test_a_row_encodes_as_a_table_of_one_row(row):
    expected = ENCODING.encode(pa.table({name: [value] for name, value in row.items()}))
    found = np.array([RowEncoder(ENCODING).encode(row)], np.float32)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [3.4028235e38, 3.4028235677973362e38, 3.4028235677973366e38, -1e300, 2**70, 1e-46])
def test_numbers_at_the_limits_of_32_bits_encode_alike(value):
    encoding = Encoding((("size", "numeric"),))
    found = np.array(RowEncoder(encoding).encode({"size": value}), np.float32)
    np.testing.assert_array_equal(found, encoding.encode(pa.table({"size": [float(value)]}))[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "12"}, "column size: is text, expected an integer or decimal number for a numeric feature, or null"),
        ({"size": True}, "column size: is a boolean"),
        ({"size": [1]}, "column size: is a list"),
        ({"colour": 1.5}, "column colour: is a number, expected text, a dictionary of text, an integer or a boolean"),
        ({"colour": {"a": 1}}, "column colour: is an object"),
        ({"flag": 1}, "column flag: is a number, expected a boolean"),
        ({"flag": "secret"}, "column flag: is text, expected a boolean"),
    ],
)
def test_a_wrong_type_is_refused_by_name_without_its_value(change, message):
    row = {"size": 1.0, "colour": "red", "code": 2, "flag": True} | change
    with pytest.raises(FeatureError) as refused:
        RowEncoder(ENCODING).encode(row)
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)
    with pytest.raises(FeatureError):  # the table of this row is refused as well
        ENCODING.encode(pa.table({name: [value] for name, value in row.items()}))


def test_missing_columns_are_all_named():
    with pytest.raises(FeatureError, match="column size, flag: is missing, expected all 4 features"):
        RowEncoder(ENCODING).encode({"colour": "red", "code": 2})


def columns(row_id: str | list[str]) -> Columns:
    return Columns(id=row_id, time="at", label="y", features={"numeric": ["x"]})


@pytest.mark.parametrize(("value", "expected"), [("a", "a"), (7, "7"), (7.0, "7"), (None, None)])
def test_an_id_is_read_as_text(value, expected):
    assert read_id({"id": value}, columns("id")) == expected
    assert read_id({}, columns("id")) is None


def test_an_id_of_several_columns_is_joined_as_in_the_lake():
    wanted = columns(["shop", "till", "at"])
    row = {"shop": "a|b\\c", "till": 3, "at": "2024-03-02T10:00:00+01:00"}
    at = pa.array([1709370000000000], pa.timestamp("us", "UTC")).cast(pa.string())
    parts = [pa.chunked_array([pa.array([text])]) for text in (row["shop"], "3", at[0].as_py())]
    assert read_id(row, wanted) == joined_key(parts)[0].as_py()
    assert read_id(row | {"till": None}, wanted) is None
    assert read_id({"shop+till+at": "joined"}, wanted) == "joined"


def test_a_time_that_is_the_id_is_written_as_in_the_lake():
    stored = joined_key([pa.chunked_array([pa.array([1709370000000000], pa.timestamp("us", "UTC")).cast(pa.string())])])
    assert read_id({"at": "2024-03-02T10:00:00+01:00"}, columns("at")) == stored[0].as_py()
    assert read_id({"at": None}, columns("at")) is None
    assert read_id({"id+at": "joined"}, columns("at")) == "joined"


def test_an_id_that_is_no_text_is_refused():
    with pytest.raises(FeatureError, match="column id: is a list, expected text or a number"):
        read_id({"id": [1]}, columns("id"))


@pytest.mark.parametrize(
    "read", [lambda text: read_id({"id": text}, columns("id")), lambda text: read_unit(text, "id")]
)
def test_ids_and_units_are_bounded(read):
    longest = "a" * MAX_ID_CHARACTERS
    assert read(longest) == longest
    with pytest.raises(FeatureError, match="column id: has 1,001 characters, expected at most 1,000"):
        read(longest + "a")


def test_nan_is_what_null_encodes_to():
    assert all(map(math.isnan, RowEncoder(ENCODING).encode(dict.fromkeys(ENCODING.names))))
