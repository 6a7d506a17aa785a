"""The cost of past retrains by the ledger, and the allocation of a monthly budget that several models share.

Spent is the cost of each challenger. Promised is what was granted to a retrain that has no challenger yet; it is
reserved for 30 days, so the limit holds whatever happens to that run. If the balance does not cover all requests, the
affordable ones with the largest total benefit are granted (`economics.share_budget`). A model whose ledger does not
verify may have spent its full allowance, so that amount is held back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from pydantic import Field

from tasks.policy.economics.costs import Budget, Request, expected_cost_usd, measured_cost, share_budget
from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.evidence.monitoring import Judgement
from tasks.policy.evidence.versions import USAGE, ModelVersion, Usage
from tasks.policy.records.base import Settings, from_json

MONTH = timedelta(days=30)


class SharedBudget(Settings):
    """One budget for the retrains of several models."""

    max_usd_per_month: float = Field(ge=0, examples=[500])
    """Refuse a retrain that would bring the cost of all these models above this sum in 30 days."""
    models: tuple[str, ...] | None = Field(None, min_length=1, examples=[["air_time", "flight_delay"]])
    """The models that share it. Default: every model in the models' folder."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A part of the shared budget, reserved for one decision."""

    cost_usd: float
    left_usd: float
    reason: str


@dataclass(frozen=True, slots=True)
class BudgetBalance:
    """The shared budget at one time: the limit, what is spent and promised, and the models."""

    max_usd: float
    spent_usd: float
    promised_usd: float
    models: tuple[str, ...]
    held_back_usd: float = 0.0
    """Upper bound of the spending of models whose ledgers do not verify."""
    unknown: tuple[str, ...] = ()
    """Models whose ledgers do not verify."""

    @property
    def left_usd(self) -> float:
        return self.max_usd - self.spent_usd - self.promised_usd - self.held_back_usd

    @property
    def sentence(self) -> str:
        return (
            f"{self.spent_usd:,.2f} of {self.max_usd:,.2f} USD shared by {', '.join(self.models)} are spent in 30 days"
            + (f", {self.promised_usd:,.2f} USD are promised" if self.promised_usd else "")
            + (f", {self._held_back}" if self.unknown else "")
        )

    @property
    def _held_back(self) -> str:
        many = len(self.unknown) > 1
        return (
            f"{self.held_back_usd:,.2f} USD are held back, because the {'ledgers' if many else 'ledger'} of "
            f"{', '.join(self.unknown)} {'do' if many else 'does'} not verify (perennial audit verify)"
        )


def usages(entries: Sequence[LedgerEntry], apart_from: str | None = None) -> list[tuple[datetime, Usage]]:
    """Creation time and usage of each challenger; older ones, without measured usage, have their row count only."""
    made = (entry for entry in entries if entry.kind == "challenger.registered")
    return [(entry.at, _usage(entry.body)) for entry in made if apart_from is None or entry.decision_id != apart_from]


@lru_cache(maxsize=1024)
def _usage(body: str) -> Usage:
    version = from_json(ModelVersion, body)
    recorded = dict(version.tags).get(USAGE)
    return from_json(Usage, recorded) if recorded else Usage(version.training_rows, wall_s=0.0)


def spent_usd(entries: Sequence[LedgerEntry], budget: Budget, as_of: datetime, apart_from: str | None = None) -> float:
    """USD spent on retrains in the 30 days before `as_of`: usage at the budget's prices, plus fixed costs."""
    recent = [usage for at, usage in usages(entries, apart_from) if as_of - MONTH < at <= as_of]
    return sum(measured_cost(budget, usage) for usage in recent)


def promised_usd(entries: Sequence[LedgerEntry], as_of: datetime) -> float:
    """USD granted in the 30 days before `as_of` to retrains that have not registered a challenger by then."""
    made = {entry.decision_id for entry in entries if entry.kind == "challenger.registered" and entry.at <= as_of}
    granted = [entry for entry in entries if entry.kind == "budget.granted" and as_of - MONTH < entry.at <= as_of]
    return sum(from_json(Grant, entry.body).cost_usd for entry in granted if entry.decision_id not in made)


def budget_balance(
    shared: SharedBudget,
    budgets: Mapping[str, Budget],
    entries: Mapping[str, Sequence[LedgerEntry] | None],
    as_of: datetime,
) -> BudgetBalance:
    """The shared budget at `as_of`, from the ledgers of the models that share it and the prices in their files.

    For a model without entries (None) its own monthly limit is held back, or the entire budget if it has none.
    """
    known = {model: found for model in budgets if (found := entries[model]) is not None}
    unknown = tuple(model for model in budgets if model not in known)
    spent = sum(spent_usd(found, budgets[model], as_of) for model, found in known.items())
    promised = sum(promised_usd(found, as_of) for found in known.values())
    limits = [budgets[model].max_usd_per_month for model in unknown]
    held_back = sum(shared.max_usd_per_month if limit is None else limit for limit in limits)
    return BudgetBalance(
        shared.max_usd_per_month, spent, promised, tuple(budgets), min(held_back, shared.max_usd_per_month), unknown
    )


def open_request(model: str, entries: Sequence[LedgerEntry], budget: Budget, as_of: datetime) -> Request | None:
    """The open request of a model's latest judgement; None without one."""
    known = [entry for entry in entries if as_of - MONTH < entry.at <= as_of]
    judged = [entry for entry in known if entry.kind == "window.judged" and not _judgement(entry.body).backfilled]
    if not judged or not _judgement(judged[-1].body).decision.retrain:
        return None
    waiting = judged[-1].decision_id or ""
    answers = ("challenger.registered", "retraining.refused", "budget.granted")
    if any(entry.kind in answers and entry.decision_id == waiting for entry in known):
        return None
    return request_of(model, waiting, known, budget)


def request_of(
    model: str,
    decision_id: str,
    entries: Sequence[LedgerEntry],
    budget: Budget,
    forecast_usd: float | None = None,
) -> Request:
    """The request of one decision; its benefit is known if a judgement with an expected value made it."""
    judged = [entry for entry in entries if entry.kind == "window.judged" and entry.decision_id == decision_id]
    decision = _judgement(judged[-1].body).decision if judged else None
    forecast = decision.expected_cost_usd if decision and forecast_usd is None else forecast_usd
    cost = expected_cost_usd(budget, forecast)
    value = decision.expected_value_usd if decision else None
    return Request(model, cost, None if value is None else value - cost)


@lru_cache(maxsize=256)
def _judgement(body: str) -> Judgement:
    return from_json(Judgement, body)


def decide_share(own: Request, others: Sequence[Request], balance: BudgetBalance) -> str | None:
    """Why the shared budget refuses a retrain, else None. One without a known benefit gets what the others leave."""
    requests = [own, *others]
    if sum(request.cost_usd for request in requests) <= balance.left_usd:
        return None
    refused = (
        f"the shared budget refuses: {balance.sentence} and this retrain is expected to cost {own.cost_usd:,.2f} USD"
    )
    if own.cost_usd > balance.left_usd:
        return refused
    answers = share_budget(requests, max(0.0, balance.left_usd))
    if answers[own.model] is None:
        return None
    ahead = [request for request in others if answers[request.model] is None]
    first = "; ".join(f"{request.model} {_worth(request)}" for request in ahead)
    return f"{refused}; it {_worth(own)}" + (f", and other requests go first: {first}" if ahead else "")


def _worth(request: Request) -> str:
    if request.net_usd is None:
        return f"has no known benefit for {request.cost_usd:,.2f} USD"
    return f"is expected to bring {request.net_usd:,.2f} USD net for {request.cost_usd:,.2f} USD"
