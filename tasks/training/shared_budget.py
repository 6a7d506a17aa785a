"""Decide whether a retrain may draw on a budget that several models share, one process at a time.

The models' ledgers record what was spent and reserved. A retrain holds the fleet's lease while it reads them and
records its own reservation, so two processes cannot spend the same money. `tasks.policy.economics.budget` decides. A
ledger that does not verify blocks no other model: the amount that its model may have spent is reserved.
"""

from datetime import datetime

from prefect.logging import get_run_logger

from deployments.config.fleet import load_fleet_config
from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from tasks.adapters import ledger, storage
from tasks.adapters.orchestration.stage import stage
from tasks.policy.economics import budget
from tasks.policy.evidence.ledger import Fact

LEASE = "_fleet"
"""A lease name that no model can have."""
PATIENCE_S = 300.0  # a holder needs about one second; a dead holder is fenced out after half a minute


@stage
def claim_shared_budget(
    config: ModelConfig, decision_id: str, next_cost_usd: float | None, as_of: datetime, dry_run: bool = False
) -> str | None:
    """Claim this retrain's cost from the shared budget; return why it is refused, None if granted or not shared.

    A grant is recorded in the ledger once per decision and reserves the amount until the challenger is registered. With
    `dry_run` nothing is recorded. Costs are in USD.
    """
    fleet = load_fleet_config()
    if fleet.shared_budget is None or config.name not in fleet.sharing():
        return None
    with storage.lease.hold(LEASE, "budget", patience_s=PATIENCE_S) as lease:
        if any(entry.decision_id == decision_id for entry in ledger.entries(config.name, kind="budget.granted")):
            return None
        configs = {name: config if name == config.name else load_model_config(name) for name in fleet.sharing()}
        entries = ledger.shared.entries_of(configs)
        budgets = {name: each.budget for name, each in configs.items()}
        balance = budget.budget_balance(fleet.shared_budget, budgets, entries, as_of)
        own_entries = ledger.entries(config.name)
        own = budget.request_of(config.name, decision_id, own_entries, config.budget, next_cost_usd)
        others = {name: found for name, found in entries.items() if found is not None and name != config.name}
        asked = [budget.open_request(name, found, budgets[name], as_of) for name, found in others.items()]
        refusal = budget.decide_share(own, [request for request in asked if request], balance)
        if refusal is None and not dry_run:
            left = balance.left_usd - own.cost_usd
            grant = budget.Grant(own.cost_usd, left, f"{balance.sentence}; {own.cost_usd:,.2f} USD more are promised")
            lease.check()  # right before the write: a process paused past its lease may see outdated balances
            ledger.append(config.name, Fact("budget.granted", grant, as_of, decision_id))
    get_run_logger().info("shared budget: %s", refusal or balance.sentence)
    return refusal
