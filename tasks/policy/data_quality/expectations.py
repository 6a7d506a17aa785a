"""Learn expectations on a window's rows from the rows that a model was trained on.

Each expectation is one of Great Expectations' own, with bounds from the reference unless the settings give them; the
adapter writes them as its JSON (`tasks.adapters.gates.expectation_suite`). A bound that depends on the window (its
times, the usual number of rows) is a parameter that is set when the window is judged. Great Expectations computes
shares of the values that are not null, the settings use shares of all rows, so shares are converted. An empty column
passes any expectation on its values, so there are also expectations on each column's share of nulls and on the number
of rows.
"""

import math
import re
import statistics
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tasks.policy.data_quality.acceptance import ColumnRule, QualityLimits, accepted_categories, accepted_range
from tasks.policy.records.base import Window, digest
from tasks.policy.records.profile import FeatureCounts, FeatureReference, ReferenceProfile
from tasks.policy.statistics.numbers import percent

ROW_COUNT = "expect_table_row_count_to_be_between"
COLUMN_MAX = "expect_column_max_to_be_between"
BETWEEN = "expect_column_values_to_be_between"
NOT_NULL = "expect_column_values_to_not_be_null"
IN_SET = "expect_column_values_to_be_in_set"
UNIQUE = "expect_column_values_to_be_unique"
STEPS = 1_000_000
"""A share is rounded down to a multiple of 1 / STEPS, so that no rounding error breaks an expectation."""
SPARSE = 0.01
"""Share of known values in the reference below which a window may have none by chance."""
Parameters = Mapping[str, float | datetime]


@dataclass(frozen=True, slots=True)
class Expectation:
    """One expectation by its type in Great Expectations; `check` is its name in reports and the ledger."""

    check: str
    type: str
    column: str | None
    arguments: Mapping[str, object]
    warns: bool = False
    description: str | None = None
    """The sentence to show, where Great Expectations' own would be hard to read."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Names of the id and time columns and of personal columns, and sentences on features that leak the label."""

    id: str
    time: str
    leaks: tuple[str, ...] = ()
    personal: frozenset[str] = field(default_factory=frozenset)


def named_columns(kind: str, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns whose values an expectation is about; empty for one on the table, such as on its list of columns."""
    if kind.startswith("expect_table_"):
        return ()
    named = [arguments[name] for name in ("column", "column_A", "column_B") if arguments.get(name) is not None]
    return (*named, *(arguments.get("column_list") or ()))


def condition_columns(condition: object, known: Collection[str] = ()) -> frozenset[str]:
    """The columns that a `row_condition` reads. A condition in text form reads the `known` columns that it names."""
    if isinstance(condition, str):
        return frozenset(name for name in known if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", condition))
    if not isinstance(condition, Mapping):
        return frozenset()
    own = condition.get("column") or {}
    parts = [condition_columns(part, known) for part in condition.get("conditions") or ()]
    return frozenset({own["name"]} if "name" in own else ()).union(
        condition_columns(condition.get("pass_through_filter"), known), *parts
    )


def learn_expectations(reference: ReferenceProfile, limits: QualityLimits, roles: Roles) -> tuple[Expectation, ...]:
    """All expectations on the rows of a later window."""
    found = [*_window(limits, roles)]
    for feature in reference.features:
        found += _feature(feature, limits, feature.feature in roles.personal)
    return tuple(found)


def window_parameters(
    window: Window, reference: ReferenceProfile, limits: QualityLimits, recent_rows: Sequence[int]
) -> Parameters:
    """Bounds that depend on the window. `recent_rows`: row counts of earlier windows; if empty, no usual number."""
    max_age_hours = limits.max_age_hours or 24.0 * reference.usual_gap_days
    usual, (low, high) = statistics.median(recent_rows) if recent_rows else 0, limits.row_count_ratio
    return {
        "window_start": window.start,
        "window_end": window.end,
        "fresh_from": window.end - timedelta(hours=max_age_hours),
        **({"usual_rows_min": math.ceil(low * usual), "usual_rows_max": math.floor(high * usual)} if usual else {}),
    }


def _parameter(name: str) -> dict[str, str]:
    return {"$PARAMETER": name}


def _window(limits: QualityLimits, roles: Roles) -> Iterator[Expectation]:
    yield Expectation("enough rows", ROW_COUNT, None, {"min_value": limits.min_rows})
    usual = {"min_value": _parameter("usual_rows_min"), "max_value": _parameter("usual_rows_max")}
    yield Expectation("usual number of rows", ROW_COUNT, None, usual)
    yield Expectation("fresh rows", COLUMN_MAX, roles.time, {"min_value": _parameter("fresh_from")})
    inside = {
        "min_value": _parameter("window_start"),
        "max_value": _parameter("window_end"),
        "strict_max": True,
    }
    yield Expectation("times inside the window", BETWEEN, roles.time, inside)
    yield Expectation("id present", NOT_NULL, roles.id, {})
    yield Expectation("id unique", UNIQUE, roles.id, {})


def _feature(reference: FeatureReference, limits: QualityLimits, personal: bool) -> Iterator[Expectation]:
    before, rule = reference.counts, limits.columns.get(reference.feature)
    warns = rule is not None and rule.on_failure == "warn"

    def expected(check: str, type_: str, arguments: Mapping[str, object], share: float) -> Expectation:
        return Expectation(check, type_, reference.feature, {**arguments, **_mostly(share)}, warns)

    own = rule.max_null_share if rule else None
    nulls = before.null_share + limits.max_null_share_increase if own is None else own
    # a column without any value is broken, however many nulls are accepted
    if before.values and before.null_share <= 1 - SPARSE:
        nulls = min(nulls, 1 - 1 / STEPS)
    if nulls < 1:
        yield expected("null share", NOT_NULL, {}, nulls)
    if reference.kind == "numeric":
        yield from _numeric(reference, limits, rule, warns)
        return
    listed = rule.categories if rule else None
    hidden = tuple(map(digest, listed)) if listed is not None and personal else listed
    categories = accepted_categories(reference, hidden)
    if categories is not None:
        spelled = {"true": True, "false": False} if reference.kind == "boolean" else {}
        values = [spelled.get(name, name) for name in sorted(categories)]
        share = _among_values(limits.max_unseen_category_share, before)
        yield expected("known categories", IN_SET, {"value_set": values}, share)


def _numeric(
    reference: FeatureReference, limits: QualityLimits, rule: ColumnRule | None, warns: bool
) -> Iterator[Expectation]:
    """Expectations on one number. Finite values have their own, because an open range accepts infinite values."""
    before, name = reference.counts, reference.feature
    infinite = _among_values(before.non_finite / max(before.rows, 1), before)
    mostly = _mostly(infinite)
    often = f", at least {percent(mostly['mostly'])} % of the time" if mostly else ""
    bounds = {"min_value": -sys.float_info.max, "max_value": sys.float_info.max}
    finite = f"{name} values must be finite{often}."
    yield Expectation("finite values", BETWEEN, name, {**bounds, **mostly}, warns, finite)
    own = (rule.range.min, rule.range.max) if rule and rule.range else (None, None)
    low, high = accepted_range(reference, limits.range_slack, own)
    named = {"min_value": low, "max_value": high}
    given = {side: bound for side, bound in named.items() if math.isfinite(bound)}
    if given:
        share = infinite + _among_values(limits.max_out_of_range_share, before)
        yield Expectation("accepted range", BETWEEN, name, {**given, **_mostly(share)}, warns)


def _among_values(share: float, before: FeatureCounts) -> float:
    """Convert a share of all rows to a share of the rows that are not null, with the reference's null share."""
    known = before.rows - before.nulls
    return min(1.0, share * before.rows / known) if known else 1.0


def _mostly(failing_share: float) -> dict[str, float]:
    """The `mostly` argument that accepts this share of failing values; empty if no value may fail."""
    share = math.floor(round(max(0.0, 1 - failing_share) * STEPS, 3)) / STEPS
    return {"mostly": share} if share < 1 else {}
