"""Commands that bring something up: `apply` on a server, `work` on a host, `serve` and `demo` on one machine."""

from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.output import AsJson, Models, examples, json_only, print_json, progress

PANEL = "Servers"


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel=PANEL, epilog=examples("perennial demo", "perennial demo air_time"))(demo)
    app.command(
        rich_help_panel=PANEL, epilog=examples("perennial serve", "perennial serve --prefect-port 4300 --no-login")
    )(serve)
    app.command(
        rich_help_panel=PANEL,
        epilog=examples(
            "perennial apply --dry-run", "perennial apply --keep-switches", "perennial apply --alerts webhook.txt"
        ),
    )(apply)
    app.command(
        rich_help_panel=PANEL,
        epilog=examples("perennial work", "perennial work --pool perennial-ecs --work-queue default"),
    )(work)


def demo(models: Models = None) -> None:
    """Replay recorded history for every model side by side, then show what happened.

    Takes minutes and starts a Prefect server of its own. Interrupted, it continues where it stopped.
    """
    from deployments.cli.demo import show_demo  # loads Prefect

    raise typer.Exit(show_demo(models or []))


def serve(
    prefect_port: Annotated[int, typer.Option(help="Preferred port of Prefect.", metavar="PORT")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Preferred port of MLflow.", metavar="PORT")] = 5000,
    reports_port: Annotated[int, typer.Option(help="Preferred port of the reports.", metavar="PORT")] = 4280,
    evidently_port: Annotated[int, typer.Option(help="Preferred port of Evidently.", metavar="PORT")] = 8000,
    credentials: Annotated[
        Path | None,
        typer.Option(
            help="A file with user:password that only you can read. When left out, the workspace's own log-in, made by "
            "the first start.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    no_login: Annotated[
        bool, typer.Option("--no-login", help="Ask for no log-in, on a machine that is yours alone.")
    ] = False,
) -> None:
    """Run Prefect, MLflow, the reports and a worker on this machine until Ctrl-C.

    Where a port is taken, a free one is used and printed.
    """
    from deployments.local.serve import serve as serve_all  # loads Prefect

    ports = {"prefect": prefect_port, "mlflow": mlflow_port, "reports": reports_port, "evidently": evidently_port}
    raise typer.Exit(serve_all(ports, credentials, no_login))


def apply(
    dry_run: Annotated[bool, typer.Option("--dry-run", "--plan", help="Show the plan and change nothing.")] = False,
    keep_switches: Annotated[
        bool, typer.Option("--keep-switches", help="Leave on or off what people switched in the dashboard.")
    ] = False,
    alerts: Annotated[
        Path | None,
        typer.Option(
            help="A file with the webhook address that alerts go to, readable by you only.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    worker_follows: Annotated[
        list[str] | None,
        typer.Option(
            help="A pool whose worker starts right after this, so do not warn that no worker polls it. May be repeated.",
            metavar="POOL",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what would change on the Prefect server that PREFECT_API_URL names, and change it.

    Deployments, schedules, automations, work pools and limits become what prefect.yaml and the model files say.
    Applied twice, the second time changes nothing.
    """
    from deployments.apply.deploy import apply as apply_all  # loads Prefect

    with json_only(as_json), progress("comparing with the server" if dry_run else "applying"):
        changes = apply_all(dry_run, keep_switches, alerts_file=alerts, followed=worker_follows or ())
    if as_json:
        plan = [
            {
                "verb": change.verb,
                "kind": change.definition.kind,
                "name": change.definition.name,
                "details": change.details,
            }
            for change in changes
        ]
        print_json({"applied": not dry_run, "changes": plan})


def work(
    pool: Annotated[str, typer.Option(help="The work pool to take runs from.", metavar="POOL")] = "perennial",
    work_queue: Annotated[
        list[str] | None,
        typer.Option(help="Only this queue. May be repeated.", metavar="QUEUE", show_default=False),
    ] = None,
) -> None:
    """Run a worker on this host; when stopped, it gives its runs back to the queue."""
    from deployments.local.worker import work as work_on  # loads Prefect

    raise typer.Exit(work_on(pool, work_queue or []))
