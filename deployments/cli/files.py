"""Commands about model files: `check` describes a file, `accept` approves a changed one."""

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
            help="YAML files or names of models. Default: every model.",
            show_default=False,
            autocompletion=model_names,
        ),
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Also read the latest rows of the history and report problems in them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check model files and describe in plain sentences what each will do.

    Exits with 1 if a file is invalid: the message names the field, what was found and what was expected.
    """
    from deployments.cli.checking import CheckResults, check_files, check_fleet  # loads machine learning libraries

    found = []
    with progress("checking"):
        for each in check_files(paths or [], data):
            found.append(each)
            if each.error and not as_json:
                print(each.error, file=sys.stderr)
            elif not as_json:
                print(f"{each.model}: {each.purpose}", *each.behaviour, *each.data, sep="\n  ")
    checked = CheckResults(tuple(found), check_fleet())
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
        typer.Option(help="Name of the model, or path of its new YAML file.", metavar="MODEL"),
    ],
    by: Annotated[
        str, typer.Option(help="Who accepts the change: a person named in the old file's access.", metavar="NAME")
    ],
    reason: Annotated[str, typer.Option(help="Reason, recorded in the ledger.")],
) -> None:
    """Accept a change of file, risk, access or promotion of a model that already runs.

    A ledger is bound to the file that it began with. After such a change, runs are refused until a person named in the old
    file accepts it.
    """
    from tasks.rollout.access import accept_file  # loads Prefect

    found = accept_file(model, by, reason, datetime.now(UTC))
    print(f"{model}: the ledger is now bound to {found.file} (risk {found.risk}), accepted by {by}")
