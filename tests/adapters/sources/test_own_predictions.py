"""The log of somebody else's service: types as tools write them, entries that repeat, and answers that are none."""

import json
from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.config.model import ModelConfig
from tasks.adapters.evaluation.prediction_log import count_logged
from tasks.adapters.sources.own_predictions import read_own_predictions
from tasks.policy.comparison.predictions import MISSING_PREDICTION, NOT_A_PROBABILITY
from tasks.policy.data_quality.logged_predictions import DUPLICATE, LogCounts, LogLimits, check_log
from tasks.policy.records.base import Window
from tasks.policy.records.errors import SourceError
from tests.support.monitored_model import HISTORY, WINDOW, model

COUNT = 8
AT = [WINDOW.start + timedelta(hours=hour) for hour in range(COUNT)]
KEYS = pa.table({"id": [f"r{number}" for number in range(COUNT)], "at": pa.array(AT, pa.timestamp("us", "UTC"))})
CLASSES = {"binary": ("0", "1"), "multiclass": ("a", "b", "c"), "regression": ()}


@pytest.fixture
def read(tmp_path):
    """Write a log and read it."""

    def write_and_read(log: pa.Table, task: str = "binary", classes=(), known=KEYS["id"], **block):
        pq.write_table(log, tmp_path / "log.parquet")
        source = {"kind": "parquet", "path": str(tmp_path / "log.parquet")}
        columns = {"classes": classes} if classes else {}
        metric = "mae" if task == "regression" else "log_loss"
        answers = {} if "probabilities" in block else {"prediction": "p"}
        config: ModelConfig = model(
            task=task, columns=columns, performance={"metric": metric},
            predictions={"source": source, "id": "id", "time": "t"} | answers | block,
        )  # fmt: skip
        return read_own_predictions(config, WINDOW, KEYS, classes or CLASSES[task], known)

    return write_and_read


def log(p: object, **more: object) -> pa.Table:
    given = p if isinstance(p, pa.Array) else pa.array(p)
    times = pa.array([moment + timedelta(seconds=2) for moment in AT], pa.timestamp("us", "UTC"))
    return pa.table({"id": KEYS["id"], "t": times, "p": given} | more)


VALUES = [0.125 * number for number in range(COUNT)]


@pytest.mark.parametrize(
    "written",
    [
        pa.array(VALUES, pa.float64()),
        pa.array(VALUES, pa.float32()),
        pa.array(VALUES, pa.float16()),
        pa.array([Decimal(f"{value:.3f}") for value in VALUES], pa.decimal128(10, 3)),
        pa.array([f" {value} " for value in VALUES]),
        pa.array([str(value) for value in VALUES]).dictionary_encode(),
    ],
    ids=lambda written: str(written.type),
)
def test_numbers_as_tools_write_them(read, written):
    found = read(log(written))
    assert found.log["prediction"].to_pylist() == VALUES
    assert found.log["error"].null_count == COUNT
    assert found.log["time"].to_pylist() == AT, "the time of the row, not that of the answer"
    assert count_logged(found.log, COUNT) == LogCounts(COUNT, 0, 0, 0)


def test_answers_that_are_none(read):
    found = read(log([0.5, None, float("nan"), float("inf"), -0.1, 1.5, 1.0, 0.0]))
    errors = [None, *[MISSING_PREDICTION] * 3, *[NOT_A_PROBABILITY] * 2, None, None]
    assert found.log["error"].to_pylist() == errors
    assert found.log["prediction"].to_pylist() == [0.5, *[None] * 5, 1.0, 0.0]
    assert count_logged(found.log, COUNT) == LogCounts(COUNT, missing=0, duplicates=0, invalid=5)


def test_text_that_is_no_number_is_unusable(read):
    found = read(log(["0.5", "n/a", "", "NaN", "0.1", "0.2", "0.3", "0.4"]))
    assert count_logged(found.log, COUNT).invalid == 3


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (pa.array([0, 1] * 4), "is int64, expected probabilities"),
        (pa.array([True, False] * 4), "is bool, expected probabilities"),
        (pa.array(["left", "stays"] * 4), "holds no number, expected probabilities, not classes"),
        (pa.array([[0.5]] * 8), "expected numbers"),
    ],
)
def test_a_class_in_place_of_a_probability_is_refused(read, written, message):
    with pytest.raises(SourceError, match=message):
        read(log(written))


def test_a_regression_takes_any_number(read):
    found = read(log(pa.array(range(-4, 4))), task="regression")
    assert found.log["prediction"].to_pylist() == [float(value) for value in range(-4, 4)]


SHARES = np.random.default_rng(1).dirichlet([1, 1, 1], COUNT)


@pytest.mark.parametrize(
    "written",
    [
        pa.array(SHARES.tolist()),
        pa.array(SHARES.astype(np.float32).tolist(), pa.list_(pa.float32(), 3)),
        pa.array([{"c": row[2], "a": row[0], "b": row[1]} for row in SHARES.tolist()]),
        pa.array([json.dumps(dict(zip("abc", row, strict=True))) for row in SHARES.tolist()]),
        pa.array([json.dumps(row) for row in SHARES.tolist()]),
    ],
    ids=["list", "fixed-size list", "struct", "JSON object", "JSON list"],
)
def test_probabilities_in_one_column(read, written):
    found = read(log(written), "multiclass", ("a", "b", "c"), probabilities="p")
    np.testing.assert_allclose(np.array(found.log["prediction"].to_pylist()), SHARES, rtol=1e-6)


def test_probabilities_in_a_column_of_each_class(read):
    columns = {f"p_{name}": pa.array(SHARES[:, place]) for place, name in enumerate("abc")}
    table = log([0.0] * COUNT, **columns)
    named = {"c": "p_c", "a": "p_a", "b": "p_b"}
    found = read(table, "multiclass", ("a", "b", "c"), probabilities=named)
    np.testing.assert_allclose(np.array(found.log["prediction"].to_pylist()), SHARES)
    twice = table.set_column(table.column_names.index("p_a"), "p_a", pa.array(SHARES[:, 0] + 0.2))
    found = read(twice, "multiclass", ("a", "b", "c"), probabilities=named)
    assert set(found.log["error"].to_pylist()) == {NOT_A_PROBABILITY}, "they sum to 1.2"


def test_a_list_needs_the_order_of_the_classes(read):
    with pytest.raises(SourceError, match=r"expected columns\.classes"):
        read(log(SHARES.tolist()), "multiclass", probabilities="p")


def test_a_class_that_the_labels_do_not_have_is_refused(read):
    with pytest.raises(SourceError, match="expected the classes of the labels: 0, 1"):
        read(log(VALUES), probabilities={"yes": "p", "no": "p"})


def test_the_positive_class_of_two(read):
    found = read(log(VALUES, q=pa.array([1 - value for value in VALUES])), probabilities={"0": "q", "1": "p"})
    assert found.log["prediction"].to_pylist() == VALUES


def test_repeats_duplicates_gaps_and_orphans(read):
    table = log(VALUES).to_pandas()
    again, other, orphan = table.iloc[[0, 1]], table.iloc[[2]].assign(p=0.9), table.iloc[[3]].assign(id="of nobody")
    found = read(pa.Table.from_pandas(pd.concat([table.drop(7), again, other, orphan], ignore_index=True)))
    assert (found.repeats, found.orphans) == (2, 1)
    assert found.remark == "1 entries belong to no row that has landed, 2 entries repeat another one"
    assert found.log["error"].to_pylist() == [None, None, DUPLICATE, None, None, None, None]
    assert count_logged(found.log, COUNT) == LogCounts(COUNT, missing=1, duplicates=1, invalid=0)


def entry(row: str, moment: datetime) -> pd.DataFrame:
    return pd.DataFrame({"id": [row], "t": [pd.Timestamp(moment)], "p": [0.5]})


MINUTES = timedelta(minutes=10)


@pytest.mark.parametrize(
    ("row", "moment", "orphans"),
    [
        ("of the day before", WINDOW.start + MINUTES, 0),
        ("of nobody", WINDOW.start + MINUTES, 1),
        ("of nobody", WINDOW.start - MINUTES, 1),
        ("of nobody", WINDOW.start - timedelta(hours=1) - MINUTES, 0),  # counted with the window before
        ("of the next day", WINDOW.end - MINUTES, 0),  # counted with the next window
    ],
)
def test_an_answer_to_a_row_of_the_window_before_is_no_orphan(read, row, moment, orphans):
    known = pa.chunked_array([[*KEYS["id"].to_pylist(), "of the day before"]])
    table = pa.Table.from_pandas(pd.concat([log(VALUES).to_pandas(), entry(row, moment)], ignore_index=True))
    found = read(table, known=known)
    assert (found.orphans, len(found.log)) == (orphans, COUNT)


def test_every_entry_of_no_row_is_counted_in_one_window(tmp_path):
    times = pd.date_range(WINDOW.start, WINDOW.end + timedelta(days=5), freq="20min", inclusive="left")
    table = pd.DataFrame({"id": "of nobody", "t": times, "p": 0.5})
    table.to_parquet(tmp_path / "log.parquet")
    source = {"kind": "parquet", "path": str(tmp_path / "log.parquet")}
    config = model(predictions={"source": source, "id": "id", "time": "t", "prediction": "p", "delay_hours": 30.0})
    spans = [Window(WINDOW.start + days, WINDOW.end + days) for days in map(timedelta, (0, 5, 10))]
    found = [read_own_predictions(config, span, KEYS, CLASSES["binary"], KEYS["id"]).orphans for span in spans]
    assert found == [(5 * 24 - 30) * 3, 5 * 24 * 3, 30 * 3]


def test_entries_at_the_begin_of_the_period_may_belong_to_rows_before_it(tmp_path):
    table = pd.concat([entry("of nobody", HISTORY.start + timedelta(minutes=minutes)) for minutes in (0, 59, 60)])
    table.to_parquet(tmp_path / "log.parquet")
    source = {"kind": "parquet", "path": str(tmp_path / "log.parquet")}
    config = model(predictions={"source": source, "id": "id", "time": "t", "prediction": "p"})
    assert read_own_predictions(config, HISTORY, KEYS, CLASSES["binary"], KEYS["id"]).orphans == 1


@pytest.mark.parametrize(
    ("values", "error", "prediction"),
    [
        ((None, 0.2), None, 0.2),
        ((0.2, None), None, 0.2),
        ((None, 1.5, 0.2, 0.2), None, 0.2),
        ((None, 0.2, 0.3), DUPLICATE, None),
        ((None, None), MISSING_PREDICTION, None),
        ((None, 1.5), MISSING_PREDICTION, None),
    ],
)
def test_a_failed_attempt_is_no_second_answer(read, values, error, prediction):
    attempts = [entry("r5", AT[5] + timedelta(minutes=place)).assign(p=value) for place, value in enumerate(values)]
    found = read(pa.Table.from_pandas(pd.concat(attempts).astype({"p": float}), preserve_index=False))
    assert found.log["error"].to_pylist() == [error]
    assert found.log["prediction"].to_pylist() == [prediction]
    assert found.repeats == len(values) - len(set(values))


def test_an_entry_belongs_to_a_row_nearby(read):
    times = [moment + timedelta(hours=2) for moment in AT]
    table = log(VALUES).set_column(1, "t", pa.array(times, pa.timestamp("us", "UTC")))
    assert len(read(table).log) == 0
    assert len(read(table, delay_hours=2.0).log) == COUNT


def test_roles_and_versions(read):
    """A shadow's answer is no second answer of its row, and a version that is not named has a name of its own."""
    table = log(VALUES, v=pa.array(["a"] * COUNT), role=pa.array([None, "Champion", *["champion"] * 6]))
    shadow = log(VALUES[::-1], v=pa.array(["b"] * COUNT), role=pa.array(["shadow"] * COUNT))
    found = read(pa.concat_tables([table, shadow]), version="v", role="role")
    assert found.log["error"].null_count == 2 * COUNT
    assert sorted(set(zip(found.log["version"].to_pylist(), found.log["role"].to_pylist(), strict=True))) == [
        ("a", "champion"),
        ("b", "shadow"),
    ]
    assert count_logged(found.log, COUNT) == LogCounts(COUNT, 0, 0, 0)
    with pytest.raises(SourceError, match="has 8 other values than champion, challenger, shadow"):
        read(log(VALUES, role=pa.array(["live"] * COUNT)), role="role")


@pytest.mark.parametrize("fault", ["missing", "duplicates", "invalid"])
@pytest.mark.parametrize(("count", "met"), [(3, True), (4, False)])
def test_limits_from_both_sides(fault, count, met):
    counts = {"missing": 0, "duplicates": 0, "invalid": 0} | {fault: count}
    findings = list(check_log(LogCounts(300, **counts), LogLimits(0.01, 0.01, 0.01)))
    assert all(finding.met for finding in findings) == met
    assert [finding.verdict for finding in findings].count("fail") == (not met)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({}, "neither of prediction and probabilities is given"),
        ({"prediction": "p", "probabilities": "q"}, "both of prediction and probabilities"),
        ({"probabilities": {"0": "p"}}, "expected both classes, or columns.positive_label"),
        ({"prediction": "p", "id": ["a", "b"]}, "expected as many columns as columns.id has: id"),
        (
            {"prediction": "p", "source": {"kind": "parquet", "path": "a", "settle_hours": 1}},
            r"expected source\.settle_hours",
        ),
        ({"prediction": "p", "max_missing_share": 2}, "less than or equal to 1"),
    ],
)
def test_settings_that_do_not_fit(block, message):
    with pytest.raises(ValueError, match=message):
        model(predictions={"source": {"kind": "parquet", "path": "log.parquet"}, "time": "t"} | block)


def test_the_policy_of_a_foreign_model_only_advises():
    own = {"source": {"kind": "parquet", "path": "log.parquet"}, "time": "t", "prediction": "p"}
    assert model(predictions=own).retraining.advise_only
    assert not model(predictions=own, training={"min_rows": 100}).retraining.advise_only
    assert not model().retraining.advise_only
