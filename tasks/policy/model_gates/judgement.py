"""Judge the measures of the gates by the limits of the model's file, for the verdict and again before a promotion.

A gate fails if the lower bound of its measure exceeds the limit: a significant loss, beyond the margin. A gate without a
measure fails, unless it says why it does not apply.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import get_args

from tasks.policy.evidence.validation import GateEvidence, GateMeasure, GateName
from tasks.policy.model_gates.limits import GateLimits
from tasks.policy.model_gates.service import LATENCY_ALLOWANCE_MS, MEMORY_ALLOWANCE_MB
from tasks.policy.records.reports import Verdict

GATES: tuple[GateName, ...] = get_args(GateName)
SETTING: dict[GateName, str] = {
    "calibration": "max_calibration_loss",
    "churn": "max_churn",
    "fairness": "max_unfairness_increase",
    "robustness": "max_fragility",
    "latency": "max_latency_ratio",
    "memory": "max_memory_ratio",
}
"""The setting of `validation` that holds the limit of a gate; the others accept no fault at all."""
ALLOWANCE: dict[GateName, float] = {"latency": LATENCY_ALLOWANCE_MS, "memory": MEMORY_ALLOWANCE_MB}
"""Excess over the champion that passes whatever the ratio, in the unit of the measure."""


@dataclass(frozen=True, slots=True)
class GateRow:
    """One line of the table of gates."""

    gate: str
    subject: str
    champion: float | None
    challenger: float | None
    value: str
    limit: str
    verdict: Verdict | None
    """None for a gate that does not apply."""


def limit_of(limits: GateLimits, measure: GateMeasure) -> float | None:
    """The largest accepted value of a measure; None for a gate that only accepts no fault."""
    if measure.gate not in SETTING:
        return None
    limit = float(getattr(limits, SETTING[measure.gate]))
    if measure.gate in ALLOWANCE and measure.champion:
        return max(limit, 1 + ALLOWANCE[measure.gate] / measure.champion)
    return limit


def why_failed(limits: GateLimits, measure: GateMeasure) -> str | None:
    """Why this measure fails its gate; None if it passes, or if the gate does not apply."""
    if measure.fault:
        return f"{measure.gate}: {measure.fault}"
    if measure.skipped:
        return None
    bound = measure.value if measure.low is None else measure.low
    if bound is None or measure.value is None or not math.isfinite(bound):
        return f"{measure.gate}: {measure.subject} was not measured, so nothing shows that the challenger is no worse"
    limit = limit_of(limits, measure)
    if limit is None or bound <= limit:
        return None
    return f"{measure.gate}: {_text(measure)}, limit {limit:.3g} (validation.{SETTING[measure.gate]})"


def failed_measures(limits: GateLimits, measures: Iterable[GateMeasure]) -> list[str]:
    """One sentence for each measure that fails its gate."""
    return [reason for measure in measures if (reason := why_failed(limits, measure))]


def missing_gates(evidence: GateEvidence) -> list[str]:
    """A sentence if a gate has neither a measure nor a reason why it does not apply."""
    known = {measure.gate for measure in evidence.measures}
    missing = [name for name in GATES if name not in known]
    return [f"{', '.join(missing)}: not measured, so nothing shows that the challenger is no worse"] if missing else []


def storable(evidence: GateEvidence) -> GateEvidence:
    """The evidence without numbers that are not finite, which JSON has no form for; a measure without one still fails."""
    measures = tuple(map(_storable, evidence.measures))
    slices = (
        each
        for each in evidence.slices
        if all(map(math.isfinite, (each.champion, each.challenger, each.gain, each.low, each.high)))
    )
    return replace(evidence, measures=measures, slices=tuple(slices))


def _storable(measure: GateMeasure) -> GateMeasure:
    known = all(value is None or math.isfinite(value) for value in (measure.value, measure.low, measure.high))
    own = measure if known else replace(measure, value=None, low=None, high=None)
    return replace(own, champion=_finite(own.champion), challenger=_finite(own.challenger))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def summary(limits: GateLimits, evidence: GateEvidence) -> list[str]:
    """What passed in one sentence, and why each of the others does not apply."""
    applied = [measure for measure in evidence.measures if not measure.skipped]
    failed = {measure.gate for measure in applied if why_failed(limits, measure)}
    passed = dict.fromkeys(measure.gate for measure in applied if measure.gate not in failed)
    skipped: dict[str, list[str]] = {}
    for measure in evidence.measures:
        if measure.skipped:
            skipped.setdefault(measure.skipped, []).append(measure.gate)
    found = [f"gates passed: {', '.join(passed)}"] if passed else []
    return found + [f"{', '.join(dict.fromkeys(gates))}: {reason}" for reason, gates in skipped.items()]


def gate_rows(limits: GateLimits, evidence: GateEvidence) -> tuple[GateRow, ...]:
    """The table of the gates: what was measured, the limit, and the verdict."""
    return tuple(_row(limits, measure) for measure in evidence.measures)


def _row(limits: GateLimits, measure: GateMeasure) -> GateRow:
    limit, shown = limit_of(limits, measure), "" if measure.value is None else _value(measure)
    verdict: Verdict | None = None if measure.skipped else "fail" if why_failed(limits, measure) else "pass"
    return GateRow(
        measure.gate,
        _subject(measure),
        measure.champion,
        measure.challenger,
        shown,
        "none accepted" if limit is None else f"{limit:.3g}",
        verdict,
    )


def _subject(measure: GateMeasure) -> str:
    reason = measure.fault or measure.skipped
    return f"{measure.subject}: {reason}" if measure.subject and reason else reason or measure.subject


def _text(measure: GateMeasure) -> str:
    sides = ""
    if measure.champion is not None and measure.challenger is not None:
        sides = f": challenger {measure.challenger:.3g}, champion {measure.champion:.3g}"
    word = "ratio" if measure.gate in ALLOWANCE else "share" if measure.gate == "churn" else "increase"
    rows = f" on {measure.rows:,} rows" if measure.rows else ""
    return f"{measure.subject}{sides}, {word} {_value(measure)}{rows}"


def _value(measure: GateMeasure) -> str:
    interval = "" if measure.low is None or measure.high is None else f" ({measure.low:.3g} to {measure.high:.3g})"
    return f"{measure.value:.3g}{interval}"
