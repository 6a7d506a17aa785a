"""Great Expectations as a gate: learned and user suites, severities, and no vacuous passes."""

import hashlib
import json
import re
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pyarrow as pa
import pytest

from tasks.adapters.gates.expectation_suite import learned_suite, own_suite, read_suite
from tasks.adapters.gates.great_expectations import ADDED, ROW_BY_ROW
from tasks.adapters.profiling.profile import profile_batches
from tasks.monitoring.quality import QualityReference, judge_quality
from tasks.policy.records.base import from_json, to_json
from tasks.policy.records.errors import SuiteError
from tasks.policy.records.reports import QualityReport
from tests.support.monitored_model import (
    COUNT,
    WINDOW,
    amounts,
    broken,
    model,
    profile,
    quality_of,
    reader,
    reference,
    rows,
    with_share,
)  # fmt: skip

EVIL = "</script><img src=x onerror=alert(1)>\"'"


@pytest.fixture(autouse=True)
def in_a_workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def frozen():
    return reference(model())


@pytest.fixture
def own(tmp_path):
    """Write a suite with plain Great Expectations; return the model that uses it."""

    def write(*expectations: gxe.Expectation, **quality):
        path = tmp_path / "own.json"
        suite = gx.ExpectationSuite(name="theirs", expectations=list(expectations))
        path.write_text(json.dumps(suite.to_json_dict()), encoding="utf-8")
        return model(quality={"suite": str(path), **quality})

    return write


def page(report) -> str:
    return Path(report.report_uri).read_text(encoding="utf-8")


def test_learned_suite_works_in_plain_great_expectations(frozen):
    """With its own API on a plain frame, without Perennial: an ordinary window passes, a broken one does not."""
    suite = gx.ExpectationSuite(**json.loads(learned_suite(model(), frozen)))
    assert len(suite.expectations) == 16
    asset = gx.get_context(mode="ephemeral").data_sources.add_pandas("any").add_dataframe_asset("rows")
    batches = asset.add_batch_definition_whole_dataframe("all")
    bounds = {
        "window_start": WINDOW.start,
        "window_end": WINDOW.end,
        "fresh_from": WINDOW.end - timedelta(days=1),
        "usual_rows_min": 1,
        "usual_rows_max": 9999,
    }

    def failing(table: pa.Table) -> set[str]:
        batch = batches.get_batch({"dataframe": table.to_pandas()})
        results = batch.validate(suite, expectation_parameters=bounds).results
        return {one.expectation_config.meta["check"] for one in results if not one.success}

    assert failing(rows()) == set()
    assert failing(rows(age=[500.0] * COUNT, country=["XX"] * COUNT)) == {"accepted range", "known categories"}


def test_each_learned_expectation_passes_and_fails_at_its_bound(frozen):
    config = model()
    ages = [40.0] * 1000 + [50.0] * 1000
    for share, outcome in ((0.01, set()), (0.0105, {("accepted range", "age")})):
        assert broken(quality_of(config, frozen, rows(age=with_share(ages, share, 500.0)))) == outcome
    names = rows()["country"].to_pylist()
    for share, outcome in ((0.1, set()), (0.1005, {("known categories", "country")})):
        assert broken(quality_of(config, frozen, rows(country=with_share(names, share, "XX")))) == outcome


def test_page_uses_great_expectations_wording(frozen):
    config = model(quality={"columns": {"amount": {"range": {"min": -60, "max": 130000}}}})
    text = page(quality_of(config, frozen, rows()))
    for words in (
        "amount values must be greater than or equal to -60 and less than or equal to 130000, at least 99 % of the time.",
        "amount values must not be null, at least 90 % of the time.",
        "amount values must be finite.",
        "country values must belong to this set: DE FR IT, at least 90 % of the time.",
        "Must have greater than or equal to 50 rows.",
        "id values must be unique.",
        "amount values must be of type double.",
    ):
        assert words in text, words


def test_page_is_self_contained_and_escapes_names(frozen, own):
    config = own(gxe.ExpectColumnValuesToBeInSet(column="country", value_set=[EVIL], description=EVIL))
    text = page(quality_of(config, frozen, rows(country=[EVIL] * COUNT)))
    assert not re.search(r"(?:src|href)\s*=", text.replace("&lt;img src=x", ""))
    assert "<script" not in text and "<img" not in text and "@import" not in text and "url(" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text and len(text) < 50_000


@pytest.mark.parametrize("severity", ["critical", "warning", "info"])
def test_external_suite_gates_by_severity(frozen, own, severity):
    """Severity warning still makes Great Expectations' own success false."""
    config = own(
        gxe.ExpectColumnValuesToMatchRegex(column="country", regex="^[A-Z]{2}$", severity=severity),
        gxe.ExpectColumnMeanToBeBetween(column="age", min_value=40, max_value=70),
    )
    assert quality_of(config, frozen, rows()).verdict == "pass"
    names = rows()["country"].to_pylist()
    report = quality_of(config, frozen, rows(country=with_share(names, 0.01, "D")))
    assert report.verdict == ("fail" if severity == "critical" else "warn")
    assert broken(report) == {("expect_column_values_to_match_regex", "country")} and report.failing_rows == 20
    assert "country values must match this regular expression" in report.reasons[0]


def test_table_and_multi_column_expectations_work(frozen, own):
    config = own(
        gxe.ExpectTableColumnCountToEqual(value=6),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="age", column_B="amount", mostly=0.01),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["id", "at"]),
    )
    assert quality_of(config, frozen, rows()).verdict == "pass"
    assert broken(quality_of(config, frozen, rows(further=[1] * COUNT))) == {
        ("expect_table_column_count_to_equal", None)
    }


@pytest.mark.parametrize(
    "expectation",
    [
        gxe.ExpectColumnValuesToBeBetween(column="nowhere", min_value=0),
        gxe.ExpectColumnValuesToBeBetween(column="country", min_value=0),
        gxe.ExpectColumnValuesToBeBetween(column="age", min_value={"$PARAMETER": "unknown"}),
    ],
    ids=["missing column", "text compared with a number", "unknown parameter"],
)
def test_unevaluable_expectation_fails(frozen, own, expectation):
    config = own(expectation, gxe.ExpectColumnValuesToNotBeNull(column="age"))
    report = quality_of(config, frozen, rows())
    assert report.verdict == "fail" and len(broken(report)) == 1 and report.failing_rows == COUNT


def test_user_expectation_fails_on_all_null_column(frozen, own):
    config = own(gxe.ExpectColumnValuesToBeInSet(column="note", value_set=["a"]))
    assert quality_of(config, frozen, rows(note=["a", None] * (COUNT // 2))).verdict == "pass"
    report = quality_of(config, frozen, rows(note=pa.nulls(COUNT, pa.string())))
    assert report.verdict == "warn" and "no value at all" in report.reasons[0]


def test_large_window_is_validated_in_parts_with_equal_outcome(frozen, own):
    """Counts add up over parts; other expectations are validated on a sample, and the page states which."""
    expectations = (
        gxe.ExpectColumnValuesToMatchRegex(column="country", regex="^[A-Z]{2}$", mostly=0.9),
        gxe.ExpectColumnMaxToBeBetween(column="age", max_value=100),
        gxe.ExpectColumnMeanToBeBetween(column="age", min_value=40, max_value=70),
    )
    names, ages = rows()["country"].to_pylist(), rows()["age"].to_pylist()
    for table in (
        rows(),
        rows(id=["x"] * COUNT),
        rows(count=49),
        rows(at=[WINDOW.end, *rows()["at"].to_pylist()[1:]]),
        rows(amount=with_share(amounts(), 0.11, None), country=with_share(names, 0.11, "d")),
        rows(amount=with_share(amounts(), 0.09, None), country=with_share(names, 0.09, "d")),
        rows(age=[101.0, *ages[1:]]),
        rows(age=[age / 3 for age in ages]),
    ):
        in_one, parted = (quality_of(own(*expectations, rows_in_memory=most), frozen, table) for most in (10_000, 1000))
        assert broken(parted) == broken(in_one)
        assert parted.failing_rows == pytest.approx(in_one.failing_rows, abs=1)
    text = page(quality_of(own(*expectations, rows_in_memory=1000), frozen, rows()))
    assert text.count("all rows, in parts") > 10 and text.count("a sample of 100 rows") == 1
    assert "counts of all rows" in text


def test_every_combinable_expectation_type_exists():
    spelled = {re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower() for name in dir(gxe) if name.startswith("Expect")}
    assert ROW_BY_ROW | set(ADDED) <= spelled


def test_unknown_expectation_is_an_error(tmp_path):
    """Great Expectations would drop it from the suite silently."""
    path = tmp_path / "own.json"
    for wrong in ({"type": "expect_magic", "kwargs": {}}, {"type": "expect_column_to_exist", "kwargs": {"colum": "a"}}):
        path.write_text(json.dumps({"name": "own", "expectations": [wrong]}), encoding="utf-8")
        with pytest.raises(SuiteError, match=r"own\.json: expectation 1 cannot be used"):
            own_suite(str(path))


def test_function_may_return_suite_or_list(frozen, tmp_path, monkeypatch):
    (tmp_path / "our_suite.py").write_text(
        "import great_expectations.expectations as gxe\n"
        "def listed():\n    return [gxe.ExpectColumnMaxToBeBetween(column='age', max_value=60)]\n"
        "def wrong():\n    return ['age']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    report = quality_of(model(quality={"suite": "our_suite:listed"}), frozen, rows())
    assert broken(report) == {("expect_column_max_to_be_between", "age")} and "found 89" in report.reasons[0]
    for name, words in (("our_suite:wrong", "returned str"), ("our_suite:nothing", "cannot be imported")):
        with pytest.raises(SuiteError, match=words):
            own_suite(name)
    sys.modules.pop("our_suite")


def test_personal_and_protected_values_are_hidden(own, tmp_path):
    features = {"numeric": ["amount", "age"], "categorical": ["country", "email"], "boolean": []}
    roles = {"personal": ["email", "amount"], "protected": ["age"]}
    settings = own(
        gxe.ExpectColumnMaxToBeBetween(column="age", max_value=61),
        gxe.ExpectColumnValuesToBeInSet(column="email", value_set=["a@example.org"]),
        gxe.ExpectColumnMostCommonValueToBeInSet(column="email", value_set=["b@example.org"]),
    ).quality
    config = model(features, columns=roles, quality=settings.model_dump())
    emails = ["c@example.org", "d@example.org"]
    frozen = reference(config, email=emails * 5000, amount=[12345.0, 67890.0] * 5000)
    report = quality_of(config, frozen, rows(email=emails * (COUNT // 2), amount=[12345.5, 67890.5] * (COUNT // 2)))
    text = (page(report) + str(report)).replace(str(tmp_path), "")  # may end in pytest-61
    assert report.verdict == "fail" and "(not shown)" in text
    assert not re.search(r"@example|12345|67890|95662|\b61\b|\b89\b", text)


def test_stored_suite_is_used_until_settings_change(frozen):
    config, table = model(), rows(age=[95.0] * 1000 + [30.0] * 1000)
    stored = learned_suite(config, frozen)
    tight = stored.replace(json.dumps(next(
        one.arguments["max_value"] for one in read_suite(stored).expectations if one.check == "accepted range" and one.columns == ("age",)
    )), "90.0")  # fmt: skip
    profiled = profile(config, frozen, table)
    assert judge_quality(config, profiled, QualityReference(frozen, stored), reader(table)).verdict == "pass"
    assert broken(judge_quality(config, profiled, QualityReference(frozen, tight), reader(table))) == {
        ("accepted range", "age")
    }
    other = model(quality={"min_rows": 51})
    assert judge_quality(other, profiled, QualityReference(frozen, tight), reader(table)).verdict == "pass"


def test_an_expectation_on_the_label_is_not_asked_of_rows_and_the_page_says_when_it_is(frozen, own):
    """Labels come after their rows: at this time no row has one."""
    label = gxe.ExpectColumnValuesToBeInSet(column="churned", value_set=[0, 1])
    ages = gxe.ExpectColumnMaxToBeBetween(column="age", max_value=100)
    report = quality_of(own(label, ages), frozen, rows())
    assert report.verdict == "pass"
    assert "1 of 2 expectations of the own suite: judged when labels are known" in page(report)
    assert "judged when labels are known" not in page(quality_of(own(ages), frozen, rows()))


def test_the_report_and_the_page_name_the_suites_by_their_hash(frozen, own, tmp_path):
    """Computed here from the files alone, as an audit does."""
    config = own(gxe.ExpectColumnMaxToBeBetween(column="age", max_value=100))
    stored = learned_suite(config, frozen)
    report = judge_quality(config, profile(config, frozen, rows()), QualityReference(frozen, stored), reader(rows()))
    own_json, learned_json = (json.loads(text) for text in (Path(config.quality.suite).read_text(), stored))
    hashes = [
        hashlib.sha256(json.dumps(one, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        for one in (learned_json, own_json)
    ]
    assert [report.learned_suite_sha256, report.own_suite_sha256] == hashes
    assert all(f"SHA-256 {one[:12]}<" in page(report) for one in hashes) and hashes[0] not in page(report)
    (tmp_path / "own.json").write_text(json.dumps(own_json, indent=4), encoding="utf-8")
    assert quality_of(config, frozen, rows()).own_suite_sha256 == hashes[1], "the layout of the file does not matter"
    other = own(gxe.ExpectColumnMaxToBeBetween(column="age", max_value=101))
    assert quality_of(other, frozen, rows()).own_suite_sha256 != hashes[1]
    assert quality_of(model(), frozen, rows()).own_suite_sha256 is None


def test_a_report_from_before_suites_were_hashed_is_read(frozen):
    report = quality_of(model(), frozen, rows())
    assert from_json(QualityReport, to_json(report)) == report
    before = json.loads(to_json(report))
    del before["learned_suite_sha256"], before["own_suite_sha256"]
    assert from_json(QualityReport, json.dumps(before)) == replace(report, learned_suite_sha256=None)


@pytest.mark.parametrize(
    ("mostly", "unusual", "expected", "found"),
    [
        (0.87587, 100, "at least 87.6 % of the time", "100 of 2,000 rows (5 %)"),
        (0.9996, 1, "at least 99.96 % of the time", "1 of 2,000 rows (0.05 %)"),
        (0.87587, 249, "at least 87.59 % of the time", "249 of 2,000 rows (12.45 %)"),
        (0.6666666, 667, "at least 66.7 % of the time", "667 of 2,000 rows (33.4 %)"),
        (0.5, 1999, "at least 50 % of the time", "1,999 of 2,000 rows (99.95 %)"),
        (0.5, 2000, "at least 50 % of the time", "2,000 of 2,000 rows (100 %)"),
    ],
)
def test_shares_have_three_digits_or_as_many_as_the_verdict_needs(frozen, own, mostly, unusual, expected, found):
    config = own(gxe.ExpectColumnValuesToBeBetween(column="age", max_value=200, mostly=mostly))
    ages = [201 if number < unusual else 50 for number in range(COUNT)]
    text = page(quality_of(config, frozen, rows(age=ages)))
    assert expected in text and found in text


def test_values_have_the_precision_of_their_column(frozen, own):
    """Ages are whole numbers; amounts have a σ of about 70; the owner's own bounds stand as written."""
    config = own(
        gxe.ExpectColumnMeanToBeBetween(column="amount", max_value=12345.678),
        gxe.ExpectColumnMaxToBeBetween(column="age", max_value=89),
    )
    text = page(quality_of(config, frozen, rows(amount=np.linspace(1.0, 200.123456, COUNT))))
    assert "amount mean must be less than or equal to 12345.678" in text and "<td>100.6</td>" in text
    assert "age maximum value must be less than or equal to 89" in text and "<td>89</td>" in text
    for name, pattern in (("age", r"-?\d+(\.5)?"), ("amount", r"-?\d+(\.\d)?")):
        bounds = re.search(
            rf"{name} values must be greater than or equal to (\S+) and less than or equal to (\S+),", text
        )
        assert all(re.fullmatch(pattern, bound) for bound in bounds.groups()), bounds.groups()


def test_an_observed_value_is_never_rounded_across_its_limit(frozen, own):
    config = own(gxe.ExpectColumnMeanToBeBetween(column="amount", max_value=100))
    report = quality_of(config, frozen, rows(amount=[100.0004] * (COUNT - 1) + [100.0005]))
    check = next(one for one in report.checks if one.name == "expect_column_mean_to_be_between")
    assert (check.verdict, check.observed) == ("fail", "100.0004")


def test_missing_value_code_counts_as_null():
    config = model()
    coded = with_share(amounts(10_000), 0.05, -99_999.0)
    frozen = reference(config, amount=coded)
    assert frozen.features[0].sentinel == -99_999.0
    few, many = (rows(amount=with_share(amounts(), share, -99_999.0)) for share in (0.14, 0.16))
    assert quality_of(config, frozen, few).verdict == "pass"
    assert broken(quality_of(config, frozen, many)) == {("null share", "amount")}


def test_window_without_columns_fails(frozen):
    profiled = profile_batches((), frozen, model(), WINDOW)
    report = judge_quality(model(), profiled, QualityReference(frozen), lambda _: ())
    assert broken(report) == {("enough rows", None), ("fresh rows", "at")}
