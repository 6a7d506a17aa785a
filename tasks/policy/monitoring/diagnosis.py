"""Decide which kind of change a window shows, and thus the remedy: repair the feed, leave the model alone, or retrain.

| kind | evidence | remedy |
|---|---|---|
| upstream_data_fault | failed quality or labels, or a shift that is typical of a broken feed | repair the feed |
| harmless_covariate_shift | inputs moved, performance did not | nothing |
| harmful_covariate_shift | inputs moved, and the estimate from inputs shows the loss | retrain on the new inputs |
| concept_drift | performance fell below what the inputs explain | retrain on recent labels |
| none | neither inputs nor performance moved | nothing |
| insufficient_evidence | too few rows, or neither labels nor an estimate | wait |

Covariate shift and concept drift as in Moreno-Torres et al. (2012), "A unifying view on dataset shift".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import scipy  # its parts load on first use
from pydantic import BaseModel, ConfigDict, Field

from tasks.policy.data_quality.acceptance import ColumnRule
from tasks.policy.evidence.monitoring import DiagnosisKind, WindowEvidence
from tasks.policy.monitoring.estimate_errors import Estimate, describe_estimate
from tasks.policy.monitoring.performance import noise_of, shift_p_value, standard_error
from tasks.policy.records.reports import DriftReport, FeatureDrift, LabelReport, PerformanceReport


class DiagnosisLimits(BaseModel):
    """Limits of the diagnosis: when a change counts, and what marks a broken feed. `quality.columns` makes exceptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    alpha: float = Field(0.01, gt=0, lt=1, examples=[0.05])
    """Largest p-value of a fall in performance, and of a gap between the estimated and the measured metric."""
    null_share_increase: float = Field(0.2, gt=0, le=1, examples=[0.3])
    """Increase of a feature's null share from which the feature counts as broken."""
    unseen_share: float = Field(0.5, gt=0, le=1, examples=[0.3])
    """Share of values in unseen categories from which a feature counts as recoded."""
    fault_sigma: float = Field(6.0, gt=0, examples=[8])
    """Shift of a mean, in reference σ, from which a feature that moved alone counts as broken."""
    stands_out: float = Field(2.5, gt=1, examples=[3])
    """Ratio of a feature's shift to the next largest from which it counts as having moved alone."""
    fault_features_share: float = Field(0.34, gt=0, le=1, examples=[0.5])
    """Share of moved features above which the change counts as real, and not as one broken feed."""
    unit_faults: bool = Field(True, examples=[False])
    """Treat a feature whose unit, sign or category names seem to have changed, or that is stuck, as broken. `false` only
    reports it."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The kind of change, the reasons, and the features that explain it, worst first."""

    kind: DiagnosisKind
    reasons: tuple[str, ...]
    features: tuple[str, ...] = ()
    estimate: Estimate | None = None
    """Estimate of the primary metric from the inputs alone, if there is one."""
    explanations: tuple[str, ...] = ()
    """Sentences on the features whose drift moved the predictions and the loss."""


def decide_diagnosis(
    evidence: WindowEvidence,
    estimate: Estimate | None = None,
    labels: LabelReport | None = None,
    limits: DiagnosisLimits | None = None,
    allowed: Mapping[str, ColumnRule] | None = None,
) -> Diagnosis:
    """Decide the kind of change.

    `estimate` is the primary metric expected from the inputs alone (`estimation.py`). It is tested by its interval; its
    error is only reported. `labels` is the label report of the latest window that has one. `allowed` is
    `quality.columns` of the model's file: what it accepts is not a fault.
    """
    quality, drift, performance = evidence.quality, evidence.drift, evidence.performance
    limits = limits or DiagnosisLimits()
    if quality is not None and quality.verdict == "fail":
        return Diagnosis("upstream_data_fault", quality.reasons or ("the window failed its quality checks",))
    if labels is not None and labels.verdict == "fail":
        return Diagnosis("upstream_data_fault", labels.reasons)
    moved = _moved(drift)
    tested = [feature for feature in drift.features if _is_tested(feature)] if drift else []
    few = bool(tested) and len(moved) <= max(1, math.floor(limits.fault_features_share * len(tested)))
    leader = _stands_out(drift, limits)
    faults = [
        (feature.feature, text)
        for feature in moved
        for text in _fault(feature, limits, (allowed or {}).get(feature.feature), few, leads=feature.feature == leader)
    ]
    if faults:
        broken = tuple(dict.fromkeys(name for name, _ in faults))
        return Diagnosis("upstream_data_fault", tuple(f"{name}: {text}" for name, text in faults), broken)
    names, inputs = tuple(feature.feature for feature in moved), _describe_inputs(drift, moved)
    fallen = _fallen(performance, limits)
    if fallen is None:
        return _without_labels(evidence, estimate, names, inputs, limits)
    worse, sentence = fallen
    if not worse:
        if drift is None or not drift.is_conclusive:
            return Diagnosis("none", (sentence, inputs if drift else "drift was not measured"))
        return Diagnosis("harmless_covariate_shift" if moved else "none", (sentence, inputs), names)
    if not moved:
        return Diagnosis("concept_drift", (sentence, inputs))
    return _explain_fall(performance, estimate, names, (sentence, inputs), limits)


def _is_tested(feature: FeatureDrift) -> bool:
    """Whether the feature had enough rows for a verdict."""
    return feature.verdict != "insufficient" or feature.is_underpowered


def _moved(drift: DriftReport | None) -> list[FeatureDrift]:
    """Drifted features that the model uses, sorted by importance times effect over limit.

    Without importances in the report, all features weigh the same.
    """
    if drift is None or not drift.is_conclusive:
        return []
    shares = {feature.feature: feature.importance for feature in drift.features if feature.importance is not None}

    def weight(feature: FeatureDrift) -> float:
        return shares.get(feature.feature, 0.0) if shares else 1.0

    drifted = [feature for feature in drift.features if feature.verdict == "drifted" and weight(feature) > 0]
    return sorted(drifted, key=lambda feature: -weight(feature) * feature.effect_size / feature.threshold)


def _stands_out(drift: DriftReport | None, limits: DiagnosisLimits) -> str | None:
    """The feature whose mean moved much further than any other's: seasons move several features, a unit change one."""
    known = [] if drift is None else [one for one in drift.features if one.mean_shift_sigma is not None]
    ordered = sorted(known, key=lambda feature: -abs(feature.mean_shift_sigma or 0.0))
    if len(ordered) < 2:
        return None
    first, second = (abs(feature.mean_shift_sigma or 0.0) for feature in ordered[:2])
    return ordered[0].feature if first >= limits.stands_out * second else None


def _fault(
    feature: FeatureDrift, limits: DiagnosisLimits, rule: ColumnRule | None, alone: bool, leads: bool
) -> list[str]:
    """Sentences on shifts of this feature that are typical of a broken feed; `alone` if few features moved.

    Each names the limit and the setting that changes it. What the model's file allows of the column is not a fault, and
    nothing of a column whose violations only warn.
    """
    found: list[str] = []
    if rule is not None and rule.on_failure == "warn":
        return found
    own = f"quality.columns.{feature.feature}"
    rise = feature.null_share - feature.reference_null_share
    tolerated = rule is not None and rule.max_null_share is not None and feature.null_share <= rule.max_null_share
    if rise >= limits.null_share_increase and not tolerated:
        found.append(
            f"nulls rose from {feature.reference_null_share:.0%} to {feature.null_share:.0%}, a rise of "
            f"{limits.null_share_increase:.0%} or more counts as a fault (diagnosis.null_share_increase; "
            f"{own}.max_null_share allows them)"
        )
    if feature.unseen_share >= limits.unseen_share and not (rule is not None and rule.categories is not None):
        found.append(
            f"{feature.unseen_share:.0%} of its values are in categories never seen before, "
            f"{limits.unseen_share:.0%} or more count as a fault (diagnosis.unseen_share; {own}.categories allows them, "
            "on_failure: warn only reports them)"
        )
    suspected = feature.suspicion if limits.unit_faults and not feature.suspicion_possible else None
    if suspected and (feature.suspicion_sure or alone or leads):
        found.append(f"{suspected} (diagnosis.unit_faults: false reports this without blocking)")
    bounded = rule is not None and rule.range is not None and None not in (rule.range.min, rule.range.max)
    if alone and not bounded and abs(feature.mean_shift_sigma or 0.0) >= limits.fault_sigma:
        found.append(
            f"its mean moved by {feature.mean_shift_sigma:+.1f} σ alone, as if its unit had changed; "
            f"{limits.fault_sigma:g} σ or more count as a fault (diagnosis.fault_sigma; {own}.range sets the accepted values)"
        )
    return found


def _fallen(performance: PerformanceReport | None, limits: DiagnosisLimits) -> tuple[bool, str] | None:
    """(whether performance is significantly below its best past level, a sentence); None if not known."""
    value = performance.metric(performance.primary) if performance and performance.maturity != "open" else None
    if performance is None or value is None or performance.baseline is None or performance.shift_p_value is None:
        return None
    level = performance.baseline
    worse = performance.shift_p_value <= limits.alpha and (value.value < level.value) == value.higher_is_better
    return worse, (
        f"{value.name} {value.value:.4g} is {'' if worse else 'not '}significantly worse than the best past level "
        f"{level.value:.4g} (p={performance.shift_p_value:.2g}, alpha {limits.alpha:g}{_describe_power(performance, worse)})"
    )


def _describe_power(performance: PerformanceReport, worse: bool) -> str:
    """A clause on the smallest worsening that the window would have shown."""
    if worse or performance.smallest_shift is None:
        return ""
    return f"; this window can show a worsening of {performance.smallest_shift:.2g} or more"


def _explain_fall(
    performance: PerformanceReport | None,
    estimate: Estimate | None,
    names: tuple[str, ...],
    reasons: tuple[str, ...],
    limits: DiagnosisLimits,
) -> Diagnosis:
    """Diagnose a fall with moved inputs: harmful shift if the estimate from inputs explains it, else concept drift."""
    value = performance.metric(performance.primary) if performance else None
    expected = estimate.value if estimate else None
    if performance is None or value is None or expected is None or expected.name != value.name:
        unknown = "how much of it the inputs explain is unknown, because there is no estimate to compare with"
        return Diagnosis("harmful_covariate_shift", (*reasons, unknown), names)
    sign = -1 if value.higher_is_better else 1
    gap = sign * (value.value - expected.value)
    error = max(math.hypot(standard_error(value), standard_error(expected)), performance.noise or 0.0)
    p_value = float(scipy.stats.norm.sf(gap / error)) if error else float(gap <= 0)
    compared = (
        f"the inputs alone predict {expected.value:.4g}; the realised value is {gap:+.4g} worse than that "
        f"(p={p_value:.2g})"
    )
    kind: DiagnosisKind = "concept_drift" if p_value <= limits.alpha else "harmful_covariate_shift"
    return Diagnosis(kind, (*reasons, compared), names)


def _without_labels(
    evidence: WindowEvidence, estimate: Estimate | None, names: tuple[str, ...], inputs: str, limits: DiagnosisLimits
) -> Diagnosis:
    """Diagnose without labels: moved inputs are tested by the estimate; concept drift is not visible yet.

    The estimate is tested like a realised value, with the noise of windows and against the best past level, since it is
    learned from windows with the same noise.
    """
    drift, performance = evidence.drift, evidence.performance
    if drift is None or not drift.is_conclusive:
        return Diagnosis("insufficient_evidence", (inputs, "performance is not known yet"))
    if not names:
        return Diagnosis("none", (inputs, "performance is not known yet; concept drift would show once labels arrive"))
    level = performance.baseline if performance else None
    if performance is None or estimate is None or level is None or estimate.value.name != level.name:
        return Diagnosis(
            "insufficient_evidence",
            (inputs, "there are neither labels nor an estimate to show whether this harms performance"),
            names,
        )
    p_value = shift_p_value(estimate.value, level, noise_of(performance))
    harmful = p_value <= limits.alpha
    estimated = f"{describe_estimate(estimate)}, best past level {level.value:.4g} (p={p_value:.2g})"
    return Diagnosis("harmful_covariate_shift" if harmful else "harmless_covariate_shift", (inputs, estimated), names)


def _describe_inputs(drift: DriftReport | None, moved: list[FeatureDrift]) -> str:
    if drift is None:
        return "drift was not measured"
    if not drift.is_conclusive:
        return f"drift: insufficient, {drift.unknown_tests[0] if drift.unknown_tests else f'{drift.rows} rows'}"
    if not moved:
        return "no feature that the model uses drifted"
    worst = ", ".join(f"{feature.feature} ({feature.method} {feature.effect_size:.3g})" for feature in moved[:3])
    if len(moved) == 1:
        return f"1 feature that the model uses drifted: {worst}"
    return f"{len(moved)} features that the model uses drifted, most important first: {worst}"
