"""Survey all models: collect each model's state from its ledger and champion, and publish the fleet page and artifact.

Nothing is measured here. Ledger and registry are read once per process: a fleet of fifty models takes seconds.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from prefect.logging import get_run_logger

from deployments.config.fleet import load_fleet_config
from deployments.config.folders import FLEET
from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from tasks.adapters import ledger, registry, reports, storage
from tasks.adapters.orchestration.stage import stage
from tasks.policy.economics.budget import BudgetBalance, budget_balance, spent_usd
from tasks.policy.governance.binding import BOUND, bound_to, why_not_bound
from tasks.policy.records.errors import LedgerError, ModelConfigError, PerennialError, RegistryError
from tasks.policy.reporting.fleet import BrokenModel, Fleet, FleetMember, ModelFacts, survey
from tasks.policy.rollout.versions import changed_outside

PAGE = "fleet.html"


def survey_files(models: Sequence[str], as_of: datetime) -> Fleet:
    """Survey models given by name or path. A model whose file is invalid is listed with its error."""
    configs, broken = [], []
    for model in models:
        try:
            configs.append(load_model_config(model))
        except ModelConfigError as error:
            broken.append(_broken(Path(model).stem, error))
    return survey_fleet(configs, as_of, broken)


def survey_fleet(configs: Sequence[ModelConfig], as_of: datetime, broken: Sequence[BrokenModel] = ()) -> Fleet:
    """Survey the models at `as_of`; a model whose recorded data ended earlier is surveyed at its end.

    A model whose ledger does not verify, or whose registry entry is unusable, is listed with its error. The shared
    budget is omitted while a file that it depends on is invalid. Raises RegistryError if the registry itself is
    unreachable.
    """
    facts, broken = [], list(broken)
    if configs:
        registry.client()  # an unreachable registry raises here instead of being reported for every model
    for config in configs:
        try:
            refusal = why_not_bound(bound_to(ledger.entries(config.name, kind=BOUND)), config.binding)
            if refusal:
                broken.append(BrokenModel(config.name, refusal, "its file is not the one that its ledger is bound to"))
            else:
                facts.append(_facts(config, as_of))
        except LedgerError as error:
            broken.append(_broken(config.name, error, "its ledger does not verify"))
        except RegistryError as error:
            broken.append(_broken(config.name, error, "its entry in the registry cannot be used"))
    try:
        return survey(facts, as_of, _shared_balance(as_of), broken)
    except ModelConfigError as error:
        shared = _broken(FLEET, error)
        known = shared.sentence in {each.sentence for each in broken}
        return survey(facts, as_of, None, broken if known else [*broken, shared])


def _broken(model: str, error: PerennialError, *found: str) -> BrokenModel:
    return BrokenModel(model, str(error).replace("\n", "; "), *found)


def _shared_balance(as_of: datetime) -> BudgetBalance | None:
    fleet = load_fleet_config()
    if fleet.shared_budget is None:
        return None
    budgets = {name: load_model_config(name).budget for name in fleet.sharing()}
    return budget_balance(fleet.shared_budget, budgets, ledger.shared.entries_of(budgets), as_of)


def _facts(config: ModelConfig, as_of: datetime) -> ModelFacts:
    end = config.period.end
    moment = min(as_of, end + config.settling) if end else as_of
    entries = tuple(entry for entry in ledger.entries(config.name) if entry.at <= moment)
    champion = registry.version(config.name, registry.CHAMPION) if _has_champion(config.name) else None
    return ModelFacts(
        model=config.name,
        purpose=config.purpose,
        owner=config.owner,
        risk=config.risk,
        approval=config.needs_approval,
        grid=config.grid,
        settling=config.settling,
        served_until=end,
        max_usd=config.budget.max_usd_per_month,
        max_retrains=config.retraining.max_retrains_per_month,
        spent_usd=spent_usd(entries, config.budget, moment),
        as_of=moment,
        champion=champion,
        entries=entries,
        looked_at=as_of,
        registry_changes=changed_outside(ledger.entries(config.name), registry.state(config.name)),
    )


def _has_champion(model: str) -> bool:
    return registry.CHAMPION in registry.aliases(model)


def fleet_html(fleet: Fleet) -> str:
    """Render the self-contained fleet page."""
    known = {member.facts.model for member in fleet.members} | {each.model for each in fleet.broken}
    return reports.fleet.render(fleet, tuple(name for name in ledger.models() if name not in known))


# two retries: the API server may be restarting; page and artifact are overwritten each time
@stage(retries=2, timeout_seconds=600)
def publish_fleet(fleet: Fleet) -> Path:
    """Write the fleet page to the reports folder and publish its artifact; return the page's path."""
    path = reports.page.write(fleet_html(fleet), storage.workspace.workspace().reports / PAGE, "fleet")
    reports.fleet.publish_fleet(fleet, str(path))
    get_run_logger().info("fleet: %s", fleet.headline)
    for each in fleet.broken:
        get_run_logger().warning("fleet: %s: action required, %s", each.model, each.sentence)
    for member in fleet.members:
        get_run_logger().info("fleet: %s", describe(member))
    return path


def describe(member: FleetMember) -> str:
    """Describe a model in one line: its name, health and most urgent action."""
    first = member.needs[0].sentence if member.needs else "nothing to do"
    return f"{member.facts.model}: {member.health}, {first}"
