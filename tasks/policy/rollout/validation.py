"""Decide whether a challenger may replace the champion, from both models' results on the same unseen rows.

`decide_validation` gives the verdict. `why_not_promote` checks it again before a promotion, because a report may
contain `pass` with numbers that contradict it. Unknown fails. Non-inferiority as in Piaggio et al. (2012), JAMA
308:2594: the entire interval of the gain must be above minus the margin.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.policy.evidence.validation import GateEvidence, MetricDifference, PredictionHistogram, ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.model_gates.judgement import failed_measures, missing_gates, storable, summary
from tasks.policy.model_gates.limits import GateLimits
from tasks.policy.monitoring.slices import describe_fairness
from tasks.policy.records.base import Window
from tasks.policy.records.reports import MetricValue, Verdict
from tasks.policy.statistics.metrics import BOUNDED as BOUNDED_METRICS


class ValidationPolicy(GateLimits):
    """Requirements for a challenger, measured against the champion on rows that neither has seen."""

    holdout_days: float = Field(5, gt=0, examples=[14])
    """Days of the holdout: the latest rows whose labels are due. Neither of the compared models has learned from them."""
    min_rows: int = Field(300, ge=10, examples=[1000])
    """With fewer labelled rows in the holdout the challenger fails."""
    non_inferiority_margin: float | None = Field(None, ge=0, examples=[0.5])
    """Largest distance that the challenger's interval may reach below the champion, in units of the metric. Default:
    `non_inferiority_share` of the champion's metric."""
    non_inferiority_share: float = Field(0.02, ge=0, le=1, examples=[0.01])
    """The same margin as a share of the champion's metric, and at least 0.01 for metrics between 0 and 1."""
    min_gain: float | None = Field(None, examples=[0.1])
    """Mean gain that the challenger must show, in units of the metric. Default: it need only be no worse."""
    confidence: float = Field(0.95, gt=0.5, lt=1, examples=[0.99])
    """Confidence level of the paired intervals."""
    slices: tuple[str, ...] = Field((), examples=[["region"]])
    """Features in whose groups the challenger may not lose more than `slice_margin`."""
    slice_margin: float | None = Field(None, ge=0, examples=[1.0])
    """Largest significant loss in a slice, in units of the metric. Default: `slice_share` of the champion's metric."""
    slice_share: float = Field(0.05, ge=0, le=1, examples=[0.1])
    """The same as a share of the champion's metric in the slice, and at least 0.05 for metrics between 0 and 1."""
    slice_min_rows: int = Field(100, ge=10, examples=[300])
    """Slices with fewer rows are shown and not judged."""
    first_model_floor: float | None = Field(None, examples=[0.7])
    """Value of the primary metric that the first model must reach; it has no champion to compare with."""
    beats_constant: bool = Field(True, examples=[False])
    """Refuse a challenger that is significantly worse than the best constant prediction."""

    def margin(self, metric: str, champion: float) -> float:
        """Largest distance that the interval may reach below a champion with this value, in units of the metric."""
        return _margin(self.non_inferiority_margin, self.non_inferiority_share, metric, champion, 0.01)

    def margin_of_a_slice(self, metric: str, champion: float) -> float:
        """Largest loss on a slice with this value of the champion, in units of the metric."""
        return _margin(self.slice_margin, self.slice_share, metric, champion, 0.05)

    @property
    def margin_in_words(self) -> str:
        return _in_words(self.non_inferiority_margin, self.non_inferiority_share)

    @property
    def slice_margin_in_words(self) -> str:
        return _in_words(self.slice_margin, self.slice_share)


def _margin(given: float | None, share: float, metric: str, champion: float, least: float) -> float:
    if given is not None:
        return given
    return max(share * abs(champion), least if metric in BOUNDED_METRICS else 0.0)


def _in_words(given: float | None, share: float) -> str:
    return f"{given:g}" if given is not None else f"{share:.3g} of the champion's metric"


class PromotionPolicy(BaseModel):
    """Rules for promoting a validated challenger to champion."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    mode: Literal["automatic", "approval"] = Field("automatic", examples=["approval"])
    """`automatic` promotes at once; `approval` waits for a named person."""
    accept_warnings: bool = Field(False, examples=[True])
    """Promote a challenger whose validation ended with a warning."""
    probation_windows: int = Field(3, ge=0, le=20, examples=[5])
    """Windows in which a new champion that falls short is compared with the one it replaced; 0 turns probation off."""

    def accepts(self, verdict: Verdict) -> bool:
        """Whether a challenger with this verdict may be promoted."""
        return verdict == "pass" or (verdict == "warn" and self.accept_warnings)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Measurements of a validation. `faults` are reasons why the measurement is not valid; any one fails.

    With a champion `primary` is the paired difference; without one `first` is the challenger's own value.
    """

    challenger: ModelVersion
    champion: ModelVersion | None
    holdout: Window
    rows: int
    primary: MetricDifference | None = None
    slices: tuple[MetricDifference, ...] = ()
    protected: tuple[str, ...] = ()
    """Slice columns whose groups are reported."""
    first: MetricValue | None = None
    faults: tuple[str, ...] = ()
    constant: MetricDifference | None = None
    """Comparison of the challenger with the best constant prediction on these rows."""
    remarks: tuple[str, ...] = ()
    """Unusual facts about its training."""
    challenger_predictions: PredictionHistogram | None = None
    champion_predictions: PredictionHistogram | None = None
    gates: GateEvidence | None = None
    """Measurements of the gates beside the primary metric; None where only that is compared."""


def decide_validation(policy: ValidationPolicy, comparison: Comparison) -> ValidationReport:
    """The verdict on a challenger, with reasons in sentences. Pure: the same comparison gives the same verdict."""
    champion = comparison.champion
    failures = [*comparison.faults, *seen_before(comparison)]
    if comparison.rows < policy.min_rows:
        failures.append(
            f"{comparison.rows} labelled rows to validate on, expected at least {policy.min_rows}; wait for labels, or hold "
            "out more days (validation.holdout_days)"
        )
    failures += worse_than_a_constant(policy, comparison.constant)
    remarks = _no_better_than_a_constant(comparison.constant)
    warnings: list[str] = []
    differences = tuple(item for item in (comparison.primary, *comparison.slices) if item is not None)
    finite = tuple(item for item in differences if _is_finite(item))
    if champion is None:
        reached = _reaches_floor(policy, comparison.first)
        (remarks if reached else failures).append(_first_text(policy, comparison.first))
    elif comparison.primary is None:
        failures.append("the primary metric was not measured, so nothing shows that the challenger is no worse")
    else:
        failures += failed_gates(policy, differences)
        warnings += doubts(policy, finite)
        remarks.append(_gain_text(policy, comparison.primary))
        large = (item for item in comparison.slices if item.rows >= policy.slice_min_rows)
        remarks += [_undefined_text(item) for item in large if _is_undefined(item)]
        margin = policy.margin_of_a_slice(comparison.primary.name, comparison.primary.champion)
        least = (policy.slice_min_rows, margin)
        remarks += [describe_fairness(column, comparison.slices, *least) for column in comparison.protected]
    failures += failed_blessings(policy, comparison.gates)
    remarks += summary(policy, comparison.gates) if comparison.gates else []
    verdict: Verdict = "fail" if failures else "warn" if warnings else "pass"
    return ValidationReport(
        challenger=comparison.challenger.version,
        champion=champion.version if champion else None,
        verdict=verdict,
        differences=finite,
        reasons=(*failures, *warnings, *remarks, *comparison.remarks),
        rows=comparison.rows,
        first_model=champion is None,
        constant=comparison.constant,
        challenger_predictions=comparison.challenger_predictions,
        champion_predictions=comparison.champion_predictions,
        gates=storable(comparison.gates) if comparison.gates else None,
    )


def as_adopted(report: ValidationReport, version: ModelVersion) -> ValidationReport:
    """The report on a model that was trained elsewhere: what it does not pass is a warning, for a person decided to use it."""
    source = dict(version.tags).get("adopted_from", "elsewhere")
    unknown = (
        f"adopted from {source}: which rows it was trained on is not known here, so it may have seen the {report.rows} rows of "
        "this comparison"
    )
    verdict: Verdict = "pass" if report.verdict == "pass" else "warn"
    return replace(report, verdict=verdict, reasons=(*report.reasons, unknown))


def worse_than_a_constant(policy: ValidationPolicy, constant: MetricDifference | None) -> list[str]:
    """A sentence if the challenger is significantly worse than a constant prediction, else an empty list."""
    if not policy.beats_constant or constant is None or not constant.high < 0:
        return []
    return [
        f"{constant.name} {constant.challenger:.4g} is worse than {constant.champion:.4g}, which a constant prediction "
        f"reaches on the same {constant.rows} rows (gain {_interval(constant)}); it has learned nothing that applies there, or "
        "the labels changed their meaning or unit (validation.beats_constant)"
    ]


def _no_better_than_a_constant(constant: MetricDifference | None) -> list[str]:
    """A sentence if it is not significantly better than a constant; no failure: accuracy of rare classes cannot be."""
    if constant is None or not constant.low <= 0 <= constant.high:
        return []
    return [
        f"{constant.name} {constant.challenger:.4g} is not significantly better than {constant.champion:.4g}, "
        f"which a constant prediction reaches on the same rows (gain {_interval(constant)})"
    ]


def seen_before(comparison: Comparison) -> list[str]:
    """Why these rows are not valid evidence: a model was trained on some of them, or is compared with itself."""
    found = []
    for role, version in (("challenger", comparison.challenger), ("champion", comparison.champion)):
        if version is not None and version.trained.end > comparison.holdout.start:
            found.append(
                f"{role} {version.version} was trained until {version.trained.end:%Y-%m-%d %H:%M}, after the first "
                f"validation row ({comparison.holdout.start:%Y-%m-%d %H:%M}); expected rows that neither model has seen"
            )
    if comparison.champion is not None and comparison.champion.version == comparison.challenger.version:
        found.append(f"version {comparison.challenger.version} is the champion itself, so there is nothing to compare")
    return found


def failed_gates(policy: ValidationPolicy, differences: tuple[MetricDifference, ...]) -> list[str]:
    """One sentence for each gate that these differences fail; empty if all pass."""
    found = []
    for item in differences:
        if item.slice_name is not None and (item.rows < policy.slice_min_rows or _is_undefined(item)):
            continue
        if not _is_finite(item):
            found.append(f"{_where(item)} is not a finite number, so nothing shows that the challenger is no worse")
        elif item.slice_name is not None:
            accepted = policy.margin_of_a_slice(item.name, item.champion)
            if item.high < -accepted:
                found.append(
                    f"{_where(item)} loses {-item.gain:.4g} ({_interval(item)}) on {item.rows} rows, "
                    f"more than the accepted {accepted:.4g}"
                )
        else:
            accepted = policy.margin(item.name, item.champion)
            if item.low < -accepted:
                found.append(
                    f"{_where(item)}: gain {_signed(item.gain)} ({_interval(item)}), the interval reaches below the "
                    f"non-inferiority margin of {_margin_text(policy, item)}"
                )
            if policy.min_gain is not None and item.gain < policy.min_gain:
                found.append(f"{_where(item)}: gain {_signed(item.gain)}, expected at least {policy.min_gain:g}")
    return found


def failed_blessings(policy: ValidationPolicy, gates: GateEvidence | None) -> list[str]:
    """One sentence for each gate beside the primary metric that fails, and for each that nothing was measured for."""
    if gates is None:
        return []
    found = failed_measures(policy, gates.measures) + missing_gates(gates)
    return found + [f"found slice: {reason}" for reason in failed_gates(policy, gates.slices)]


def worse_than_validated(policy: ValidationPolicy, difference: MetricDifference) -> list[str]:
    """A sentence if the refitted model is worse than the validated one on the holdout, which it has seen; else empty."""
    missed = failed_gates(policy.model_copy(update={"min_gain": None}), (difference,))
    return [f"the refitted model is worse than the validated one: {reason}" for reason in missed]


def doubts(policy: ValidationPolicy, differences: tuple[MetricDifference, ...]) -> list[str]:
    """Sentences on slices worth a review although every gate passed."""
    return [
        f"{_where(item)} may lose {-item.gain:.4g} ({_interval(item)}) on {item.rows} rows; not significant"
        for item in differences
        if item.slice_name is not None
        and item.rows >= policy.slice_min_rows
        and item.gain < -policy.margin_of_a_slice(item.name, item.champion) <= item.high
    ]


def why_not_promote(
    validation_policy: ValidationPolicy,
    promotion_policy: PromotionPolicy,
    challenger: ModelVersion,
    champion: str | None,
    validation: ValidationReport,
) -> str | None:
    """Why this report does not allow this challenger to replace this champion now; None if it does."""
    if not promotion_policy.accepts(validation.verdict):
        return f"validation says {validation.verdict} ({validation.reasons[0] if validation.reasons else 'no reason'})"
    if validation.challenger != challenger.version:
        return f"validation is for version {validation.challenger}, not for {challenger.version}"
    if validation.champion != champion:
        return (
            f"validation compared with {_named(validation.champion)}, but now {_named(champion)} serves; validate again"
        )
    if validation.rows < validation_policy.min_rows:
        return f"validation saw {validation.rows} rows, expected at least {validation_policy.min_rows}"
    if champion is not None and not any(item.slice_name is None for item in validation.differences):
        return "validation has no difference on the primary metric"
    if champion is None and not validation.first_model:
        return "validation is not for a first model, but no version serves; validate again"
    missed = worse_than_a_constant(validation_policy, validation.constant)
    missed += failed_gates(validation_policy, validation.differences) if champion is not None else []
    missed += failed_blessings(validation_policy, validation.gates)
    refitted = validation.refit.difference if validation.refit else None
    missed += worse_than_validated(validation_policy, refitted) if refitted else []
    return f"validation says {validation.verdict}, but {missed[0]}" if missed else None


def _reaches_floor(policy: ValidationPolicy, first: MetricValue | None) -> bool:
    if first is None or not math.isfinite(first.value):
        return False
    if policy.first_model_floor is None:
        return True
    above = first.value >= policy.first_model_floor
    return above if first.higher_is_better else first.value <= policy.first_model_floor


def _first_text(policy: ValidationPolicy, first: MetricValue | None) -> str:
    if first is None or not math.isfinite(first.value):
        return "first model: the primary metric is undefined on these rows"
    interval = f"{first.low:.4g} to {first.high:.4g}" if math.isfinite(first.low) else "interval unknown"
    measured = f"first model: {first.name} {first.value:.4g} ({interval}) on {first.rows} rows"
    if policy.first_model_floor is None:
        return f"{measured}; no floor is set and there is no champion to compare with"
    bound = "at least" if first.higher_is_better else "at most"
    return f"{measured}, expected {bound} {policy.first_model_floor:g}"


def _gain_text(policy: ValidationPolicy, item: MetricDifference) -> str:
    p_value = "" if item.p_value is None else f", McNemar p={item.p_value:.2g}"
    return (
        f"{item.name}: challenger {item.challenger:.4g}, champion {item.champion:.4g}, gain {item.gain:+.4g} "
        f"({_interval(item)}) on {item.rows} rows, margin {_margin_text(policy, item)}{p_value}"
    )


def _margin_text(policy: ValidationPolicy, item: MetricDifference) -> str:
    margin = policy.margin(item.name, item.champion)
    accepted = f"-{margin:.4g} {item.name}"
    if policy.non_inferiority_margin is not None:
        return accepted
    at_least = margin > policy.non_inferiority_share * abs(item.champion)
    return f"{accepted} ({'the minimum, more than ' if at_least else ''}{policy.non_inferiority_share:.3g} of the champion's)"


def _is_finite(item: MetricDifference) -> bool:
    return all(math.isfinite(value) for value in (item.champion, item.challenger, item.gain, item.low, item.high))


def _is_undefined(item: MetricDifference) -> bool:
    """Whether these rows define no difference for either model, such as the AUC on a slice of a single class."""
    values, bounds = (item.champion, item.challenger), (item.low, item.high)
    return all(map(math.isnan, values)) or (all(map(math.isfinite, values)) and any(map(math.isnan, bounds)))


def _undefined_text(item: MetricDifference) -> str:
    return f"{_where(item)} is not compared: the metric is undefined on its {item.rows} rows"


def _where(item: MetricDifference) -> str:
    return item.name if item.slice_name is None else f"{item.name} of {item.slice_name}"


def _interval(item: MetricDifference) -> str:
    return f"{_signed(item.low)} to {_signed(item.high)}"


def _signed(value: float) -> str:
    return f"{value + 0.0:+.4g}"  # adding zero turns minus zero into zero


def _named(version: str | None) -> str:
    return "no champion" if version is None else f"champion {version}"
