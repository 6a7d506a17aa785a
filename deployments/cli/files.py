"""Commands about model files: `check` says what a file does, `accept` has somebody answer for a new one."""

import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from deployments.cli.output import AsJson, examples, model_names, print_json, progress

PANEL = "Model files"


def add_to(app: typer.Typer) -> None:
    app.command(
        rich_help_panel=PANEL,
        epilog=examples(
            "perennial check", "perennial check churn.yaml --data", "perennial check --json | jq '.models[].error'"
        ),
    )(check)
    app.command(
        rich_help_panel=PANEL,
        epilog=examples("perennial accept --model churn.yaml --by ada@example.com --reason 'two people approve now'"),
    )(accept)


def check(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="YAML files or names of models; every model when left out.",
            show_default=False,
            autocompletion=model_names,
        ),
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Also read the latest rows of the history, and say what is odd about them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check model files and say in plain sentences what each will do.

    Ends with 1 when a file is wrong: the message names the field, what was found and what was expected.
    """
    from deployments.cli.checking import Checked, check_files, check_fleet  # loads the libraries of the models

    found = []
    with progress("checking"):
        for each in check_files(paths or [], data):
            found.append(each)
            if each.error and not as_json:
                print(each.error, file=sys.stderr)
            elif not as_json:
                print(f"{each.model}: {each.purpose}", *each.behaviour, *each.data, sep="\n  ")
    checked = Checked(tuple(found), check_fleet())
    if as_json:
        print_json(checked)
    elif checked.fleet.error:
        print(checked.fleet.error, file=sys.stderr)
    elif checked.fleet.sentence:
        print(checked.fleet.sentence)
    if not checked.ok:
        raise typer.Exit(1)


def accept(
    model: Annotated[
        str,
        typer.Option(help="Name of a model, or path of the YAML file that holds from now on.", metavar="MODEL"),
    ],
    by: Annotated[
        str, typer.Option(help="Who answers for it, as in access.override of the file until now.", metavar="NAME")
    ],
    reason: Annotated[str, typer.Option(help="Why; goes to the ledger.")],
) -> None:
    """Answer for another file, risk or access of a model that already runs.

    A ledger belongs to the file that it began with. When the file moves, or says something else of risk, access or
    promotion, runs stop until a person whom the old file names accepts the change.
    """
    from tasks.rollout.access import accept_file  # loads Prefect

    found = accept_file(model, by, reason, datetime.now(UTC))
    print(f"{model}: the ledger goes on with {found.file} (risk {found.risk}); {by} answers for it")
