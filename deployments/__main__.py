"""`python -m deployments check | accept | apply | work | serve`: look at models' files, deploy, take up runs, see it all."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path

from deployments.config.description import describe
from deployments.config.fleet import load_fleet_config
from deployments.config.model import available_models
from deployments.config.names import load_named_model
from tasks.policy.records.errors import ModelConfigError, PerennialError

PORTS = {"prefect": 4200, "mlflow": 5000, "reports": 4280, "evidently": 8000}


def check(paths: Sequence[str], data: bool = False) -> int:
    """Print what each model will do, or what is wrong with its file. Returns the number of wrong files.

    A source that is a function is imported, and the estimator is fitted on a few made-up rows; with `data` the latest rows
    of the history are read as well.
    """
    from tasks.training.readiness import (  # imported here, as `work` and `serve` need none of it
        check_training,
        look_at_data,
    )

    wrong = 0
    for path in paths or available_models():
        try:
            config = load_named_model(path)
            check_training(config)
            found = look_at_data(config) if data else ()
        except PerennialError as error:
            print(error, file=sys.stderr)
            wrong += 1
        else:
            print(f"{config.name}: {config.purpose}", *describe(config), *found, sep="\n  ")
    return wrong + _check_fleet()


def _check_fleet() -> int:
    try:
        fleet = load_fleet_config()
    except ModelConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if fleet.shared_budget:
        limit = fleet.shared_budget.max_usd_per_month
        print(f"together: {', '.join(fleet.sharing())} retrain for at most {limit:,.2f} $ in 30 days.")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m deployments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="lint model files and say what each will do")
    checking.add_argument(
        "paths", nargs="*", metavar="PATH", help="YAML files or model names; all models when left out"
    )
    checking.add_argument(
        "--data", action="store_true", help="also read the latest rows of the history, and say what is odd"
    )
    accepting = commands.add_parser(
        "accept", help="answer for another file, risk or access of a model that runs already"
    )
    accepting.add_argument(
        "--model", required=True, help="name of a model, or path of the YAML file that holds from now on"
    )
    accepting.add_argument(
        "--by", required=True, help="who answers for it, as in access.override of the file until now"
    )
    accepting.add_argument("--reason", required=True, help="why; goes to the ledger")
    applying = commands.add_parser("apply", help="show what would change on the Prefect server, and change it")
    applying.add_argument("--dry-run", action="store_true", help="show the plan only")
    applying.add_argument(
        "--keep-switches", action="store_true", help="leave on or off what people switched in the dashboard"
    )
    applying.add_argument(
        "--alerts",
        type=Path,
        metavar="FILE",
        help="a file with the webhook address that alerts go to, readable by you only",
    )
    applying.add_argument(
        "--worker-follows",
        action="append",
        default=[],
        metavar="POOL",
        help="a pool whose worker starts right after, so that nothing is said of nobody polling it",
    )
    working = commands.add_parser(
        "work", help="run a worker on this host; stopped, it gives its runs back to the queue"
    )
    working.add_argument("--pool", default="perennial", help="the work pool to take runs from (perennial)")
    working.add_argument(
        "--work-queue", action="append", default=[], metavar="QUEUE", help="only this queue; may be repeated"
    )
    serving = commands.add_parser("serve", help="run Prefect, MLflow, the reports and a worker on this machine")
    for name, port in PORTS.items():
        text = f"preferred port of {name} ({port}); a free one is used where it is taken"
        serving.add_argument(f"--{name}-port", type=int, default=port, metavar="PORT", help=text)
    serving.add_argument(
        "--credentials",
        type=Path,
        metavar="FILE",
        help="a file with user:password that only you can read; else the workspace's own log-in, made by the first start",
    )
    serving.add_argument(
        "--no-login", action="store_true", help="ask nobody who they are, on a machine that is yours alone"
    )
    options = parser.parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # else it is a test's
            stream.reconfigure(errors="replace")  # a locale without σ or │ must not end what runs for days
    try:
        return _run(options)
    except PerennialError as error:
        print(error, file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    if options.command == "check":
        return 1 if check(options.paths, options.data) else 0
    if options.command == "accept":
        from tasks.rollout.access import accept_file  # imported here, as it loads Prefect

        found = accept_file(options.model, options.by, options.reason, datetime.now(UTC))
        print(f"{options.model}: the ledger goes on with {found.file} (risk {found.risk}); {options.by} answers for it")
        return 0
    if options.command == "apply":  # imported here, since Prefect takes seconds to load and `check` needs none of it
        from deployments.apply.deploy import apply

        apply(options.dry_run, options.keep_switches, alerts_file=options.alerts, followed=options.worker_follows)
        return 0
    if options.command == "work":
        from deployments.local.worker import work

        return work(options.pool, options.work_queue)
    from deployments.local.serve import serve

    return serve({name: getattr(options, f"{name}_port") for name in PORTS}, options.credentials, options.no_login)


if __name__ == "__main__":
    sys.exit(main())
