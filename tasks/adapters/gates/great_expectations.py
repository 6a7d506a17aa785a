"""Great Expectations validates the rows of a window; each expectation has its own severity.

A window of at most `rows_in_memory` rows is validated as one frame, and every verdict is that of Great Expectations. A
larger window is validated in parts, whose counts of failing rows, row counts, minima and maxima are combined.
Statistics that cannot be combined, such as a mean, are validated on a random sample; uniqueness of ids comes from the
profile's sketch of all ids. An expectation that cannot be evaluated counts as broken. Results hold counts, not values.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Any

import great_expectations as gx
import pandas as pd
import pyarrow as pa
from great_expectations.core import ExpectationValidationResult
from great_expectations.execution_engine import pandas_execution_engine

from tasks.adapters.gates.expectation_suite import SuiteExpectation
from tasks.adapters.gates.sentences import Shown, describe
from tasks.adapters.gates.window_rows import Reader, as_landed, as_read, parts, sampled, with_numbers
from tasks.policy.data_quality.expectations import COLUMN_MAX, ROW_COUNT, UNIQUE, Parameters, Roles
from tasks.policy.data_quality.quality import COUNTS, Finding
from tasks.policy.records.profile import ReferenceProfile, WindowProfile

COLUMNS_AT_ONCE = 8
SAMPLE_SHARE = 0.1
ALL_ROWS, IN_PARTS, LABELLED = "all rows", "all rows, in parts", "all rows with a label"
COUNT_ONLY = {"result_format": "BASIC", "partial_unexpected_count": 0}
ADDED: Mapping[str, Callable[[Iterable[Any]], Any]] = {
    ROW_COUNT: sum,
    COLUMN_MAX: max,
    "expect_column_min_to_be_between": min,
    "expect_table_row_count_to_equal": sum,
}
ROW_BY_ROW = {
    *(f"expect_column_values_to_{what}" for what in (
        "be_between", "be_in_set", "not_be_in_set", "be_null", "not_be_null", "match_regex", "not_match_regex",
        "match_regex_list", "not_match_regex_list", "match_strftime_format", "be_dateutil_parseable",
        "be_json_parseable", "match_json_schema",
    )),
    "expect_column_value_lengths_to_be_between", "expect_column_value_lengths_to_equal",
    "expect_column_pair_values_to_be_equal", "expect_column_pair_values_to_be_in_set",
    "expect_column_pair_values_a_to_be_greater_than_b", "expect_multicolumn_sum_to_equal",
    "expect_multicolumn_values_to_be_equal", "expect_multicolumn_values_to_be_unique",
    "expect_select_column_values_to_be_unique_within_record",
}  # fmt: skip
"""Expectations evaluated row by row; their counts add up over the parts of a window."""


@dataclass(frozen=True)
class WindowRows:
    """The rows of a window: how to read them, and the maximum number held in memory at once."""

    read: Reader
    profile: WindowProfile
    most_rows: int

    @property
    def in_parts(self) -> bool:
        return self.profile.rows > self.most_rows


@dataclass
class Seen:
    """The results of one expectation, one per validated part, and a description of what was validated."""

    looked_at: str
    results: list[ExpectationValidationResult] = field(default_factory=list)
    missing: frozenset[str] = frozenset()


def judge_learned(
    suite: Sequence[SuiteExpectation], rows: WindowRows, reference: ReferenceProfile, roles: Roles, shown: Shown
) -> tuple[Finding, ...]:
    """Validate the suite learned from the reference, a few columns at a time.

    A missing or unreadable column is a finding of `check_columns` and is not repeated here. The usual number of rows is
    not checked for the first window, which has no predecessor.
    """
    asked = [one for one in suite if set(one.parameters) <= set(shown.parameters)]
    seen = {index: Seen(IN_PARTS if rows.in_parts else ALL_ROWS) for index in range(len(asked))}
    held = [name for name, _ in rows.profile.columns]
    wanted = dict.fromkeys((roles.id, roles.time, *(feature.feature for feature in reference.features)))
    names = [name for name in wanted if held.count(name) == 1]
    readable: set[str] = set()
    for first in range(0, max(len(names), 1), COLUMNS_AT_ONCE):
        some = names[first : first + COLUMNS_AT_ONCE]
        for table in parts(rows.read(some) if some else (), rows.most_rows):
            frame = as_read(table, reference.features, roles)
            readable.update(frame.columns)
            about = {
                index: one
                for index, one in enumerate(asked)
                if (set(one.columns) <= set(frame.columns) if one.columns else not first)
                and not (one.type == UNIQUE and rows.in_parts)
            }
            for columns in _column_groups(frame):
                on = {index: one for index, one in about.items() if not one.columns or {*one.columns} <= {*columns}}
                _validate(frame[columns], on, shown.parameters, seen)
                about = {index: one for index, one in about.items() if index not in on}
    return tuple(
        _from_sketch(one, rows.profile, shown)
        if one.type == UNIQUE and rows.in_parts
        else _finding(one, seen[index], rows.profile.rows, shown)
        for index, one in enumerate(asked)
        if set(one.columns) <= readable or one.type == COLUMN_MAX  # freshness is always reported
    )


def _from_sketch(one: SuiteExpectation, profile: WindowProfile, shown: Shown) -> Finding:
    """Judge the uniqueness of ids by the profile's sketch of all ids."""
    count = profile.duplicate_ids
    observed = f"{'' if profile.duplicates_exact else 'about '}{count:,} rows share their id with another row"
    words, _ = describe(one, None, not count, shown)
    return Finding(one.check, one.columns[0], not count, words, observed, count, one.on_failure, COUNTS)


def _column_groups(frame: pd.DataFrame) -> list[list[str]]:
    """Group columns without nulls, and put each other column alone: Great Expectations copies the frame for it."""
    names = [str(name) for name in frame]
    with_nulls = [name for name in names if frame[name].hasnans]
    return [[name for name in names if name not in with_nulls], *([name] for name in with_nulls)]


def judge_own(suite: Sequence[SuiteExpectation], rows: WindowRows, shown: Shown) -> tuple[Finding, ...]:
    """Validate the model owner's suite on the rows as landed. An empty window, already failed, has no findings."""
    if not rows.profile.rows or not suite:
        return ()
    present = list(next(iter(rows.read(None))).schema.names)
    needed = {name for one in suite for name in one.reads(present)}
    names = [name for name in present if name in needed or not all(one.columns for one in suite)]
    seen = {
        index: Seen(IN_PARTS if rows.in_parts else ALL_ROWS, missing=one.reads(present) - {*present})
        for index, one in enumerate(suite)
    }
    known = {index: one for index, one in enumerate(suite) if set(one.parameters) <= set(shown.parameters)}
    adding = {index: one for index, one in known.items() if not rows.in_parts or one.type in {*ROW_BY_ROW, *ADDED}}
    for table in parts(rows.read(names), rows.most_rows):
        _validate(as_landed(table), adding, shown.parameters, seen)
    others = {index: one for index, one in known.items() if index not in adding}
    if others:
        frame = sampled(rows.read(names), names, math.ceil(SAMPLE_SHARE * rows.most_rows))
        _validate(frame, others, shown.parameters, seen)
        for index in others:
            seen[index].looked_at = f"a sample of {len(frame):,} rows"
    return tuple(_finding(one, seen[index], rows.profile.rows, shown) for index, one in enumerate(suite))


def judge_own_labels(
    suite: Sequence[SuiteExpectation], labelled: pa.Table, label: str, mature: bool, shown: Shown
) -> tuple[Finding, ...]:
    """Validate the owner's expectations on labels, on the rows of a window whose label is known.

    One on single rows is validated as soon as a label is known. One on all labels, such as their mean, waits until the
    window is `mature`: the labels that arrive first are often of one class.
    """
    asked = [one for one in suite if mature or one.type in ROW_BY_ROW] if len(labelled) else []
    present = frozenset(labelled.column_names)
    seen = {index: Seen(LABELLED, missing=one.reads(present) - present) for index, one in enumerate(asked)}
    for frame, with_text in ((as_landed(with_numbers(labelled, label)), False), (as_landed(labelled), True)):
        about = {
            index: one
            for index, one in enumerate(asked)
            if one.expects_text == with_text and set(one.parameters) <= set(shown.parameters)
        }
        _validate(frame, about, shown.parameters, seen)
    return tuple(_finding(one, seen[index], len(labelled), shown) for index, one in enumerate(asked))


@cache
def _batch_definition() -> Any:
    """Return the batch definition of one in-memory context per process, without progress bars or telemetry."""
    pandas_execution_engine.HASH_THRESHOLD = 0  # avoids hashing every value twice for an unused fingerprint
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("window").add_dataframe_asset("rows")
    return asset.add_batch_definition_whole_dataframe("all")


def _validate(
    frame: pd.DataFrame, expectations: Mapping[int, SuiteExpectation], parameters: Parameters, seen: Mapping[int, Seen]
) -> None:
    """Append the results on one frame. Great Expectations returns them in its own order, so each carries its number."""
    if not expectations:
        return
    numbered = [one.numbered(index) for index, one in expectations.items()]
    batch = _batch_definition().get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite(name="window", expectations=numbered)
    bounds = {name: pd.Timestamp(one) if isinstance(one, datetime) else one for name, one in parameters.items()}
    for result in batch.validate(suite, result_format=COUNT_ONLY, expectation_parameters=bounds).results:
        seen[result.expectation_config.meta["place"]].results.append(result)


def _finding(one: SuiteExpectation, seen: Seen, rows: int, shown: Shown) -> Finding:
    """Summarise the results of one expectation. One that cannot be evaluated, or never was, counts as broken."""
    unusable = ""
    if seen.missing:
        unusable = f"no column {', '.join(sorted(seen.missing))}"
    elif not seen.results or any(map(_raised, seen.results)):
        unusable = "values on which it cannot be evaluated"
    total = None if unusable else _total(one, seen.results)
    met = total is not None and (
        seen.results[0].success if len(seen.results) == 1 else _holds(one, seen.results, total)
    )
    expected, observed = describe(one, total, bool(met), shown)
    column = one.columns[0] if len(one.columns) == 1 else None
    failing = 0 if met else rows if total is None else total.get("unexpected_count", rows)
    finding = Finding(
        one.check, column, bool(met), expected, observed or unusable, failing, one.on_failure, seen.looked_at
    )
    if met and not one.learned and total and _has_no_values(total):  # passes only for lack of values
        why = "no value at all" if total["element_count"] else "no row that meets its condition"
        return replace(
            finding, met=False, observed=f"{why}, so nothing was validated", failing_rows=rows, on_failure="warn"
        )
    return finding


def _has_no_values(total: Mapping[str, Any]) -> bool:
    return "element_count" in total and total["element_count"] == (total.get("missing_count") or 0)


def _raised(result: ExpectationValidationResult) -> bool:
    """Whether evaluation raised; then `exception_info` holds the exceptions by metric."""
    exceptions = result.exception_info or {}
    return bool(exceptions.get("raised_exception", exceptions))


def _total(one: SuiteExpectation, results: Sequence[ExpectationValidationResult]) -> dict[str, Any]:
    """Combine the results of all parts."""
    if len(results) == 1:
        return dict(results[0].result)
    if one.type in ADDED:
        values = [part.result["observed_value"] for part in results]
        known = [value for value in values if value is not None and value == value]
        return {"observed_value": ADDED[one.type](known) if known else None}
    names = ("element_count", "unexpected_count", "missing_count")
    return {name: sum(part.result.get(name) or 0 for part in results) for name in names}


def _holds(one: SuiteExpectation, results: Sequence[ExpectationValidationResult], total: Mapping[str, Any]) -> bool:
    """Whether an expectation holds on all parts together, by the rule that Great Expectations applies to one batch."""
    configuration = results[0].expectation_config
    arguments = configuration.kwargs if configuration else {}
    if one.type not in ADDED:
        values = total["element_count"] - total["missing_count"]
        return not values or (values - total["unexpected_count"]) / values >= arguments.get("mostly", 1.0)
    value = total["observed_value"]
    least, most = (arguments.get(name, arguments.get("value")) for name in ("min_value", "max_value"))
    above = least is None or (value is not None and (value > least if arguments.get("strict_min") else value >= least))
    below = most is None or (value is not None and (value < most if arguments.get("strict_max") else value <= most))
    return above and below
