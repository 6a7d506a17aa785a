"""Drift of each feature from the reference: how large it is, and whether it exceeds chance.

The effect size decides and the corrected p-value confirms: in large windows everything is significant, in small ones
large effects occur by chance. Each feature can drift in four ways: its values (with a bin for unseen categories), and
the shares of nulls, of infinite and of unreadable values, these three by their population stability index. The p-values
of all four of all features are corrected together: Benjamini and Hochberg (1995).

A feature without a visible effect in a window too small to show an effect at the limit is `insufficient`, not stable.
So is a window in which such features could bring the share to its limit. An effect that is visible despite this counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from scipy import stats

from tasks.policy.data_quality.unit_faults import suspect
from tasks.policy.records.profile import FeatureCounts, FeatureReference, ReferenceProfile, WindowProfile, bounded
from tasks.policy.records.reports import DriftReport, DriftVerdict, FeatureDrift
from tasks.policy.statistics import distances
from tasks.policy.statistics.distances import Table
from tasks.policy.statistics.numbers import beside
from tasks.policy.statistics.power import EffectTest, Method, rows_needed, smallest_effect

SIDES = ("null share psi", "infinite share psi", "unreadable share psi")


class DriftLimits(Protocol):
    """Limits from which a feature, and a window, counts as drifted (`deployments.config.blocks.monitoring.Drift`)."""

    @property
    def method(self) -> Method: ...
    @property
    def threshold(self) -> float: ...
    @property
    def categorical_threshold(self) -> float: ...
    @property
    def alpha(self) -> float: ...
    @property
    def power(self) -> float: ...
    @property
    def min_rows(self) -> int: ...
    @property
    def max_share(self) -> float: ...


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a feature that may have drifted: its values, or a share of rows without one."""

    method: str
    effect: float
    threshold: float
    p_value: float
    enough_values: bool = True


def measure(
    profile: WindowProfile,
    reference: ReferenceProfile,
    limits: DriftLimits,
    importances: Mapping[str, float] | None = None,
) -> DriftReport:
    """Measure drift of every feature of the reference, worst first.

    With `importances` (shares in the model's predictions) the drifted share weights each feature by its own. A feature
    that the window lacks has drifted. With fewer than `min_rows` rows on either side the verdict is insufficient. A
    window that is large enough for large effects only is insufficient unless they suffice to make it drifted.
    """
    current = {counts.feature: counts for counts in profile.features}
    enough = min(profile.rows, reference.rows) >= limits.min_rows
    alone = limits.alpha / max(1, len(reference.features))  # level for a single drifted feature after correction
    measured = [_measure_feature(frozen, current[frozen.feature], limits, alone) for frozen in reference.features]
    sides = [side for _, sides in measured for side in sides]
    corrected = iter(stats.false_discovery_control([side.p_value for side in sides]).tolist() if sides else ())
    features = []
    for drift, own_sides in measured:
        q_values = [next(corrected) for _ in own_sides]
        judged = _judge(drift, own_sides, q_values, limits.alpha, enough)
        features.append(replace(judged, importance=(importances or {}).get(drift.feature)))
    features.sort(key=lambda drift: (drift.verdict != "drifted", -drift.effect_size / drift.threshold, drift.feature))
    share = drifted_share(features)
    verdict: DriftVerdict = "drifted" if share >= limits.max_share else "stable"
    if not enough or (verdict == "stable" and share + _underpowered_share(features) >= limits.max_share):
        verdict = "insufficient"
    report = DriftReport(
        window=profile.window,
        verdict=verdict,
        features=tuple(features),
        drifted_share=share,
        reference_rows=reference.rows,
        rows=profile.rows,
        reasons=(),
    )
    return replace(report, reasons=explain(report, reference, limits))


def drifted_share(features: list[FeatureDrift]) -> float:
    """Share of drifted features, weighted by importance if any is known; features without one then weigh 0."""
    return _share(features, [drift.verdict == "drifted" for drift in features])


def _underpowered_share(features: list[FeatureDrift]) -> float:
    return _share(features, [drift.is_underpowered for drift in features])


def _share(features: list[FeatureDrift], counted: list[bool]) -> float:
    weights = [drift.importance or 0.0 for drift in features]
    if sum(weights) <= 0:
        weights = [1.0] * len(features)
    chosen = sum(weight for weight, counts in zip(weights, counted, strict=True) if counts)
    return chosen / sum(weights) if features else 0.0


def _measure_feature(
    reference: FeatureReference, current: FeatureCounts, limits: DriftLimits, alpha: float
) -> tuple[FeatureDrift, list[_Side]]:
    """All numbers of one feature, and its sides, values first; the verdict is not decided yet."""
    before, numeric = reference.counts, reference.kind == "numeric"
    enough = min(before.values, current.values) >= limits.min_rows
    table = Table(before.counts, current.counts)
    coarse = table.coarse() if numeric else table
    ks = distances.ks(table) if numeric else None
    psi, kl = distances.psi(coarse), distances.kl(coarse)
    chi2, chi2_p = distances.chi2(coarse)
    wasserstein = distances.wasserstein(reference, current) if numeric else None
    has_spread = numeric and before.std > 0 and current.values > 0
    effects = {"ks": ks, "psi": psi, "wasserstein": wasserstein, "kl": kl}
    method, threshold = value_limit(reference, limits)
    p_value = distances.ks_p_value(table) if method in ("ks", "wasserstein") else chi2_p
    suspicion = suspect(reference, current, limits.min_rows)
    values = _Side(method, effects[method] or 0.0, threshold, p_value, enough)
    test = EffectTest(method, alpha, limits.power, distances.compared_bins(coarse))
    smallest = smallest_effect(test, current.values, before.values)
    drift = FeatureDrift(
        feature=reference.feature,
        kind=reference.kind,
        verdict="stable",
        method=method,
        effect_size=values.effect,
        threshold=threshold,
        p_value=p_value,
        q_value=None,
        ks=ks,
        wasserstein_sigma=wasserstein,
        psi=psi,
        kl_divergence=kl,
        chi2=chi2,
        mean_shift_sigma=bounded((current.mean - before.mean) / before.std) if has_spread else None,
        std_shift_sigma=bounded((current.std - before.std) / before.std) if has_spread else None,
        null_share=current.null_share,
        reference_null_share=before.null_share,
        unseen_share=_unseen_share(reference, current),
        suspicion=suspicion.text if suspicion else None,
        suspicion_sure=suspicion.sure if suspicion else False,
        suspicion_possible=suspicion.possible if suspicion else False,
        smallest_effect=bounded(smallest) if enough else None,
        rows_needed=rows_needed(test, threshold, before.values) if enough and smallest > threshold else None,
    )
    return drift, [values, *_missing_sides(before, current, limits.categorical_threshold)]


def value_limit(reference: FeatureReference, limits: DriftLimits) -> tuple[Method, float]:
    """The distance that decides on a feature's values, and its calibrated limit."""
    numeric = reference.kind == "numeric"
    method: Method = limits.method if numeric else "psi"
    if method == "wasserstein" and reference.counts.std <= 0:
        method = "ks"  # the reference was constant: there is no σ as a unit
    return method, max(limits.threshold if numeric else limits.categorical_threshold, reference.stable_effect or 0.0)


def _missing_sides(before: FeatureCounts, current: FeatureCounts, threshold: float) -> list[_Side]:
    sides = []
    for name, was, now in zip(SIDES, _without_value(before), _without_value(current), strict=True):
        if was == now == 0:
            continue
        table = Table((was, before.rows - was), (now, current.rows - now))
        sides.append(_Side(name, distances.psi(table), threshold, distances.chi2(table)[1]))
    return sides


def _without_value(counts: FeatureCounts) -> tuple[int, int, int]:
    return counts.nulls, counts.non_finite, counts.unreadable


def _unseen_share(reference: FeatureReference, current: FeatureCounts) -> float:
    """Share of values outside the reference's categories, less the reference's own share if it lists only a part."""
    if reference.kind == "numeric" or not current.values:
        return 0.0
    others = current.counts[-1] / current.values
    if not reference.more_categories:
        return others
    return max(0.0, others - reference.counts.counts[-1] / reference.counts.values)


def _judge(drift: FeatureDrift, sides: list[_Side], q_values: list[float], alpha: float, enough: bool) -> FeatureDrift:
    """Add the verdict, with the numbers of the side furthest past its limit, or of the values if none is."""
    if not enough:
        return replace(drift, verdict="insufficient", q_value=q_values[0])
    moved = [
        (side.effect / side.threshold, -place, side, q_value)
        for place, (side, q_value) in enumerate(zip(sides, q_values, strict=True))
        if side.enough_values and side.effect >= side.threshold and q_value <= alpha
    ]
    if not moved:
        is_stable = sides[0].enough_values and (drift.smallest_effect or 0.0) <= sides[0].threshold
        return replace(drift, verdict="stable" if is_stable else "insufficient", q_value=q_values[0])
    _, _, side, q_value = max(moved)
    return replace(
        drift,
        verdict="drifted",
        method=side.method,
        effect_size=side.effect,
        threshold=side.threshold,
        p_value=side.p_value,
        q_value=q_value,
    )


def describe(drift: FeatureDrift) -> str:
    """Describe one feature in words and numbers."""
    parts = [f"{drift.feature}: {drift.method} {drift.effect_size:.3g} (limit {drift.threshold:g}"]
    parts.append(f", q={drift.q_value:.1g})" if drift.q_value is not None else ")")
    if drift.mean_shift_sigma is not None and abs(drift.mean_shift_sigma) >= 0.05:
        parts.append(f", mean {drift.mean_shift_sigma:+.2f} σ")
    if abs(drift.null_share - drift.reference_null_share) >= 0.005:
        parts.append(f", nulls {drift.null_share:.1%} (reference {drift.reference_null_share:.1%})")
    if drift.unseen_share > 0:
        parts.append(f", {drift.unseen_share:.1%} in categories never seen before")
    if drift.suspicion and drift.suspicion_possible:
        parts.append(f"; possibly: {drift.suspicion}")
    return "".join(parts)


def explain(report: DriftReport, reference: ReferenceProfile, limits: DriftLimits) -> tuple[str, ...]:
    """Sentences on the window: the summary, the limits of its power, the worst features, and the reference's remarks."""
    if min(report.rows, report.reference_rows) < limits.min_rows:
        found = f"{report.rows:,} rows against a reference of {report.reference_rows:,}"
        return (f"{found}: at least {limits.min_rows:,} on both sides are needed to judge drift",)
    features = report.features
    drifted = [drift for drift in features if drift.verdict == "drifted"]
    unjudged = sum(drift.verdict == "insufficient" and not drift.is_underpowered for drift in features)
    weighted = any(drift.importance for drift in features)
    side = "at or above" if report.verdict == "drifted" else "below"
    share = beside(report.drifted_share, limits.max_share, 2, "f")
    summary = f"{len(drifted)} of {len(features)} features drifted: a share of {share}"
    summary += f"{' by importance' if weighted else ''}, {side} the limit of {limits.max_share:g}"
    if unjudged:
        summary += f"; {unjudged} have too few values to judge"
    remarks = [remark for frozen in reference.features for remark in frozen.remarks]
    worst = [describe(drift) for drift in drifted[:5]]
    return (summary, *_explain_power(report), *worst, *remarks[:5])


def _explain_power(report: DriftReport) -> tuple[str, ...]:
    """A sentence on the effects that the window is too small to show, for the feature that needs the most rows."""
    underpowered = [drift for drift in report.features if drift.is_underpowered]
    if not underpowered:
        return ()
    worst = max(underpowered, key=lambda drift: (drift.rows_needed is None, drift.rows_needed or 0))
    least = beside(worst.smallest_effect or 0.0, worst.threshold, 2)
    needed = f"about {worst.rows_needed:,} rows" if worst.rows_needed else "a larger reference"
    return (
        f"{report.rows:,} rows are too few to rule out drift of {len(underpowered)} of {len(report.features)} features: the "
        f"smallest detectable effect in {worst.feature} is {worst.method} {least}, the limit is "
        f"{worst.threshold:g}; {needed} would be enough",
    )
