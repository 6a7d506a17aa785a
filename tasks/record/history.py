"""Read a model's history: the champion, recorded judgements, and the challenger that awaits promotion.

The ledger is the only source of history. Entries later than the given time are not used, so a replay sees what the live
system would have seen. These are plain functions, not tasks, because a look-up needs no row in the dashboard.
"""

from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Literal, overload

from deployments.config.model import ModelConfig
from tasks.adapters import ledger, registry
from tasks.policy.decision import retraining
from tasks.policy.decision.escalation import unresolved
from tasks.policy.economics import budget
from tasks.policy.economics.costs import expected_cost_usd, forecast_cost
from tasks.policy.evidence.ledger import LedgerEntry, Past
from tasks.policy.evidence.monitoring import History, Judgement, MonitorRun, latest_performances
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion, Promotion
from tasks.policy.records.base import Window, digest, from_json, to_json
from tasks.policy.records.errors import ModelFileError, NoChampion, NothingToPromote, PromotionRefused
from tasks.policy.records.events import RunMode
from tasks.policy.records.reports import Latency, Scoring, scoring_id
from tasks.policy.rollout.probation import Degradation
from tasks.policy.rollout.restorable import returnable
from tasks.policy.rollout.state import rollout_state
from tasks.policy.rollout.versions import (
    MOVES,
    OutsideMove,
    changed_outside,
    on_trial,
    outside_move,
    registered,
    why_not_approved,
    why_not_serve,
    why_not_trusted,
)
from tasks.policy.training.race import RACED
from tasks.policy.training.search import expected_search_usd


@overload
def find_champion(config: ModelConfig, required: Literal[True]) -> ModelVersion: ...
@overload
def find_champion(config: ModelConfig, required: bool = False) -> ModelVersion | None: ...
def find_champion(config: ModelConfig, required: bool = False) -> ModelVersion | None:
    """Return the champion. Without one, return None, or raise NoChampion if `required`.

    Raises ModelFileError for one that can run code where the model's file does not trust it, and PromotionRefused for one
    that someone made champion in MLflow against the ledger's verdict.
    """
    if registry.CHAMPION not in registry.aliases(config.name):
        if not required:
            return None
        if config.predictions:
            raise NoChampion(
                f"{config.name}: the log of your own service has not been read yet, expected the first window's; run: "
                f"perennial run score --model {config.name}"
            )
    version = registry.version(config.name, registry.CHAMPION)
    if refusal := why_not_trusted(version, config.training.trust):
        raise ModelFileError(f"{config.name}: {refusal}")
    entries = ledger.entries(config.name)
    refusal = why_not_serve(entries, version.version)
    if refusal is None and config.needs_approval and not config.predictions:
        refusal = why_not_approved(entries, registry.state(config.name), version.version)
    if refusal:
        raise PromotionRefused(f"{config.name}: {refusal}")
    return version


def recorded_champion(config: ModelConfig) -> ModelVersion | None:
    """Return the champion after the ledger's last move, without asking the registry; None before the first."""
    entries = ledger.entries(config.name)
    moves = [entry for entry in entries if entry.kind in MOVES]
    return registered(entries).get(from_json(Promotion, moves[-1].body).champion) if moves else None


def find_outside_move(config: ModelConfig) -> OutsideMove | None:
    """Return the champion that someone else set in MLflow, where `registry.outside_moves` says to record it."""
    if config.registry.outside_moves != "record":
        return None
    return outside_move(config.name, ledger.entries(config.name), registry.state(config.name))


def load_past(config: ModelConfig) -> Past:
    """Read all entries of the model's ledger. Raises LedgerError if the hash chain is damaged."""
    return Past(ledger.entries(config.name))


def load_judgement(config: ModelConfig, past: Past, window: Window) -> Judgement | None:
    """Return the recorded judgement of a window under the current policy; None if the window was not judged."""
    wanted = retraining.decision_id(config.name, config.retraining, window)
    for entry in reversed(past.of("window.judged")):
        if entry.decision_id == wanted:
            return _judgement(entry.body)
    return None


@lru_cache(maxsize=2**14)
def _judgement(body: str) -> Judgement:
    """Parse an entry's body.

    Every later window reads it again; the cache holds nearly two years of hourly windows at 11 KB each.
    """
    return from_json(Judgement, body)


def load_scoring(config: ModelConfig, past: Past, window: Window) -> Scoring | None:
    """Return which version scored a window, and its latency; None if the window was not scored."""
    wanted = scoring_id(config.name, window)
    scored = (entry for entry in past.of("window.scored") if entry.decision_id == wanted)
    return next((from_json(Scoring, entry.body) for entry in scored), None)


def load_latency(config: ModelConfig, past: Past, window: Window) -> Latency | None:
    """Return the latency of the version that scored a window; None if the window was not scored."""
    scoring = load_scoring(config, past, window)
    if scoring is None or (config.predictions and not scoring.latency.batches):  # a log without times
        return None
    return scoring.latency


def prepare_run(config: ModelConfig, past: Past, window: Window, as_of: datetime, mode: RunMode) -> MonitorRun:
    """Load the inputs of a `monitor` run. Raises NoChampion if the model has no champion yet."""
    champion = find_champion(config, required=True)
    history = load_history(config, past, champion, window)
    changes = (*registry_changes(config, past), *_changes_of_service(past, window))
    return MonitorRun(window, as_of, champion, history, past, mode, changes)


def _changes_of_service(past: Past, window: Window) -> tuple[str, ...]:
    """Say which version of somebody else's service took over, as the log of this window shows."""
    decision_id = digest(past.entries[-1].model, "observed from", window.name) if past.entries else ""
    moves = (entry for entry in past.of("champion.promoted") if entry.decision_id == decision_id)
    return tuple(reason for entry in moves for reason in from_json(Promotion, entry.body).reasons)


def load_history(config: ModelConfig, past: Past, champion: ModelVersion, window: Window) -> History:
    """Return all history that the policy may use when it judges `window`."""
    entries = past.entries
    judgements = [_judgement(entry.body) for entry in entries if entry.kind == "window.judged"]
    before = [judgement for judgement in judgements if judgement.evidence.window < window]
    earlier = _latest_of_each(before)
    since = champion.trained.end
    made = [entry for entry in entries if entry.kind == "challenger.registered"]
    refused = {entry.decision_id for entry in entries if entry.kind == "retraining.refused"}
    wanted = [j for j in before if j.decision.retrain and not j.backfilled]
    asked = [j for j in wanted if j.decision.decision_id not in refused]
    rules = config.retraining
    stuck = unresolved(earlier, [entry.at for entry in made], rules.escalate_after, rules.when)
    return History(
        performances=latest_performances(before),
        evidence=tuple(judgement.evidence for judgement in earlier),
        retrained_at=tuple(entry.at for entry in made),
        champion_since=_champion_since(entries),
        trained_until=since,
        training_rows=champion.training_rows,
        rows_since_training=sum(j.evidence.rows for j in earlier if j.evidence.window.start >= since),
        spent_usd_this_month=budget.spent_usd(entries, config.budget, config.read_at(window)),
        returnable=returnable(entries),
        learned=tuple((entry.at, _version(entry.body).trained.end) for entry in made),
        asked_at=tuple(judgement.evidence.window.end for judgement in asked),
        usages=tuple(usage for at, usage in budget.usages(entries) if at <= config.read_at(window)),
        estimates=tuple((j.evidence.window, j.estimate) for j in earlier if j.estimate),
        unresolved=stuck.sentence if stuck else None,
        rollout=_running_rollout(entries),
    )


def _running_rollout(entries: tuple[LedgerEntry, ...]) -> str | None:
    state = rollout_state(entries)
    if state is None or not state.is_active:
        return None
    return f"version {state.plan.version} is in its rollout beside the champion ({state.current.name})"


def spent_usd(config: ModelConfig, as_of: datetime, excluding_decision: str | None = None) -> float:
    """Return the cost in USD of the retrains in the 30 days before `as_of`.

    `excluding_decision` is a decision to exclude: a resumed run must not count its own cost.
    """
    return budget.spent_usd(ledger.entries(config.name), config.budget, as_of, excluding_decision)


def next_cost_usd(config: ModelConfig, as_of: datetime) -> float | None:
    """Forecast the cost of the next iteration in USD, on as many rows as the last; None before the first.

    A search is forecast by its own budget, also before the first iteration. A race that has never run is forecast as one training
    for each fit; later it is part of what earlier iterations cost.
    """
    entries = ledger.entries(config.name)
    used = [usage for at, usage in budget.usages(entries) if at <= as_of]
    policy = config.training.search
    searching = (expected_search_usd(policy, config.budget, used) or 0.0) if policy else 0.0
    if not used:
        return searching + expected_cost_usd(config.budget, None) if searching else None
    forecast = forecast_cost(config.budget, [usage.without_search for usage in used], used[-1].rows)
    if forecast is None:
        return None
    race, has_raced = config.training.race, any(entry.kind == RACED and entry.at <= as_of for entry in entries)
    fits = race.most_fits if race and not has_raced else 0
    return forecast.usd + searching + fits * (forecast.usd - expected_cost_usd(config.budget, None))


@lru_cache(maxsize=1024)
def _version(body: str) -> ModelVersion:
    return from_json(ModelVersion, body)


def _latest_of_each(judgements: list[Judgement]) -> list[Judgement]:
    """Return the latest judgement of each window, oldest window first; a changed policy may have judged one again."""
    latest = {judgement.evidence.window: judgement for judgement in judgements}
    return [latest[window] for window in sorted(latest)]


def _champion_since(entries: tuple[LedgerEntry, ...]) -> datetime | None:
    moves = [entry.at for entry in entries if entry.kind in ("champion.promoted", "champion.rolled_back")]
    return moves[-1] if moves else None


def load_validation(config: ModelConfig, decision_id: str | None) -> ValidationReport | None:
    """Return the recorded validation of a decision's challenger, or the latest one; None if there is none."""
    verdicts = [
        entry
        for entry in ledger.entries(config.name)
        if entry.kind in ("challenger.validated", "challenger.refused") and decision_id in (None, entry.decision_id)
    ]
    return from_json(ValidationReport, verdicts[-1].body) if verdicts else None


def require_validation(config: ModelConfig, model: str, decision_id: str | None) -> ValidationReport:
    """Return the challenger's validation from the ledger. Raises NothingToPromote if there is none."""
    validation = load_validation(config, decision_id)
    if validation is None:
        raise NothingToPromote(
            f"{config.name}: the ledger has no validation of a challenger for {decision_id or 'any decision'}; expected one "
            f"that passed; run: perennial run retrain --model {model}"
        )
    return validation


def find_challenger(config: ModelConfig, validation: ValidationReport, decision_id: str | None = None) -> ModelVersion:
    """Return the version that this validation is about, with the `decision_id` of the decision that validated it.

    Raises PromotionRefused if the model was deleted and recreated, and another version now has its number.
    """
    entries, written = ledger.entries(config.name), to_json(validation)
    alike = (entry.decision_id for entry in entries if entry.body == written and entry.decision_id)
    verdicts = [found for found in alike if decision_id in (None, found)]
    version = find_version(config, validation.challenger)
    tried = on_trial(entries, verdicts[-1]) if verdicts else None
    if tried and tried.run_id != version.run_id:
        raise PromotionRefused(
            f"{config.name}: version {version.version} comes from run {version.run_id}, but decision "
            f"{verdicts[-1]} validated run {tried.run_id}; the model was deleted and recreated, so this validation does not "
            "apply to it; expected the decision that trained this version"
        )
    return replace(version, decision_id=verdicts[-1]) if verdicts else version


def find_earlier(config: ModelConfig, number: str, decision_id: str) -> ModelVersion:
    """Return an earlier champion as this decision's challenger. Raises PromotionRefused if it may not serve again."""
    known = {earlier.version for earlier in returnable(ledger.entries(config.name))}
    if number not in known:
        raise PromotionRefused(
            f"{config.name}: version {number} may not be validated again, expected a version that was champion, was not rolled "
            f"back and does not serve now: {', '.join(sorted(known, key=int)) or 'there is none'}"
        )
    return replace(find_version(config, number), decision_id=decision_id)


def load_degradation(config: ModelConfig, champion: str) -> Degradation | None:
    """Return why this version had to be rolled back as champion; None if it did not."""
    found = (from_json(Degradation, entry.body) for entry in ledger.entries(config.name, kind="champion.degraded"))
    return next((degraded for degraded in found if degraded.champion == champion), None)


def registry_changes(config: ModelConfig, past: Past) -> tuple[str, ...]:
    """List changes to the model's aliases and versions that were made outside Perennial, one sentence each."""
    return changed_outside(past.entries, registry.state(config.name))


def find_version(config: ModelConfig, number: str) -> ModelVersion:
    """Return a registered version. Raises RegistryError if it does not exist."""
    return registry.version(config.name, number)
