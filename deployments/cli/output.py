"""Shared parts of the commands: JSON output, parsing of options, examples in help texts, and progress displays."""

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
        help="Names or paths of YAML files. Default: every model.",
        show_default=False,
        autocompletion=lambda incomplete: model_names(incomplete),
    ),
]


def model_names(incomplete: str) -> list[str]:
    """Complete the name of a model."""
    # load pydantic, only when Tab is pressed
    from deployments.config.folders import available_models
    from tasks.policy.records.errors import ModelConfigError

    try:
        return [name for name in available_models() if name.startswith(incomplete)]
    except ModelConfigError:  # PERENNIAL_MODELS names no folder; the command itself says so
        return []


def examples(*lines: str) -> str:
    """Return an epilog of commands to copy, one per line."""
    return "\n".join(["Examples:", "", *(f"$ {line}" for line in lines)]).replace(
        "[", r"\["
    )  # `[` starts rich's markup


def names(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of names, such as `perennial,every`."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def numbers(text: str) -> tuple[float, ...]:
    """Parse a comma-separated list of numbers, such as `0.05,0.1`."""
    try:
        return tuple(float(part) for part in names(text))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers; expected for example 0.05,0.1") from None


def utc_moment(text: str) -> datetime:
    """Parse a date or time; without a zone it is UTC."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a date; expected for example 2026-06-05 or 2026-06-05T12:00"
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def print_json(record: object) -> None:
    """Print a record, or a plain value that contains records, as JSON."""
    from tasks.policy.records.base import to_json  # loads pydantic

    print(json.dumps(json.loads(to_json(record)), indent=2, ensure_ascii=False))


def json_only(as_json: bool) -> AbstractContextManager[object]:
    """Redirect printed messages to stderr while a command with `--json` runs."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def refuse(message: str, code: int) -> NoReturn:
    """Print one message on stderr and exit with this code."""
    print(message, file=sys.stderr)
    raise typer.Exit(code)


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show a line with the elapsed time below the logs; nothing if stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    # only needed in a terminal
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        shown.add_task(text)
        with logs_above():
            yield


@contextmanager
def logs_above() -> Iterator[None]:
    """Send Prefect's log lines through the stderr that `rich` has replaced, which prints them above the progress line."""
    from prefect.logging.handlers import PrefectConsoleHandler  # loads Prefect, which the caller has loaded already

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
