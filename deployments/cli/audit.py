"""`perennial audit`: verify the ledger, show its entries, and show which version served at a given time."""

from datetime import datetime
from typing import Annotated

import typer

from deployments.cli.output import AsJson, Models, examples, model_names, print_json, utc_moment
from tasks.adapters import ledger

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.", autocompletion=model_names)]

app = typer.Typer(no_args_is_help=True, help="Read and verify the ledger, which records every decision and change.")


@app.command(
    epilog=examples(
        "perennial audit verify", "perennial audit verify churn --expect churn:412:9f…", "perennial audit verify --json"
    )
)
def verify(
    models: Models = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL:SEQUENCE:HASH", help="A head printed by an earlier run. May be repeated.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify the hash chain of every ledger, and the registry against it. Exits with 1 if anything is wrong.

    Store the printed heads elsewhere and pass them as --expect: that also detects a ledger whose last entries were
    removed.
    """
    from tasks.record.audit import check_ledgers, noted_head  # loads Prefect

    try:
        heads = [noted_head(text) for text in expect or ()]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    found = check_ledgers(models or (), heads)
    if as_json:
        print_json(found)
    elif not found:
        print("no ledger yet")
    else:
        print(*(line for each in found for line in each.lines), sep="\n")
    if not all(each.ok for each in found):
        raise typer.Exit(1)


@app.command(
    epilog=examples(
        "perennial audit show churn --last 20", "perennial audit show churn --kind champion.promoted --json"
    )
)
def show(
    model: Model,
    kind: Annotated[
        str | None, typer.Option(help="Only entries of this kind, such as champion.promoted.", show_default=False)
    ] = None,
    last: Annotated[int | None, typer.Option(help="Only the last N entries.", min=1, show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Print a model's ledger entries, oldest first."""
    from tasks.record.audit import describe_entry  # loads Prefect

    found = ledger.entries(model, kind=kind, last=last)
    if as_json:
        print_json(found)
    else:
        for entry in found:
            print(describe_entry(entry))


@app.command(
    epilog=examples(
        "perennial audit state churn --at 2026-06-05", "perennial audit state churn --at 2026-06-05T14:30 --json"
    )
)
def state(
    model: Model,
    at: Annotated[
        datetime, typer.Option(parser=utc_moment, metavar="DATE", help="Date or time, in UTC unless it has a zone.")
    ],
    as_json: AsJson = False,
) -> None:
    """Print which version served at a time, and why. Exits with 1 if none did."""
    from tasks.record.audit import champion_at, describe_champion  # loads Prefect

    found = champion_at(model, at)
    if as_json:
        entry, promotion = found or (None, None)
        print_json({"model": model, "at": at, "entry": entry, "promotion": promotion})
    elif found:
        print(*describe_champion(model, at, *found), sep="\n")
    else:
        print(f"{model}: no champion at {at:%Y-%m-%d %H:%M} UTC")
    if found is None:
        raise typer.Exit(1)
