"""`perennial edge`: export a model to a folder that runs on a device, and import what the device has learned."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.output import AsJson, examples, json_only, model_names, print_json, utc_moment

app = typer.Typer(
    no_args_is_help=True, help="Run a model on a device without Perennial, and take back what it learns there."
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name or path of a YAML file.", autocompletion=model_names)]
Until = Annotated[datetime | None, typer.Option(parser=utc_moment, help="As of this time, UTC.", metavar="DATE")]
Person = Annotated[str, typer.Option(help="Who asks for it; recorded in the ledger.", metavar="NAME")]


@app.command(epilog=examples("perennial edge export churn device/", "perennial edge export churn device/ --version 3"))
def export(
    model: Model,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.", show_default=False)],
    version: Annotated[
        int | None, typer.Option(help="Number of a version. Default: the champion.", min=1, metavar="NUMBER")
    ] = None,
    until: Until = None,
    requested_by: Person = "unnamed",
    as_json: AsJson = False,
) -> None:
    """Write a folder that predicts and adapts with numpy and xgboost alone.

    It holds the model, its description, a manifest, a key for signing updates, and perennial_edge.py.
    """
    # they load Prefect
    from flows.parameters import resolve_as_of, wall_clock
    from tasks.policy.governance.access import principal_of
    from tasks.policy.governance.requests import RunRequest
    from tasks.record.edge import export_version
    from tasks.record.history import find_champion, find_version
    from tasks.rollout.access import admit

    config = admit(model)
    found = find_version(config, str(version)) if version else find_champion(config, required=True)
    principal, as_of = principal_of(None, None, requested_by), resolve_as_of(config, until)
    request = RunRequest("export", model, principal, requested_by, as_of, wall_clock())
    exported = export_version(config, found, folder, request)
    if as_json:
        print_json(exported)
    else:
        print(
            f"{config.name}: version {exported.version} is in {folder}; its updates are signed with key {exported.key_id}"
        )


@app.command("import", epilog=examples("perennial edge import churn update.json --requested-by ada@example.com"))
def take_in(
    model: Model,
    update: Annotated[Path, typer.Argument(metavar="UPDATE", help="File that a device wrote.", show_default=False)],
    until: Until = None,
    requested_by: Person = "unnamed",
    as_json: AsJson = False,
) -> None:
    """Validate a device's update as a challenger, on rows that neither it nor the champion has seen.

    Exits with 1 if it is refused: because it was tampered with, is stale, foreign, imported before or beyond the limits of
    training.edge, or because it does not pass validation.
    """
    # they load Prefect
    from deployments.cli.running import run_flow
    from flows.retrain import retrain

    given = {"model": model, "update": str(update.absolute()), "until": until, "requested_by": requested_by}
    with json_only(as_json):
        validation = run_flow(retrain, {name: value for name, value in given.items() if value})
    if as_json:
        print_json(validation)
    else:
        print(f"{model}: version {validation.challenger}: {validation.verdict}", *validation.reasons, sep="\n  ")
    if validation.verdict == "fail":
        raise typer.Exit(1)
