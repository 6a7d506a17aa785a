"""Simulate policies on a performance matrix and write what came out: summary.json and a page to look at."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.policy.backtest import Backtest, run_backtest, summary
from tasks.policy.errors import PerennialError
from tasks.policy.probe_policy import PerennialPolicy
from tasks.policy.rivals import RIVALS
from tasks.policy.simulation import MatrixError, PerformanceMatrix, PolicyFactory, read_matrix


class UnknownPolicy(PerennialError):
    """A policy that the back-test does not know by this name."""


def load_matrix(path: Path) -> PerformanceMatrix:
    """Raises MatrixError where the file is missing, unreadable or holds something else."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return read_matrix({key: stored[key] for key in stored.files}, str(path))
    except FileNotFoundError:
        raise MatrixError(f"{path}: there is no such file; expected an .npz with loss and H") from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, AttributeError) as error:
        if isinstance(error, MatrixError):
            raise
        raise MatrixError(f"{path}: cannot be read as .npz ({error}); expected arrays loss and H") from error


def all_policies() -> dict[str, PolicyFactory]:
    """`perennial` and every rival that is installed."""
    from tasks.adapters.detectors import DETECTORS
    from tasks.adapters.retrainopt_policies import retrainopt_policies

    return {"perennial": PerennialPolicy, **RIVALS, **DETECTORS, **retrainopt_policies()}


def choose_policies(names: Sequence[str]) -> dict[str, PolicyFactory]:
    """The named policies, all when none is named. Raises UnknownPolicy with the names there are."""
    known = {"perennial": PerennialPolicy, **RIVALS}
    known = known if names and set(names) <= set(known) else all_policies()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UnknownPolicy(f"--policies has {', '.join(unknown)}; expected some of {', '.join(known)}")
    return {name: known[name] for name in names} if names else known


def backtest_matrix(path: Path, out: Path, alphas: Sequence[float], names: Sequence[str], share: float) -> str:
    """Back-test the matrix at `path`, write summary.json under `out`, and return the outcome in one line."""
    policies = choose_policies(names)
    outcome = run_backtest(load_matrix(path), policies, alphas, share)
    write_summary(outcome, out)
    best = outcome.ranking()[0]
    return f"backtest: {best} has the least mean regret, {outcome.mean_regret(best):.4f}, of {len(policies)} policies"


def write_summary(outcome: Backtest, out: Path) -> Path:
    """summary.json, whole or not at all."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        unfinished = out / ".summary.json.unfinished"
        unfinished.write_text(json.dumps(summary(outcome), allow_nan=False), encoding="utf-8")
        return unfinished.replace(out / "summary.json")
    except OSError as error:
        raise MatrixError(f"{out}: cannot be written ({error.strerror}); expected a folder you may write to") from error
