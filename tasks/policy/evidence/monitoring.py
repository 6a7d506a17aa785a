"""Monitoring of one window: the evidence, the history that the policy reads, the decision, and the judgement of all of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from tasks.policy.evidence.ledger import LedgerEntry, Past
from tasks.policy.evidence.versions import ModelVersion, Usage
from tasks.policy.records.base import Window
from tasks.policy.records.events import RunMode
from tasks.policy.records.reports import (
    DriftReport,
    EstimateError,
    LabelReport,
    MetricValue,
    PerformanceReport,
    ProbeColumn,
    QualityReport,
)

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
