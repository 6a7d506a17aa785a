"""The command line as a whole: its commands, how errors are shown, and how it ends.

Exit codes are part of the interface. 0: done. 1: the answer is no (a wrong file, a damaged ledger, a refused run).
2: the request itself cannot be met (a wrong option, a file or a server that is not there). An error that a person can
fix is printed as one message on stderr; anything else is a defect and keeps its traceback.

`--help` and completion answer at once, so no module of this package loads Prefect or a library of the models at its top.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deployments.cli import audit, files, flows, servers
from deployments.cli.output import examples
from tasks.policy.records.errors import PerennialError

CLOSED_PIPE = 141
"""128 + SIGPIPE, as other commands end when `| head` has read enough; never mistaken for a verdict."""


class Perennial(TyperGroup):
    """Runs a command and turns what a person can fix into one message."""

    def invoke(self, ctx: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # else it is a test's
                stream.reconfigure(errors="replace")  # a locale without σ or │ must not end what runs for days
        try:
            outcome = super().invoke(ctx)
            sys.stdout.flush()  # a closed pipe shows here, where it is handled, and not when Python ends
            return outcome
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes at its end
            ctx.exit(CLOSED_PIPE)
        except PerennialError as error:
            print(error, file=sys.stderr)
            ctx.exit(2)


app = typer.Typer(
    name="perennial",
    cls=Perennial,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its frames would show values, such as rows and passwords
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog=examples(
        "perennial demo",
        "perennial check churn.yaml",
        "perennial run monitor --model churn",
        "perennial apply --dry-run",
        "perennial audit state churn --at 2026-06-05",
    ),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"perennial {version('perennial')}")
        raise typer.Exit


@app.callback()
def perennial(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Keep production models performing: watch them, retrain when it pays, and always be able to go back.

    A MODEL is the name of a file under deployments/ (or in the folder PERENNIAL_MODELS), or the path of a YAML file.
    Everything is stored in the workspace, .perennial unless PERENNIAL_HOME names another folder.
    """


files.add_to(app)
servers.add_to(app)
flows.add_to(app)
app.add_typer(audit.app, name="audit", rich_help_panel=flows.PANEL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code."""
    try:
        app(args=arguments, prog_name="perennial")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
