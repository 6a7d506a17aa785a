"""Drift in sentences, for the decision, the ledger, the log and the report: what drifted and what could not be judged."""

from tasks.policy.records.profile import ReferenceProfile, WindowProfile
from tasks.policy.records.reports import DriftVerdict, FeatureDrift
from tasks.policy.statistics.numbers import beside


def describe(drift: FeatureDrift) -> str:
    """One feature in words and numbers."""
    parts = [f"{drift.feature}: {drift.method} {drift.effect_size:.3g} (limit {drift.threshold:g}"]
    parts.append(f", q={drift.q_value:.1g})" if drift.q_value is not None else ")")
    if drift.mean_shift_sigma is not None and abs(drift.mean_shift_sigma) >= 0.05:
        parts.append(f", mean {drift.mean_shift_sigma:+.2f} σ")
    if abs(drift.null_share - drift.reference_null_share) >= 0.005:
        parts.append(f", nulls {drift.null_share:.1%} after {drift.reference_null_share:.1%}")
    if drift.unseen_share > 0:
        parts.append(f", {drift.unseen_share:.1%} in categories never seen before")
    if drift.suspicion and drift.suspicion_possible:
        parts.append(f"; possibly: {drift.suspicion}")
    return "".join(parts)


def explain(
    features: list[FeatureDrift],
    share: float,
    verdict: DriftVerdict,
    profile: WindowProfile,
    reference: ReferenceProfile,
    min_rows: int,
    max_share: float,
) -> tuple[str, ...]:
    """What the window shows, in sentences: the summary, what it is too small to show, and the worst features."""
    if min(profile.rows, reference.rows) < min_rows:
        found = f"{profile.rows:,} rows against a reference of {reference.rows:,}"
        return (f"{found}: at least {min_rows:,} on both sides are needed to judge drift",)
    drifted = [drift for drift in features if drift.verdict == "drifted"]
    unjudged = sum(drift.verdict == "insufficient" and not drift.is_underpowered for drift in features)
    weighted = any(drift.importance for drift in features)
    side = "at or above" if verdict == "drifted" else "below"
    summary = f"{len(drifted)} of {len(features)} features drifted: a share of {beside(share, max_share, 2, 'f')}"
    summary += f"{' by importance' if weighted else ''}, {side} the limit of {max_share:g}"
    if unjudged:
        summary += f"; {unjudged} hold too few values to judge"
    remarks = [remark for frozen in reference.features for remark in frozen.remarks]
    worst = [describe(drift) for drift in drifted[:5]]
    return (summary, *_explain_power(features, profile.rows), *worst, *remarks[:5])


def _explain_power(features: list[FeatureDrift], rows: int) -> tuple[str, ...]:
    """What the window is too small to show, by the feature that would need the most rows."""
    blind = [drift for drift in features if drift.is_underpowered]
    if not blind:
        return ()
    worst = max(blind, key=lambda drift: (drift.rows_needed is None, drift.rows_needed or 0))
    least = beside(worst.smallest_effect or 0.0, worst.threshold, 2)
    needed = f"about {worst.rows_needed:,} rows" if worst.rows_needed else "a larger reference"
    return (
        f"{rows:,} rows are too few to rule out drift of {len(blind)} of {len(features)} features: the smallest effect "
        f"that would show in {worst.feature} is {worst.method} {least}, the limit is {worst.threshold:g}; "
        f"{needed} would do",
    )
