"""The records that travel between stages: what was seen, what was concluded, what was done.

Small and frozen, so that a stage can hand one to another process, an event or the ledger and get the same thing
back: `to_json` and `from_json` round-trip every record here. Frames and clients never travel.
All times are UTC and timezone-aware. Ids are derived from content, so doing a thing twice is doing it once.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter

from tasks.policy.economics import Usage

Record = TypeVar("Record")
Verdict = Literal["pass", "warn", "fail"]
DriftVerdict = Literal["drifted", "stable", "insufficient"]
USAGE = "usage"
"""Tag of a version that holds what making it used, as JSON."""
Maturity = Literal["open", "maturing", "closed"]
FeatureKind = Literal["numeric", "categorical", "boolean"]
DiagnosisKind = Literal[
    "none",
    "upstream_data_fault",
    "harmless_covariate_shift",
    "harmful_covariate_shift",
    "concept_drift",
    "insufficient_evidence",
]


@cache
def _adapter(record_type: type) -> TypeAdapter[Any]:
    return TypeAdapter(record_type)


def to_json(record: object) -> str:
    """Canonical JSON of a record: sorted keys, no spaces, so equal records hash alike."""
    kind: Any = type(record)
    plain = _adapter(kind).dump_python(record, mode="json")
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_json(record_type: type[Record], text: str | bytes) -> Record:
    """Read a record written by `to_json`. Raises pydantic.ValidationError on any mismatch."""
    kind: Any = record_type
    record: Record = _adapter(kind).validate_json(text)
    return record


def digest(*parts: str, length: int = 16) -> str:
    """Hex SHA-256 of the parts, joined so that ("ab", "c") and ("a", "bc") differ."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:length]


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A half-open interval [start, end) of production time, UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for bound in (self.start, self.end):
            if bound.utcoffset() != timedelta(0):
                raise ValueError(f"window bound {bound!r} is not in UTC; expected a timezone-aware UTC time")
        if self.end <= self.start:
            raise ValueError(f"window end {self.end} is not after its start {self.start}")

    @property
    def name(self) -> str:
        """As people write it and as paths and ids use it: `2013-05-01..2013-05-06`."""
        midnight = self.start.time() == self.end.time() == datetime.min.time()
        form = "%Y-%m-%d" if midnight else "%Y-%m-%dT%H%M%S"
        return f"{self.start:{form}}..{self.end:{form}}"

    @property
    def days(self) -> float:
        return (self.end - self.start) / timedelta(days=1)

    def next(self) -> "Window":
        return Window(self.end, self.end + (self.end - self.start))

    def split(self, days: float) -> Iterator["Window"]:
        """Consecutive windows of `days` inside this one; a remainder shorter than that is left out."""
        start, step = self.start, timedelta(days=days)
        while start + step <= self.end:
            yield Window(start, start + step)
            start += step


def utc(text: str) -> datetime:
    """Parse an ISO date or time; without a zone it is taken as UTC."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


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


@dataclass(frozen=True, slots=True)
class WindowEvidence:
    """All that was known of one window when it was judged; reports are None where a gate stopped the flow."""

    window: Window
    rows: int
    quality: QualityReport | None = None
    drift: DriftReport | None = None
    performance: PerformanceReport | None = None
    probes: tuple[ProbeColumn, ...] = ()
    """Windows on which probes were scored in this run: its own, and earlier ones that were not yet."""


@dataclass(frozen=True, slots=True)
class History:
    """What the policy may look back on: earlier windows, oldest first, and what was done about them.

    `performances` holds the latest report of each earlier window (late labels replace a maturing one by a closed one).
    `training_rows` is what the champion was trained on; `rows_since_training` what has landed since.
    """

    performances: tuple[PerformanceReport, ...] = ()
    evidence: tuple[WindowEvidence, ...] = ()
    retrained_at: tuple[datetime, ...] = ()
    champion_since: datetime | None = None
    trained_until: datetime | None = None
    training_rows: int = 0
    rows_since_training: int = 0
    learned: tuple[tuple[datetime, datetime], ...] = ()
    """Of each challenger, promoted or not: when it was made, and until when its training rows reach."""
    asked_at: tuple[datetime, ...] = ()
    """Ends of windows after which a retrain was asked for, apart from those that a budget refused."""
    spent_usd_this_month: float = 0.0
    usages: tuple[Usage, ...] = ()
    """What earlier iterations used, oldest first."""

    def revised(self, reports: Iterable[PerformanceReport]) -> "History":
        """The same history with these windows' reports in place of the earlier ones."""
        newer = {report.window: report for report in reports}
        return replace(self, performances=tuple(newer.get(old.window, old) for old in self.performances))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a retrain runs and why; `hours` is its forecast there, None where the place's speed is unknown."""

    place: str
    kind: Literal["dedicated", "serverless"]
    rows: int
    hours: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """Retrain or not, and why. `decision_id` keys every write that follows, so acting twice is acting once."""

    decision_id: str
    model: str
    window: Window
    retrain: bool
    reasons: tuple[str, ...]
    diagnosis: DiagnosisKind = "none"
    triggers: tuple[str, ...] = ()
    blocked_by: str | None = None
    expected_value_usd: float | None = None
    expected_cost_usd: float | None = None
    would_change: tuple[str, ...] = ()
    placement: Placement | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the ledger keeps of one monitored window: the evidence, the decision, and earlier windows measured anew."""

    as_of: datetime
    champion: str
    evidence: WindowEvidence
    decision: Decision
    revised: tuple[PerformanceReport, ...] = ()
    diagnosis_reasons: tuple[str, ...] = ()
    estimate: MetricValue | None = None
    """What the inputs alone let expect of the primary metric, without the window's labels."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A registered model: where it is, what it was trained on, which decision asked for it."""

    model: str
    version: str
    run_id: str
    decision_id: str
    trained: Window
    training_rows: int
    sha256: str
    tags: tuple[tuple[str, str], ...] = field(default=())


def scoring_id(model: str, window: Window) -> str:
    """Keys what is written when a window is scored: a window is served once."""
    return digest(model, "score", window.name)


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
class ValidationReport:
    challenger: str
    champion: str | None
    verdict: Verdict
    differences: tuple[MetricDifference, ...]
    reasons: tuple[str, ...]
    rows: int
    first_model: bool = False


@dataclass(frozen=True, slots=True)
class Promotion:
    """Aliases after a move: who serves now and who was replaced."""

    model: str
    decision_id: str
    champion: str
    previous: str | None
    action: Literal["promoted", "rolled_back", "unchanged"]
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One fact. `previous_hash` names the entry before it, which makes the ledger a chain."""

    model: str
    sequence: int
    kind: str
    at: datetime
    decision_id: str | None
    actor: str
    body: str
    previous_hash: str
    lease: Annotated[int | None, Field(exclude_if=lambda token: token is None)] = None
    """Fencing token of the run that wrote it, where it held the model's lease."""

    @property
    def hash(self) -> str:
        return digest(to_json(self), length=64)
