"""Survey the state of every model, from its ledger and its champion, and say which models require action.

Needs follow from facts alone, most urgent first: a pending approval, no champion, a quarantined window, labels that
cannot be trusted or are overdue, a held rollout, an overdue check, a refusal, a loss of performance, drift. Models are
sorted by their most urgent need. Models whose file or ledger cannot be read come first, because nothing runs for them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from tasks.policy.economics.budget import BudgetBalance
from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.evidence.monitoring import Judgement, label_reports, latest_performances
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.governance.pending_approvals import PendingApproval, pending_approvals
from tasks.policy.records.base import Window, WindowGrid, from_json
from tasks.policy.records.reports import LabelReport, MetricValue, PerformanceReport
from tasks.policy.reporting.rollout import headline
from tasks.policy.rollout.state import RolloutState, rollout_state

NeedKind = Literal[
    "approval",
    "no champion",
    "registry",
    "quarantined",
    "labels",
    "unresolved",
    "rollout",
    "overdue",
    "drift tests",
    "budget",
    "refused",
    "worse",
    "retraining",
    "record ended",
    "drifted",
]
URGENCY: tuple[NeedKind, ...] = (
    "approval", "no champion", "registry", "quarantined", "labels", "unresolved", "rollout", "overdue", "drift tests", "budget",
    "refused", "worse", "retraining", "record ended", "drifted",
)  # fmt: skip
"""Most urgent first."""
ACTION_REQUIRED: frozenset[NeedKind] = frozenset(URGENCY[: URGENCY.index("budget") + 1])
"""Kinds that the flows do not resolve on their own."""
Health = Literal["action required", "watch", "healthy"]
MONTH = timedelta(days=30)
GRACE_WINDOWS = 0.5
"""Allowed delay of a check as a share of a window; at least a day."""
LOSS_P = 0.05
"""Largest p-value at which a loss against the best past level is reported."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts on one model at `as_of`: its file's limits, its champion, its ledger (oldest first)."""

    model: str
    purpose: str
    owner: str
    risk: str
    approval: bool
    grid: WindowGrid
    settling: timedelta
    served_until: datetime | None
    max_usd: float | None
    max_retrains: int | None
    spent_usd: float
    as_of: datetime
    champion: ModelVersion | None
    entries: tuple[LedgerEntry, ...]
    looked_at: datetime | None = None
    """Wall-clock time, by which approvals expire; `as_of` if not given."""
    registry_changes: tuple[str, ...] = ()
    """Changes in the registry that were not made by Perennial, one sentence each."""


@dataclass(frozen=True, slots=True)
class Need:
    """One item that needs attention, in a sentence."""

    kind: NeedKind
    sentence: str


@dataclass(frozen=True, slots=True)
class FleetMember:
    """One model's line on the fleet page. `series` is the primary metric of the latest windows, oldest first."""

    facts: ModelFacts
    health: Health
    needs: tuple[Need, ...]
    champion_since: datetime | None
    latest: Judgement | None
    metric: MetricValue | None
    baseline: MetricValue | None
    series: tuple[tuple[Window, float], ...]
    next_check: datetime | None
    retrains: int
    approvals: tuple[PendingApproval, ...]
    rollout: RolloutState | None = None
    """The rollout that is running, if any."""

    @property
    def urgency(self) -> int:
        return URGENCY.index(self.needs[0].kind) if self.needs else len(URGENCY)


@dataclass(frozen=True, slots=True)
class BrokenModel:
    """A model whose file, ledger or registry entry cannot be read, with the error."""

    model: str
    sentence: str
    found: str = "its file cannot be read"


@dataclass(frozen=True, slots=True)
class Fleet:
    """All models, those that require action first."""

    as_of: datetime
    members: tuple[FleetMember, ...]
    balance: BudgetBalance | None = None
    """The budget that models share, if any."""
    broken: tuple[BrokenModel, ...] = ()

    @property
    def rollouts(self) -> tuple[tuple[str, RolloutState], ...]:
        """The running rollouts, each with its model."""
        return tuple((member.facts.model, member.rollout) for member in self.members if member.rollout)

    @property
    def headline(self) -> str:
        if not self.members and not self.broken:
            return "No model has a file under deployments/ yet."
        counts: Counter[str] = Counter(member.health for member in self.members)
        waiting = counts["action required"] + len(self.broken)
        models = f"{waiting} model{'' if waiting == 1 else 's'}"
        first = f"Action required for {models}" if waiting else "No action required"
        rest = [
            f"{counts[health]} {words}"
            for health, words in (("watch", "to watch"), ("healthy", "healthy"))
            if counts[health]
        ]
        return f"{', '.join([first, *rest])}."


def survey(
    facts: Iterable[ModelFacts],
    as_of: datetime,
    balance: BudgetBalance | None = None,
    broken: Iterable[BrokenModel] = (),
) -> Fleet:
    """Every model's state at `as_of`, most urgent first."""
    members = sorted(map(describe_member, facts), key=lambda member: (member.urgency, member.facts.model))
    return Fleet(as_of, tuple(members), balance, tuple(broken))


def describe_member(facts: ModelFacts, windows: int = 30) -> FleetMember:
    """One model's state; only its latest `windows` judgements are read."""
    judged = [entry for entry in facts.entries if entry.kind == "window.judged"]
    # a back-fill judges as of earlier times, so the order of the ledger is not that of the windows
    judged.sort(key=lambda entry: entry.at)
    judgements = [from_json(Judgement, entry.body) for entry in judged[-windows:]]
    latest = judgements[-1] if judgements else None
    performances = latest_performances(judgements)
    measured = [
        (report, value)
        for report in performances
        if report.has_sound_labels and (value := report.metric(report.primary))
    ]
    report, metric = measured[-1] if measured else (None, None)
    moves = [entry.at for entry in facts.entries if entry.kind in ("champion.promoted", "champion.rolled_back")]
    next_check = _next_check(facts, latest)
    approvals = pending_approvals(facts.entries, facts.looked_at or facts.as_of) if facts.approval else ()
    found = [
        *_standing_needs(facts, latest, next_check, approvals, label_reports(performances)),
        *_recent_needs(facts, latest, report),
    ]
    needs = tuple(sorted(found, key=lambda need: URGENCY.index(need.kind)))
    rollout = rollout_state(facts.entries)
    return FleetMember(
        facts=facts,
        health=_health(needs),
        needs=needs,
        champion_since=moves[-1] if moves else None,
        latest=latest,
        metric=metric,
        baseline=report.baseline if report else None,
        series=tuple((each.window, value.value) for each, value in measured),
        next_check=next_check,
        retrains=sum(
            entry.kind == "challenger.registered" and entry.at > facts.as_of - MONTH for entry in facts.entries
        ),
        approvals=approvals,
        rollout=rollout if rollout and rollout.is_active else None,
    )


def _health(needs: tuple[Need, ...]) -> Health:
    if any(need.kind in ACTION_REQUIRED for need in needs):
        return "action required"
    return "watch" if needs else "healthy"


def _next_check(facts: ModelFacts, latest: Judgement | None) -> datetime | None:
    """End of the next window; None if the recorded data ends before."""
    if latest is None:
        return None
    due = facts.grid.window(facts.grid.number_at(latest.evidence.window.end)).end
    return None if facts.served_until and due > facts.served_until else due


def _grace(facts: ModelFacts, next_check: datetime) -> timedelta:
    """Time after the end of a window in which its judgement is not overdue yet."""
    window = facts.grid.window(facts.grid.number_at(next_check))
    return max(timedelta(days=1), GRACE_WINDOWS * (window.end - window.start))


def _standing_needs(
    facts: ModelFacts,
    latest: Judgement | None,
    next_check: datetime | None,
    approvals: tuple[PendingApproval, ...],
    known: tuple[LabelReport, ...],
) -> Iterator[Need]:
    """Needs that persist until someone acts."""
    for approval in approvals:
        yield Need("approval", approval.sentence(facts.model))
    if facts.champion is None:
        yield Need("no champion", "no version serves yet; train and promote the first one")
    for change in facts.registry_changes:
        yield Need("registry", change)
    if next_check and facts.as_of > next_check + facts.settling + _grace(facts, next_check):
        yield Need("overdue", f"the window that ended {next_check:%Y-%m-%d %H:%M} was not judged")
    quality = latest.evidence.quality if latest else None
    if latest and quality and quality.verdict == "fail":
        reason = quality.reasons[0] if quality.reasons else f"{quality.failing_rows} rows fail"
        found = f"{latest.evidence.window.name} is quarantined: {reason}"
        if next_check is None:  # the recorded data ends here: no later window depends on this one
            yield Need("record ended", f"the recorded data ends; its last window {found}")
        else:
            yield Need("quarantined", found)
    rollout = rollout_state(facts.entries)
    if rollout and rollout.status == "held":
        yield Need("rollout", headline(rollout))
    if latest and latest.decision.unresolved:
        yield Need("unresolved", latest.decision.unresolved)
    labels = [] if latest is None else [one for one in known if one.window <= latest.evidence.window]
    if labels and labels[-1].verdict == "fail":
        yield Need("labels", f"the labels of {labels[-1].window.name} cannot be trusted: {labels[-1].reasons[0]}")
    drift = latest.evidence.drift if latest else None
    for reason in drift.unknown_tests[:1] if drift else ():
        yield Need("drift tests", reason)
    if latest and latest.decision.blocked_by == "budget":
        yield Need("budget", latest.decision.reasons[0])


def _recent_needs(facts: ModelFacts, latest: Judgement | None, report: PerformanceReport | None) -> Iterator[Need]:
    """Needs that the flows resolve on their own, but that are worth reviewing."""
    since = latest.evidence.window.start if latest else facts.as_of - MONTH
    last = facts.entries[-1] if facts.entries else None
    for entry in facts.entries:
        if entry.kind == "challenger.refused" and entry.at >= since:
            refused = from_json(ValidationReport, entry.body)
            yield Need("refused", f"challenger {refused.challenger} was refused: {refused.reasons[0]}")
        if entry.kind == "retraining.refused" and entry.at >= since:
            yield Need("budget", entry.body)
    if latest and latest.decision.retrain and not latest.backfilled and last and last.kind == "window.judged":
        yield Need("retraining", f"a retrain was requested: {latest.decision.reasons[0]}")
    if report and report.shift_p_value is not None and report.baseline and report.shift_p_value <= LOSS_P:
        value = report.metric(report.primary)
        if value and (value.value < report.baseline.value) == value.higher_is_better:
            yield Need(
                "worse",
                f"{value.name} {value.value:.4g} is worse than its best past level {report.baseline.value:.4g} "
                f"(p={report.shift_p_value:.2g})",
            )
    drift = latest.evidence.drift if latest else None
    if drift and drift.verdict == "drifted":
        yield Need(
            "drifted", drift.reasons[0] if drift.reasons else f"{drift.drifted_share:.0%} of the features drifted"
        )
