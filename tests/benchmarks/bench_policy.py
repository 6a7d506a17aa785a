"""`make bench-policy`: every retraining policy on every practice stream, the flight models, and controls without drift.

Prints STREAM × policy (regret averaged over α, skill, lift, retrains), the means with bootstrap intervals over streams,
and `perennial` against each rival, paired by stream. Matrices are built once (minutes each) and cached.
Writes $PERENNIAL_HOME/bench/policy.json. The streams lie outside the repository; without them the bench says so and ends.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tasks.policy.backtest.oracle import best_schedule
from tasks.policy.backtest.simulation import cost, read_matrix
from tasks.policy.backtest.study import Backtest, run_backtest
from tasks.replay.simulation import all_policies
from tests.benchmarks import streams
from tests.benchmarks.matrices import build_or_load
from tests.benchmarks.retrainopt_policies import retrainopt_policies

Results = dict[str, Backtest]
CONTROLS = "without drift (rows shuffled in time)"


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    options.add_argument("--streams", default=",".join(streams.PRACTICE), help="only these, comma-separated")
    options.add_argument("--no-controls", action="store_true", help="leave the shuffled controls out")
    chosen = options.parse_args(arguments)
    console = Console(width=int(os.environ.get("COLUMNS", "200")))
    if not streams.FOLDER.is_dir():
        console.print(f"bench-policy: skipped, no practice streams at {streams.FOLDER}; set PERENNIAL_STREAMS to them")
        return
    names = [name for name in chosen.streams.split(",") if name]
    judged = {name: _backtest(console, name, shuffled=False) for name in names}
    drifting, gaps = {name: j[0] for name, j in judged.items()}, np.array([j[1] for j in judged.values()])
    controls = {} if chosen.no_controls else {name: _backtest(console, name, shuffled=True)[0] for name in names}
    _print_table(console, drifting, "Mean regret over α in 0.0001 (skill · lift · retrains per run)")
    _print_means(console, drifting, np.zeros(len(gaps)), "the hindsight optimum, which may go back to earlier models")
    _print_means(console, drifting, gaps, "the best schedule of retrains in hindsight, which never goes back")
    if controls:
        _print_table(console, controls, f"The same, {CONTROLS}")
    path = _write(drifting, controls, gaps)
    console.print(f"bench-policy: {len(drifting)} streams, {len(controls)} controls; every figure in {path}")


def _backtest(console: Console, name: str, shuffled: bool) -> tuple[Backtest, float]:
    """Return the back-test, and by how much going back lowers the optimum's cost, averaged over α."""
    with console.status(f"{name}{' shuffled' if shuffled else ''}: matrix (built once, then cached) and simulations"):
        matrix = read_matrix(build_or_load(name, shuffled), name)
        backtest = run_backtest(matrix, {**all_policies(), **retrainopt_policies()})
    share, served = backtest.compute_share, backtest.served
    gaps = [
        cost(best_schedule(matrix, alpha), alpha, share, served) - backtest.optimum[alpha].cost
        for alpha in backtest.alphas
    ]
    return backtest, float(np.mean(gaps))


def figures(backtest: Backtest, policy: str) -> dict[str, float]:
    """Return means over α. Skill as in the README: from the mean regrets of the policy and of the trivial policies."""
    scores = backtest.policies[policy].values()
    trivial = np.mean([min(backtest.policies[p][a].regret for p in ("never", "every")) for a in backtest.alphas])
    lifts = [score.lift for score in scores if score.lift is not None]
    regret = backtest.mean_regret(policy)
    return {
        "regret": regret,
        "skill": 1 - regret / float(trivial) if trivial > 0 else float("nan"),
        "lift": float(np.mean(lifts)) if lifts else float("nan"),
        "retrains": float(np.mean([len(score.run.trainings) for score in scores])),
        "deployments": float(np.mean([score.run.deployments for score in scores])),
        "most_retrains": float(max(len(score.run.trainings) for score in scores)),
    }


def interval(values: np.ndarray, seed: int = 7) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval over streams."""
    draws = np.random.default_rng(seed).integers(0, len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def _print_table(console: Console, results: Mapping[str, Backtest], title: str) -> None:
    policies = list(next(iter(results.values())).policies)
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", padding=(0, 1))
    table.add_column("policy")
    for name in results:
        table.add_column(name, justify="right")
    for policy in policies:
        cells = []
        for backtest in results.values():
            f = figures(backtest, policy)
            cells.append(f"{f['regret'] * 1e4:.0f} ({f['skill']:.2f} · {f['lift']:.2f} · {f['retrains']:.1f})")
        table.add_row(policy, *cells)
    console.print(table)


def regrets(results: Mapping[str, Backtest], policy: str) -> np.ndarray:
    return np.array([backtest.mean_regret(policy) for backtest in results.values()])


def _print_means(console: Console, results: Mapping[str, Backtest], gaps: np.ndarray, yardstick: str) -> None:
    ours = regrets(results, "perennial") - gaps
    title = f"Means over streams, regret against {yardstick}; 95 % bootstrap intervals over streams"
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for heading in (
        "policy",
        "mean regret",
        "interval",
        "perennial's share of it",
        "perennial less it",
        "interval of that",
    ):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    order = sorted(next(iter(results.values())).policies, key=lambda policy: float(regrets(results, policy).mean()))
    for policy in order:
        theirs = regrets(results, policy) - gaps
        low, high = interval(theirs)
        less_low, less_high = interval(ours - theirs)
        table.add_row(
            policy,
            f"{theirs.mean():.4f}",
            f"{low:.4f} … {high:.4f}",
            f"{ours.mean() / theirs.mean():.0%}",
            f"{(ours - theirs).mean():+.4f}",
            f"{less_low:+.4f} … {less_high:+.4f}",
        )
    console.print(table)


def _write(drifting: Results, controls: Results, gaps: np.ndarray) -> Path:
    path = Path(os.environ.get("PERENNIAL_HOME", ".perennial")) / "bench" / "policy.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {
        kind: {name: {policy: _cell(b, policy) for policy in b.policies} for name, b in results.items()}
        for kind, results in (("streams", drifting), ("controls", controls))
    }
    ours = regrets(drifting, "perennial")
    content["means"] = {
        policy: {
            "regret": float(regrets(drifting, policy).mean()),
            "interval": interval(regrets(drifting, policy)),
            "regret_without_returns": float((regrets(drifting, policy) - gaps).mean()),
            "perennial_less_this": float((ours - regrets(drifting, policy)).mean()),
            "interval_of_difference": interval(ours - regrets(drifting, policy)),
        }
        for policy in next(iter(drifting.values())).policies
    }
    path.write_text(json.dumps(content, indent=1))
    return path


def _cell(backtest: Backtest, policy: str) -> dict[str, Any]:
    by_cost = {
        f"{alpha:g}": {"regret": score.regret, "skill": score.skill, "lift": score.lift, "cost": score.cost}
        | {"retrains": len(score.run.trainings), "probes": len(score.run.probes), "deployments": score.run.deployments}
        for alpha, score in backtest.policies[policy].items()
    }
    means = {key: value if np.isfinite(value) else None for key, value in figures(backtest, policy).items()}
    return means | {"by_cost": by_cost}


if __name__ == "__main__":
    main()
