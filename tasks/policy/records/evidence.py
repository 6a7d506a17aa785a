"""Records passed between stages: evidence, decisions and actions.

They are small and frozen, and `to_json` and `from_json` round-trip each of them, so a stage can pass one to another
process, an event or the ledger. Data frames and clients are never passed. Measurements of a window are in `reports.py`,
JSON in `base.py`.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from tasks.policy.records.base import Window, digest, from_json, to_json, utc
from tasks.policy.records.events import RunMode
from tasks.policy.records.reports import (
    DriftReport,
    EstimateError,
    LabelReport,
    MetricValue,
    PerformanceReport,
    ProbeColumn,
    QualityReport,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class Usage:
    """Resources that one iteration used, from trigger to live."""

    rows: int
    wall_s: float
    cpu_s: float = 0.0
    peak_memory_mb: float = 0.0
    inferences: int = 0
    search_wall_s: Annotated[float, Field(exclude_if=lambda seconds: seconds == 0)] = 0.0
    """The part of `wall_s` that the search for better settings took."""
    search_cpu_s: Annotated[float, Field(exclude_if=lambda seconds: seconds == 0)] = 0.0

    @property
    def without_search(self) -> "Usage":
        """The same iteration without its search, whose cost depends on its budget instead of the rows."""
        wall_s, cpu_s = self.wall_s - self.search_wall_s, self.cpu_s - self.search_cpu_s
        return replace(self, wall_s=wall_s, cpu_s=cpu_s, search_wall_s=0.0, search_cpu_s=0.0)


USAGE = "usage"
"""Tag of a version that holds the resources its training used, as JSON."""
VALIDATED_UNTIL, VALIDATED_SHA256 = "validated_until", "validated_sha256"
"""Tags of a refitted version: the end of the rows of the model that was validated, and the SHA-256 of its files."""
OBSERVED = "observed_as"
"""Tag of a version of somebody else's service: its name in the service's log of predictions. It has no model file."""
LABELS_QUARANTINED, LABELS_SOUND = "labels.quarantined", "labels.sound"
"""Ledger entries for windows whose labels cannot be trusted, and for those whose labels are sound again."""
DiagnosisKind = Literal[
    "none",
    "upstream_data_fault",
    "harmless_covariate_shift",
    "harmful_covariate_shift",
    "concept_drift",
    "insufficient_evidence",
]


@dataclass(frozen=True, slots=True)
class WindowEvidence:
    """All evidence on one window at the time it was judged; a report is None where a gate stopped the flow."""

    window: Window
    rows: int
    quality: QualityReport | None = None
    drift: DriftReport | None = None
    performance: PerformanceReport | None = None
    probes: tuple[ProbeColumn, ...] = ()
    """Windows on which probes were scored in this run: the current one, and earlier ones not yet scored."""


@dataclass(frozen=True, slots=True)
class EarlierChampion:
    """A version that became champion at `since` and was never quarantined; its training data ends at `learned_until`."""

    version: str
    learned_until: datetime
    since: datetime


@dataclass(frozen=True, slots=True)
class History:
    """The policy's view of the past: earlier windows, oldest first, and the actions taken.

    `performances` holds the latest report of each earlier window (late labels turn a maturing report into a closed one).
    `training_rows` is the number of rows the champion was trained on; `rows_since_training` the number that arrived
    since.
    """

    performances: tuple[PerformanceReport, ...] = ()
    evidence: tuple[WindowEvidence, ...] = ()
    retrained_at: tuple[datetime, ...] = ()
    champion_since: datetime | None = None
    trained_until: datetime | None = None
    training_rows: int = 0
    rows_since_training: int = 0
    learned: tuple[tuple[datetime, datetime], ...] = ()
    """For each challenger, promoted or not: when it was created, and the end of its training rows."""
    returnable: tuple[EarlierChampion, ...] = ()
    """Earlier champions that may be restored."""
    asked_at: tuple[datetime, ...] = ()
    """Ends of windows after which a retrain was requested, except for requests that a budget refused."""
    spent_usd_this_month: float = 0.0
    usages: tuple[Usage, ...] = ()
    """Resources that earlier iterations used, oldest first."""
    estimates: tuple[tuple[Window, MetricValue], ...] = ()
    """Estimated metrics of earlier windows, made before their labels arrived."""
    unresolved: str | None = None
    """A sentence, set when earlier retrains have not brought the metric of the latest windows back within its limit."""
    rollout: str | None = None
    """A sentence, set while a challenger is rolled out; it is not overtaken by another one before its verdict."""

    def revised(self, reports: Iterable[PerformanceReport]) -> "History":
        """The same history with these reports in place of the earlier ones of their windows."""
        newer = {report.window: report for report in reports}
        return replace(self, performances=tuple(newer.get(old.window, old) for old in self.performances))


@dataclass(frozen=True, slots=True)
class Placement:
    """The place where a retrain runs, with reasons; `hours` is its forecast duration, None where the place's speed is unknown."""

    place: str
    kind: Literal["dedicated", "serverless"]
    rows: int
    hours: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to retrain, and why. `decision_id` keys every write that follows, which makes repeated actions idempotent."""

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
    go_back_to: str | None = None
    """An earlier version to restore; set only when that was decided instead of a retrain."""
    unresolved: Annotated[str | None, Field(exclude_if=lambda sentence: sentence is None)] = None
    """A sentence, set when earlier retrains did not bring the metric back within its limit: action required."""
    details: tuple[str, ...] = ()
    """The policy's own numbers, in sentences."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The ledger's record of one monitored window: evidence, decision, and revised reports of earlier windows."""

    as_of: datetime
    champion: str
    evidence: WindowEvidence
    decision: Decision
    revised: tuple[PerformanceReport, ...] = ()
    diagnosis_reasons: tuple[str, ...] = ()
    estimate: MetricValue | None = None
    """Estimate of the primary metric from the inputs alone, without the window's labels."""
    estimate_error: EstimateError | None = None
    """Error of earlier estimates; None while no estimated window has closed."""
    backfilled: bool = False
    """True for a judgement made by a back-fill: its decision is recorded and never handed over."""
    registry_changes: tuple[str, ...] = ()
    """Changes to the registry that were not made by Perennial, one sentence each."""
    online: Annotated[str | None, Field(exclude_if=lambda sentence: sentence is None)] = None
    """What the online corrector does, in a sentence; None without `training.online`."""


def latest_performances(judgements: Iterable[Judgement]) -> tuple[PerformanceReport, ...]:
    """The newest report of each window, oldest window first."""
    latest: dict[Window, PerformanceReport] = {}
    for judgement in judgements:
        own = (judgement.evidence.performance,) if judgement.evidence.performance else ()
        latest.update({report.window: report for report in (*own, *judgement.revised)})
    return tuple(latest[window] for window in sorted(latest))


def label_reports(reports: Iterable[PerformanceReport]) -> tuple[LabelReport, ...]:
    """The label reports of these windows, oldest first."""
    found = {report.window: report.labels for report in reports if report.labels}
    return tuple(found[window] for window in sorted(found))


def newest_labels(
    evidence: WindowEvidence, history: History, revised: Iterable[PerformanceReport] = ()
) -> LabelReport | None:
    """The latest label report of this window or an earlier one; None without any."""
    past = (report for report in history.revised(revised).performances if report.window <= evidence.window)
    found = label_reports((*past, *((evidence.performance,) if evidence.performance else ())))
    return found[-1] if found else None


@dataclass(frozen=True, slots=True)
class LabelVerdicts:
    """Label reports of windows whose labels cannot be trusted, or are sound again, as the ledger records them."""

    reports: tuple[LabelReport, ...]


def windows_in_doubt(entries: Iterable["LedgerEntry"]) -> tuple[str, ...]:
    """Names of the windows whose labels cannot be trusted, from ledger entries in ledger order."""
    doubted: dict[str, bool] = {}
    for entry in entries:
        if entry.kind in (LABELS_QUARANTINED, LABELS_SOUND):
            for report in from_json(LabelVerdicts, entry.body).reports:
                doubted[report.window.name] = entry.kind == LABELS_QUARANTINED
    return tuple(sorted(name for name, in_doubt in doubted.items() if in_doubt))


def windows_to_exclude(entries: Sequence["LedgerEntry"], as_of: datetime) -> tuple[str, ...]:
    """Names of the windows excluded from training and judgement: quarantined, or with labels that cannot be trusted."""
    failed = (from_json(QualityReport, entry.body) for entry in entries if entry.kind == "window.quarantined")
    in_doubt = windows_in_doubt(entry for entry in entries if entry.at <= as_of)
    return tuple(dict.fromkeys((*(report.window.name for report in failed), *in_doubt)))


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A registered model: its run, its training data and the decision that requested it."""

    model: str
    version: str
    run_id: str
    decision_id: str
    trained: Window
    training_rows: int
    sha256: str
    tags: tuple[tuple[str, str], ...] = field(default=())
    part: Annotated[Literal["serving", "validated"], Field(exclude_if=lambda part: part == "serving")] = "serving"
    """The model of this version that is meant: the one that serves, or the one that validation judged before the refit."""

    @property
    def is_refitted(self) -> bool:
        """Whether it was fitted once more with the holdout's rows, after the model that validation judges."""
        return VALIDATED_SHA256 in dict(self.tags)

    def before(self, start: datetime) -> "ModelVersion":
        """The version's model that has not seen rows from `start` on: the one that serves, else the validated one."""
        if self.trained.end <= start or not self.is_refitted:
            return self
        tags = dict(self.tags)
        trained = Window(self.trained.start, utc(tags[VALIDATED_UNTIL]))
        return replace(self, trained=trained, sha256=tags[VALIDATED_SHA256], part="validated")

    @property
    def observed_as(self) -> str | None:
        """The version's name in the log of the service that has it; None for a version with a model file."""
        return dict(self.tags).get(OBSERVED)


def scoring_id(model: str, window: Window) -> str:
    """Id that keys the writes of scoring a window; each window is scored once."""
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


@dataclass(frozen=True, slots=True)
class Promotion:
    """Aliases after a move: the new champion and the one it replaced."""

    model: str
    decision_id: str
    champion: str
    previous: str | None
    action: Literal["promoted", "rolled_back", "unchanged"]
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact to append to a model's ledger; `body` is a record or text."""

    kind: str
    body: object
    at: datetime
    decision_id: str | None = None
    actor: str = "perennial"


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """One fact. `previous_hash` is the hash of the entry before it, which makes the ledger a chain."""

    model: str
    sequence: int
    kind: str
    at: datetime
    decision_id: str | None
    actor: str
    body: str
    previous_hash: str
    lease: Annotated[int | None, Field(exclude_if=lambda token: token is None)] = None
    """Fencing token of the run that wrote the entry, where it held the model's lease."""
    format: Annotated[int, Field(exclude_if=lambda number: number == 1)] = 1
    """`FORMAT` of the Perennial that wrote the entry."""

    @property
    def hash(self) -> str:
        return digest(to_json(self), length=64)


@dataclass(frozen=True, slots=True)
class Past:
    """A model's ledger entries from a single read, oldest first. A run loads them once and passes them on."""

    entries: tuple[LedgerEntry, ...] = ()

    def of(self, *kinds: str) -> tuple[LedgerEntry, ...]:
        """The entries of these kinds."""
        return tuple(entry for entry in self.entries if entry.kind in kinds)

    def holds(self, decision_id: str, kinds: Collection[str]) -> bool:
        """Whether an entry of one of these kinds exists for the decision."""
        return any(entry.decision_id == decision_id and entry.kind in kinds for entry in self.entries)

    def extended(self, added: Sequence[LedgerEntry]) -> "Past":
        """This past plus the entries that the run has recorded since."""
        known = {entry.sequence for entry in self.entries}
        return Past((*self.entries, *(entry for entry in added if entry.sequence not in known)))


@dataclass(frozen=True, slots=True)
class MonitorRun:
    """The state that one run of `monitor` starts from: loaded once and passed to every stage."""

    window: Window
    as_of: datetime
    """Data that became available after this time is not read."""
    champion: ModelVersion
    history: History
    past: Past
    mode: RunMode = RunMode.LIVE
    registry_changes: tuple[str, ...] = ()
    """Changes to the model's aliases and versions that were not made by Perennial, one sentence each."""

    def with_labels(self, revised: Sequence[PerformanceReport]) -> "MonitorRun":
        """This run with the revised reports of earlier windows."""
        return replace(self, history=self.history.revised(revised))

    def extended(self, recorded: Sequence[LedgerEntry]) -> "MonitorRun":
        """This run with the entries that it has recorded itself."""
        return replace(self, past=self.past.extended(recorded))
