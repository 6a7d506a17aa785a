"""Expectations on the label, in a suite of the owner's: judged on rows whose label is known, in the label's own values."""

import json

import great_expectations as gx
import great_expectations.expectations as gxe
import pyarrow as pa
import pytest
from great_expectations.expectations.row_conditions import Column

from tasks.adapters.gates.expectation_suite import own_suite
from tasks.adapters.gates.great_expectations import judge_own_labels
from tasks.adapters.gates.sentences import Shown
from tasks.adapters.storage.atomic_files import write_atomically

KNOWN_CLASS = gxe.ExpectColumnValuesToBeInSet(column="churned", value_set=[0, 1])
RATE = gxe.ExpectColumnMeanToBeBetween(column="churned", min_value=0.1, max_value=0.5)


@pytest.fixture
def judge(tmp_path):
    def judged(labels: list, *expectations: gxe.Expectation, mature: bool = True, **columns: list):
        suite = gx.ExpectationSuite(name="own", expectations=list(expectations))
        write_atomically(tmp_path / "own.json", json.dumps(suite.to_json_dict()))
        _, on_labels = own_suite(str(tmp_path / "own.json")).split("churned")
        table = pa.table({**columns, "churned": labels})
        return judge_own_labels(on_labels, table, "churned", mature, Shown({}))

    return judged


LABELS = [0, 0, 0, 1] * 25


@pytest.mark.parametrize("spell", [int, float, str, bool, lambda label: str(bool(label)).lower()])
def test_labels_are_judged_in_whatever_form_they_are_stored(judge, spell):
    """A CSV file's labels are stored as text, though their owner read them as numbers or booleans."""
    assert [one.met for one in judge([*map(spell, LABELS)], KNOWN_CLASS, RATE)] == [True, True]
    often = judge([*map(spell, [0, 1, 1, 1] * 25)], KNOWN_CLASS, RATE)
    assert [(one.met, one.verdict) for one in often] == [(True, "pass"), (False, "fail")]
    assert often[1].sentence.startswith(
        "churned mean must be greater than or equal to 0.1 and less than or equal to 0.5"
    )
    assert "found 0.75" in often[1].sentence


def test_a_third_class_is_found(judge):
    known, rate = judge([2, *LABELS[1:]], KNOWN_CLASS, RATE)
    assert (known.met, known.failing_rows, rate.met) == (False, 1, True)
    assert known.observed == "otherwise in 1 of 100 rows (1 %)" and known.looked_at == "all rows with a label"


@pytest.mark.parametrize("names", [["no", "yes"], ["0", "1"]])
def test_sets_and_patterns_of_text_see_text(judge, names):
    expectations = (
        gxe.ExpectColumnValuesToBeInSet(column="churned", value_set=names),
        gxe.ExpectColumnValuesToMatchRegex(column="churned", regex=f"^({'|'.join(names)})$"),
        gxe.ExpectColumnValueLengthsToBeBetween(column="churned", min_value=1, max_value=3),
    )
    assert all(one.met for one in judge([names[label] for label in LABELS], *expectations))
    assert not any(one.met for one in judge(["perhaps"] * 100, *expectations))


def test_an_expectation_on_all_labels_waits_until_they_are_due_and_one_on_single_labels_does_not(judge):
    """The labels that arrive first are often of one class."""
    early = judge([1] * 10, KNOWN_CLASS, RATE, mature=False)
    assert [(one.check, one.met) for one in early] == [("expect_column_values_to_be_in_set", True)]
    assert not judge([7] * 10, KNOWN_CLASS, RATE, mature=False)[0].met
    assert not judge([1] * 10, KNOWN_CLASS, RATE)[1].met


def test_without_labels_nothing_is_judged(judge):
    assert judge([], KNOWN_CLASS, RATE) == ()


def test_conditions_and_pairs_read_the_columns_beside_the_label(judge):
    plans = ["free", "basic", "basic", "plus"] * 25
    free = gxe.ExpectColumnMaxToBeBetween(column="churned", max_value=0, row_condition=Column("plan") == "free")
    churned = gxe.ExpectColumnValuesToNotBeNull(column="plan", row_condition=Column("churned") == 1, severity="warning")
    assert [one.met for one in judge(LABELS, free, churned, plan=plans)] == [True, True]
    lost = judge([1, *LABELS[1:]], free, churned, plan=[*plans[:3], None, *plans[4:]])
    assert [(one.met, one.verdict) for one in lost] == [(False, "fail"), (False, "warn")]


def test_a_column_that_is_not_there_is_named(judge):
    (found,) = judge(LABELS, gxe.ExpectColumnPairValuesToBeEqual(column_A="churned", column_B="left"))
    assert (found.met, found.observed) == (False, "no column left")
