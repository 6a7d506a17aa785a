"""Commands about model files: `new` writes one from a table, `check` describes a file, `accept` approves a changed one."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.output import AsJson, examples, model_names, names, print_json, progress, refuse

PANEL = "Model files"
TASKS, RISKS = ("binary", "multiclass", "regression"), ("low", "medium", "high")


def add_to(app: typer.Typer) -> None:
    app.command(
        rich_help_panel=PANEL,
        epilog=examples(
            "perennial new churn --data churn.parquet",
            "perennial new churn --data s3://warehouse/churn/ --label left --yes",
            "perennial new churn --data sql --url-env WAREHOUSE_URL --table churn",
        ),
    )(new)
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


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new model.", show_default=False)],
    data: Annotated[
        str,
        typer.Option(
            help="The table: a Parquet or CSV file, a folder of such files, a Delta table, an address, or sql.",
            metavar="PATH",
        ),
    ],
    url_env: Annotated[
        str | None,
        typer.Option(help="With --data sql: environment variable that holds the SQLAlchemy URL.", metavar="NAME"),
    ] = None,
    query: Annotated[
        str | None, typer.Option(help="With --data sql: a query that returns the rows.", metavar="SQL")
    ] = None,
    table: Annotated[str | None, typer.Option(help="With --data sql: a table.", metavar="NAME")] = None,
    time: Annotated[str | None, typer.Option(help="Column with a row's time.", metavar="COLUMN")] = None,
    row_id: Annotated[
        str | None,
        typer.Option("--id", help="Column that identifies a row, or columns with commas.", metavar="COLUMN,…"),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column that the model predicts.", metavar="COLUMN")] = None,
    task: Annotated[str | None, typer.Option(help="binary, multiclass or regression.", metavar="TASK")] = None,
    window: Annotated[
        str | None, typer.Option(help="Length of a window: month, or a duration such as '7 days'.", metavar="LENGTH")
    ] = None,
    label_delay_hours: Annotated[
        float | None, typer.Option(help="Hours until a label is known.", min=0, metavar="HOURS")
    ] = None,
    owner: Annotated[
        str | None, typer.Option(help="Who is asked when a decision requires a person.", metavar="NAME")
    ] = None,
    purpose: Annotated[str | None, typer.Option(help="What the prediction is used for.", metavar="TEXT")] = None,
    risk: Annotated[
        str | None, typer.Option(help="What a wrong model costs: low, medium or high.", metavar="RISK")
    ] = None,
    value_usd: Annotated[
        float | None, typer.Option(help="Value of one unit of the metric per day, in $.", min=0, metavar="USD")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where the file is written. Default: PERENNIAL_MODELS, else the current folder.", show_default=False
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing: guess, and leave open what cannot be guessed.")
    ] = False,
) -> None:
    """Write a model's file from a table, and show what retraining would have been worth on its history.

    Guesses what the data shows, asks what it does not show, and never overwrites a file. What nobody has answered stays in
    the file as "?", which `perennial check` reports. Nothing is deployed.
    """
    for option, given, accepted in (("--task", task, TASKS), ("--risk", risk, RISKS)):
        if given is not None and given not in accepted:
            raise typer.BadParameter(f"{option} is {given!r}, expected one of {', '.join(accepted)}")
    if (data == "sql") != (url_env is not None) or (data == "sql") != ((query is None) != (table is None)):
        raise typer.BadParameter("expected --data PATH, or --data sql with --url-env and either --query or --table")
    # only this command needs rich's console
    from rich.console import Console

    # they load machine learning libraries
    from deployments.new.draft import People
    from deployments.new.start import NewModel, start
    from tasks.adapters.inspection.proposal import Answers
    from tasks.adapters.inspection.table import TablePlace

    days = None if window in (None, "month") else _days(str(window))
    answers = Answers(time, names(row_id or "") or None, label, task, days, window == "month", label_delay_hours)
    place = TablePlace(None if data == "sql" else data, url_env, query, table)
    request = NewModel(name, place, answers, People(owner, purpose, risk, value_usd), folder, yes)
    try:
        raise typer.Exit(start(request, Console(), datetime.now(UTC)))
    except EOFError:
        refuse(
            "new: the input ended before all questions were answered, expected a terminal, or --yes to ask nothing", 2
        )


def _days(text: str) -> float:
    """Parse the length of a window, with the forms that a model's file accepts."""
    from pydantic import ValidationError  # only this option needs it

    from deployments.config.model import WindowLength  # loads pydantic, as above

    try:
        return WindowLength.model_validate({"window_days": text}).window_days
    except ValidationError:
        raise typer.BadParameter(
            f"--window is {text!r}, expected month, or a duration such as '7 days' or '6 hours'"
        ) from None


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
        bool, typer.Option("--data", help="Also read the rows, and report problems in them with their fix.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check model files and describe in plain sentences what each will do.

    Exits with 1 if a file is invalid: the message names the field, what was found and what was expected.
    """
    from deployments.new.checking import CheckResults, check_files, check_fleet  # loads machine learning libraries

    found = []
    with progress("checking"):
        for each in check_files(paths or [], data):
            found.append(each)
            if each.error and not as_json:
                print(each.error, file=sys.stderr)
            elif not as_json:
                print(
                    f"{each.model}: {each.purpose}",
                    *each.behaviour,
                    *each.data,
                    *map("lint: {}".format, each.lints),
                    sep="\n  ",
                )
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
