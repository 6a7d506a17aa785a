"""Commands about servers: `apply` to a server, `work` on a host, `serve` and `demo` on one machine."""

from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.output import AsJson, Models, examples, json_only, model_names, print_json, progress

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
    group = typer.Typer(no_args_is_help=True, help="Create and test the notification blocks that get a model's alerts.")
    shown = examples(
        "perennial alerts add slack-webhook/ml-team --from address.txt",
        "vault read -field=keys pager | perennial alerts add pager-duty-webhook/on-call --from -",
    )
    group.command("add", epilog=shown)(add_alert_block)
    group.command("test", epilog=examples("perennial alerts test --model churn"))(test_alerts)
    app.add_typer(group, name="alerts", rich_help_panel=PANEL)
    app.command(
        rich_help_panel=PANEL,
        epilog=examples("perennial work", "perennial work --pool perennial-ecs --work-queue default"),
    )(work)
    app.command(
        rich_help_panel=PANEL,
        epilog=examples(
            "perennial gateway --model churn",
            "perennial gateway --model churn --model air_time --host 0.0.0.0 --api-key-file key.txt",
        ),
    )(gateway)


def demo(models: Models = None) -> None:
    """Replay the recorded history of every model in parallel, then show the results.

    Takes minutes and starts a Prefect server of its own. After an interruption, it continues where it stopped.
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
            help="A file with user:password that only you can read. Default: the workspace's own log-in, which the first "
            "start creates.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    no_login: Annotated[
        bool, typer.Option("--no-login", help="Require no log-in, on a machine that only you use.")
    ] = False,
) -> None:
    """Run Prefect, MLflow, the reports and a worker on this machine until Ctrl-C.

    If a port is taken, a free one is used and printed.
    """
    from deployments.local.serve import serve as serve_all  # loads Prefect

    ports = {"prefect": prefect_port, "mlflow": mlflow_port, "reports": reports_port, "evidently": evidently_port}
    raise typer.Exit(serve_all(ports, credentials, no_login))


def apply(
    dry_run: Annotated[bool, typer.Option("--dry-run", "--plan", help="Show the plan and change nothing.")] = False,
    keep_switches: Annotated[
        bool, typer.Option("--keep-switches", help="Keep what people switched on or off in the dashboard.")
    ] = False,
    alerts: Annotated[
        Path | None,
        typer.Option(
            help="A file with the webhook address for alerts, which only you can read.",
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
    """Show what will change on the Prefect server at PREFECT_API_URL, and change it.

    Makes deployments, schedules, automations, work pools and limits match prefect.yaml and the model files. A second run
    changes nothing.
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


def add_alert_block(
    block: Annotated[
        str,
        typer.Argument(help="Type and name, such as slack-webhook/ml-team.", metavar="TYPE/NAME", show_default=False),
    ],
    file: Annotated[
        Path,
        typer.Option(
            "--from",
            help="A file that only you can read, or - for standard input: the webhook's address, or for a service with keys "
            "its settings as lines of YAML.",
            metavar="FILE",
        ),
    ],
) -> None:
    """Create a notification block on the Prefect server, or replace it. Its address and keys are stored encrypted there.

    Then name it under `alerts` of a model's file or of fleet.yaml, and run `perennial apply`.
    """
    from deployments.alerts.blocks import save_block  # loads Prefect
    from flows.parameters import own_server  # loads Prefect

    with own_server():
        save_block(block, file)
    print(f"{block} is saved")


def test_alerts(
    model: Annotated[
        str,
        typer.Option(
            help="Name of the model, or path of its YAML file.",
            metavar="MODEL",
            autocompletion=model_names,
            show_default=False,
        ),
    ],
) -> None:
    """Send a test message through every notification block that gets alerts of a model, and print each outcome.

    Exits with 1 if one failed.
    """
    from deployments.alerts.delivery import send_test_messages  # loads Prefect
    from deployments.config.blocks.alerts import Audience  # loads pydantic
    from deployments.config.fleet import load_fleet_config  # loads pydantic
    from deployments.config.loading import load_model_config  # loads pydantic
    from flows.parameters import own_server  # loads Prefect

    config = load_model_config(model)
    audience = Audience(load_fleet_config().alerts, {config.name: config.alerts})
    with own_server():
        outcomes = send_test_messages(config.name, audience)
    print(*(outcomes or (f"{config.name}: its alerts go to no one",)), sep="\n")
    if any(outcome.failure for outcome in outcomes):
        raise typer.Exit(1)


def work(
    pool: Annotated[str, typer.Option(help="The work pool to take runs from.", metavar="POOL")] = "perennial",
    work_queue: Annotated[
        list[str] | None,
        typer.Option(help="Only this queue. May be repeated.", metavar="QUEUE", show_default=False),
    ] = None,
) -> None:
    """Run a worker on this host. When it is stopped, its runs return to the queue."""
    from deployments.local.worker import work as work_on  # loads Prefect

    raise typer.Exit(work_on(pool, work_queue or []))


def gateway(
    model: Annotated[
        list[str],
        typer.Option(help="A model to serve: its name, or the path of its file. May be repeated.", metavar="MODEL"),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.", metavar="HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for any free one.", metavar="PORT")] = 8080,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the key that requests must name, which only you can read. It may be replaced while the "
            "gateway runs.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    no_api_key: Annotated[
        bool, typer.Option("--no-api-key", help="Require no key on an address that other machines reach.")
    ] = False,
    drain_s: Annotated[
        float, typer.Option(help="Seconds to answer on after SIGTERM, while /ready refuses.", metavar="SECONDS")
    ] = 5.0,
    land_s: Annotated[
        float, typer.Option(help="Seconds between two landings of the log in the lake.", metavar="SECONDS")
    ] = 300.0,
) -> None:
    """Serve models over HTTP, in MLflow's request format, until a signal.

    The champion answers, and a challenger as the rollout says. Every answer is logged to the lake.
    """
    from infra.gateway.server import GatewayOptions, run  # loads machine learning libraries

    raise typer.Exit(run(model, GatewayOptions(host, port, api_key_file, no_api_key, drain_s, land_s)))
