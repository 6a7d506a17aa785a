"""Back-test retraining policies on recorded history. Only decisions are simulated; the registry is not touched.

The performance matrix is built from the model's own lake: each candidate is trained once and scored on later windows.
`perennial backtest --matrix FILE.npz` reads a recorded matrix instead and needs neither server nor registry. Candidates are
trained in parallel in PERENNIAL_WORKERS processes, or on the Dask cluster at PERENNIAL_DASK_ADDRESS.
"""

import os
import sys
from typing import Annotated, Any

from prefect import flow
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from pydantic import Field

from deployments.config.loading import load_model_config
from flows.parameters import Model, Moment, resolve_as_of, run_name, wall_clock
from tasks.data.snapshot import land_labels, take_snapshot
from tasks.policy.backtest.study import ALPHAS, COMPUTE_SHARE
from tasks.replay.candidates import assemble_matrix, exclude_windows, plan_candidates, record_candidate, record_probes
from tasks.replay.simulation import backtest_candidates


def task_runner() -> TaskRunner[Any]:
    """Choose from the environment where candidates are trained: on Dask, in several processes, or one after another."""
    address = os.environ.get("PERENNIAL_DASK_ADDRESS")
    if address:
        # Dask takes a second to import, and few installations have a cluster
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
        alphas: Costs of a retrain to compare, in units of the loss of one window.
        policies: Policies to simulate, such as perennial and debt. All, when left empty.
        compute_share: Share of a retrain's cost that is compute; the rest is deployment.
        until: Back-test on windows that are complete by this time (UTC). Now, or the end of recorded data, when left empty.
    """
    config = load_model_config(model)
    plan = plan_candidates(
        config, resolve_as_of(config, until) - config.settling
    )  # do not store windows that still settle
    take_snapshot(config, config.history())
    served = [take_snapshot(config, window, may_be_empty=True) for window in plan.windows[plan.history :]]
    known = min(plan.windows[-1].end + config.columns.label_delay, wall_clock())
    land_labels(config, known)
    empty = [snapshot.window for snapshot in served if not snapshot.rows]
    plan = exclude_windows(config, plan, empty, known)
    probes = record_probes.submit(config, plan)
    recorded = [record_candidate.submit(config, plan, place) for place in range(len(plan.windows) - 1)]
    matrix = assemble_matrix(config, plan, [future.result() for future in recorded], probes.result())
    return backtest_candidates(config, matrix, alphas, policies, compute_share)


if __name__ == "__main__":  # benchmarks outside this project call `python -m flows.backtest --matrix FILE --out DIR`
    from deployments.cli import main  # the command imports this module again as flows.backtest

    sys.exit(main(["backtest", *sys.argv[1:]]))
