"""Unusual column names: names that a library cannot store are mapped to others."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pydantic import ValidationError

from deployments.config.description import describe
from deployments.config.messages import explain_all
from deployments.config.model import ModelConfig
from tasks.adapters import lake
from tasks.adapters.delta.table import stored_names
from tasks.adapters.models import estimators, files as model_files, shap as attribution
from tasks.adapters.profiling.leakage import leaks_by_name
from tasks.adapters.sources.read import read_labels, read_window
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.errors import SourceError
from tests.support.landed_model import DAY, SECOND
from tests.support.monitored_model import WINDOW, model, rows

ODD = [
    "amount [EUR]", "b<10", "größe (m²) % ü", "a", "A", "window", "WINDOW", "place", "label_at", "before_at", "prediction",
    "model_version", "index", "__index_level_0__", "0", "T", " led", "trailed ", "two\nlines", "a.b", "a/b", "\\", "'", '"',
    "`", "{0}", "%s", "é", "e\u0301", "n" * 200, "id", "time", "label", "=",
]  # fmt: skip


def odd_rows(names: list[str], window=WINDOW, seed: int = 0, count: int = 400) -> pa.Table:
    plain = rows(count, seed, window)
    random = np.random.default_rng(seed)
    return pa.table({"row": plain["id"], "at": plain["at"], **{name: random.normal(size=count) for name in names}})


def config_of(names: list[str], label: str = "churned", **columns) -> ModelConfig:
    return model({"numeric": names}, columns={"id": "row", "label": label, "label_delay_hours": 0} | columns)


# --- the lake


def test_rows_keep_their_column_names() -> None:
    config, table = config_of(ODD), odd_rows(ODD)
    snapshot = lake.land_rows(config, WINDOW, table)
    assert lake.read_rows(snapshot).equals(table)
    assert lake.read_rows(snapshot, ["A", "window"]).column_names == ["A", "window"]
    assert next(iter(lake.read_batches(snapshot, ["WINDOW", "a"]))).schema.names == ["a", "WINDOW"], "stored names"
    stored = DeltaTable(workspace().table(config.name, "rows")).schema().fields
    names = [field.name for field in stored]
    assert len({name.casefold() for name in names}) == len(names)
    assert {"a", "place", "amount [EUR]"} <= set(names), "original name where possible"


def test_columns_that_differ_by_case_are_both_stored() -> None:
    first = lake.land_rows(config_of(["B"]), WINDOW, odd_rows(["B"]))
    second = lake.land_rows(config_of(["b", "B"]), SECOND, odd_rows(["b", "B"], SECOND, 1))
    lake.land_rows(config_of(["B", "b"]), SECOND.next(), odd_rows(["B", "b"], SECOND.next(), 2))
    assert lake.read_rows(first).column_names == ["row", "at", "B"]
    assert lake.read_rows(second).equals(odd_rows(["b", "B"], SECOND, 1))
    names = [field.name for field in DeltaTable(workspace().table("churn", "rows")).schema().fields]
    assert len(names) == len(set(names)) == 5


def test_stored_names_are_stable() -> None:
    given = stored_names(["a", "A", "window"])
    assert (given["a"], len(set(given.values()))) == ("a", 3)
    present = [*given.values(), "window"]
    assert stored_names(["window", "A", "a"], present) == given
    assert stored_names(["b"], present) == {"b": "b"}


@pytest.mark.parametrize(
    "label", ["label_at", "place", "window", "before_at", "prediction", "id", "Label_At", "unknown"]
)
def test_a_label_may_have_any_name(label: str) -> None:
    config = config_of(["x"], label)
    lake.land_rows(config, WINDOW, odd_rows(["x"], count=4))
    at = odd_rows(["x"], count=4)["at"]
    raw = pa.table({"row": [f"0-{n}" for n in range(4)], "at": at, label: [0, 1, 1, 0]})
    assert lake.land_labels(config, raw, SECOND.end) == 4
    assert lake.land_labels(config, raw.set_column(2, label, pa.array([0, 1, 0, 0])), SECOND.end + DAY) == 1
    assert lake.labelled_rows(config, WINDOW, SECOND.end, [label])[label].to_pylist() == [0, 1, 1, 0]
    assert lake.labelled_rows(config, WINDOW, SECOND.end + DAY, ["row", label])[label].to_pylist() == [0, 1, 0, 0]
    assert lake.labels_arrived(config, WINDOW, SECOND.end, SECOND.end + DAY)


@pytest.mark.parametrize("key", ["place", "label_at", "before_at", "label", "window", "id", "prediction"])
def test_an_id_may_have_any_name(key: str) -> None:
    config = config_of(["x"], id=key)
    table = odd_rows(["x"], count=4).rename_columns([key, "at", "x"])
    lake.land_rows(config, WINDOW, table)
    raw = table.select([key, "at"]).append_column("churned", pa.array([0, 1, 1, 0]))
    assert lake.land_labels(config, raw, SECOND.end) == 4
    assert lake.labelled_rows(config, WINDOW, SECOND.end, [key, "churned"]).to_pydict() == {
        key: table[key].to_pylist(),
        "churned": [0, 1, 1, 0],
    }


# --- sources


def test_file_with_odd_column_names_is_read(tmp_path: Path) -> None:
    table = odd_rows(ODD).append_column("churned", pa.array([0, 1] * 200))
    pq.write_table(table, tmp_path / "rows.parquet")
    config = config_of(ODD).model_copy(
        update={"source": model(source={"kind": "parquet", "path": str(tmp_path / "rows.parquet")}).source}
    )
    assert read_window(config, WINDOW).equals(odd_rows(ODD))
    assert read_labels(config, WINDOW).num_rows == 400


def test_look_alike_column_name_is_explained(tmp_path: Path) -> None:
    pq.write_table(odd_rows(["gro\u0308ße"]), tmp_path / "rows.parquet")
    config = config_of(["größe"]).model_copy(
        update={"source": model(source={"kind": "parquet", "path": str(tmp_path / "rows.parquet")}).source}
    )
    with pytest.raises(SourceError, match=r"looks the same but is written with other characters \(gro\\u0308\\xdfe\)"):
        read_window(config, WINDOW)


# --- models


def test_booster_accepts_names_that_xgboost_refuses(tmp_path: Path) -> None:
    """The model equals the one with plain names."""
    table = odd_rows(ODD)
    label = (table["b<10"].to_numpy() > 0).astype(int)
    plain = [f"c{place}" for place in range(len(ODD))]
    fitted = []
    for names in (ODD, plain):
        labelled = table.rename_columns(["row", "at", *names]).append_column("churned", pa.array(label))
        fitted.append(estimators.fit(config_of(names), labelled))
    odd, usual = fitted
    assert max(odd.importance, key=odd.importance.get) == "b<10"
    assert list(odd.importance.values()) == list(usual.importance.values())
    model_files.save(odd.scorer, tmp_path)
    files = model_files.read(tmp_path)
    loaded = model_files.load(files, model_files.sha256(files))
    renamed = table.rename_columns(["row", "at", *plain])
    np.testing.assert_array_equal(loaded.predict(table), usual.scorer.predict(renamed))
    found = attribution.contributions(loaded, table)
    np.testing.assert_array_equal(found, attribution.contributions(usual.scorer, renamed))


# --- the model's file


def mistakes(**columns: object) -> str:
    with pytest.raises(ValidationError) as refusal:
        model(columns=columns)
    return "; ".join(explain_all("m.yaml", refusal.value.errors(), ModelConfig))


def test_reserved_arrow_name_is_refused() -> None:
    reserved = {"numeric": ["__filename"]}
    assert "'__filename' is a name that Arrow reserves" in mistakes(features=reserved)
    assert "'__filename' is a name that Arrow reserves" in mistakes(id="__filename")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"id": 3}, "columns.id is 3, expected the name of a column, or a list of names such as [customer, week]"),
        (
            {"label": False},
            "columns.label is False, expected text; quote values that YAML reads as a number, a date, or yes",
        ),
        ({"features": {"numeric": [0]}}, "columns.features.numeric.0 is 0, expected text; quote values"),
        ({"features": {"numeric": "x"}}, "columns.features.numeric is 'x', expected a list"),
        ({"id": []}, "columns.id is [], expected the name of a column, or a list of names"),
        ({"id": ["a", ""]}, "expected the name of a column, or a list of names"),
        ({"id": ["a", "a"]}, "a is listed more than once, expected each column once"),
        ({"id": ["id", "churned"]}, "id has 'churned', which comes with the label"),
        ({"id": ["id", "at"], "protected": ["id+at"]}, "a column is called 'id+at', the name of the stored id"),
        ({"protected": ["sex", "sex"]}, "columns.protected is ['sex', 'sex'], sex is listed more than once"),
        ({"personal": ["sex", "sex"]}, "columns.personal is ['sex', 'sex'], sex is listed more than once"),
    ],
)
def test_name_errors_are_one_sentence(columns, message) -> None:
    assert message in mistakes(**columns)


def test_single_id_in_list_is_normalised_and_id_part_may_be_feature() -> None:
    assert model(columns={"id": ["id"]}) == model()
    visits = model(columns={"id": ["country", "at"]})
    assert visits.columns.key == "country+at"
    message = "joins labels and predictions to rows by country and at; each id occurs once in the history and once in a window."
    assert message in describe(visits)


def test_punctuation_names_stay_distinct() -> None:
    assert leaks_by_name(config_of(["=", "churned_"], "%")) == ()
    assert len(leaks_by_name(config_of(["=", "churned_"]))) == 1
