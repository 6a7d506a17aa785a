"""Validation of a challenger: its differences from the champion, the measurements of the gates, and the verdict."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from tasks.policy.records.reports import Verdict


@dataclass(frozen=True, slots=True)
class MetricDifference:
    """Challenger minus champion on the same rows, signed so that positive is better, with a paired interval."""

    name: str
    champion: float
    challenger: float
    gain: float
    low: float
    high: float
    rows: int
    p_value: float | None = None
    slice_name: str | None = None


@dataclass(frozen=True, slots=True)
class PredictionHistogram:
    """A version's predictions at validation, counted in its own bins.

    A prediction is the probability of class 1 for two classes, the largest probability for more, and the value for a
    regression. `edges` separate the bins; bin i holds the predictions in (edge[i-1], edge[i]].
    """

    version: str
    edges: tuple[float, ...]
    shares: tuple[float, ...]
    """Share of the rows in each bin, one more than there are edges."""
    rows: int


GateName = Literal[
    "calibration",
    "churn",
    "fairness",
    "robustness",
    "no code",
    "loading",
    "answers",
    "malformed input",
    "latency",
    "memory",
]


@dataclass(frozen=True, slots=True)
class GateMeasure:
    """One number that a gate judges, the challenger's and the champion's, with the interval of their comparison.

    `value` is larger for a worse challenger, and `low` is what must not exceed the limit. `fault` says why the gate fails
    without a number, such as a failed measurement; `skipped` why it does not apply.
    """

    gate: GateName
    subject: str = ""
    champion: float | None = None
    challenger: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    rows: int = 0
    fault: str | None = None
    skipped: str | None = None


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Rows with similar predicted probabilities: the mean of these, and the share that occurred with its interval."""

    predicted: float
    observed: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True, slots=True)
class ReliabilityCurve:
    """How often a version's predicted probabilities came true, by ten bins of about equal counts."""

    version: str
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class GateEvidence:
    """What the gates of the metric and the infrastructure blessing measured; `slices` are those that an error tree found."""

    measures: tuple[GateMeasure, ...]
    slices: tuple[MetricDifference, ...] = ()
    curves: tuple[ReliabilityCurve, ...] = ()


@dataclass(frozen=True, slots=True)
class RefitCheck:
    """The verdict on a model that was fitted again with the holdout; `difference` is its gain over the validated one there."""

    verdict: Verdict
    difference: MetricDifference | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """The verdict on a challenger, its differences from the champion, and the reasons."""

    challenger: str
    champion: str | None
    verdict: Verdict
    differences: tuple[MetricDifference, ...]
    reasons: tuple[str, ...]
    rows: int
    first_model: bool = False
    constant: MetricDifference | None = None
    """Comparison of the challenger with the best constant prediction on the same rows."""
    challenger_predictions: Annotated[PredictionHistogram | None, Field(exclude_if=lambda found: found is None)] = None
    """The predictions that the guardrails of a rollout compare with; None in older reports."""
    champion_predictions: Annotated[PredictionHistogram | None, Field(exclude_if=lambda found: found is None)] = None
    gates: Annotated[GateEvidence | None, Field(exclude_if=lambda found: found is None)] = None
    """Measurements of the further gates; None in reports from before there were any."""
    refit: Annotated[RefitCheck | None, Field(exclude_if=lambda check: check is None)] = None
    """Check of the model that serves where it was fitted again with the holdout; None if the validated one serves."""
