"""`perennial new`: from a table to a model's file, a check and one page on what retraining would have been worth."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import perf_counter

import yaml
from rich.console import Console
from rich.table import Table

from deployments.config.folders import DEPLOYMENTS, FLEET, model_folders
from deployments.config.loading import load_model_config
from deployments.config.messages import open_questions
from deployments.config.model import ModelConfig
from deployments.new.draft import People, completed, draft, few_for_canary, is_recorded, write_draft
from deployments.new.questions import ask_about_table, ask_people
from deployments.new.trial import Trial, run_trial
from tasks.adapters.inspection.columns import share_of_rows
from tasks.adapters.inspection.proposal import Answers, Proposal, describe_table, misfit, propose
from tasks.adapters.inspection.table import TablePlace, read_table
from tasks.adapters.reports.backtest import FirstLook, policy_columns, policy_rows, write_first_look
from tasks.adapters.sources.files import without_credentials
from tasks.adapters.storage.workspace import make_folder, workspace
from tasks.policy.records.base import MODEL_NAME
from tasks.policy.records.errors import ModelConfigError, PerennialError
from tasks.policy.records.text import printable
from tasks.training.readiness import check_training, describe_data, lint_data


@dataclass(frozen=True)
class NewModel:
    """What the user asked for; `yes` asks nothing back."""

    name: str
    place: TablePlace
    answers: Answers
    people: People
    folder: Path | None
    yes: bool


def start(request: NewModel, console: Console, now: datetime) -> int:
    """Write the file and the page. Returns 1 if an open question prevents the back-test. Raises PerennialError."""
    began = perf_counter()
    path = _file(request)
    place = without_credentials(request.place.path or str(request.place.url_env))
    console.print(f"looking at {place}", markup=False)
    table = read_table(request.place)
    columns = describe_table(table)
    unfit = misfit(request.answers, columns)
    if unfit:
        raise ModelConfigError(f"--{unfit[0]} is {unfit[1]}")
    if request.yes:
        proposal, people = propose(request.name, table, columns, request.answers), request.people
    else:
        proposal = ask_about_table(request.name, table, columns, request.answers, console)
        people = ask_people(request.people, proposal.metric, few_for_canary(proposal), console)
    unfit = misfit(request.answers.but(label=proposal.label.value), columns)
    if unfit:
        raise ModelConfigError(f"{unfit[0]} is {unfit[1]}; or name another column with --{unfit[0]}")
    text = draft(proposal, people, path.parent, now)
    write_draft(path, text)
    console.print(f"wrote {path}", markup=False, soft_wrap=True)
    guesses = tuple(describe_guesses(proposal))
    _print_list("guessed:", guesses, console)
    questions = open_questions(path.name, yaml.safe_load(text), ModelConfig)
    if questions:
        _print_list("open questions, which `perennial check` lists until they are answered:", questions, console)
    if not proposal.is_complete or proposal.division is None:
        console.print(f"no back-test yet: {_missing(proposal)}", markup=False, soft_wrap=True)
        return 1
    content = completed(text)
    _print_list("checked with the data:", _check(content, path, now), console)
    console.print("back-testing never, a timer and perennial on the history; this takes a minute or two", markup=False)
    trial = run_trial(proposal, content)
    page = _write_page(proposal, trial, (guesses, tuple(questions), steps(proposal, path, now)), now)
    _show(trial, str(proposal.metric), console)
    console.print(f"page: {page}   ({perf_counter() - began:.0f} s)", markup=False, soft_wrap=True)
    _print_list("next:", steps(proposal, path, now), console)
    return 0


def _file(request: NewModel) -> Path:
    if not re.fullmatch(MODEL_NAME, request.name) or request.name == FLEET:
        raise ModelConfigError(
            f"name is {request.name!r}, expected lower case letters, digits, _ and -, beginning with a letter, such as churn"
        )
    path = (request.folder or default_folder()) / f"{request.name}.yaml"
    if path.exists():
        raise ModelConfigError(f"{path}: exists already, expected a new file; choose another name, or delete it first")
    return path


def default_folder() -> Path:
    """Return the folder named by PERENNIAL_MODELS; in a checkout of the project deployments/; else the current folder."""
    if own := os.environ.get("PERENNIAL_MODELS"):
        return Path(own).expanduser()  # it is created with its first model
    return DEPLOYMENTS if Path.cwd() == DEPLOYMENTS.parent else Path()


def describe_guesses(proposal: Proposal) -> list[str]:
    """Describe each guess and its reason in one line."""
    settings = (
        ("time", proposal.time),
        ("id", proposal.id),
        ("label", proposal.label),
        ("task", proposal.task),
        ("positive label", proposal.positive),
        ("label time", proposal.label_time),
        ("label delay in hours", proposal.label_delay_hours),
    )
    lines = [
        f"{name}: {', '.join(guess.value) if isinstance(guess.value, tuple) else guess.value} ({guess.reason})"
        for name, guess in settings
        if guess.value is not None
    ]
    lines += [f"{kind} features: {', '.join(names)}" for kind, names in proposal.features.items()]
    lines += [f"left out: {name} {why}" for name, why in proposal.left_out.items()]
    lines += [
        f"{name}: {number:.0f} in {share_of_rows(share)} of the rows looks like a missing value"
        for name, (number, share) in proposal.sentinels.items()
    ]
    found = proposal.division
    if found:
        lines.append(f"windows: {found.windows} of {found.length}, about {found.rows_per_window:,.0f} rows each")
        lines.append(
            f"history: {found.start:%Y-%m-%d} to {found.history_until:%Y-%m-%d}, rows until {found.end:%Y-%m-%d}"
        )
    return lines


def _missing(proposal: Proposal) -> str:
    open_ones = [name for name in ("time", "id", "label") if getattr(proposal, name).value is None]
    if "label" not in open_ones and proposal.task.value is None:
        open_ones.append("task")
    if not open_ones:
        return "no column can be a feature"
    options = " ".join(f"--{name} {'TASK' if name == 'task' else 'COLUMN'}" for name in open_ones)
    return (
        f"{' and '.join(open_ones)} cannot be guessed safely; "
        f"answer in the file, or delete it and repeat the command with {options}"
    )


def _check(content: dict[str, object], path: Path, now: datetime) -> list[str]:
    """Check the completed file as `perennial check --data` does; a finding does not stop the back-test."""
    place = make_folder(workspace().home) / f".{path.name}"
    source = content["source"]
    if isinstance(source, dict) and "://" not in str(source.get("path", "://")):
        content = {**content, "source": {**source, "path": str((path.parent / str(source["path"])).resolve())}}
    try:
        place.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        config = load_model_config(place)
        check_training(config)
        lints = [f"lint: {each}" for each in lint_data(config, now)]
        return [*(each.removeprefix("data: ") for each in describe_data(config)), *lints]
    except PerennialError as error:
        return [str(error).replace(place.name, path.name)]
    finally:
        place.unlink(missing_ok=True)


def steps(proposal: Proposal, path: Path, now: datetime) -> tuple[str, ...]:
    """Return the next three commands."""
    named = path.parent.resolve() in [folder.resolve() for folder in model_folders()]
    model = proposal.model if named else os.path.relpath(path)
    recorded = proposal.division is not None and is_recorded(proposal.division, now)
    return (
        f"perennial check {model} --data   # lists what is still open in {path.name}; answer it first",
        f"perennial replay --model {model}   # the whole loop on the recorded rows"
        if recorded
        else f'perennial run retrain --model {model} --reason "first model"   # trains and validates the first version',
        "perennial serve"
        if named
        else f"PERENNIAL_MODELS={os.path.relpath(path.parent)} perennial serve   # runs it on schedule",
    )


def _write_page(
    proposal: Proposal, trial: Trial, texts: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], now: datetime
) -> Path:
    guesses, questions, commands = texts
    notes = (*_money(trial, proposal), *_assumptions(proposal), f"Written on {now:%Y-%m-%d}.")
    look = FirstLook(proposal.model, str(proposal.metric), trial.scope, notes, guesses, questions, commands)
    return write_first_look(trial.comparison, look, workspace().reports / proposal.model / "new.html")


def _money(trial: Trial, proposal: Proposal) -> list[str]:
    ours = trial.comparison.results[-1]
    if ours.value_usd is not None:
        days = trial.comparison.days
        return [
            f"Cost is compute and what budget adds to it; worth is the gain at the value in budget, over {days:.0f} days."
        ]
    pays = f" perennial pays from {max(0.01, ours.pays_from_usd):,.2f} $ a day on." if ours.pays_from_usd else ""
    return [
        f"Cost is compute only, at the default price of an hour. What is one unit of {proposal.metric} worth a day? "
        f"Write it in budget.value_usd_per_metric_unit_per_day.{pays}"
    ]


def _assumptions(proposal: Proposal) -> list[str]:
    if proposal.label_delay_hours.value is not None:
        return []
    return ["The table does not show when labels become known; the back-test assumes at once, which is the best case."]


def _show(trial: Trial, metric: str, console: Console) -> None:
    shown = Table(*policy_columns(metric))
    for row in policy_rows(trial.comparison):
        shown.add_row(*row)
    console.print(trial.comparison.headline, markup=False, soft_wrap=True)
    console.print(trial.scope, markup=False, soft_wrap=True)
    console.print(shown)


def _print_list(title: str, lines: Sequence[str], console: Console) -> None:
    console.print(title, markup=False)
    for line in lines:
        console.print(f"  {printable(line)}", markup=False, soft_wrap=True, highlight=False)
