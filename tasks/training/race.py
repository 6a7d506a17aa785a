"""Race strategies before a training: what to learn from is decided by what has predicted the latest closed windows best.

The result is recorded in the ledger once per decision, so a resumed retrain trains by the same winner, and the next race
knows this one's losses.
"""

from dataclasses import replace
from datetime import datetime

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import candidates, engines, ledger, reports, search
from tasks.adapters.orchestration import runs
from tasks.adapters.orchestration.stage import stage
from tasks.policy.evidence.ledger import Fact
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import from_json
from tasks.policy.records.events import RunMode
from tasks.policy.records.reports import Snapshot
from tasks.policy.training.race import RACED, RaceReport, decide_race


# one retry: the registry or the lake may be briefly unavailable
@stage(retries=1, timeout_seconds=6 * 3600)
def race_strategies(config: ModelConfig, training: Snapshot, decision_id: str, as_of: datetime) -> RaceReport | None:
    """Race the strategies of `training.race` on the training rows, once per decision; None without that setting.

    Every entrant is fitted with the settings that the champion's search found, if there was one, else with the file's.
    """
    policy = config.training.race
    if policy is None:
        return None
    entries = ledger.entries(config.name)
    raced = [from_json(RaceReport, entry.body) for entry in entries if entry.kind == RACED]
    known = [entry for entry in entries if entry.kind == RACED and entry.decision_id == decision_id]
    if known:
        return from_json(RaceReport, known[-1].body)
    count = policy.windows if raced else 2 * policy.windows
    windows = candidates.race.judged_windows(config, training.window.start, training.window.end, count)
    if len(windows) < 2:
        get_run_logger().info(
            "race: none, %d windows before the holdout can be judged, expected at least 2", len(windows)
        )
        return None
    champions = candidates.bases.champions(config, entries)
    bases, since = candidates.bases.load_bases(config, champions, windows[0].start)
    entrants = [
        replace(each, since=since) if each.kind == "continue_champion" else each
        for each in candidates.strategies.entrants(
            config, candidates.bases.changed_at(entries), tuple(one.version for one in champions)
        )
    ]
    asked = config.training.search
    searches = asked is not None and (asked.in_replays or runs.run_mode() != RunMode.REPLAY)
    present = search.found_settings.with_found_settings(config) if searches else config
    with engines.mapped_rows.labelled_rows(training, config.training.engine) as rows:
        measured = candidates.race.run(present, rows, windows, entrants, bases)
    report = _with_base(decide_race(policy, measured, raced), champions, training)
    ledger.append(config.name, Fact(RACED, report, as_of, decision_id))
    reports.artifacts.publish_race_page(config, report)
    get_run_logger().info("%s; %d entrants in %.1f CPU s", report.reasons[0], len(entrants), report.cpu_s)
    return report


def _with_base(report: RaceReport, champions: list[ModelVersion], training: Snapshot) -> RaceReport:
    """Let a winner that continues the champion begin where the champion's rows end."""
    if report.winner.kind != "continue_champion":
        return report
    since = champions[0].before(training.window.end).trained.end
    return replace(report, winner=replace(report.winner, since=since))
