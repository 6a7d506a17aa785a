"""Decide whether a window may be used for measurement, training and decisions.

Great Expectations judges the values of the rows (`expectations.py`). The checks here use the columns and counts of the
window's profile, for what it cannot see in a frame: whether each column is present once, the Arrow types (its own type
expectations are unreliable), values that cannot be read as the feature's kind, and stuck values.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tasks.policy.data_quality.acceptance import QualityLimits, type_family
from tasks.policy.data_quality.expectations import Roles
from tasks.policy.records.profile import MISSING, FeatureCounts, FeatureReference, ReferenceProfile, WindowProfile
from tasks.policy.records.reports import QualityCheck, Verdict

OFTEN = 0.5  # a value in half of the reference's rows can fill a short window by chance, such as no rain for five days
USUALLY, SOMETIMES = 0.5, 0.05  # shares of the reference's windows with one value each, as of a season or a month
SCHEMA = "schema"
COUNTS = "counts of all rows"


@dataclass(frozen=True, slots=True)
class Finding:
    """An expectation on one column (None: on the window) and its result. Never contains a value."""

    check: str
    column: str | None
    met: bool
    expected: str
    observed: str
    failing_rows: int = 0
    on_failure: Verdict = "fail"
    looked_at: str = COUNTS

    @property
    def verdict(self) -> Verdict:
        return "pass" if self.met else self.on_failure

    @property
    def sentence(self) -> str:
        """Expectation and observation in one sentence."""
        return f"{self.expected.rstrip('.')}; found {self.observed} ({self.check})"

    def as_check(self) -> QualityCheck:
        return QualityCheck(self.check, self.column, self.verdict, self.expected, self.observed, self.failing_rows)


def check_columns(
    profile: WindowProfile, reference: ReferenceProfile, limits: QualityLimits, roles: Roles
) -> tuple[Finding, ...]:
    """Findings on columns, types and counts; empty if nothing was read, since no column can then be missing."""
    if not profile.rows and not profile.columns:
        return ()
    frozen = {feature.feature: feature for feature in reference.features}
    found = [*_roles(profile, roles)]
    for counts in profile.features:
        if counts.arrow_type != MISSING:  # a missing column is already a finding; its values are not another one
            rule = limits.columns.get(counts.feature)
            found += _feature(counts, frozen[counts.feature], rule.on_failure if rule else "fail")
    return tuple(found)


def _roles(profile: WindowProfile, roles: Roles) -> Iterator[Finding]:
    held = Counter(name for name, _ in profile.columns)
    for name in (roles.id, roles.time, *(counts.feature for counts in profile.features)):
        times = "missing" if not held[name] else f"present {held[name]} times"
        yield Finding(
            "column present once",
            name,
            held[name] == 1,
            f"{name} must be present as one column.",
            "one column" if held[name] == 1 else f"it {times}",
            0 if held[name] == 1 else profile.rows,
            looked_at=SCHEMA,
        )
    leaks = "; ".join(roles.leaks) or "none"
    failing = profile.rows * bool(roles.leaks)
    yield Finding(
        "no label among features", None, not roles.leaks, "No feature may reveal the label.", leaks, failing,
        looked_at=SCHEMA,
    )  # fmt: skip


def _feature(counts: FeatureCounts, reference: FeatureReference, verdict: Verdict) -> Iterator[Finding]:
    before, name = reference.counts, counts.feature
    was, now = type_family(before.arrow_type), type_family(counts.arrow_type)
    changed = was != now and "null" not in (was, now) and {was, now} != {"boolean", "number"}
    yield Finding(
        "type", name, not changed, f"{name} values must be of type {before.arrow_type}.", counts.arrow_type,
        counts.rows if changed else 0, verdict, SCHEMA,
    )  # fmt: skip
    usual = before.unreadable / max(before.rows, 1)
    yield Finding(
        "readable values", name, counts.unreadable <= usual * max(counts.rows, 1),
        f"{name} values must be {reference.kind}.", f"{counts.unreadable:,} others, of type {counts.arrow_type}",
        counts.unreadable, verdict,
    )  # fmt: skip
    yield _constancy(counts, reference, verdict)


def _constancy(counts: FeatureCounts, reference: FeatureReference, verdict: Verdict) -> Finding:
    """Check for a stuck sensor: one value in all rows, where the reference has several. A frequent value only warns.

    So does one value in some windows of the reference; in most of them, it is usual.
    """
    stuck = counts.is_constant and counts.values > 1 and not reference.counts.is_constant
    stuck = stuck and reference.constant_windows < USUALLY
    place = max(range(len(counts.counts)), key=counts.counts.__getitem__, default=0)
    usual = reference.counts.counts[place] / max(reference.counts.values, 1) if counts.counts else 0.0
    return Finding(
        "varying values",
        counts.feature,
        not stuck,
        f"{counts.feature} values must vary, as in the reference.",
        f"one value in all {counts.values:,} rows" if stuck else "several values, or one in the reference as well",
        counts.values if stuck else 0,
        "warn" if usual >= OFTEN or reference.constant_windows >= SOMETIMES else verdict,
    )


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Expectations that are not met: failures before warnings, most rows first."""
    broken = [one for one in findings if not one.met]
    return sorted(broken, key=lambda one: (one.on_failure != "fail", -one.failing_rows))
