"""Triggers on small models trained after each window, which show whether a fresh model would pay: `probe`, `perennial`.

All comparisons are between probes. The probe trained up to the same time represents the champion, so the weakness of a
small model cancels. α is the cost of a retrain in losses of one window. Unbounded losses are divided by five times the
median of the windows before service, as in the back-test. Without a setting, α is derived from money:
cost of a retrain / (value of a unit of the metric per day × days of a window).
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from tasks.policy.perennial.loss_matrix import Observation
from tasks.policy.perennial.policy import ProbeRule
from tasks.policy.perennial.reasons import Terms, explain
from tasks.policy.records.reports import ProbeColumn
from tasks.policy.statistics.metrics import BOUNDED
from tasks.policy.triggers.base import Case, Trigger, TriggerResult

DEFAULT_ALPHA = 0.05
TYPICAL_LOSS = 0.2
MIN_HISTORY = 4
"""Windows before service that `perennial` needs to learn how losses evolve; with fewer it judges as `probe` does."""


class Probe(Trigger):
    """Small models trained after each window have beaten one as old as the champion by more than a retrain costs."""

    example: ClassVar[str] = "{trigger: probe, alpha: 0.05}"
    needs_probes = True
    trigger: Literal["probe"]
    alpha: float | None = Field(None, gt=0)
    """Cost of a retrain in losses of one window, as in the back-test. Default: derived from the money in `budget`."""

    def describe(self) -> str:
        return f"small fresh models are ahead of one of the champion's age by {_cost_in_words(self.alpha)}"

    def judge(self, case: Case) -> TriggerResult:
        """Compare the accumulated paired lead of the freshest probe over the champion's, floored at 0, with α."""
        columns = known_columns(case)
        undecided = _why_undecided(columns, case)
        if undecided:
            return self.result(False, f"probes: {undecided}")
        cost = _cost(self.alpha, columns, case)
        since = max(filter(None, (case.history.champion_since, *case.history.retrained_at)), default=None)
        own = [
            column for column in columns if column.champion_until and (since is None or column.window.start >= since)
        ]
        leads = [(column, lead) for column in own if (lead := lead_of(column)) is not None]
        debt = 0.0
        for _, lead in leads:
            debt = max(0.0, debt + lead / cost.scale)
        holds = bool(leads) and debt >= cost.alpha
        first = f" since {leads[0][0].window.start:%Y-%m-%d}" if leads else ""
        reason = (
            f"fresh probes lead a probe of the champion's age by {_in_metric(debt, cost, columns[-1])} in total over "
            f"{len(leads)} windows{first}; a retrain pays off from {_in_metric(cost.alpha, cost, columns[-1])} ({cost.origin})"
        )
        return self.result(holds, reason, _would_retrain(holds, debt, cost, leads, columns[-1]))


class Perennial(Trigger):
    """Recommended. The past and forecast lead of a fresh model, measured on the same small models, pays for a retrain."""

    example: ClassVar[str] = "{trigger: perennial, alpha: 0.05, compute_share: 0.2}"
    needs_probes = True
    trigger: Literal["perennial"]
    alpha: float | None = Field(None, gt=0)
    """Cost of a retrain in losses of one window, as in the back-test. Default: derived from the money in `budget`."""
    compute_share: float = Field(0.2, ge=0, le=1)
    """Share of that cost that is compute; the rest is deployment."""

    def describe(self) -> str:
        return f"the perennial policy finds that a fresh model is worth {_cost_in_words(self.alpha)}"

    def judge(self, case: Case) -> TriggerResult:
        """Replay the online policy over every window with probe losses, and use its action for the latest."""
        columns = known_columns(case)
        undecided = _why_undecided(columns, case)
        if undecided:
            return self.result(False, f"perennial: {undecided}")
        before = [column for column in columns if column.champion_until is None]
        if len(before) < MIN_HISTORY:
            plain = Probe(trigger="probe", alpha=self.alpha).judge(case)
            return replace(plain, triggers=(self.trigger,) if plain.holds else ())
        cost, ends = _cost(self.alpha, columns, case), [column.window.end for column in columns]
        past = tuple(_observed(column, place - 1, ends, cost) for place, column in enumerate(before))
        policy = ProbeRule(cost.alpha, self.compute_share, past)
        action = None
        for column in columns[len(before) :]:
            seen = _observed(column, _place(ends, column.champion_until or column.window.start), ends, cost)
            there = {seen.champion, *_earlier(column, case, ends)}
            own = {place: loss for place, loss in seen.probes if place in there}
            action = policy.update(seen.champion, own, dict(seen.probes))
        if action is None:
            return self.result(False, "perennial: no window of service has enough labels yet")
        would_retrain = "would retrain once a fresh model's lead pays for a retrain"
        back = None if action.retrain else _earlier(columns[-1], case, ends).get(action.deploy)
        acts = action.retrain or back is not None
        terms = Terms(columns[-1].metric, cost.alpha, cost.scale, cost.usd, cost.origin)
        reason, details = explain(action, terms, f"{columns[action.weighed.since].window.start:%Y-%m-%d}", back)
        return TriggerResult(
            action.retrain, (reason,), () if acts else (would_retrain,), (self.trigger,) if acts else (), back, details
        )


class Cost(NamedTuple):
    """α, its unit in the metric, and a description of its origin."""

    alpha: float
    scale: float
    origin: str
    usd: float | None = None


def known_columns(case: Case) -> list[ProbeColumn]:
    """Every window with probe losses so far, in order; the latest scoring of a window counts."""
    seen = [*case.history.evidence, case.evidence]
    latest = {column.window: column for evidence in seen for column in evidence.probes}
    return [latest[window] for window in sorted(latest) if window <= case.evidence.window]


def _earlier(column: ProbeColumn, case: Case, ends: Sequence[datetime]) -> dict[int | None, str]:
    """Restorable versions that had served when the column's window began, by the end of their training data."""
    served = [each for each in case.history.returnable if each.since <= column.window.start]
    return {_place(ends, each.learned_until): each.version for each in served}


def _why_undecided(columns: Sequence[ProbeColumn], case: Case) -> str | None:
    """Why there is no verdict, else None. A window that was already judged must not count twice towards a retrain."""
    if not any(column.champion_until for column in columns):
        return "no window of service has enough labels yet to score probes on"
    return None if case.evidence.probes else "no window has gained enough labels since the last judgement"


def _cost(alpha: float | None, columns: Sequence[ProbeColumn], case: Case) -> Cost:
    scale = 1.0
    if columns[0].metric not in BOUNDED:
        before = [column for column in columns if column.champion_until is None] or list(columns[:1])
        level = abs(float(np.median([loss for column in before for _, loss in column.losses] or [TYPICAL_LOSS])))
        scale = level / TYPICAL_LOSS if level > 0 else 1.0
    price = case.budget.value_usd_per_metric_unit_per_day
    if alpha is not None:
        return Cost(alpha, scale, f"alpha {alpha:g}")
    if price and case.cost_usd:
        windows_usd = price * columns[-1].window.days
        return Cost(case.cost_usd / windows_usd / scale, scale, f"{case.cost_usd:,.2f} USD", case.cost_usd)
    return Cost(DEFAULT_ALPHA, scale, f"alpha {DEFAULT_ALPHA:g}, the default while cost and value are unknown")


def _cost_in_words(alpha: float | None) -> str:
    return "the cost of a retrain" if alpha is None else f"a retrain's cost of {alpha:g} window losses"


def lead_of(column: ProbeColumn) -> float | None:
    """Loss of the probe of the champion's age minus that of the freshest probe; None if there is no such probe."""
    aged = [loss for until, loss in column.losses if column.champion_until and until <= column.champion_until]
    return aged[-1] - column.losses[-1][1] if aged else None


def _observed(column: ProbeColumn, champion: int, ends: Sequence[datetime], cost: Cost) -> Observation:
    """The column with candidates numbered by the last window of their training data; all are known before service."""
    losses = tuple((_place(ends, until), loss / cost.scale) for until, loss in column.losses)
    known = losses if column.champion_until is None else ()
    return Observation(max(0, champion), known, losses)


def _place(ends: Sequence[datetime], until: datetime) -> int:
    return max(0, bisect_right(ends, until) - 1)


def _in_metric(amount: float, cost: Cost, column: ProbeColumn) -> str:
    return f"{amount * cost.scale:.3g} {column.metric}"


def _would_retrain(
    holds: bool, debt: float, cost: Cost, leads: Sequence[tuple[ProbeColumn, float]], column: ProbeColumn
) -> str:
    if holds:
        return ""
    would_retrain = f"would retrain once fresh probes are ahead by {_in_metric(cost.alpha, cost, column)} in total"
    latest = leads[-1][1] / cost.scale if leads else 0.0
    if latest > 0:
        windows = math.ceil((cost.alpha - debt) / latest)
        would_retrain += f", in {windows} windows if the latest lead of {_in_metric(latest, cost, column)} persists"
    return would_retrain
