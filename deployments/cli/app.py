"""Assemble the command line: its commands, error messages and exit codes.

Exit codes are part of the interface. 0: success. 1: a negative result (an invalid file, a damaged ledger, a refused run).
2: the request itself is invalid (a wrong option, a missing file or server). An error that a user can fix is printed as one
message on stderr. Any other error is a defect and keeps its traceback.

To keep `--help` and completion fast, no module of this package imports Prefect or a machine learning library at its top.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deployments.cli import audit, edge, files, flows, servers
from deployments.cli.output import examples
from tasks.policy.records.errors import PerennialError

CLOSED_PIPE = 141
"""128 + SIGPIPE, as for other commands whose reader, such as `| head`, has closed the pipe; differs from 0, 1 and 2."""


class PerennialGroup(TyperGroup):
    """Run a command and print an error that a user can fix as one message."""

    def invoke(self, ctx: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):  # tests replace the streams
                stream.reconfigure(errors="replace")  # a locale without σ or │ must not end a long run
        try:
            outcome = super().invoke(ctx)
            sys.stdout.flush()  # raise for a closed pipe here, where it is handled, instead of at exit
            return outcome
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's flush at exit
            ctx.exit(CLOSED_PIPE)
        except PerennialError as error:
            print(error, file=sys.stderr)
            ctx.exit(2)


app = typer.Typer(
    name="perennial",
    cls=PerennialGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # typer's tracebacks would show values, such as rows and passwords
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
    """Keep production models performing: monitor them, retrain when it pays, and always be able to go back.

    MODEL is the name of a file under deployments/ (or in the folder PERENNIAL_MODELS), or the path of a YAML file.
    State is stored in the workspace: the folder .perennial, or the one that PERENNIAL_HOME names.
    """


files.add_to(app)
servers.add_to(app)
flows.add_to(app)
app.add_typer(audit.app, name="audit", rich_help_panel=flows.PANEL)
app.add_typer(edge.app, name="edge", rich_help_panel=flows.PANEL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        app(args=arguments, prog_name="perennial")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0
