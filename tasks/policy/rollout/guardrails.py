"""Guardrails of a rollout: limits that return all traffic to the champion in the run that finds them breached."""

from dataclasses import dataclass

from pydantic import Field

from tasks.policy.records.base import Settings, Window


class Guardrails(Settings):
    """Limits on a challenger while it is rolled out; any breach ends the rollout and quarantines the version."""

    max_error_share: float = Field(0.01, ge=0, le=1, examples=[0.001])
    """Largest share of rows that the challenger fails to answer or refuses, beyond those that the champion refuses."""
    max_latency_ratio: float = Field(2.0, gt=1, examples=[1.5])
    """Largest ratio of the challenger's 95th percentile latency to the champion's, measured in the same process."""
    max_missing_share: float = Field(0.0, ge=0, le=1, examples=[0.001])
    """Largest share of predictions that are missing or not finite."""
    max_constant_share: float = Field(0.99, gt=0, le=1, examples=[0.9])
    """Largest share of rows with the same prediction, where the champion's predictions are not as constant."""
    max_confidence_psi: float = Field(0.5, gt=0, examples=[0.25])
    """Largest population stability index of the predictions against those at validation, beyond the champion's own."""
    max_calibration_loss: float = Field(0.05, gt=0, le=1, examples=[0.02])
    """Largest increase of the expected calibration error over the champion's, once labels mature."""
    slices: bool = Field(True, examples=[False])
    """Whether the metric is also compared in each of `validation.slices` and `columns.protected`."""


@dataclass(frozen=True, slots=True)
class ArmStatistics:
    """What one version's answers in one window looked like, without labels.

    `histogram` has the shares of predictions in the bins of the version's own predictions at validation.
    """

    version: str
    rows: int
    refused: int = 0
    missing: int = 0
    most_common_share: float = 0.0
    latency_p95_s: float | None = None
    histogram: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class GuardrailEvidence:
    """Both versions' answers in the windows of the current step."""

    window: Window
    champion: ArmStatistics
    challenger: ArmStatistics


@dataclass(frozen=True, slots=True)
class Breach:
    """A guardrail that the challenger breached, and why, in a sentence."""

    guardrail: str
    reason: str
