"""What a window must keep to before anything measures, trains on or decides from it.

Each requirement becomes measurements: how far one column (or the window) lies past its limit, 0 or less when it keeps
to it. Limits come from the reference, where the settings do not name their own. Great Expectations judges the
measurements (`tasks.adapters.gates.great_expectations`); nothing can pass for lack of rows, because rows are a requirement too.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from tasks.policy.data_quality.acceptance import ColumnRule, Limits, accepted_range, type_family
from tasks.policy.records.profile import MISSING, FeatureCounts, FeatureReference, ReferenceProfile, WindowProfile
from tasks.policy.records.reports import QualityCheck, Verdict

OFTEN = 0.5  # a value in half of the reference's rows may fill a short window by chance: no rain for five days


@dataclass(frozen=True, slots=True)
class Measurement:
    """How far one column lies past its limit: `excess` above 0 breaks the requirement. Columns of None: the window."""

    check: str
    column: str | None
    excess: float
    expected: str
    observed: str
    failing_rows: int = 0
    on_failure: Verdict = "fail"

    def as_check(self, verdict: Verdict) -> QualityCheck:
        return QualityCheck(self.check, self.column, verdict, self.expected, self.observed, self.failing_rows)


@dataclass(frozen=True, slots=True)
class Roles:
    """Names of the columns that are no features, and sentences on features that leak the label."""

    id: str
    time: str
    leaks: tuple[str, ...] = ()


def measure_quality(
    profile: WindowProfile, reference: ReferenceProfile, limits: Limits, recent_rows: Sequence[int], roles: Roles
) -> tuple[Measurement, ...]:
    """Every requirement of one window, measured. `recent_rows`: rows of earlier windows, to compare the count with.

    Where nothing was read at all, that is all there is to say: no column can be missing or broken.
    """
    if not profile.rows and not profile.columns:
        return tuple(_window(profile, reference, limits, recent_rows))
    frozen = {feature.feature: feature for feature in reference.features}
    found = [*_window(profile, reference, limits, recent_rows), *_roles(profile, roles)]
    for counts in profile.features:
        found += _feature(counts, frozen[counts.feature], limits)
    return tuple(found)


def _window(
    profile: WindowProfile, reference: ReferenceProfile, limits: Limits, recent_rows: Sequence[int]
) -> Iterator[Measurement]:
    rows = profile.rows
    yield Measurement(
        "enough rows", None, limits.min_rows - rows, f"at least {limits.min_rows:,} rows", f"{rows:,} rows", rows
    )
    usual = statistics.median(recent_rows) if recent_rows else 0
    if usual:
        low, high = limits.row_count_ratio
        excess = max(low - rows / usual, rows / usual - high)
        expected = (
            f"{low * usual:,.0f} to {high * usual:,.0f} rows, as the last {len(recent_rows)} windows had {usual:,.0f}"
        )
        yield Measurement("usual number of rows", None, excess, expected, f"{rows:,} rows", rows)
    age_hours = (profile.window.end - profile.newest) / timedelta(hours=1) if profile.newest else math.inf
    newest = f"{profile.newest:%Y-%m-%d %H:%M} UTC" if profile.newest else "no time"
    max_age_hours = limits.max_age_hours or 24.0 * reference.usual_gap_days
    expected = f"a row at most {max_age_hours:g} h before the window's end"
    yield Measurement("fresh rows", None, age_hours - max_age_hours, expected, f"newest row: {newest}", rows)
    outside = max(
        (profile.window.start - profile.oldest) / timedelta(hours=1) if profile.oldest else 0.0,
        (profile.newest - profile.window.end) / timedelta(hours=1) if profile.newest else 0.0,
    )
    if profile.newest and profile.newest == profile.window.end:
        outside = 1e-9  # the end does not belong to the window
    span = f"{profile.oldest:%Y-%m-%d %H:%M} to {newest}" if profile.oldest else "no time"
    expected = f"times in {profile.window.name}, UTC"
    yield Measurement("times inside the window", None, outside, expected, f"times from {span}", rows)


def _roles(profile: WindowProfile, roles: Roles) -> Iterator[Measurement]:
    held = Counter(name for name, _ in profile.columns)
    for name in (roles.id, roles.time, *(counts.feature for counts in profile.features)):
        excess, observed = abs(held[name] - 1), f"{held[name]} columns of that name"
        yield Measurement("column present once", name, excess, "one column of that name", observed, profile.rows)
    about = "" if profile.duplicates_exact else "about "
    duplicates = f"{about}{profile.duplicate_ids:,} rows with an id that another row has"
    yield Measurement(
        "id unique",
        roles.id,
        profile.duplicate_ids,
        "each id once in a window; columns.id may name several columns",
        duplicates,
        profile.duplicate_ids,
    )
    missing = f"{profile.null_ids:,} rows without an id"
    yield Measurement("id present", roles.id, profile.null_ids, "an id in each row", missing, profile.null_ids)
    leaks = "; ".join(roles.leaks) or "no feature does"
    yield Measurement(
        "no label among features",
        None,
        len(roles.leaks),
        "no feature tells the label",
        leaks,
        profile.rows * bool(leaks),
    )


def _feature(counts: FeatureCounts, reference: FeatureReference, limits: Limits) -> Iterator[Measurement]:
    if counts.arrow_type == MISSING:
        return  # its absence is measured; that its values are missing would say it again
    rule = limits.columns.get(counts.feature)
    verdict: Verdict = rule.on_failure if rule else "fail"
    before, rows = reference.counts, max(counts.rows, 1)

    def measured(check: str, excess: float, expected: str, observed: str, failing: int) -> Measurement:
        return Measurement(check, counts.feature, excess, expected, observed, failing, verdict)

    was, now = type_family(before.arrow_type), type_family(counts.arrow_type)
    changed = was != now and "null" not in (was, now) and {was, now} != {"boolean", "number"}
    yield measured("type", int(changed), before.arrow_type, counts.arrow_type, counts.rows if changed else 0)
    yield measured(
        "readable values",
        counts.unreadable - before.unreadable / max(before.rows, 1) * rows,
        f"{reference.kind} values",
        f"{counts.unreadable:,} values of type {counts.arrow_type}",
        counts.unreadable,
    )
    own = rule.max_null_share if rule else None
    limit = min(1.0, before.null_share + limits.max_null_share_increase) if own is None else own
    expected = f"at most {limit:.1%} nulls" + ("" if own is not None else f", {before.null_share:.1%} in the reference")
    yield measured("null share", counts.null_share - limit, expected, f"{counts.null_share:.1%} nulls", counts.nulls)
    if before.values and not counts.values and counts.rows:
        yield measured("any value", 1.0, "values, as in the reference", "no value at all", counts.rows)
    if reference.kind == "numeric":
        yield from _numeric(counts, reference, limits, rule, verdict)
    else:
        share, limit = counts.outside / rows, limits.max_unseen_category_share
        where = "the settings do not list" if rule and rule.categories is not None else "the reference never had"
        expected = f"at most {limit:.1%} of rows in categories that {where}"
        yield measured("known categories", share - limit, expected, f"{share:.1%} of rows", counts.outside)
    yield _constancy(counts, reference, verdict)


def _numeric(
    counts: FeatureCounts, reference: FeatureReference, limits: Limits, rule: ColumnRule | None, verdict: Verdict
) -> Iterator[Measurement]:
    before, rows = reference.counts, max(counts.rows, 1)
    usual = before.non_finite / max(before.rows, 1)
    expected = f"at most {usual:.1%} infinite values, as in the reference"
    observed = f"{counts.non_finite:,} infinite values"
    excess = counts.non_finite / rows - usual
    yield Measurement("finite values", counts.feature, excess, expected, observed, counts.non_finite, verdict)
    own = (rule.range.min, rule.range.max) if rule and rule.range else (None, None)
    low, high = accepted_range(reference, limits.range_slack, own)
    share, limit = counts.outside / rows, limits.max_out_of_range_share
    expected = f"at most {limit:.1%} of rows outside {low:.6g} to {high:.6g}"
    observed = f"{share:.1%} of rows"
    if counts.minimum is not None:
        observed += f", values from {counts.minimum:.6g} to {counts.maximum:.6g}"
    yield Measurement("accepted range", counts.feature, share - limit, expected, observed, counts.outside, verdict)


def _constancy(counts: FeatureCounts, reference: FeatureReference, verdict: Verdict) -> Measurement:
    """A stuck sensor: one value in all rows, where the reference had several. For a frequent value only a warning."""
    stuck = counts.is_constant and counts.values > 1 and not reference.counts.is_constant
    place = max(range(len(counts.counts)), key=counts.counts.__getitem__, default=0)
    usual = reference.counts.counts[place] / max(reference.counts.values, 1) if counts.counts else 0.0
    return Measurement(
        "varying values",
        counts.feature,
        int(stuck),
        "several values, as in the reference",
        f"one value in all {counts.values:,} rows" if stuck else "varies, or never did",
        counts.values if stuck else 0,
        "warn" if usual >= OFTEN else verdict,
    )


def explain(measurement: Measurement) -> str:
    """One broken requirement as a sentence with numbers."""
    where = f"{measurement.column}: " if measurement.column else ""
    return f"{where}{measurement.observed}, expected {measurement.expected} ({measurement.check})"
