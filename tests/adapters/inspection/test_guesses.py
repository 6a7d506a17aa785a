"""Guesses about unknown tables: what is read off the values, and what stays a question."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy
import yaml
from deltalake import write_deltalake

from deployments.new.draft import People, draft
from tasks.adapters.inspection.columns import describe_columns
from tasks.adapters.inspection.personal import looks_personal
from tasks.adapters.inspection.proposal import Answers, Proposal, describe_table, misfit, propose
from tasks.adapters.inspection.table import TablePlace, read_table
from tasks.adapters.inspection.times import choose_delay, holdout_days
from tasks.adapters.lake.casts import TimeForm, to_utc
from tasks.policy.records.errors import SourceError
from tests.support import unknown_tables


def guessed(place: Path | TablePlace, model: str = "model", **answers: object) -> Proposal:
    table = read_table(place if isinstance(place, TablePlace) else TablePlace(str(place)))
    return propose(model, table, describe_table(table), Answers(**answers))


def small(rows: int = 400, **columns: object) -> pd.DataFrame:
    random = np.random.default_rng(1)
    table = {
        "order_id": [f"o{number}" for number in range(rows)],
        "ordered_at": pd.date_range("2025-01-01", periods=rows, freq="3h", tz="UTC"),
        "amount": random.gamma(2, 10, rows),
        "returned": random.integers(0, 2, rows),
    }
    return pd.DataFrame(table | columns)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    unknown_tables.subscriptions(weeks=40, customers=200).to_parquet(folder / "weekly.parquet")
    unknown_tables.grid_load(days=120).to_csv(folder / "load.csv", index=False)
    unknown_tables.tickets(3000).to_csv(folder / "tickets.csv", index=False, sep=";")
    return folder


def test_weekly_customers(tables):
    found = guessed(tables / "weekly.parquet", "churn")
    assert found.time.value == "snapshot_date"
    assert set(found.id.value) == {"account", "snapshot_date"}
    assert (found.label.value, found.task.value, found.positive.value) == ("cancelled", "binary", "true")
    assert found.label_time.value == "outcome_at"
    assert set(found.personal) == {"mobile"}
    assert found.left_out == {"mobile": "looks like a phone number", "currency": "has one value only"}
    assert found.division.window_days >= 7


def snapshots(repeats: int) -> pd.DataFrame:
    """Weekly rows of 200 customers with a tenure and a plan, of which the last `repeats` are written twice with another one."""
    random = np.random.default_rng(7)
    customer, week = (each.ravel() for each in np.meshgrid(np.arange(200), np.arange(40)))
    table = pd.DataFrame(
        {
            "customer_id": customer,
            "snapshot_date": pd.Timestamp("2025-01-06", tz="UTC") + pd.to_timedelta(7 * week, unit="D"),
            "tenure": customer % 60 + week,
            "plan": random.choice(["S", "M", "L"], len(week)),
            "churned": random.integers(0, 2, len(week)),
        }
    )
    again = table.tail(repeats).assign(tenure=lambda rows: rows["tenure"] + 1, plan="XL")
    return pd.concat([table, again]).sort_values("snapshot_date", kind="stable")


@pytest.mark.parametrize("repeats", [0, 11])
def test_a_few_repeated_rows_are_a_question_and_no_feature_hides_them(repeats, tmp_path):
    snapshots(repeats).to_parquet(tmp_path / "t.parquet")
    found = guessed(tmp_path / "t.parquet", "churn")
    assert found.time.value == "snapshot_date"
    if repeats:
        assert found.id.value is None
        assert found.id.reason.startswith("customer_id with snapshot_date repeats in 11 rows; remove the duplicates")
        assert "tenure" not in found.id.others
    else:
        assert found.id.value == ("customer_id", "snapshot_date")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("product_id", lambda number: 5 + number % 2, ("customer_id", "product_id", "snapshot_date")),
        ("channel", lambda number: np.where(number % 2, "web", "shop"), ("customer_id", "channel", "snapshot_date")),
        ("visits", lambda number: 5 + number % 2, None),
    ],
)
def test_a_second_entity_looks_like_a_key(name, value, expected, tmp_path):
    """Each customer has two rows a week."""
    table = pd.concat([snapshots(0)] * 2).sort_values(["snapshot_date", "customer_id"], kind="stable")
    table.insert(1, name, value(np.arange(len(table))))
    table.drop(columns=["plan", "tenure"]).to_parquet(tmp_path / "t.parquet")
    assert guessed(tmp_path / "t.parquet", "churn").id.value == expected


def test_hourly_load_without_an_id(tables):
    found = guessed(tables / "load.csv", "load_forecast")
    assert (found.time.value, found.label.value, found.task.value) == ("hour", "load_mw", "regression")
    assert set(found.id.value) == {"substation", "hour"}
    assert "substation" in found.features["categorical"]
    assert found.sentinels["temperature"][0] == -999
    assert found.label_delay_hours.value is None  # no label is missing
    assert found.source_options == {"time_zone": "UTC"}


@pytest.mark.parametrize(
    ("change", "expected", "features"),
    [
        ({}, ("ordered_at",), {"amount"}),
        ({"store": list("ab") * 200}, ("store", "ordered_at"), {"amount", "store"}),
        ({"Unnamed: 0": range(400)}, ("Unnamed: 0",), {"amount"}),
        ({"visits": np.random.default_rng(5).permutation(400)}, ("ordered_at",), {"amount", "visits"}),
    ],
)
def test_a_time_that_differs_in_every_row_may_be_the_id(change, expected, features, tmp_path):
    """A store beside it and a running number are better ones; a feature that happens to differ is none."""
    small().drop(columns="order_id").assign(**change).to_parquet(tmp_path / "t.parquet")
    found = guessed(tmp_path / "t.parquet", "returns")
    assert found.id.value == expected
    assert {name for names in found.features.values() for name in names} == features


@pytest.mark.parametrize(
    ("days", "rows", "expected"), [(100, 100_000, 5), (700, 7000, 40), (700, 700, 140), (10, 9000, 2)]
)
def test_the_holdout_has_the_rows_that_validation_needs(days, rows, expected):
    assert holdout_days(days, rows) == pytest.approx(expected)


def test_tickets_with_text_and_mail(tables):
    found = guessed(tables / "tickets.csv", "routing")
    assert (found.time.value, found.id.value) == ("opened_at", ("ticket_no",))
    assert (found.label.value, found.task.value, found.label_time.value) == ("team", "multiclass", "closed_at")
    assert found.personal == {"from": "an e-mail address"}
    assert found.left_out["message"] == "is free text"
    assert found.source_options["delimiter"] == ";"


def test_a_doubtful_label_is_a_question(tmp_path):
    table = small()
    table[["kept", "opened"]] = np.random.default_rng(2).integers(0, 2, (400, 2))
    table.drop(columns="returned").to_parquet(tmp_path / "t.parquet")
    found = guessed(tmp_path / "t.parquet")
    assert found.label.value is None
    assert {"kept", "opened"} <= set(found.label.others)
    assert not found.is_complete
    assert guessed(tmp_path / "t.parquet", label="kept").is_complete


def test_two_likely_times_are_a_question(tmp_path):
    table = small()
    table["created_at"] = table["ordered_at"] + pd.Timedelta(minutes=1)
    table.rename(columns={"ordered_at": "opened_at"}).to_parquet(tmp_path / "t.parquet")
    found = guessed(tmp_path / "t.parquet", "returns")
    assert found.time.value is None
    assert set(found.time.others) == {"opened_at", "created_at"}


def test_missing_latest_labels_show_the_delay(tmp_path):
    table = small(1000)
    table["returned"] = (
        table["returned"].astype(float).mask(table["ordered_at"] > table["ordered_at"].max() - pd.Timedelta(days=14))
    )
    table.to_parquet(tmp_path / "t.parquet")
    found = guessed(tmp_path / "t.parquet")
    assert found.label.value == "returned"
    assert 14 * 24 <= found.label_delay_hours.value <= 15 * 24
    complete = describe_table(read_table(TablePlace(str(tmp_path / "t.parquet"))))
    assert choose_delay(complete, "ordered_at", "amount").value is None


@pytest.mark.parametrize(
    ("written", "options"),
    [
        (lambda times: times.astype("int64") // 10**3, {"time_unit": "ms"}),
        (lambda times: times.dt.strftime("%d.%m.%Y %H:%M"), {"time_format": "%d.%m.%Y %H:%M", "time_zone": "UTC"}),
        (lambda times: times.dt.strftime("%Y-%m-%dT%H:%M:%SZ"), {}),
        (lambda times: times.dt.tz_localize(None), {"time_zone": "UTC"}),
    ],
)  # fmt: skip
def test_times_as_tools_write_them(written, options, tmp_path):
    table = small()
    times = table["ordered_at"].astype("datetime64[us, UTC]")
    table["ordered_at"] = written(times)
    table.to_parquet(tmp_path / "t.parquet")
    found = guessed(tmp_path / "t.parquet", "returns")
    assert (found.time.value, found.source_options) == ("ordered_at", options)
    assert (found.columns["ordered_at"].values == times).all()


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        *[
            (form, "str")
            for form in ("%m/%d/%y", "%d.%m.%y", "%y-%m-%d", "%d-%b-%y", "%d %b %Y", "%B %d, %Y", "%Y/%m/%d")
        ],
        *[("%Y%m%d", dtype) for dtype in ("str", "int64", "float64")],
    ],
)
def test_days_are_guessed_as_the_source_reads_them(form, dtype):
    days = pd.date_range("2011-01-01", periods=400, tz="UTC")
    column = pa.chunked_array([pa.array(days.strftime(form).astype(dtype))])
    found = describe_columns(pa.table({"sold_on": column}), is_text=False)["sold_on"]
    assert found.kind == "time" and found.values.tolist() == days.tolist()
    assert to_utc(column, "sold_on", TimeForm.of(found.options)).to_pandas().tolist() == days.tolist()


@pytest.mark.parametrize("texts", [["10.1.22", "10.2.13"], ["5 apples", "12 jan"], ["12:30:11"], ["01-02", "11-12"]])
def test_other_text_is_no_day(texts):
    column = pa.chunked_array([pa.array(texts * 20)])
    assert describe_columns(pa.table({"sold_on": column}), is_text=False)["sold_on"].kind == "text"


def test_leaks_are_left_out_and_noise_is_not(tmp_path):
    table = small(reason=None, noise=np.random.default_rng(3).normal(size=400))
    table["refund"] = np.where(table["returned"] == 1, table["amount"] + 100, 0.0)
    table["reason"] = np.where(table["returned"] == 1, "too small", None)
    table.to_parquet(tmp_path / "t.parquet")
    found = guessed(tmp_path / "t.parquet", "returns")
    assert set(found.left_out) == {"refund", "reason"}
    assert "noise" in found.features["numeric"]


@pytest.mark.parametrize(
    ("rows", "step", "window_days", "expected"),
    [
        (900, "12h", 7.0, {"feedback": "?"}),
        (700, "4D", 182.0, {"feedback": "?", "max_days": 1092}),
        (30_000, "2min", 1.0, None),
        (100_000, "2min", 28.0, {"max_days": 168}),
    ],
)
def test_a_rollout_has_time_for_several_looks(rows, step, window_days, expected, tmp_path):
    table = small(rows=rows)
    table["ordered_at"] = pd.date_range("2000-01-01", periods=rows, freq=step, tz="UTC")
    table.to_parquet(tmp_path / "t.parquet")
    found = guessed(tmp_path / "t.parquet", "returns", window_days=window_days)
    text = draft(found, People(), tmp_path, datetime(2026, 1, 1, tzinfo=UTC))
    assert yaml.safe_load(text).get("rollout") == expected


def test_a_counter_is_left_out_and_a_trend_is_not(tmp_path):
    random = np.random.default_rng(6)
    counter, trend = np.arange(400) // 2, np.arange(400) / 100 + random.normal(size=400)
    small(odometer=counter, warmer=trend).to_parquet(tmp_path / "t.parquet")
    found = guessed(tmp_path / "t.parquet", "returns")
    assert found.left_out == {"odometer": "rises with the time, so later rows have values that no model has learned"}
    assert "warmer" in found.features["numeric"]


def test_features_that_follow_the_calendar_only_warn(tmp_path):
    table = small(rows=2000)
    table["month"], table["weekday"] = table["ordered_at"].dt.month_name(), table["ordered_at"].dt.day_name()
    table["month in Tokyo"] = pd.to_datetime(table["ordered_at"], utc=True).dt.tz_convert("Asia/Tokyo").dt.month
    table["store"] = np.random.default_rng(2).choice(["a", "b"], len(table))
    table.to_parquet(tmp_path / "t.parquet")
    found = guessed(tmp_path / "t.parquet", "returns")
    assert set(found.calendar) == {"month", "month in Tokyo"}
    text = draft(found, People(), tmp_path, datetime(2026, 1, 1, tzinfo=UTC))
    assert yaml.safe_load(text)["quality"]["columns"] == {name: {"on_failure": "warn"} for name in found.calendar}


def test_parts_of_the_label_are_left_out_and_a_close_fit_is_not(tmp_path):
    random = np.random.default_rng(4)
    parts = {"casual": random.integers(0, 40, 400), "registered": random.integers(0, 90, 400)}
    riders = parts["casual"] + parts["registered"]
    close = riders + random.normal(scale=0.01, size=400)
    small(returned=None, riders=riders, **parts).drop(columns="returned").to_parquet(tmp_path / "t.parquet")
    found = guessed(tmp_path / "t.parquet", "riders", label="riders")
    assert found.left_out["casual"] == "leaks the label: it adds up to the label with registered"
    assert found.features == {"numeric": ("amount",)}
    small(returned=None, riders=close, **parts).drop(columns="returned").to_parquet(tmp_path / "t.parquet")
    assert not guessed(tmp_path / "t.parquet", "riders", label="riders").left_out


@pytest.mark.parametrize("kind", ["folder", "csv", "delta", "sql table", "sql query"])
def test_every_kind_of_source_gives_the_same_guesses(kind, tmp_path, monkeypatch):
    table = small()
    monkeypatch.setenv("WAREHOUSE_URL", f"sqlite:///{tmp_path}/t.db")
    place = TablePlace(str(tmp_path / "t"))
    if kind == "folder":
        (tmp_path / "t").mkdir()
        for number in range(2):
            table.iloc[200 * number : 200 * number + 200].to_parquet(tmp_path / "t" / f"{number}.parquet")
    elif kind == "csv":
        place = TablePlace(str(tmp_path / "t.csv"))
        table.to_csv(tmp_path / "t.csv", index=False)
    elif kind == "delta":
        write_deltalake(tmp_path / "t", table)
    else:
        text = table.assign(ordered_at=table["ordered_at"].dt.strftime("%Y-%m-%d %H:%M:%S"))
        text.to_sql("returns", sqlalchemy.create_engine(f"sqlite:///{tmp_path}/t.db"), index=False)
        by_name = kind == "sql table"
        place = TablePlace(
            url_env="WAREHOUSE_URL",
            table="returns" if by_name else None,
            query=None if by_name else "SELECT * FROM returns",
        )
    found = guessed(place, "returns")
    assert found.table.rows == 400
    assert (found.time.value, found.id.value, found.label.value) == ("ordered_at", ("order_id",), "returned")
    assert found.features == {"numeric": ("amount",)}


@pytest.mark.parametrize(("name", "message"), [("none.parquet", "not found"), ("empty", "no .parquet or .csv file")])
def test_a_missing_table_is_refused(name, message, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=message):
        read_table(TablePlace(str(tmp_path / name)))


def test_a_table_outside_the_allowed_folders_is_refused(tmp_path, monkeypatch):
    small().to_parquet(tmp_path / "t.parquet")
    monkeypatch.setenv("PERENNIAL_SOURCES", str(tmp_path / "allowed"))
    with pytest.raises(SourceError, match="outside the folders"):
        read_table(TablePlace(str(tmp_path / "t.parquet")))


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("a", "u{}@mail.example", "an e-mail address"),
        ("b", "NL91ABNA04171643{:02}", "a bank account"),
        ("c", "10.0.0.{}", "an IP address"),
        ("d", "+31 6 123456{:02}", "a phone number"),
        ("customerName", "Person {}", "a person's name"),
        ("plan", "plan {}", None),
        ("date", "2025-01-{:02}", None),
        ("version", "1.{}", None),
    ],
)
def test_personal_columns(name, value, kind):
    assert looks_personal(name, pd.Series([value.format(number) for number in range(30)])) == kind


def test_a_name_of_few_values_is_no_person():
    assert looks_personal("name", pd.Series(["basic", "plus", "pro"] * 20)) is None


@pytest.mark.parametrize(
    ("delimiter", "decimal", "several"),
    [(";", ",", True), (";", ",", False), ("\t", ",", True), ("\t", ".", True), ("|", ",", True), (",", ".", True)],
)
def test_csv_of_every_locale(delimiter, decimal, several, tmp_path):
    """A comma is found as the decimal point, whatever divides the columns, and with one or several numbers in a line."""
    random = np.random.default_rng(5)
    more = {f"part_{place}": random.normal(10, 3, 400).round(2) for place in range(4)} if several else {}
    table = small(**more, note="a, b; c | d").rename(columns={"returned": "consumption"})
    table["consumption"] = random.normal(50, 3, 400).round(2)
    table.to_csv(tmp_path / "t.csv", sep=delimiter, decimal=decimal, index=False)
    found = guessed(tmp_path / "t.csv", "consumption")
    assert (found.label.value, found.task.value) == ("consumption", "regression")
    assert set(found.features["numeric"]) == {"amount", *more}
    assert found.source_options.get("delimiter", ",") == delimiter
    assert found.source_options.get("decimal_point", ".") == decimal
    assert np.allclose(found.columns["consumption"].values, table["consumption"])


def test_thousands_in_a_tab_separated_file_are_no_decimals(tmp_path):
    table = small()
    table["amount"] = [f"{number:,}" for number in range(1000, 1400)]
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    found = guessed(tmp_path / "t.tsv", "returns")
    assert "decimal_point" not in found.source_options
    assert found.columns["amount"].kind == "text"


def test_a_label_of_many_texts_sets_no_task(tmp_path):
    table = small()
    table["outcome"] = [f"{number % 51} pieces" for number in range(400)]
    table.to_parquet(tmp_path / "t.parquet")
    found = guessed(tmp_path / "t.parquet", label="outcome")
    assert (found.task.value, found.task.reason) == (None, "the label has 51 different texts, too many for classes")
    assert not found.is_complete
    table["outcome"] = [f"{number % 50} pieces" for number in range(400)]
    table.to_parquet(tmp_path / "t.parquet")
    assert guessed(tmp_path / "t.parquet", label="outcome").task.value == "multiclass"


def dated(times: pd.DatetimeIndex, form: str, path: Path, **answers: object) -> Proposal:
    table = small(len(times))
    table["ordered_at"] = times.strftime(form)
    table.to_csv(path / "t.csv", index=False)
    return guessed(path / "t.csv", "returns", **answers)


MONTHS = pd.date_range("2023-01-01", periods=12, freq="MS").repeat(40)


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y"])
def test_dates_that_can_be_read_both_ways_leave_the_time_open(form, tmp_path):
    """Twelve months with the day first are also twelve days with the month first."""
    found = dated(MONTHS, form, tmp_path)
    assert found.time.value is None
    assert found.time.reason.endswith(
        "can be read both ways: write source.options.time_format, such as %d/%m/%Y, and the column"
    )
    assert found.time.others == ("ordered_at",)
    assert "ordered_at" in found.left_out
    assert misfit(Answers(time="ordered_at"), found.columns)[0] == "time"


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y"])
def test_the_order_that_spaces_dates_evenly_is_chosen_and_said(form, tmp_path):
    months = pd.date_range("2023-01-01", periods=24, freq="MS").repeat(20)
    found = dated(months, form, tmp_path)
    assert found.source_options["time_format"] == form
    assert "in the order that spaces the dates evenly" in found.time.reason
    assert (found.columns["ordered_at"].values.dt.tz_localize(None) == months).all()
    assert dated(months, form, tmp_path, time="ordered_at").time.reason.startswith("as given; read in the order")


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y"])
def test_one_late_day_above_12_settles_the_order(form, tmp_path):
    """The first 200 different dates fit both orders; the last one fits only one."""
    days = [pd.Timestamp(year, month, day) for year in (2021, 2022) for month in range(1, 13) for day in range(1, 11)]
    random = np.random.default_rng(0)
    times = pd.DatetimeIndex([*np.array(days)[random.permutation(len(days))], pd.Timestamp("2023-02-28")])
    found = dated(times, form, tmp_path, time="ordered_at")
    assert found.source_options["time_format"] == form
    assert found.time.reason == "as given"
