"""Records that travel between stages: evidence, decision and what was done.

Small and frozen, so a stage can pass one to another process, an event or the ledger: `to_json` and `from_json` round-trip
every record here. Frames and clients never travel. Measurements of a window are in `reports.py`, the JSON of records in
`base.py`.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from tasks.policy.records.base import Window, digest, from_json, to_json
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
    """What one iteration used, from trigger to live."""

    rows: int
    wall_s: float
    cpu_s: float = 0.0
    peak_memory_mb: float = 0.0
    inferences: int = 0


USAGE = "usage"
"""Tag of a version that holds what making it used, as JSON."""
LABELS_QUARANTINED, LABELS_SOUND = "labels.quarantined", "labels.sound"
"""Ledger entries on windows whose labels cannot be trusted, and on those of which they can be again."""
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
    """All that was known of one window when it was judged; reports are None where a gate stopped the flow."""

    window: Window
    rows: int
    quality: QualityReport | None = None
    drift: DriftReport | None = None
    performance: PerformanceReport | None = None
    probes: tuple[ProbeColumn, ...] = ()
    """Windows on which probes were scored in this run: its own, and earlier ones that were not yet."""


@dataclass(frozen=True, slots=True)
class Served:
    """A version that was champion from `since` on and was never quarantined; it had learned until `learned_until`."""

    version: str
    learned_until: datetime
    since: datetime


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
    returnable: tuple["Served", ...] = ()
    """Earlier champions that may serve again."""
    asked_at: tuple[datetime, ...] = ()
    """Ends of windows after which a retrain was requested, apart from those that a budget refused."""
    spent_usd_this_month: float = 0.0
    usages: tuple[Usage, ...] = ()
    """What earlier iterations used, oldest first."""
    estimates: tuple[tuple[Window, MetricValue], ...] = ()
    """What was expected of earlier windows before their labels came."""
    unresolved: str | None = None
    """That earlier retrains have not cleared what the latest windows are past, in a sentence."""

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
    go_back_to: str | None = None
    """An earlier version that shall be tried again, where that was decided instead of a retrain."""
    unresolved: Annotated[str | None, Field(exclude_if=lambda sentence: sentence is None)] = None
    """That earlier retrains did not bring the metric back within its limit: a person has to look."""
    details: tuple[str, ...] = ()
    """The policy's own figures, in sentences."""


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
    estimate_error: EstimateError | None = None
    """How wrong such estimates were before; None while no estimated window has closed."""
    backfilled: bool = False
    """Judged by a back-fill, for the record: its decision is never handed over."""
    registry_changes: tuple[str, ...] = ()
    """What others than Perennial had changed in the registry, a sentence each."""


def latest_performances(judgements: Iterable[Judgement]) -> tuple[PerformanceReport, ...]:
    """The newest report of each window, oldest window first."""
    latest: dict[Window, PerformanceReport] = {}
    for judgement in judgements:
        own = (judgement.evidence.performance,) if judgement.evidence.performance else ()
        latest.update({report.window: report for report in (*own, *judgement.revised)})
    return tuple(latest[window] for window in sorted(latest))


def label_reports(reports: Iterable[PerformanceReport]) -> tuple[LabelReport, ...]:
    """What is known of the labels of these windows, oldest first."""
    found = {report.window: report.labels for report in reports if report.labels}
    return tuple(found[window] for window in sorted(found))


def newest_labels(
    evidence: WindowEvidence, history: History, revised: Iterable[PerformanceReport] = ()
) -> LabelReport | None:
    """The verdict on the labels of the latest window that has one, of this window and those before it."""
    past = (report for report in history.revised(revised).performances if report.window <= evidence.window)
    found = label_reports((*past, *((evidence.performance,) if evidence.performance else ())))
    return found[-1] if found else None


@dataclass(frozen=True, slots=True)
class LabelVerdicts:
    """Windows whose labels were found to be untrustworthy, or which are sound again: what the ledger keeps of them."""

    reports: tuple[LabelReport, ...]


def windows_in_doubt(entries: Iterable["LedgerEntry"]) -> tuple[str, ...]:
    """Names of the windows whose labels cannot be trusted, by the ledger's entries in their order."""
    doubted: dict[str, bool] = {}
    for entry in entries:
        if entry.kind in (LABELS_QUARANTINED, LABELS_SOUND):
            for report in from_json(LabelVerdicts, entry.body).reports:
                doubted[report.window.name] = entry.kind == LABELS_QUARANTINED
    return tuple(sorted(name for name, still in doubted.items() if still))


def windows_to_exclude(entries: Sequence["LedgerEntry"], as_of: datetime) -> tuple[str, ...]:
    """Names of the windows on which nothing is learned or judged: quarantined ones, and those whose labels are in doubt."""
    failed = (from_json(QualityReport, entry.body) for entry in entries if entry.kind == "window.quarantined")
    in_doubt = windows_in_doubt(entry for entry in entries if entry.at <= as_of)
    return tuple(dict.fromkeys((*(report.window.name for report in failed), *in_doubt)))


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
    constant: MetricDifference | None = None
    """The challenger against the best constant answer to the same rows."""


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
    format: Annotated[int, Field(exclude_if=lambda number: number == 1)] = 1
    """`records.FORMAT` of the Perennial that wrote it."""

    @property
    def hash(self) -> str:
        return digest(to_json(self), length=64)


@dataclass(frozen=True, slots=True)
class Past:
    """The facts of a model's ledger as one read found them, oldest first: a run loads it once and hands it on."""

    entries: tuple[LedgerEntry, ...] = ()

    def of(self, *kinds: str) -> tuple[LedgerEntry, ...]:
        """The facts of these kinds."""
        return tuple(entry for entry in self.entries if entry.kind in kinds)

    def holds(self, decision_id: str, kinds: Collection[str]) -> bool:
        """Whether a fact of one of these kinds is recorded of the decision."""
        return any(entry.decision_id == decision_id and entry.kind in kinds for entry in self.entries)

    def extended(self, added: Sequence[LedgerEntry]) -> "Past":
        """With the facts that the run has recorded since."""
        known = {entry.sequence for entry in self.entries}
        return Past((*self.entries, *(entry for entry in added if entry.sequence not in known)))


@dataclass(frozen=True, slots=True)
class MonitorRun:
    """What one run of `monitor` knows before it measures: loaded once, handed to every stage."""

    window: Window
    as_of: datetime
    """Nothing that became known later is read."""
    champion: ModelVersion
    history: History
    past: Past
    mode: RunMode = RunMode.LIVE
    registry_changes: tuple[str, ...] = ()
    """What others than Perennial changed about the model's aliases and versions, a sentence each."""

    def with_labels(self, revised: Sequence[PerformanceReport]) -> "MonitorRun":
        """With the reports of earlier windows that later labels have changed."""
        return replace(self, history=self.history.revised(revised))

    def extended(self, recorded: Sequence[LedgerEntry]) -> "MonitorRun":
        """With the facts that the run has recorded itself."""
        return replace(self, past=self.past.extended(recorded))
