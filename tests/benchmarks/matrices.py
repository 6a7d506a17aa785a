"""Performance matrices of streams for the back-test: one candidate and one probe after every window.

Protocol (../shared/streams/README.md): W equal windows, of which the first 30 % are history; XGBoost on the trailing 30 %
of the rows, or on fewer at the start; probes with 40 trees on a quarter of those rows. Matrices are cached.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.streams import PRACTICE, Stream

HISTORY_SHARE = 0.3
DRIFT_ROWS = 1500
Matrix = dict[str, np.ndarray]


def folder() -> Path:
    return Path(os.environ.get("PERENNIAL_HOME", ".perennial")) / "bench" / "matrices"


def build_or_load(name: str, shuffled: bool = False) -> Matrix:
    """Return a practice stream's matrix, cached; `shuffled` in time for a control."""
    return cached(f"{name}{'_shuffled' * shuffled}", lambda: _practice(name, shuffled))


def _practice(name: str, shuffled: bool) -> Stream:
    stream = PRACTICE[name]()
    return stream.shuffled() if shuffled else stream


def cached(name: str, make: Callable[[], Stream], drift: bool = True) -> Matrix:
    path = folder() / f"{name}.npz"
    if not path.exists():
        matrix = build_matrix(make(), drift)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.npz")
        np.savez_compressed(part, **matrix)
        part.replace(path)
    with np.load(path) as stored:
        return {key: stored[key] for key in stored.files}


def build_matrix(stream: Stream, drift: bool = True) -> Matrix:
    """Return `loss`, `probe`, `ks`, `ev` [W, W], `secs`, `rows` [W] and `H` of a stream."""
    edges = np.linspace(0, len(stream.target), stream.windows + 1).round().astype(int)
    count, history = stream.windows, round(HISTORY_SHARE * stream.windows)
    matrix: Matrix = {key: np.full((count, count), np.nan) for key in ("loss", "probe", "ks", "ev")}
    matrix |= {"secs": np.zeros(count), "rows": np.zeros(count), "H": np.array(history)}
    trailing = int(HISTORY_SHARE * len(stream.target))
    for window in range(count - 1):
        rows = np.arange(max(0, edges[window + 1] - trailing), edges[window + 1])
        started = time.process_time()
        matrix["loss"][window] = _losses(stream, edges, window, rows, trees=200, eta=0.1)
        matrix["secs"][window], matrix["rows"][window] = time.process_time() - started, len(rows)
        quarter = np.random.default_rng(window).choice(rows, max(1, len(rows) // 4), replace=False)
        matrix["probe"][window] = _losses(stream, edges, window, quarter, trees=40, eta=0.2)
        if drift:
            matrix["ks"][window], matrix["ev"][window] = _drift_shares(stream, edges, window, rows)
    return matrix


def _losses(stream: Stream, edges: np.ndarray, window: int, rows: np.ndarray, trees: int, eta: float) -> np.ndarray:
    """Return the mean loss on every later window of a model fitted on `rows`; NaN up to `window`."""
    import xgboost

    parameters: dict[str, Any] = {"tree_method": "hist", "max_depth": 6, "eta": eta, "subsample": 0.8}
    parameters |= {"colsample_bytree": 0.8, "nthread": 1, "seed": 7}
    parameters |= (
        {"objective": "reg:squarederror"} if stream.scale else {"objective": "binary:logistic", "base_score": 0.5}
    )
    fit = xgboost.QuantileDMatrix(stream.features[rows], stream.target[rows], nthread=1)
    booster = xgboost.train(parameters, fit, trees)
    start = edges[window + 1]
    predicted = booster.inplace_predict(stream.features[start:])
    target = stream.target[start:]
    if stream.scale:
        errors = np.minimum(np.abs(predicted - target) / stream.scale, 2.0)
    else:
        errors = ((predicted > 0.5) != (target > 0.5)).astype(float)
    losses = np.full(len(edges) - 1, np.nan)
    losses[window + 1 :] = np.add.reduceat(errors, edges[window + 1 : -1] - start) / np.diff(edges[window + 1 :])
    return losses


def _drift_shares(stream: Stream, edges: np.ndarray, window: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of features that drifted from the training rows: KS at p < 0.05, and Evidently's distances ≥ 0.1."""
    generator = np.random.default_rng(window)
    sample = stream.features[np.sort(generator.choice(rows, min(len(rows), DRIFT_ROWS), replace=False))]
    ks, ev = np.full(len(edges) - 1, np.nan), np.full(len(edges) - 1, np.nan)
    for later in range(window + 1, len(edges) - 1):
        block = stream.features[edges[later] : edges[later + 1]]
        block = block[:: max(1, len(block) // DRIFT_ROWS)]
        pairs = [_drift(sample[:, i], block[:, i], i in stream.categorical) for i in range(block.shape[1])]
        ks[later], ev[later] = np.mean([p for p, _ in pairs]), np.mean([e for _, e in pairs])
    return ks, ev


def _drift(reference: np.ndarray, current: np.ndarray, categorical: bool) -> tuple[bool, bool]:
    """Return (KS drifted, distance drifted): Wasserstein/σ for numbers, Jensen-Shannon for categories (Evidently)."""
    reference, current = reference[np.isfinite(reference)], current[np.isfinite(current)]
    if min(len(reference), len(current)) < 2:
        return False, False
    points = np.unique(np.concatenate([reference, current]))
    first = np.searchsorted(np.sort(reference), points, side="right") / len(reference)
    second = np.searchsorted(np.sort(current), points, side="right") / len(current)
    effective = len(reference) * len(current) / (len(reference) + len(current))
    statistic = float(np.abs(first - second).max())
    p_below = bool(statistic > np.sqrt(-np.log(0.05 / 2) / 2 / effective))  # Kolmogorov's asymptotic bound
    if categorical:
        p, q = np.diff(first, prepend=0.0), np.diff(second, prepend=0.0)
        middle = (p + q) / 2
        terms = [x[x > 0] * np.log2(x[x > 0] / middle[x > 0]) for x in (p, q)]
        return p_below, bool(np.sqrt(max(0.0, sum(t.sum() for t in terms) / 2)) >= 0.1)
    distance = float(np.sum(np.abs(first - second)[:-1] * np.diff(points)))
    return p_below, bool(distance / max(float(reference.std()), 1e-3) >= 0.1)
