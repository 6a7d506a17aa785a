"""Label spellings: one spelling per class, words for unknown, and unusable labels."""

from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from tasks.adapters.lake.label_spellings import canonical_labels, canonical_spelling, seen_classes
from tasks.adapters.lake.schemas import read_label
from tasks.adapters.models.eligibility import why_not_train
from tasks.adapters.models.encoding import encode_labels, label_classes
from tasks.adapters.sources.read import read_labels, read_sorted_labels
from tasks.policy.records.errors import SourceError
from tests.support.monitored_model import WINDOW, model
from tests.support.source_tables import source
from tests.support.trained_models import make_config, make_rows


def column(*values: object, kind: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


@pytest.mark.parametrize(
    ("text", "once"),
    [
        ("1", "1"), ("1.0", "1"), ("1.", "1"), (" 1.00 ", "1"), ("+1", "1"), ("-0.0", "0"), ("1.000000e+00", "1"),
        ("True", "true"), ("FALSE", "false"), ("churned ", "churned"),
        ("01", "01"), ("1.5", "1.5"), ("1e5", "1e5"), ("Yes", "Yes"), ("12345678901234567890", "12345678901234567890"),
    ],
)  # fmt: skip
def test_class_spellings_are_normalised(text, once):
    assert canonical_spelling(text) == once


@pytest.mark.parametrize("word", ["NA", "N/A", "null", "None", "nan", "?", "<NA>", " NA ", "\\N"])
def test_word_for_unknown_is_a_class_only_if_listed(word):
    assert canonical_labels(column("1", word)).to_pylist() == ["1", None]
    assert canonical_labels(column("1", word), named=(word.strip(),)).to_pylist() == ["1", word.strip()]
    assert seen_classes(column("1", word), named=(word.strip(),)) == tuple(sorted(("1", word.strip())))


@pytest.mark.parametrize(
    "labels",
    [
        column(1, 0, None),
        column(1.0, 0.0, float("nan")),
        column(True, False, None),
        column(Decimal("1.0"), Decimal("0.0"), None),
        column("1.0", "0", "NA"),
        column("TRUE", "false", ""),
        column("1", "0.0", None).dictionary_encode(),
        column(1, 0, None).dictionary_encode(),
        column("1", "0", None, kind=pa.large_string()),
    ],
    ids=lambda labels: str(labels.type),
)
def test_class_matches_across_storage_types(labels):
    stored, _ = read_label(model(), labels, "here")
    for known in (("0", "1"), ("0.0", "1.0"), ("false", "true"), ("False", "True")):
        codes = encode_labels(stored, known, unknown=2)
        assert codes[:2].tolist() == [1, 0] and np.isnan(codes[2])


def test_case_is_ignored_if_unambiguous():
    assert encode_labels(column("YES", "no", "maybe"), ("No", "Yes"), unknown=2).tolist() == [1, 0, 2]
    assert encode_labels(column("a", "A", "B"), ("A", "a", "b"), unknown=9).tolist() == [1, 0, 2]
    assert label_classes(column("Yes", "yes", "Yes", "No"), binary=True) == ("No", "Yes")
    assert label_classes(column("A", "a", "b")) == ("A", "a", "b")


def test_ambiguous_spellings_are_refused_until_listed():
    rows = make_rows("multiclass")
    names = ["High" if name == "high" and row % 2 else name for row, name in enumerate(rows["label"].to_pylist())]
    rows = rows.set_column(rows.column_names.index("label"), "label", pa.array(names))
    config = make_config("multiclass")
    assert "classes that may be one spelled twice (High, high)" in str(why_not_train(config, rows))
    columns = config.columns.model_copy(update={"classes": ("High", "high", "low", "middle")})
    assert why_not_train(config.model_copy(update={"columns": columns}), rows) is None


def test_third_class_is_refused_but_third_spelling_is_not():
    rows = make_rows("binary")
    texts = [f"{label}.0" if row % 2 else str(label) for row, label in enumerate(rows["label"].to_pylist())]
    place = rows.column_names.index("label")
    assert why_not_train(make_config("binary"), rows.set_column(place, "label", pa.array(texts))) is None
    third = rows.set_column(place, "label", pa.array(["maybe", *texts[1:]]))
    assert "3 classes in these rows (0, 1, maybe), expected 2" in str(why_not_train(make_config("binary"), third))


def test_infinite_and_nan_labels_are_unusable(tmp_path: Path):
    config = model(task="regression", performance={"metric": "mae"})
    labels, faults = read_label(config, column(1.5, float("inf"), float("-inf"), float("nan"), None), "here")
    assert labels.to_pylist() == [1.5, float("inf"), float("-inf"), None, None]
    assert faults.to_pylist() == [None, "infinite", "infinite", None, None], "pandas writes NaN for unknown"
    header, day = "id,at,amount,age,country,member,churned", f"{WINDOW.start:%Y-%m-%d}"
    texts = ["1,5", " 2", "abc", "inf", "NA", ""]
    lines = [f'r{row};{day}T05:00:00Z;"1,0";"2,0";DE;true;"{text}"' for row, text in enumerate(texts)]
    (tmp_path / "rows.csv").write_text("\n".join([header.replace(",", ";"), *lines]), encoding="utf-8")
    read = source("csv", tmp_path / "rows.csv", options={"delimiter": ";", "decimal_point": ","})
    assert read_labels(read.model_copy(update={"task": "regression"}), WINDOW)["churned"].to_pylist() == [
        1.5,
        2.0,
        float("inf"),
    ]


@pytest.mark.parametrize(("task", "known"), [("regression", [1.0]), ("binary", ["1"])])
def test_configured_missing_values_are_no_labels(tmp_path: Path, task: str, known: list):
    header, day = "id,at,amount,age,country,member,churned", f"{WINDOW.start:%Y-%m-%d}"
    lines = [f"r{row},{day}T05:00:00Z,1.0,2.0,DE,true,{text}" for row, text in enumerate(["1", "-", "."])]
    (tmp_path / "rows.csv").write_text("\n".join([header, *lines]), encoding="utf-8")
    read = source("csv", tmp_path / "rows.csv", options={"null_values": "-,."}).model_copy(update={"task": task})
    labels, broken = read_sorted_labels(read, WINDOW)
    assert (labels["churned"].to_pylist(), broken.num_rows) == (known, 0)


def test_only_listed_classes_are_accepted():
    config = model(columns={"classes": ["None", "some"]})
    labels, faults = read_label(config, column("some", "None", "Some ", "NA", "many"), "here")
    assert labels.to_pylist() == ["some", "None", "Some", None, None]
    assert faults.to_pylist() == [None, None, None, "NA", "not in columns.classes"]


def test_infinite_classes_are_counted_and_fractions_are_refused():
    labels, faults = read_label(model(), column(1.0, float("inf"), 0.0), "here")
    assert (labels.to_pylist(), faults.to_pylist()) == ([1, None, 0], [None, "infinite", None])
    with pytest.raises(SourceError, match="holds fractions"):
        read_label(model(), column(1.0, 0.5), "here")


@pytest.mark.parametrize(("positive", "last"), [("True", "1"), ("1.0", "1"), ("0", "0"), ("FALSE", "0")])
def test_positive_label_is_found_in_any_spelling(positive, last):
    assert label_classes(column(0, 1, 1), positive)[-1] == last


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        ("regression", {"classes": ["a", "b"]}, "columns.classes does not fit task regression"),
        ("binary", {"classes": ["a", "b", "c"]}, "columns.classes lists 3 classes, expected 2"),
        ("binary", {"classes": ["a", "b"], "positive_label": "c"}, "columns.positive_label is 'c', expected one of"),
    ],
)
def test_listed_classes_fit_the_task(task, columns, message):
    metric = "mae" if task == "regression" else "accuracy"
    with pytest.raises(ValidationError, match=message):
        model(task=task, columns=columns, performance={"metric": metric})
