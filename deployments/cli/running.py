"""Run a flow for a command: choose the server, show progress, and turn refusals into exit codes."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.exceptions import ParameterTypeError
from rich.console import Console

from deployments.cli.demo import replay_progress
from deployments.cli.output import progress, refuse
from deployments.config.folders import available_models, model_folders
from deployments.config.loading import load_model_config
from flows.parameters import own_server, wall_clock
from tasks.adapters import reports
from tasks.policy.backtest.study import ALPHAS, COMPUTE_SHARE
from tasks.policy.records.errors import PerennialError
from tasks.policy.reporting.fleet import Fleet, FleetMember
from tasks.record.fleet import survey_files
from tasks.replay.records import replays_page
from tasks.replay.simulation import backtest_matrix

PIPED_COLUMNS = 120
"""Width of a table where no terminal has one."""


def run_flow(flow: Flow[Any, Any], parameters: Mapping[str, Any]) -> Any:
    """Return the flow's result. Exits with 1 if the flow refuses, with 2 if a parameter is invalid."""
    try:
        model_folders()  # a wrong PERENNIAL_MODELS is refused before a server starts
        with own_server(), _shown_progress(flow.name, parameters):
            return flow(**parameters)
    except PerennialError as error:
        refuse(f"{flow.name}: {error}", 1)
    except ParameterTypeError as error:
        refuse(f"{flow.name}: {error}", 2)


def print_outcome(flow: str | None, outcome: Any) -> None:
    """Print what a person wants to see of a flow's result: a replay's table, a recommendation, and the page of both."""
    if flow == "replay":
        wide = None if sys.stdout.isatty() else PIPED_COLUMNS
        Console(width=wide).print(reports.replay.summary_table((outcome,)))
        print(f"page: {replays_page().as_uri()}")
    elif flow == "backtest":
        print(outcome["recommendation"])
        if outcome.get("yaml"):
            print(outcome["yaml"].rstrip())
        print(f"page: {Path(outcome['page']).absolute().as_uri()}")
    elif flow == "fleet":
        print(outcome)


def _shown_progress(flow: str, parameters: Mapping[str, Any]) -> AbstractContextManager[None]:
    model = parameters.get("model", "")
    if flow != "replay" or not sys.stderr.isatty():
        return progress(f"{flow} {model}".rstrip())
    config = load_model_config(model)
    all_windows = not {"start", "end"} & parameters.keys()
    return replay_progress(config.name, len(config.windows()) if all_windows else None)


def backtest_matrix_file(path: Path, out: Path, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Back-test a recorded matrix; return the recommendation and the paths of the page and the summary."""
    alphas, share = chosen.get("alphas", ALPHAS), chosen.get("compute_share", COMPUTE_SHARE)
    try:
        with progress(f"backtest {path.name}"):
            sentence = backtest_matrix(path, out, alphas, chosen.get("policies", ()), share)
    except PerennialError as error:
        refuse(f"backtest: {error}", 1)
    written = {"page": str(out / "backtest.html"), "summary": str(out / "summary.json")}
    return {"recommendation": sentence, **written}


def fleet_summary(models: Sequence[str], until: datetime | None) -> dict[str, Any]:
    """Return the content of the fleet page as JSON values, most urgent model first, without ledger entries."""
    fleet: Fleet = survey_files(models or available_models(), until or wall_clock())
    broken = [{"model": each.model, "found": each.found, "error": each.sentence} for each in fleet.broken]
    return {
        "as_of": fleet.as_of,
        "headline": fleet.headline,
        "broken": broken,
        "models": [_member(each) for each in fleet.members],
    }


def _member(member: FleetMember) -> dict[str, Any]:
    facts = member.facts
    return {
        "model": facts.model,
        "health": member.health,
        "needs": member.needs,
        "champion": facts.champion.version if facts.champion else None,
        "champion_since": member.champion_since,
        "metric": member.metric,
        "last_decision": member.latest.decision if member.latest else None,
        "next_check": member.next_check,
        "retrains_in_30_days": member.retrains,
        "spent_usd_in_30_days": facts.spent_usd,
        "approvals": member.approvals,
    }
