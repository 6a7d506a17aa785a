"""Commands that run a flow in this process: `run FLOW`, and the shortcuts `replay`, `backtest` and `fleet`.

Each option of `perennial run` is a parameter of the flow, with the same name, description and bounds as in the form of
Prefect's dashboard. A flow is imported only when its options are needed, so listing the flows imports none.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from deployments.cli.output import (
    AsJson,
    Models,
    examples,
    json_only,
    model_names,
    names,
    numbers,
    print_json,
    utc_moment,
)

PANEL = "Models"
FLOWS: dict[str, tuple[str, str]] = {
    "monitor": ("Judge the latest complete window and decide whether to retrain.", "--model churn --dry-run"),
    "retrain": (
        "Train a challenger and compare it with the champion.",
        "--model churn --reason 'new sensors since May' --dry-run",
    ),
    "adopt": (
        "Make a model that was trained elsewhere the first champion.",
        "--model churn --source models:/churn-2025@champion --requested-by ada@example.com",
    ),
    "promote": (
        "Roll out the validated challenger, and make it the champion once it has passed.",
        "--model churn --approved-by grace@example.com",
    ),
    "rollout": (
        "Hold, resume, advance or abort a running rollout.",
        "--model churn --action hold --reason 'a campaign runs this week'",
    ),
    "rollback": ("Restore the previous champion.", "--model churn --reason 'answers are late'"),
    "score": ("Score the latest complete window with the champion.", "--model churn --until 2026-06-05"),
    "replay": ("Replay recorded history through the loop, window by window.", "--model churn --end 2026-06-05"),
    "backfill": (
        "Score and judge the windows of a date range that were missed.",
        "--model churn --start 2026-05-01 --end 2026-06-05 --no-dry-run",
    ),
    "backtest": ("Compare retraining policies on the model's history.", "--model churn --alphas 0.05 --alphas 0.1"),
    "fleet": ("Show every model's state on one page.", "--models churn --models air_time"),
}
"""For each deployed flow: its summary, and the options of its example."""


class FlowCommand(TyperCommand):
    """A command whose options are the parameters of the flow with its name."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [*_options(self.name), *super().get_params(ctx)]

    def invoke(self, ctx: Any) -> Any:
        given = {str(option.name): ctx.params.pop(str(option.name)) for option in _options(self.name)}
        ctx.meta["parameters"] = {name: value for name, value in given.items() if value not in (None, [], ())}
        return super().invoke(ctx)


def _flow(name: str | None) -> Any:
    return getattr(import_module(f"flows.{name}"), str(name))


def _options(flow: str | None) -> list[TyperOption]:
    form = _flow(flow).parameters
    return [_option(name, field, name in form.required) for name, field in form.properties.items()]


def _option(name: str, field: Mapping[str, Any], required: bool) -> TyperOption:
    shapes = [field, *field.get("anyOf", [])]
    kinds = {shape.get("type") for shape in shapes}
    flag, metavar = f"--{name.replace('_', '-')}", "TEXT"
    kind: Callable[[str], Any] = str
    if "boolean" in kinds:
        flag, kind = f"{flag}/--no-{flag.removeprefix('--')}", bool
    elif any("$ref" in shape for shape in shapes):
        metavar, kind = "JSON", _parsed_json
    elif name in ("model", "models"):
        metavar = "MODEL"
    elif any(shape.get("format") == "date-time" for shape in shapes):
        metavar = "DATE"
    elif kinds & {"integer", "number"}:
        metavar = "NUMBER"
    return TyperOption(
        param_decls=[name, flag],
        type=kind,
        required=required,
        default=field.get("default") or None,
        show_default=True,
        metavar=None if kind is bool else metavar,
        is_flag=kind is bool or None,
        multiple="array" in kinds,
        help=field.get("description"),
        autocompletion=model_names if metavar == "MODEL" else None,
    )


def _parsed_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f'{text!r} is not JSON ({error}); expected for example {{"by": "Ada"}}') from None


ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name or path of a YAML file.", autocompletion=model_names)
]


def run(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Run the flow of this command with the given parameters."""
    from deployments.cli.running import print_outcome, run_flow  # loads Prefect

    with json_only(as_json):
        outcome = run_flow(_flow(ctx.command.name), ctx.meta["parameters"])
    if as_json:
        print_json(outcome)
    else:
        print_outcome(ctx.command.name, outcome)


def backtest(
    matrix: Annotated[
        Path | None, typer.Option(help="A recorded performance matrix, .npz; needs --out.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model; the matrix is built from its history.",
            metavar="MODEL",
            show_default=False,
            autocompletion=model_names,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="With --matrix: folder for summary.json and backtest.html.", show_default=False),
    ] = None,
    alphas: Annotated[
        str | None,
        typer.Option(
            help="Costs of a retrain, in units of the loss of one window, such as 0.05,0.1.", metavar="NUMBER,…"
        ),
    ] = None,
    policies: Annotated[
        str | None, typer.Option(help="Policies to simulate, such as perennial,every. Default: all.", metavar="NAME,…")
    ] = None,
    compute_share: Annotated[
        float | None,
        typer.Option(help="Share of a retrain's cost that is compute; the rest is deployment.", show_default="0.2"),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            parser=utc_moment,
            help="With --model: use windows that are complete by this time (UTC). Default: now.",
            metavar="DATE",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the retraining policy that would have been best on recorded history. Nothing is changed.

    Prints a recommendation and writes a page. With `--matrix`, needs neither a server nor a registry.
    """
    if (matrix is None) == (model is None):
        raise typer.BadParameter("expected either --matrix or --model")
    if matrix and not out:
        raise typer.BadParameter("--matrix needs --out, the folder for summary.json and backtest.html")
    from deployments.cli import running  # loads Prefect

    costs, chosen_names = numbers(alphas or ""), names(policies or "")
    chosen = {"alphas": costs or None, "policies": chosen_names or None, "compute_share": compute_share}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    with json_only(as_json):
        if matrix and out:
            outcome = running.backtest_matrix_file(matrix, out, chosen)
        else:
            given = chosen | {"model": model} | ({"until": until} if until else {})
            outcome = running.run_flow(_flow("backtest"), given)
    if as_json:
        print_json(outcome)
    elif matrix:
        print(outcome["recommendation"])
    else:
        running.print_outcome("backtest", outcome)


def preview(
    model: ModelArgument,
    until: Annotated[
        datetime | None,
        typer.Option(parser=utc_moment, help="As of this time (UTC). Default: now.", metavar="DATE"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a retrain would train on, try and cost, and what would stop it. Nothing is changed.

    The same as `perennial run retrain --dry-run`.
    """
    from deployments.cli.running import run_flow  # loads Prefect
    from deployments.config.loading import load_model_config  # takes half a second

    load_model_config(model)  # a wrong file is refused before a server starts
    given = {"model": model, "dry_run": True} | ({"until": until} if until else {})
    with json_only(as_json):
        found = run_flow(_flow("retrain"), given)
    if as_json:
        print_json(found)
    else:
        # the headline has the first of them
        stopped, more = found.refusals[1:], found.reasons if found.refusals else found.reasons[1:]
        print(found.headline, *(f"would be stopped: {each}" for each in stopped), *more, sep="\n  ")


def adopt(
    model: ModelArgument,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            help="The model: a file, an MLflow folder, models:/name@alias, runs:/id/path, s3:// or gs://.",
            metavar="ADDRESS",
        ),
    ],
    profile_from: Annotated[
        str | None,
        typer.Option(
            help="Rows that the reference profile is frozen from. Default: the history.",
            metavar="START..END",
            show_default=False,
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(parser=utc_moment, help="Adopt as of this time (UTC). Default: now.", metavar="DATE"),
    ] = None,
    requested_by: Annotated[
        str, typer.Option(help="Who adopts it; recorded in the ledger.", metavar="NAME")
    ] = "unnamed",
    as_json: AsJson = False,
) -> None:
    """Make a model that was trained elsewhere the first version and the champion. Nothing is trained.

    It is stored unchanged, with a reference profile from this model's rows, and compared with a constant prediction on the latest
    labelled rows. joblib, pickle and most MLflow models can run code: they need training.trust: true in the model's file.
    """
    from deployments.cli.running import run_flow  # loads Prefect

    start, end = _span(profile_from)
    given = {"model": model, "source": source, "profile_start": start, "profile_end": end, "until": until}
    with json_only(as_json):
        promotion = run_flow(
            _flow("adopt"), {name: value for name, value in given.items() if value} | {"requested_by": requested_by}
        )
    if as_json:
        print_json(promotion)
    else:
        print(f"{model}: version {promotion.champion} is the champion", *promotion.reasons, sep="\n  ")


def _span(text: str | None) -> tuple[datetime | None, datetime | None]:
    """Parse START..END; either may be left out."""
    if text is None:
        return None, None
    start, dots, end = text.partition("..")
    if not dots:
        raise typer.BadParameter(f"--profile-from is {text!r}, expected START..END such as 2026-01-01..2026-05-01")
    return utc_moment(start) if start else None, utc_moment(end) if end else None


def fleet(
    models: Models = None,
    until: Annotated[
        datetime | None, typer.Option(parser=utc_moment, help="As of this time, UTC.", metavar="DATE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show every model's champion, health, drift, last decision, next check and spending, most urgent first.

    Writes the fleet page and prints its path. With --json, nothing is written.
    """
    from deployments.cli.running import fleet_summary, run_flow  # loads Prefect

    if as_json:
        with json_only(as_json):
            summary = fleet_summary(models or (), until)
        print_json(summary)
        return
    given = {"models": models, "until": until}
    print(run_flow(_flow("fleet"), {name: value for name, value in given.items() if value}))


def add_to(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True,
        help="Run one flow in this process; its parameters are the options.\n\n"
        "The run is recorded on the server at PREFECT_API_URL, else on that of `perennial serve`, else on a temporary one.",
    )
    for name, (summary, options) in FLOWS.items():
        example = examples(f"perennial run {name} {options}")
        group.command(name, cls=FlowCommand, help=summary, epilog=example)(run)
    app.add_typer(group, name="run", rich_help_panel=PANEL)
    shown = examples("perennial replay --model churn", "perennial replay --model churn --end 2026-06-05")
    app.command("replay", cls=FlowCommand, help=FLOWS["replay"][0], rich_help_panel=PANEL, epilog=shown)(run)
    shown = examples(
        "perennial backtest --model churn", "perennial backtest --matrix history.npz --out study --alphas 0.05,0.1"
    )
    app.command(rich_help_panel=PANEL, epilog=shown)(backtest)
    shown = examples("perennial preview churn", "perennial preview churn --until 2026-06-05 --json")
    app.command(rich_help_panel=PANEL, epilog=shown)(preview)
    shown = examples(
        "perennial adopt churn --from models:/churn-2025@champion --requested-by ada@example.com",
        "perennial adopt churn --from model.skops --profile-from 2026-01-01..2026-05-01",
    )
    app.command(rich_help_panel=PANEL, epilog=shown)(adopt)
    shown = examples("perennial fleet", "perennial fleet --json | jq '.models[] | select(.needs != [])'")
    app.command(rich_help_panel=PANEL, epilog=shown)(fleet)
