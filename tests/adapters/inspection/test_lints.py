"""Lints of a model's data: each names its column and the fix, and a clean table has none."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from deployments.config.model import ModelConfig
from tasks.adapters.inspection.columns import ColumnFacts, sentinel_of, share_of_rows
from tasks.adapters.inspection.lints import find_lints

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 2000
TIMES = pd.date_range("2025-01-01", periods=ROWS, freq="h", tz="UTC")


def table() -> pd.DataFrame:
    random = np.random.default_rng(4)
    return pd.DataFrame(
        {
            "order": [f"o{number}" for number in range(ROWS)],
            "at": TIMES,
            "amount": random.gamma(2, 10, ROWS),
            "plan": random.choice(["basic", "plus"], ROWS),
            "member": random.random(ROWS) < 0.4,
            "known_at": TIMES + pd.Timedelta(days=3),
            "left": random.choice(["no", "yes"], ROWS),
        }
    )


def model(**changes: object) -> ModelConfig:
    columns = {
        "id": "order",
        "time": "at",
        "label": "left",
        "features": {"numeric": ["amount"], "categorical": ["plan"], "boolean": ["member"]},
    }
    columns |= {
        name: changes.pop(name) for name in list(changes) if name in ("label_time", "personal", "features", "classes")
    }
    content = {
        "name": "orders",
        "owner": "tests@example.com",
        "purpose": "Shows lints.",
        "risk": "low",
        "task": "binary",
        "source": {"kind": "parquet", "path": "rows.parquet"},
        "columns": columns,
        "window_days": 7,
        "period": {
            "start": "2025-01-01T00:00:00Z",
            "history_until": "2025-02-26T00:00:00Z",
            "end": "2025-03-25T00:00:00Z",
        },
        "performance": {"metric": "accuracy"},
    }
    return ModelConfig.model_validate(content | changes)


def lints(rows: pd.DataFrame, config: ModelConfig | None = None) -> list[str]:
    return list(find_lints(config or model(), pa.Table.from_pandas(rows, preserve_index=False), NOW))


def test_a_clean_table_has_none():
    assert lints(table()) == []
    assert lints(table(), model(label_time="known_at")) == []


def test_a_repeated_id_names_the_columns_that_tell_rows_apart():
    rows = table()
    rows["order"] = [f"o{number % 50}" for number in range(ROWS)]
    (found,) = lints(rows)
    assert (
        found
        == "columns.id order: 1,294 rows of the history repeat the id of another row; write columns.id: [order, at]"
    )


def test_a_counter_among_the_features_is_named_unless_its_range_is_set():
    rows = table()
    rows["amount"] = np.arange(ROWS) // 2
    (found,) = lints(rows)
    assert found.startswith("amount: rises or falls with at, so later rows have values that no model has learned")
    assert lints(rows, model(quality={"columns": {"amount": {"range": {"min": 0, "max": 1e9}}}})) == []


def test_a_feature_that_follows_the_calendar_is_named_unless_it_only_warns():
    rows = table()
    rows["plan"] = pd.Series(TIMES).dt.month_name()
    (found,) = lints(rows)
    assert found.startswith("plan: is the same for all rows of a day and rarely changes")
    assert found.endswith("write quality.columns: {plan: {on_failure: warn}}")
    assert lints(rows, model(quality={"columns": {"plan": {"on_failure": "warn"}}})) == []


def test_the_same_row_twice_cannot_be_told_apart():
    rows = pd.concat([table(), table().head(5)])
    assert lints(rows) == [
        "columns.id order: 5 rows of the history repeat the id of another row; remove the repeated rows in the source"
    ]


def test_a_few_repeats_of_entity_and_time_are_named_and_not_hidden_by_a_feature():
    rows = table()
    rows["order"] = [f"o{number % 50}" for number in range(ROWS)]
    rows["visits"] = np.random.default_rng(8).permutation(ROWS)
    again = rows.head(11).assign(visits=lambda each: each["visits"] + 1)
    features = {"numeric": ["amount", "visits"], "categorical": ["plan"], "boolean": ["member"]}
    (found,) = lints(pd.concat([rows, again]), model(features=features))
    assert found == (
        "columns.id order: 1,305 rows of the history repeat the id of another row; order with at repeats in 11 rows: "
        "remove these in the source, and write columns.id: [order, at]"
    )


def test_an_id_may_return_in_a_later_window():
    rows = table()
    late = rows["at"] >= "2025-02-26"
    rows.loc[late, "order"] = (
        rows.loc[late, "order"].head(7 * 24).tolist() * 3 + rows.loc[late, "order"].head(late.sum() - 21 * 24).tolist()
    )
    assert lints(rows) == []


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("left", lambda rows: rows["left"].where(rows.index % 9 > 0, "NA"), "left: the words NA are read as an unknown label"),
        ("left", lambda rows: rows["left"].where(rows.index % 9 > 0, "Yes"), "left: spells one class as Yes and yes"),
        ("left", lambda rows: rows["left"].where(rows.index % 9 > 0, "maybe"), "left: has 3 classes in a binary model; write task: multiclass"),
        ("left", lambda rows: "no", "left: has 1 classes; name another column"),
        ("amount", lambda rows: rows["amount"].where(rows.index % 50 > 0, -999), "amount: -999 in 2.0% of the rows looks like a missing value"),
        ("amount", lambda rows: 3.0, "amount: has one value only; remove it from columns.features"),
        ("plan", lambda rows: rows["order"] + "x", "plan: has 2,000 categories in 2,000 rows"),
        ("plan", lambda rows: "m" + (rows.index % 90).astype(str) + "@mail.example", "plan: looks like an e-mail address; list it: columns.personal: [plan]"),
        ("plan", lambda rows: rows["left"].replace({"no": "a", "yes": "b"}), "plan: determines the label in every labelled row"),
        ("amount", lambda rows: rows["amount"].where(rows["left"] == "yes"), "amount: is missing for one class only"),
        ("at", lambda rows: rows["at"] + pd.Timedelta(days=340), "at: 1,399 rows lie in the future"),
    ],
)  # fmt: skip
def test_each_problem_is_one_line_with_its_fix(column, change, message):
    rows = table()
    rows[column] = change(rows)
    found = [line for line in lints(rows) if line.startswith(f"{column}:")]
    assert len(found) == 1
    assert found[0].startswith(message)


MANY = 50_000


@pytest.mark.parametrize(
    ("code", "repeats", "scale", "expected"),
    [
        (-999999.0, 5, 1.0, "less than 0.1%"),
        (99999999.0, 5, 1.0, "less than 0.1%"),
        (-99999999.0, 60, 1.0, "0.1%"),
        (-999999.0, 4, 1.0, None),
        (999.0, 5, 1.0, "less than 0.1%"),
        (999.0, 5, 12.0, None),
    ],
)
def test_a_code_far_outside_is_found_in_five_rows(code, repeats, scale, expected):
    """Normal values reach about 4.3 σ on either side, so that 12 σ units put 999 within 10 ranges."""
    values = np.random.default_rng(8).normal(0, scale, MANY)
    values[np.arange(repeats) * 7] = code
    found = sentinel_of(ColumnFacts("a", "numeric", pd.Series(values), MANY))
    assert (found and share_of_rows(found[1])) == expected


def test_a_heavy_tail_is_no_code():
    """Prices with a long tail, of which a few are exactly 999."""
    values = np.random.default_rng(9).lognormal(2, 1.5, MANY)
    values[:8] = 999.0
    assert values.max() > 999 > np.quantile(values, 0.999)
    assert sentinel_of(ColumnFacts("price", "numeric", pd.Series(values), MANY)) is None


def test_labels_before_their_row_and_after_the_look_back():
    rows = table()
    rows.loc[:99, "known_at"] = rows.loc[:99, "at"] - pd.Timedelta(days=1)
    rows.loc[100:299, "known_at"] = rows.loc[100:299, "at"] + pd.Timedelta(days=50)
    before, late = lints(rows, model(label_time="known_at"))
    assert before.startswith("columns.label_time known_at: lies before at in 5.0% of the rows")
    assert late.endswith("write columns.label_lookback_days: 50")


def test_labels_that_end_early():
    rows = table()
    rows["left"] = rows["left"].where(rows["at"] < "2025-02-20")
    (found,) = lints(rows)
    assert found.startswith(
        "left: no row after 2025-02-19 has a label; if labels take that long, write columns.label_delay_hours: 816, else"
    )


def test_names_that_differ_by_case():
    rows = table().rename(columns={"plan": "Amount"})
    found = lints(rows, model(features={"numeric": ["amount"], "categorical": ["Amount"]}))
    assert found == [
        "columns amount and Amount differ in upper and lower case only, which Delta tables refuse; rename one in the source"
    ]


@pytest.mark.parametrize(("skipped", "expected"), [("2025-03-09", 1), (None, 0)])
def test_times_that_skip_the_hour_of_a_clock_change(skipped, expected):
    rows = pd.concat([table().assign(order=table()["order"] + f"-{part}") for part in range(4)])
    rows["at"] = rows["at"].dt.tz_localize(None)
    rows = rows[rows["at"] != pd.Timestamp(f"{skipped} 02:00")] if skipped else rows
    config = model(source={"kind": "parquet", "path": "rows.parquet", "options": {"time_zone": "UTC"}})
    found = [line for line in lints(rows, config) if "clocks skip" in line]
    assert len(found) == expected
    assert all("time_zone: America/New_York" in line for line in found)


def test_infinite_labels_of_a_regression():
    rows = table()
    rows["left"] = rows["amount"] * 2 + np.random.default_rng(5).normal(size=ROWS)
    config = model(task="regression", performance={"metric": "mae"})
    assert lints(rows, config) == []
    rows.loc[3, "left"] = np.inf
    assert lints(rows, config) == ["left: 1 labels are infinite and are left out; write null or a number in the source"]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_as_numbers_since_1970_are_linted(unit):
    """The stand-ins reach the year 9999, which a time in nanoseconds cannot hold."""
    rows = table()
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    for name in ("at", "known_at"):
        rows[name] = rows[name].astype("datetime64[us, UTC]").astype("int64") // 10**6 * per_second
    config = model(label_time="known_at", source={"kind": "parquet", "path": "t", "options": {"time_unit": unit}})
    assert lints(rows, config) == []
    rows.loc[:9, "known_at"] = 4_102_444_800 * per_second  # 2100-01-01
    assert "known_at: 10 rows have the time 2100-01-01" in " ".join(lints(rows, config))


def test_times_are_linted_in_the_format_of_the_file():
    """Dates that could be read both ways are read as source.options.time_format says."""
    rows = table()
    days = pd.DatetimeIndex(rows["known_at"]).strftime("%d/%m/%Y %H:%M")
    rows["known_at"] = np.where(pd.DatetimeIndex(rows["known_at"]).day <= 12, days, None)
    rows.loc[:9, "known_at"] = "01/02/2099 00:00"
    options = {"time_format": "%d/%m/%Y %H:%M", "time_zone": "UTC"}
    config = model(label_time="known_at", source={"kind": "parquet", "path": "t", "options": options})
    assert "known_at: 10 rows lie in the future" in " ".join(lints(rows, config))


def test_names_that_a_library_refuses_are_reported_where_the_users_own_training_is_given_them():
    names = ["amount [EUR]", "left < 10", "shares, both"]
    rows = table().rename(columns={"amount": names[0]}).assign(**{names[1]: TIMES.hour * 1.0, names[2]: TIMES.day % 7})
    features = {"numeric": names, "categorical": ["plan"], "boolean": ["member"]}
    for way, value in (("function", "shop:fit"), ("command", ["python", "fit.py"]), ("flow", "shop/train")):
        assert lints(rows, model(features=features, training={way: value})) == [
            "columns.features 'amount [EUR]', 'left < 10', 'shares, both': xgboost and lightgbm refuse such names in a data "
            f"frame, and training.{way} is given them as they are; rename them in the source, or train on an array (to_numpy())"
        ]
    for training in ({}, {"estimator": "lightgbm:LGBMClassifier"}, {"pipeline": "shop:build"}):
        assert lints(rows, model(features=features, training=training)) == []


def test_two_names_that_lightgbm_makes_one_are_reported():
    training = {"function": "shop:fit"}
    rows = table().assign(**{"net amount": TIMES.hour * 1.0, "net_amount": TIMES.day * 1.0})
    features = {"numeric": ["net amount", "net_amount", "amount"]}
    (found,) = lints(rows, model(features=features, training=training))
    assert "'net amount', 'net_amount': lightgbm refuse" in found
    features = {"numeric": ["net amount", "amount"]}
    assert lints(rows, model(features=features, training=training)) == []
