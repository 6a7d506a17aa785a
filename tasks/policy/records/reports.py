"""What was measured of one window: its rows, its data checks, its drift, its performance."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tasks.policy.records.base import Window

JointVerdict = Literal["drifted", "stable", "insufficient", "error"]


@dataclass(frozen=True, slots=True)
class JointDrift:
    """Area under the curve with its interval, 0.5 when the classifier cannot tell; None with too few rows."""

    verdict: JointVerdict
    threshold: float
    rows: int
    """Of the smaller side; a bounded sample."""
    auc: float | None = None
    low: float | None = None
    high: float | None = None
    features: tuple[str, ...] = ()
    """What the classifier went by, most used first."""


Verdict = Literal["pass", "warn", "fail"]
DriftVerdict = Literal["drifted", "stable", "insufficient"]
Maturity = Literal["open", "maturing", "closed"]
FeatureKind = Literal["numeric", "categorical", "boolean"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Rows of one window in a Delta table at one version; with labels as known at `as_of` when it is labelled.

    A labelled snapshot may span many landed windows; those named in `excluding` (quarantined) are left out of it.
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
    """One expectation and how the window met it. `failing_rows` counts; raw values are never carried."""

    name: str
    column: str | None
    verdict: Verdict
    expected: str
    observed: str
    failing_rows: int = 0


@dataclass(frozen=True, slots=True)
class QualityReport:
    window: Window
    verdict: Verdict
    rows: int
    checks: tuple[QualityCheck, ...]
    failing_rows: int
    reasons: tuple[str, ...]
    report_uri: str | None = None


@dataclass(frozen=True, slots=True)
class LabelReport:
    """Whether a window's labels can be trusted, as known when they were measured (`label_quality.py`)."""

    window: Window
    verdict: Verdict
    checks: tuple[QualityCheck, ...]
    reasons: tuple[str, ...]
    """A sentence for each check that warns or fails, the failed ones first."""


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """How far one feature moved from the reference.

    `effect_size` is the deciding number, on the scale of `method`; `p_value` confirms, `q_value` is it after
    Benjamini-Hochberg over the features. `mean_shift_sigma` and `std_shift_sigma` are in reference σ; None where the
    kind of feature has no such number.
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
    """How far this feature moved the mean prediction since training, by SHAP values on the margin."""
    suspicion: str | None = None
    """What looks as if its feed were broken, in words."""
    suspicion_sure: bool = False
    """Whether that speaks whatever other features do; else only where they stand still."""
    suspicion_possible: bool = False
    """Whether it is a possibility only, which stops nothing."""
    smallest_effect: float | None = None
    """What these rows would have shown four times of five; None where the effect size alone was not judged."""
    rows_needed: int | None = None
    """Rows that would show an effect at the limit, where these would not and any number would."""

    @property
    def is_underpowered(self) -> bool:
        """Enough rows to be measured, too few to say that it stands still."""
        return self.verdict == "insufficient" and (self.smallest_effect or 0.0) > self.threshold


@dataclass(frozen=True, slots=True)
class FeatureOpinion:
    """What Evidently finds of one feature on the sample.

    `effect` is its score on the scale of `limit`. `low` and `high` bound it at 99 % under resampling; they are computed for
    the largest disagreements only.
    """

    feature: str
    verdict: DriftVerdict
    method: str
    effect: float
    limit: float
    disagrees: bool = False
    """With the verdict on all rows, where both found drift or its absence."""
    low: float | None = None
    high: float | None = None

    @property
    def is_beyond_sampling_error(self) -> bool:
        """Whether the disagreement is more than the size of the sample explains."""
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
    """Why Evidently measured nothing; None where it did."""
    summary: str = ""
    """Both verdicts on the window side by side, in one sentence."""


FailsAs = Literal["warn", "drifted"]


@dataclass(frozen=True, slots=True)
class OwnTest:
    """A test of `drift.evidently` in the model's file, and how the window did."""

    metric: str
    passed: bool
    description: str
    fails_as: FailsAs = "warn"


@dataclass(frozen=True, slots=True)
class DriftReport:
    window: Window
    verdict: DriftVerdict
    features: tuple[FeatureDrift, ...]
    drifted_share: float
    reference_rows: int
    rows: int
    reasons: tuple[str, ...]
    report_uri: str | None = None
    explanation: str | None = None
    """Which drifted features moved the predictions, ranked; None where none did or SHAP values are not to be had."""
    joint: JointDrift | None = None
    """Whether the features moved together, by a classifier on a bounded sample; None where that was not looked at."""
    second_opinion: SecondOpinion | None = None
    """None in reports from before Evidently measured by itself."""
    own_tests: tuple[OwnTest, ...] = ()
    warnings: tuple[str, ...] = ()
    """Sentences that change no verdict: disagreements of Evidently, failed tests that warn, metrics not computed."""

    @property
    def says_something(self) -> bool:
        """Whether drift was judged, or seen in spite of too few rows to say of the others that they stand still."""
        return self.verdict != "insufficient" or any(feature.verdict == "drifted" for feature in self.features)

    @property
    def failed_as_drifted(self) -> tuple[OwnTest, ...]:
        """The user's failed tests that count as drift."""
        return tuple(test for test in self.own_tests if not test.passed and test.fails_as == "drifted")


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A metric with its interval; `low`/`high` bound it at `confidence`. Estimates without labels say so."""

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
    """How far earlier estimates without labels lay from what labels showed, over the windows that have closed since."""

    windows: int
    mean_absolute: float
    bias: float
    """Mean of realised less estimated."""
    within: int
    """Windows whose realised value lay in the estimate's interval."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds to score one batch of `rows`, over the batches of a window, and peak resident memory in MB."""

    p50_s: float
    p95_s: float
    p99_s: float
    peak_memory_mb: float


@dataclass(frozen=True, slots=True)
class Scoring:
    """The predictions of one version for one window, landed in the lake, and what making them took."""

    window: Window
    model_version: str
    snapshot: Snapshot
    rows: int
    latency: Latency


NEVER_SCORED = "no prediction was logged: run score before monitor; nothing is known of the rows"


@dataclass(frozen=True, slots=True)
class PerformanceReport:
    """What the serving model achieved on one window, with the labels known at `as_of`."""

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
    """Standard deviation of the primary metric of one window around its level, from earlier windows."""
    noise_windows: int | None = None
    """From how many closed windows that is known."""
    smallest_shift: float | None = None
    """The least worsening of the primary metric that this window would have shown, four times of five."""
    slices: tuple[SliceValue, ...] = ()
    """The primary metric by the values of `performance.slices`, of slices with enough labels."""
    undefined: str | None = None
    """Why the labels that are known define no value of the primary metric."""

    labels: LabelReport | None = None
    """Whether the labels can be trusted; None where none has come yet, and in records from before they were judged."""

    @property
    def has_sound_labels(self) -> bool:
        """Whether anything may be decided or learned by these labels."""
        return self.labels is None or self.labels.verdict != "fail"

    @property
    def completeness(self) -> float:
        return self.labelled_rows / self.rows if self.rows else 0.0

    def metric(self, name: str) -> MetricValue | None:
        return next((metric for metric in self.metrics if metric.name == name), None)


@dataclass(frozen=True, slots=True)
class ProbeColumn:
    """Losses on one window of small models (probes) by the time until which each had learned; lower is better.

    `champion_until` is the time until which the champion of that window had learned; None before service.
    """

    window: Window
    metric: str
    rows: int
    losses: tuple[tuple[datetime, float], ...]
    champion_until: datetime | None = None
