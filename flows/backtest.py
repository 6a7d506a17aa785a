"""Back-test retraining policies on recorded history. Only decisions are simulated; the registry is not touched.

`--matrix FILE.npz --out DIR` reads a recorded performance matrix, needs neither server nor registry, and writes
summary.json and backtest.html. `--model NAME` builds the matrix from the model's own lake and trains each candidate once,
in PERENNIAL_WORKERS processes or on the Dask cluster at PERENNIAL_DASK_ADDRESS.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from pydantic import Field

from deployments.config.model import load_model_config
from flows.parameters import Model, Moment, in_utc, own_server, present, run_name, wall_clock
from tasks.data.snapshot import land_labels, take_snapshot
from tasks.policy.backtest.study import ALPHAS, COMPUTE_SHARE
from tasks.policy.records.errors import PerennialError
from tasks.replay.candidates import assemble_matrix, plan_candidates, record_candidate, without
from tasks.replay.simulation import backtest_candidates, backtest_matrix


def task_runner() -> TaskRunner[Any]:
    """Where candidates are trained, from the environment: Dask, several processes, or one after another."""
    address = os.environ.get("PERENNIAL_DASK_ADDRESS")
    if address:
        from prefect_dask import DaskTaskRunner

        return DaskTaskRunner(address=address)
    workers = int(os.environ.get("PERENNIAL_WORKERS", "1"))
    return ProcessPoolTaskRunner(max_workers=workers) if workers > 1 else ThreadPoolTaskRunner(max_workers=1)


@flow(name="backtest", flow_run_name=run_name("backtest"), task_runner=task_runner())
def backtest(
    model: Model,
    alphas: tuple[float, ...] = ALPHAS,
    policies: tuple[str, ...] = (),
    compute_share: Annotated[float, Field(ge=0, le=1)] = COMPUTE_SHARE,
    until: Moment | None = None,
) -> dict[str, Any]:
    """Simulate retraining policies on a model's own history and recommend one, with the YAML to paste.

    Args:
        model: Name of a model under deployments/, or the path of a YAML file anywhere.
        alphas: Costs of a retrain to look at, in losses of one window.
        policies: Only these, such as perennial and debt. All, when left empty.
        compute_share: Share of a retrain's cost that is compute; the rest is deployment.
        until: Back-test on windows that are complete by this time (UTC). Now, or the end of recorded data, when left empty.
    """
    config = load_model_config(model)
    plan = plan_candidates(config, present(config, until) - config.settling)  # what still waits must not land
    take_snapshot(config, config.history())
    served = [take_snapshot(config, window, may_be_empty=True) for window in plan.windows[plan.history :]]
    known = min(plan.windows[-1].end + config.columns.label_delay, wall_clock())
    land_labels(config, known)
    empty = [snapshot.window for snapshot in served if not snapshot.rows]
    plan = without(config, plan, empty, known)
    places = range(len(plan.windows) - 1)
    recorded = [record_candidate.submit(config, plan, place) for place in places]
    matrix = assemble_matrix(config, plan, [future.result() for future in recorded])
    return backtest_candidates(config, matrix, alphas, policies, compute_share)


def _costs(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers; expected such as 0.05,0.1") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _moment(text: str) -> datetime:
    try:
        return in_utc(datetime.fromisoformat(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no date; expected such as 2013-06-05 or 2013-06-05T12:00"
        ) from None


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="python -m flows.backtest", description=(__doc__ or "").split("\n\n")[0])
    source = options.add_mutually_exclusive_group(required=True)
    source.add_argument("--matrix", type=Path, help="a recorded performance matrix, .npz")
    source.add_argument("--model", help="a model under deployments/, whose matrix is built from its own history")
    options.add_argument("--out", type=Path, help="with --matrix: folder for summary.json and backtest.html")
    options.add_argument("--alphas", type=_costs, default=ALPHAS, help="costs of a retrain in window losses, 0.05,0.1")
    options.add_argument("--policies", type=_names, default=(), help="only these, such as perennial,debt; default all")
    options.add_argument("--compute-share", type=float, default=COMPUTE_SHARE, help="share of the cost that is compute")
    options.add_argument("--until", type=_moment, help="with --model: windows complete by then, UTC; default now")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options()
    chosen = options.parse_args(arguments)
    if chosen.matrix and not chosen.out:
        options.error("--matrix needs --out, the folder for summary.json and backtest.html")
    try:
        if chosen.matrix:
            print(backtest_matrix(chosen.matrix, chosen.out, chosen.alphas, chosen.policies, chosen.compute_share))
        else:
            with own_server():
                outcome = backtest(chosen.model, chosen.alphas, chosen.policies, chosen.compute_share, chosen.until)
            print(outcome["recommendation"])
    except PerennialError as error:
        sys.exit(f"backtest: {error}")


if __name__ == "__main__":
    main()
