"""A suite of somebody who never saw Perennial gates as it is: clean rows pass, and every fault is stopped by its own line."""

import json
from pathlib import Path

import great_expectations as gx
import great_expectations.expectations as gxe
import pytest
from great_expectations.expectations.row_conditions import Column

from tests.support.monitored_model import COUNT, amounts, broken, model, quality_of, reference, rows, with_share

CODES = [f"{country}{number % 7}" for number, country in enumerate(["DE", "FR", "IT", "DE"] * (COUNT // 4))]
COUNTRIES = {"values": ["DE", "FR", "IT"], "weights": [0.5, 0.3, 0.2]}
MEDIAN = {"quantiles": [0.25, 0.5, 0.75], "value_ranges": [[30, 42], [48, 60], [65, 78]]}


def theirs() -> gx.ExpectationSuite:
    """Thirteen types of expectations, with notes, ids, conditions and metadata as their maker liked them."""
    made = gx.ExpectationSuite(name="orders", notes="made in a notebook", meta={"team": "sales"})
    suite = gx.get_context(mode="ephemeral").suites.add(made)
    for one in (
        gxe.ExpectTableColumnsToMatchSet(column_set=["id", "at", "amount", "age", "country", "member", "code"]),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["id", "at"]),
        gxe.ExpectMulticolumnSumToEqual(column_list=["age", "amount"], sum_total=0, mostly=0.0, severity="info"),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="age", column_B="amount", mostly=0.2),
        gxe.ExpectColumnValuesToMatchRegex(column="code", regex="^[A-Z]{2}[0-9]$", mostly=0.99, notes="three characters"),
        gxe.ExpectColumnValueLengthsToEqual(column="country", value=2),
        gxe.ExpectColumnKLDivergenceToBeLessThan(column="country", partition_object=COUNTRIES, threshold=0.05),
        gxe.ExpectColumnQuantileValuesToBeBetween(column="age", quantile_ranges=MEDIAN),
        gxe.ExpectColumnDistinctValuesToBeInSet(column="member", value_set=[True, False]),
        gxe.ExpectColumnProportionOfUniqueValuesToBeBetween(column="id", min_value=0.99),
        gxe.ExpectColumnMeanToBeBetween(
            column="amount", min_value=90, max_value=110, severity="warning",
            meta={"severity": "page me", "owner": "sales", "place": 99, "check": "mean"},
        ),
        gxe.ExpectColumnValuesToBeBetween(column="amount", min_value=0, row_condition=Column("country") == "DE"),
        gxe.ExpectColumnValuesToBeBetween(
            column="age", max_value=89, row_condition='member == True and code != "DE0"', condition_parser="pandas",
        ),
        gxe.ExpectColumnMaxToBeBetween(
            column="amount", max_value=2000, row_condition=(Column("country") == "IT") & Column("age").is_not_null(),
        ),
    ):  # fmt: skip
        suite.add_expectation(one)
    return suite


@pytest.fixture(scope="module")
def frozen():
    return reference(model())


@pytest.fixture
def judged(tmp_path, monkeypatch, frozen):
    """Judges rows, with `code` beside the usual columns, by their suite as it was saved."""
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    (tmp_path / "orders.json").write_text(json.dumps(theirs().to_json_dict()), encoding="utf-8")

    def judge(most: int = 10_000, **replaced):
        config = model(
            columns={"extra": ["code"]}, quality={"suite": str(tmp_path / "orders.json"), "rows_in_memory": most}
        )
        return quality_of(config, frozen, rows(**{"code": CODES} | replaced))

    return judge


def own(report) -> set[tuple[str, str | None]]:
    return {(name, column) for name, column in broken(report) if name.startswith("expect_")}


@pytest.mark.parametrize("most", [10_000, 1000], ids=["in one piece", "in parts"])
def test_their_clean_rows_pass(judged, most):
    report = judged(most)
    assert (report.verdict, broken(report)) == ("pass", set())
    assert sum(check.name.startswith("expect_") for check in report.checks) == 13


AGES, COUNTRY, MEMBER = (rows()[name].to_pylist() for name in ("age", "country", "member"))
FAULTS = {
    "a column more": ({"more": [1] * COUNT}, ("expect_table_columns_to_match_set", None), "fail"),
    "repeated ids": ({"id": ["x"] * COUNT, "at": [rows()["at"][0].as_py()] * COUNT},
                     ("expect_compound_columns_to_be_unique", None), "fail"),
    "ages below amounts": ({"amount": [100.0] * COUNT}, ("expect_column_pair_values_a_to_be_greater_than_b", None), "fail"),
    "codes of another form": ({"code": with_share(CODES, 0.02, "de1")}, ("expect_column_values_to_match_regex", "code"), "fail"),
    "a longer country": ({"country": with_share(COUNTRY, 0.001, "DEU")}, ("expect_column_value_lengths_to_equal", "country"),
                         "fail"),
    "other countries": ({"country": ["IT"] * COUNT}, ("expect_column_kl_divergence_to_be_less_than", "country"), "fail"),
    "younger people": ({"age": [18 + age // 4 for age in AGES]}, ("expect_column_quantile_values_to_be_between", "age"), "fail"),
    "a third answer": ({"member": ["maybe"] * COUNT}, ("expect_column_distinct_values_to_be_in_set", "member"), "fail"),
    "one id": ({"id": ["x"] * COUNT}, ("expect_column_proportion_of_unique_values_to_be_between", "id"), "fail"),
    "dearer": ({"amount": [1.2 * value for value in amounts()]}, ("expect_column_mean_to_be_between", "amount"), "warn"),
    "negative in Germany": (
        {"amount": [-0.5 if country == "DE" and not number % 9 else value
                    for number, (country, value) in enumerate(zip(COUNTRY, amounts(), strict=True))]},
        ("expect_column_values_to_be_between", "amount"), "fail"),
    "an old member": ({"age": [90 if member else age for member, age in zip(MEMBER, AGES, strict=True)]},
                      ("expect_column_values_to_be_between", "age"), "fail"),
    "a large amount in Italy": (
        {"amount": [2001.0 if country == "IT" else value for country, value in zip(COUNTRY, amounts(), strict=True)]},
        ("expect_column_max_to_be_between", "amount"), "fail"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_stopped_by_their_own_expectation(judged, fault):
    replaced, expectation, verdict = FAULTS[fault]
    report = judged(**replaced)
    found = {(check.name, check.column): check.verdict for check in report.checks}
    assert found[expectation] == verdict
    assert next(check for check in report.checks if (check.name, check.column) == expectation).observed


def test_a_condition_that_is_not_met_stops_nothing_of_other_rows(judged):
    """Negative amounts outside Germany, old people who are no members."""
    report = judged(
        amount=[-0.5 if country == "FR" and not number % 99 else value
                for number, (country, value) in enumerate(zip(COUNTRY, amounts(), strict=True))],
        age=[age if member or number % 50 else 99 for number, (member, age) in enumerate(zip(MEMBER, AGES, strict=True))],
    )  # fmt: skip
    assert own(report) == set()


def test_a_condition_that_no_row_meets_does_not_pass_for_lack_of_rows(judged):
    report = judged(country=["FR"] * COUNT)
    check = next(
        one for one in report.checks if one.name == "expect_column_values_to_be_between" and one.column == "amount"
    )
    assert (check.verdict, check.observed) == ("warn", "no row that meets its condition, so nothing was validated")


def test_the_page_says_what_each_one_expects_and_found(judged):
    text = Path(judged(country=["IT"] * COUNT, member=["maybe"] * COUNT).report_uri).read_text(encoding="utf-8")
    for words in (
        "If country == DE, then amount values must be greater than or equal to 0.",
        "If member == True and code != &quot;DE0&quot;, then age values must be less than or equal to 89.",
        "other values: 1",
    ):
        assert words in text, words


def test_conditions_on_hidden_columns_show_no_value(tmp_path, monkeypatch, frozen):
    monkeypatch.setenv("PERENNIAL_HOME", str(tmp_path))
    for condition in (Column("country") == "IT", 'country == "IT"'):
        parser = {"condition_parser": "pandas"} if isinstance(condition, str) else {}
        one = gxe.ExpectColumnMaxToBeBetween(column="age", max_value=17, row_condition=condition, **parser)
        (tmp_path / "own.json").write_text(
            json.dumps(gx.ExpectationSuite(name="own", expectations=[one]).to_json_dict())
        )
        config = model(columns={"protected": ["country"]}, quality={"suite": str(tmp_path / "own.json")})
        report = quality_of(config, frozen, rows())
        (check,) = (check for check in report.checks if check.verdict != "pass")
        assert "If (not shown), then age maximum value must be" in check.expected and "IT" not in str(check)
