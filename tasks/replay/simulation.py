"""Simulate policies on a performance matrix; write summary.json and a page."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from prefect import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import evaluation, reports, storage
from tasks.adapters.orchestration.stage import stage
from tasks.policy.backtest.baselines import BASELINES, Timer
from tasks.policy.backtest.own_condition import CandidateReports, OwnCondition
from tasks.policy.backtest.perennial_policy import PerennialPolicy
from tasks.policy.backtest.simulation import PerformanceMatrix, PolicyFactory, read_matrix, simulate
from tasks.policy.backtest.study import Backtest, Recommendation, gain_interval, lifts, run_backtest, summary
from tasks.policy.records.base import from_json
from tasks.policy.records.errors import MatrixError, UnknownPolicy


def load_matrix(path: Path) -> PerformanceMatrix:
    """Load a matrix from .npz. Raises MatrixError if the file is missing, unreadable or has other content."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return read_matrix({key: stored[key] for key in stored.files}, str(path))
    except FileNotFoundError:
        raise MatrixError(f"{path}: no such file; expected an .npz with loss and H") from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        if isinstance(error, MatrixError):
            raise
        raise MatrixError(f"{path}: cannot be read as .npz ({error}); expected arrays loss and H") from error


def all_policies() -> dict[str, PolicyFactory]:
    """Return all policies by name: `perennial`, the baselines and the detectors."""
    return {"perennial": PerennialPolicy, **BASELINES, **evaluation.detectors.DETECTORS}


def choose_policies(names: Sequence[str], own: Mapping[str, PolicyFactory] | None = None) -> dict[str, PolicyFactory]:
    """Return the named policies, or all if none is named; `own` adds to them. Raises UnknownPolicy, listing the known names."""
    added = own or {}
    known = {"perennial": PerennialPolicy, **BASELINES, **added}
    known = known if names and set(names) <= set(known) else {**all_policies(), **added}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UnknownPolicy(f"--policies has {', '.join(unknown)}; expected some of {', '.join(known)}")
    return {name: known[name] for name in names} if names else known


def own_condition(config: ModelConfig, folder: Path, lag: int) -> dict[str, PolicyFactory]:
    """Return the file's own condition as a policy under the name of its trigger; empty if it names no class of the user's."""
    if not config.retraining.has_own_trigger:
        return {}
    files = sorted(folder.glob("[0-9][0-9][0-9][0-9].json"))
    candidates = [from_json(CandidateReports, file.read_bytes()) for file in files]
    kind = config.retraining.when.kind()
    name = f"own_{kind}" if kind in all_policies() else kind
    return {name: lambda alpha, share: OwnCondition(config.name, config.retraining, candidates, lag)}


def backtest_matrix(path: Path, out: Path, alphas: Sequence[float], names: Sequence[str], share: float) -> str:
    """Back-test the matrix at `path`; write summary.json and backtest.html to `out`; return the outcome's sentence."""
    policies = choose_policies(names)
    matrix = load_matrix(path)
    outcome = run_backtest(matrix, policies, alphas, share)
    sentence = recommend(matrix, outcome)
    write_outcome(matrix, outcome, out, f"Back-test of {path.name}", Recommendation(sentence))
    return sentence


def recommend(matrix: PerformanceMatrix, outcome: Backtest) -> str:
    """Recommend a policy in one sentence, with the interval of its gain over the next best."""
    best, *others = outcome.ranking()
    middle = outcome.alphas[len(outcome.alphas) // 2]
    retrains = len(outcome.policies[best][middle].run.trainings)
    sentence = (
        f"Use {best}: over {outcome.served} served windows its mean regret is {outcome.mean_regret(best):.4f}, "
        f"with {retrains} retrains at a cost of {middle:g}"
    )
    if not others:
        return sentence + "."
    gain, low, high = gain_interval(matrix, outcome, best, others[0], middle)
    return (
        f"{sentence}; next is {others[0]} with {outcome.mean_regret(others[0]):.4f}, and at that cost the saving "
        f"against it is {gain:+.4f} a window (95 % interval {low:+.4f} to {high:+.4f})."
    )


def about_delay(config: ModelConfig, lag: int) -> str:
    """Describe how the simulation accounts for late labels; empty if they delay no window."""
    if not lag:
        return ""
    return (
        f" Labels come {config.columns.label_delay_hours:g} hours late, so all policies, and the optimum, see a window's "
        f"losses {lag} window{'s' * (lag > 1)} after it."
    )


def about_money(config: ModelConfig, matrix: PerformanceMatrix, outcome: Backtest, path: Path) -> str:
    """Say what each policy would have earned in USD beyond never retraining; empty if the file gives metrics no value.

    The price of a retrain is its fixed and oversight cost and the CPU time of the recorded trainings.
    """
    price = config.budget.value_usd_per_metric_unit_per_day
    if price is None:
        return ""
    with np.load(path, allow_pickle=False) as stored:
        scale = float(stored["scale"])
    hours = float(np.mean(matrix.secs)) / 3600 if matrix.secs is not None else 0.0
    budget, days = config.budget, outcome.served * config.window_days
    retrain = budget.fixed_usd_per_retrain + budget.oversight_usd_per_day * budget.oversight_days_per_retrain
    retrain += hours * (budget.compute_usd_per_hour + budget.cpu_usd_per_hour)
    middle = outcome.alphas[len(outcome.alphas) // 2]
    never = simulate(matrix, Timer(None)).mean_loss
    gains = {
        name: price * days * scale * (never - scores[middle].run.mean_loss)
        - retrain * len(scores[middle].run.trainings)
        for name, scores in outcome.policies.items()
        if name != "never"
    }
    best = sorted(gains, key=lambda name: -gains[name])
    listed = ", ".join(f"{name} {gains[name]:+,.0f}" for name in best)
    return (
        f" In USD over these {days:g} days, after {retrain:,.2f} for each retrain, against never: {listed}."
        if best
        else ""
    )


def policy_yaml(outcome: Backtest, window_days: float) -> str:
    """Return the YAML of the `retraining:` section for the best policy; empty if no trigger corresponds to it.

    α is the middle one of the back-test: the cost that the recommendation quotes.
    """
    best, alpha = outcome.ranking()[0], outcome.alphas[len(outcome.alphas) // 2]
    days = {"every": 1, "timer_2": 2, "timer_4": 4, "timer_8": 8, "timer_16": 16}
    when = {name: f"{{trigger: every, days: {count * window_days:g}}}" for name, count in days.items()}
    when |= {"debt": "{trigger: regret_exceeds_cost}", "drift_share_ks": "{trigger: drifted_share, share: 0.5}"}
    when |= {"drift_share_ev": "{trigger: drifted_share, share: 0.5}"}
    when |= {"plain_probe": f"{{trigger: probe, alpha: {alpha:g}}}"}
    when |= {"perennial": f"{{trigger: perennial, alpha: {alpha:g}, compute_share: {outcome.compute_share:g}}}"}
    if best == "never":
        return "retraining:\n  when: {trigger: every, days: 3650}\n"
    return f"retraining:\n  when: {when[best]}\n" if best in when else ""


def write_outcome(
    matrix: PerformanceMatrix, outcome: Backtest, out: Path, title: str, recommendation: Recommendation
) -> Path:
    """Write summary.json and backtest.html atomically to `out`; return the page's path. Raises MatrixError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        storage.atomic_files.write_atomically(out / "summary.json", json.dumps(summary(outcome), allow_nan=False))
        page = out / "backtest.html"
        return reports.backtest.write_page(outcome, lifts(matrix, outcome), page, title, recommendation)
    except OSError as error:
        raise MatrixError(f"{out}: cannot be written ({error.strerror}); expected a folder you may write to") from error


@stage
def backtest_candidates(
    config: ModelConfig, path: Path, alphas: Sequence[float], names: Sequence[str], share: float
) -> dict[str, Any]:
    """Back-test a model's own matrix; write summary.json and the page to its reports, and publish an artifact."""
    matrix = load_matrix(path)
    outcome = run_backtest(
        matrix, choose_policies(names, own_condition(config, path.parent, matrix.lag)), alphas, share
    )
    sentence = recommend(matrix, outcome) + about_delay(config, matrix.lag) + about_money(config, matrix, outcome, path)
    recommendation = Recommendation(sentence, policy_yaml(outcome, config.window_days))
    folder = storage.workspace.make_folder(storage.workspace.workspace().reports / config.name / "backtest")
    page = write_outcome(matrix, outcome, folder, f"Back-test of {config.name}", recommendation)
    reports.artifacts.publish_backtest(config.name, recommendation, reports.backtest.table(outcome), str(page))
    get_run_logger().info("backtest: %s Page: %s", sentence, page)
    summary_file = str(folder / "summary.json")
    return {"recommendation": sentence, "yaml": recommendation.yaml, "page": str(page), "summary": summary_file}
