"""Ask what the data does not answer, with the guess as the default. An empty answer leaves the question open."""

import getpass
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.prompt import Prompt

from deployments.new.draft import People
from tasks.adapters.inspection.columns import ColumnFacts
from tasks.adapters.inspection.proposal import Answers, Proposal, misfit, propose
from tasks.adapters.inspection.table import FoundTable
from tasks.adapters.inspection.times import Guess
from tasks.policy.records.text import printable

Reader = Callable[[str], tuple[Any, ...] | str]
"""Returns what was answered, or what is wrong with it."""


def ask_about_table(
    model: str, table: FoundTable, columns: Mapping[str, ColumnFacts], answers: Answers, console: Console
) -> Proposal:
    """Ask for what could not be guessed safely, one question at a time, as an answer may settle the next."""
    for name, wanted in (
        ("time", "When was a row's prediction due? (column)"),
        ("label", "What should the model predict? (column)"),
        ("id", "What identifies a row? (column, or columns with commas)"),
    ):
        proposal = propose(model, table, columns, answers)
        guess: Guess = getattr(proposal, name)
        if guess.value is None:
            settled = answers.but(time=proposal.time.value, label=proposal.label.value)
            given = _column(wanted, guess, _reader(name, settled, columns), console)
            if given:
                answers = answers.but(**{name: given if name == "id" else given[0]})
    proposal = propose(model, table, columns, answers)
    if proposal.label.value and proposal.label_delay_hours.value is None:
        hours = _number("How many hours after its row is a label known?", console)
        if hours is not None:
            proposal = propose(model, table, columns, answers.but(label_delay_hours=hours))
    return proposal


def ask_people(people: People, metric: str | None, asks_feedback: bool, console: Console) -> People:
    """Ask for what no table says; about feedback only where it matters."""

    def ask(text: str, default: str) -> str | None:
        return Prompt.ask(text, console=console, default=default) or None

    return People(
        people.owner or ask("Who is asked when a decision requires a person? (owner)", default_owner()),
        people.purpose or ask("What is the prediction used for, in one sentence?", ""),
        people.risk
        or Prompt.ask(
            "What does a wrong model cost?", console=console, choices=["low", "medium", "high"], default="low"
        ),
        people.value_usd
        if people.value_usd is not None
        else _number(f"What is one unit of {metric or 'the metric'} more worth a day, in $?", console),
        _yes_or_no("Can an answer change what is observed later, as an offer does?", console)
        if asks_feedback
        else None,
    )


def default_owner() -> str:
    """Return the e-mail address in Git's settings, else the name of the user of this machine."""
    try:
        found = subprocess.run(
            ["git", "config", "user.email"], capture_output=True, text=True, check=False, timeout=5
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        found = ""
    return found or getpass.getuser()


def _column(wanted: str, guess: Guess, read: Reader, console: Console) -> tuple[str, ...]:
    console.print(
        printable(f"{guess.reason}{': ' + ', '.join(map(str, guess.others)) if guess.others else ''}"), markup=False
    )
    return _until_valid(wanted, read, console)


def _reader(role: str, answers: Answers, columns: Mapping[str, ColumnFacts]) -> Reader:
    """Return how an answer is read: as the names of columns that can have this role beside the other answers."""

    def read(text: str) -> tuple[str, ...] | str:
        names = tuple(part.strip() for part in text.split(",") if part.strip())
        if role != "id" and len(names) > 1:
            return f"expected one column of the table: {', '.join(columns)}"
        unfit = misfit(answers.but(**{role: names if role == "id" else names[0]}), columns) if names else None
        return f"{unfit[0]} is {unfit[1]}" if unfit else names

    return read


def _number(wanted: str, console: Console) -> float | None:
    def read(text: str) -> tuple[float, ...] | str:
        try:
            return (float(text),) if text else ()
        except ValueError:
            return "expected a number; leave it empty if nobody knows yet"

    found = _until_valid(wanted, read, console)
    return found[0] if found else None


def _yes_or_no(wanted: str, console: Console) -> bool | None:
    known = {"yes": True, "y": True, "no": False, "n": False}

    def read(text: str) -> tuple[bool, ...] | str:
        if not text.strip():
            return ()
        return (known[text.strip().lower()],) if text.strip().lower() in known else "expected yes or no"

    found = _until_valid(wanted, read, console)
    return found[0] if found else None


def _until_valid(wanted: str, read: Reader, console: Console) -> tuple[Any, ...]:
    """Ask until the answer can be read; an empty one leaves the question open."""
    while isinstance(
        found := read(Prompt.ask(f"{wanted} (empty: decide later)", console=console, default="", show_default=False)),
        str,
    ):
        console.print(printable(found), markup=False)
    return found
