"""What was done and known before: the champion, the ledger's judgements, the challenger that waits for promotion.

The ledger is the only memory. Nothing here reads an entry that is later than the moment asked for, so a replay sees
what the live system would have seen.
"""

from datetime import datetime
from typing import Literal, overload

from prefect import task
from prefect.cache_policies import NO_CACHE

from deployments.model_config import ModelConfig
from tasks.policy.errors import PerennialError
from tasks.policy.evidence import (
    History,
    Judgement,
    LedgerEntry,
    ModelVersion,
    PerformanceReport,
    ValidationReport,
    Window,
    from_json,
)


class NothingToPromote(PerennialError):
    """No validated challenger waits, or the one asked for did not pass."""


@overload
def find_champion(config: ModelConfig, required: Literal[True]) -> ModelVersion: ...
@overload
def find_champion(config: ModelConfig, required: bool = False) -> ModelVersion | None: ...
def find_champion(config: ModelConfig, required: bool = False) -> ModelVersion | None:
    """The version that serves; None where there is none yet, NoChampion where one is required."""
    from tasks.adapters import registry

    if not required and registry.CHAMPION not in registry.aliases(config.name):
        return None
    return registry.version(config.name, registry.CHAMPION)


@task(cache_policy=NO_CACHE)
def recall_judgement(config: ModelConfig, window: Window) -> Judgement | None:
    """The recorded judgement of a window under the present policy, if there is one: a judged window stays judged."""
    from tasks.adapters import ledger
    from tasks.policy.retraining import decision_id

    wanted = decision_id(config.name, config.retraining, window)
    for entry in reversed(ledger.entries(config.name, kind="window.judged")):
        if entry.decision_id == wanted:
            return from_json(Judgement, entry.body)
    return None


@task(cache_policy=NO_CACHE)
def recall_history(config: ModelConfig, champion: ModelVersion, window: Window) -> History:
    """Everything the policy may look back on when it judges `window`."""
    from tasks.adapters import ledger

    entries = ledger.entries(config.name)
    judged = [from_json(Judgement, entry.body) for entry in entries if entry.kind == "window.judged"]
    earlier = [judgement for judgement in judged if judgement.evidence.window < window]
    since = champion.trained.end
    return History(
        performances=_latest_performances(earlier),
        evidence=tuple(judgement.evidence for judgement in earlier),
        retrained_at=tuple(entry.at for entry in entries if entry.kind == "challenger.registered"),
        champion_since=_champion_since(entries),
        trained_until=since,
        training_rows=champion.training_rows,
        rows_since_training=sum(j.evidence.rows for j in earlier if j.evidence.window.start >= since),
    )


def _latest_performances(judgements: list[Judgement]) -> tuple[PerformanceReport, ...]:
    """The newest report of each window, oldest window first."""
    latest: dict[Window, PerformanceReport] = {}
    for judgement in judgements:
        own = (judgement.evidence.performance,) if judgement.evidence.performance else ()
        latest.update({report.window: report for report in (*own, *judgement.revised)})
    return tuple(latest[window] for window in sorted(latest))


def _champion_since(entries: tuple[LedgerEntry, ...]) -> datetime | None:
    moves = [entry.at for entry in entries if entry.kind in ("champion.promoted", "champion.rolled_back")]
    return moves[-1] if moves else None


@task(cache_policy=NO_CACHE)
def find_validated_challenger(config: ModelConfig, decision_id: str | None) -> tuple[ModelVersion, ValidationReport]:
    """The challenger of a decision, or the latest, with the verdict that the ledger holds. Raises NothingToPromote."""
    from tasks.adapters import ledger, registry

    verdicts = [
        entry
        for entry in ledger.entries(config.name)
        if entry.kind in ("challenger.validated", "challenger.refused") and decision_id in (None, entry.decision_id)
    ]
    if not verdicts:
        asked = f"decision {decision_id}" if decision_id else "any decision"
        raise NothingToPromote(
            f"{config.name}: the ledger holds no validated challenger of {asked}; "
            f"run: python -m flows.retrain --model {config.name}"
        )
    report = from_json(ValidationReport, verdicts[-1].body)
    return registry.version(config.name, report.challenger), report
