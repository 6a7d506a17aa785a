"""Measurements of one window: its rows, data checks, drift and performance."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from tasks.policy.records.base import Window, digest

JointVerdict = Literal["drifted", "stable", "insufficient", "error"]


@dataclass(frozen=True, slots=True)
class JointDrift:
    """AUC of the domain classifier with its interval, 0.5 if the rows are indistinguishable; None with too few rows."""

    verdict: JointVerdict
    threshold: float
    rows: int
    """Rows of the smaller side; a bounded sample."""
    auc: float | None = None
    low: float | None = None
    high: float | None = None
    features: tuple[str, ...] = ()
    """The features that the classifier uses most, in descending order."""


Verdict = Literal["pass", "warn", "fail"]
DriftVerdict = Literal["drifted", "stable", "insufficient"]
Maturity = Literal["open", "maturing", "closed"]
FeatureKind = Literal["numeric", "categorical", "boolean", "other"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Rows of one window in a Delta table at one version; a labelled one has the labels known at `as_of`.

    A labelled snapshot may span many stored windows; those named in `excluding` (quarantined) are left out.
    """

    uri: str
    version: int
    window: Window
    rows: int
    content_hash: str
    labels_uri: str | None = None
    labels_version: int | None = None
    labelled_rows: int | None = None
    as_of: datetime | None = None
    excluding: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QualityCheck:
    """One expectation and its result for the window. `failing_rows` is a count; raw values are never included."""

    name: str
    column: str | None
    verdict: Verdict
    expected: str
    observed: str
    failing_rows: int = 0


@dataclass(frozen=True, slots=True)
class QualityReport:
    """The verdict of the quality gate on one window, with its checks; `failing_rows` is a count."""

    window: Window
    verdict: Verdict
    rows: int
    checks: tuple[QualityCheck, ...]
    failing_rows: int
    reasons: tuple[str, ...]
    report_uri: str | None = None
    learned_suite_sha256: str | None = None
    """SHA-256 of the canonical JSON of the suite learned from the reference; None in older reports."""
    own_suite_sha256: str | None = None
    """The same for the owner's suite (`quality.suite`); None without one."""


@dataclass(frozen=True, slots=True)
class LabelReport:
    """Whether a window's labels can be trusted, as of the time they were measured (`label_quality.py`)."""

    window: Window
    verdict: Verdict
    checks: tuple[QualityCheck, ...]
    reasons: tuple[str, ...]
    """One sentence for each check that warns or fails, failures first."""
    own_suite_sha256: str | None = None
    """SHA-256 of the owner's suite (`quality.suite`), where some of its expectations read the label."""


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """Drift of one feature from the reference.

    `effect_size` decides, on the scale of `method`; `p_value` confirms, and `q_value` is the p-value after
    Benjamini-Hochberg over the features. `mean_shift_sigma` and `std_shift_sigma` are in reference σ. Values are None
    where they are not defined for the kind of feature.
    """

    feature: str
    kind: FeatureKind
    verdict: DriftVerdict
    method: str
    effect_size: float
    threshold: float
    p_value: float | None
    q_value: float | None
    ks: float | None = None
    wasserstein_sigma: float | None = None
    psi: float | None = None
    kl_divergence: float | None = None
    chi2: float | None = None
    mean_shift_sigma: float | None = None
    std_shift_sigma: float | None = None
    null_share: float = 0.0
    reference_null_share: float = 0.0
    unseen_share: float = 0.0
    importance: float | None = None
    prediction_shift: float | None = None
    """Change of the mean prediction since training due to this feature, from SHAP values on the margin."""
    suspicion: str | None = None
    """Signs of a broken feed, in words."""
    suspicion_sure: bool = False
    """Whether the suspicion holds whatever other features do; if not, it holds only where they are stable."""
    suspicion_possible: bool = False
    """Whether it is only a possibility, which blocks nothing."""
    smallest_effect: float | None = None
    """Smallest effect detectable with these rows at `drift.power`; None where only the effect size was judged."""
    rows_needed: int | None = None
    """Rows needed to detect an effect at the limit; None where these suffice or no number would."""

    @property
    def is_underpowered(self) -> bool:
        """Whether there are enough rows to measure, but too few to conclude that the feature is stable."""
        return self.verdict == "insufficient" and (self.smallest_effect or 0.0) > self.threshold


@dataclass(frozen=True, slots=True)
class FeatureOpinion:
    """Evidently's result for one feature of the sample.

    `effect` is its score on the scale of `limit`. `low` and `high` bound it at 99 % under resampling and are computed
    only for the largest disagreements.
    """

    feature: str
    verdict: DriftVerdict
    method: str
    effect: float
    limit: float
    disagrees: bool = False
    """Whether it disagrees with the verdict on all rows, where both found drift or its absence."""
    low: float | None = None
    high: float | None = None

    @property
    def is_beyond_sampling_error(self) -> bool:
        """Whether the disagreement exceeds what the sample size explains."""
        if self.low is None or self.high is None:
            return False
        return self.low > self.limit if self.verdict == "drifted" else self.high < self.limit


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """Evidently's own measurement of a bounded sample of the window against one of the reference."""

    verdict: DriftVerdict
    rows: int
    reference_rows: int
    drifted_share: float = 0.0
    features: tuple[FeatureOpinion, ...] = ()
    unavailable: str | None = None
    """Why Evidently measured nothing; None where it measured."""
    summary: str = ""
    """Both verdicts on the window in one sentence."""


FailsAs = Literal["warn", "drifted"]
"""Effect of a failed test of `drift.evidently`: `warn` reports it, `drifted` makes the window drifted."""


@dataclass(frozen=True, slots=True)
class OwnTest:
    """A test of `drift.evidently` in the model's file, and its result for the window."""

    metric: str
    passed: bool
    description: str
    fails_as: FailsAs = "warn"


@dataclass(frozen=True, slots=True)
class UncomputedTest:
    """A test of `drift.evidently` that gave no result, in a sentence that names its place in the model's file."""

    reason: str
    fails_as: FailsAs = "warn"


@dataclass(frozen=True, slots=True)
class DriftReport:
    """Drift of one window from the reference: the verdict, the features (worst first) and the drifted share."""

    window: Window
    verdict: DriftVerdict
    features: tuple[FeatureDrift, ...]
    drifted_share: float
    reference_rows: int
    rows: int
    reasons: tuple[str, ...]
    report_uri: str | None = None
    explanation: str | None = None
    """Drifted features that moved the predictions, ranked; None if no feature did, or if SHAP values are not available."""
    joint: JointDrift | None = None
    """Joint drift, measured by a classifier on a bounded sample; None where not measured."""
    second_opinion: SecondOpinion | None = None
    """Evidently's measurement; None in reports from before Evidently measured on its own."""
    own_tests: tuple[OwnTest, ...] = ()
    warnings: tuple[str, ...] = ()
    """Sentences that change no verdict: disagreements of Evidently, failed tests that warn, metrics not computed."""
    unknown_tests: tuple[str, ...] = ()
    """One sentence for each of the user's tests that counts as drift and was not computed: while there is one, the
    verdict is not `stable`."""

    @property
    def is_conclusive(self) -> bool:
        """Whether there is a drift verdict, or at least one drifted feature although others have too few rows."""
        return self.verdict != "insufficient" or any(feature.verdict == "drifted" for feature in self.features)

    @property
    def failed_as_drifted(self) -> tuple[OwnTest, ...]:
        """The user's failed tests that count as drift."""
        return tuple(test for test in self.own_tests if not test.passed and test.fails_as == "drifted")


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A metric with its interval (`low`, `high`) at `confidence`. `estimated` marks estimates without labels."""

    name: str
    value: float
    low: float
    high: float
    rows: int
    higher_is_better: bool
    confidence: float = 0.95
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class SliceValue:
    """The primary metric on the rows of one slice, named `origin=JFK`."""

    name: str
    value: MetricValue


@dataclass(frozen=True, slots=True)
class EstimateError:
    """Error of earlier estimates without labels against realised values, over the windows that have closed since."""

    windows: int
    mean_absolute: float
    bias: float
    """Mean of realised minus estimated."""
    within: int
    """Number of windows whose realised value was within the estimate's interval."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds to score one batch of `rows` rows, over the batches of a window, and peak resident memory in MB."""

    p50_s: float
    p95_s: float
    p99_s: float
    peak_memory_mb: float
    batches: Annotated[int, Field(exclude_if=lambda count: count == 0)] = 0
    """Number of batches that were timed; 0 in older records, which did not count them."""


@dataclass(frozen=True, slots=True)
class LatencyComparison:
    """Seconds that both versions took for the same batches of a window, in turn and in one process."""

    champion: tuple[float, ...]
    challenger: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ChallengerScoring:
    """A challenger's part in scoring a window: as a shadow it predicted every row, else the rows of its units."""

    version: str
    role: str
    step: str
    rows: int
    latency: Latency
    """Measured in the same process as the champion's, on batches of the same size."""
    compared: LatencyComparison | None = None
    """None in older records, and without rows."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """The predictions for one window, stored in the lake, and their latency. `model_version` is the champion."""

    window: Window
    model_version: str
    snapshot: Snapshot
    rows: int
    latency: Latency
    challenger: ChallengerScoring | None = None


NEVER_SCORED = "no predictions were logged (run score before monitor), so nothing is known about the rows"


@dataclass(frozen=True, slots=True)
class PerformanceReport:
    """Performance of the serving model on one window, with the labels known at `as_of`."""

    window: Window
    as_of: datetime
    model_version: str
    rows: int
    labelled_rows: int
    maturity: Maturity
    metrics: tuple[MetricValue, ...]
    primary: str
    confidence_histogram: tuple[float, ...] = ()
    latency: Latency | None = None
    baseline: MetricValue | None = None
    baseline_window: str | None = None
    shift_p_value: float | None = None
    noise: float | None = None
    """Standard deviation of a single window's primary metric around its level, from earlier windows."""
    noise_windows: int | None = None
    """Number of closed windows that `noise` was computed from."""
    smallest_shift: float | None = None
    """Smallest worsening of the primary metric that this window would have detected, at a power of 0.8."""
    slices: tuple[SliceValue, ...] = ()
    """The primary metric by values of `performance.slices`, for slices with enough labels."""
    undefined: str | None = None
    """Why the known labels do not define the primary metric; None where they do."""

    labels: LabelReport | None = None
    """Whether the labels can be trusted; None where none has arrived yet, and in older records."""

    @property
    def has_sound_labels(self) -> bool:
        """Whether these labels may be used for decisions and training."""
        return self.labels is None or self.labels.verdict != "fail"

    @property
    def completeness(self) -> float:
        return self.labelled_rows / self.rows if self.rows else 0.0

    def metric(self, name: str) -> MetricValue | None:
        return next((metric for metric in self.metrics if metric.name == name), None)


@dataclass(frozen=True, slots=True)
class ProbeColumn:
    """Losses of small models (probes) on one window, by the end of the training data of each; lower is better.

    `champion_until` is the end of the training data of that window's champion; None before the first champion.
    """

    window: Window
    metric: str
    rows: int
    losses: tuple[tuple[datetime, float], ...]
    champion_until: datetime | None = None


def scoring_id(model: str, window: Window) -> str:
    """Id that keys the writes of scoring a window; each window is scored once."""
    return digest(model, "score", window.name)
