"""How commands answer: JSON for programs, examples in help texts, and progress for people who wait."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from datetime import UTC, datetime
from typing import Annotated, NoReturn

import typer

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on stdout; messages and logs go to stderr.")
]
Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]...",
        help="Names or paths of YAML files; every model when left out.",
        show_default=False,
        autocompletion=lambda incomplete: model_names(incomplete),
    ),
]


def model_names(incomplete: str) -> list[str]:
    """Completes the name of a model."""
    from deployments.config.model import available_models  # pydantic loads here, only when Tab is pressed

    return [name for name in available_models() if name.startswith(incomplete)]


def examples(*lines: str) -> str:
    """An epilog of commands to copy, a line each."""
    return "\n".join(["Examples:", "", *(f"$ {line}" for line in lines)]).replace(
        "[", r"\["
    )  # `[` begins rich's markup


def names(text: str) -> tuple[str, ...]:
    """Parses `perennial,every`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str) -> tuple[float, ...]:
    """Parses `0.05,0.1`."""
    try:
        return tuple(float(part) for part in names(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers; expected such as 0.05,0.1") from None


def utc_moment(text: str) -> datetime:
    """Parses a date or time; without a zone it is UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no date; expected such as 2026-06-05 or 2026-06-05T12:00") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def print_json(record: object) -> None:
    """Any record of ours, or a plain value that holds some."""
    from tasks.policy.records.base import to_json  # pydantic loads here

    print(json.dumps(json.loads(to_json(record)), indent=2, ensure_ascii=False))


def json_only(as_json: bool) -> AbstractContextManager[object]:
    """While a command works: with `--json`, what is printed on the way goes to stderr."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def refuse(message: str, code: int) -> NoReturn:
    """End with one message on stderr and this exit code."""
    print(message, file=sys.stderr)
    raise typer.Exit(code)


@contextmanager
def progress(text: str) -> Iterator[None]:
    """A line with the time that has passed, below the logs; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    # only where somebody watches
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        shown.add_task(text)
        with logs_above():
            yield


@contextmanager
def logs_above() -> Iterator[None]:
    """Prefect's log lines go through the stderr that `rich` has put in place, which prints them above the progress."""
    from prefect.logging.handlers import PrefectConsoleHandler  # Prefect is loaded by then, or has nothing to log

    names = ("prefect", "prefect.flow_runs", "prefect.task_runs")
    found = [each for name in names for each in logging.getLogger(name).handlers]
    consoles = [handler.console for handler in found if isinstance(handler, PrefectConsoleHandler)]
    before = [console.file for console in consoles]
    for console in consoles:
        console.file = sys.stderr
    try:
        yield
    finally:
        for console, file in zip(consoles, before, strict=True):
            console.file = file
