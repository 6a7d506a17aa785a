"""What a device gains by adapting between two retrains: how much of the gap between a frozen and a fresh model it closes.

`python -m tests.benchmarks.bench_edge` (make bench-edge) replays each stream in time order. A model is trained on 18 windows,
runs frozen for 14 and is then replaced; in each window, one copy predicts and then adapts to the window, and a fresh model is
trained for comparison. The device's constants were chosen on the first four streams; the flights had no part in it. Writes
bench/edge.json in the workspace.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from xgboost import DMatrix, XGBClassifier, XGBRegressor

from tasks.adapters.edge import device
from tasks.adapters.storage.workspace import workspace
from tests.benchmarks.streams import PRACTICE, Stream

WINDOWS, HISTORY, PERIOD, MOST_ROWS = 60, 18, 14, 48_000
SETTINGS: dict[str, Any] = {
    "n_estimators": 200, "max_depth": 6, "learning_rate": 0.1, "subsample": 0.8, "colsample_bytree": 0.8, "n_jobs": 1,
    "tree_method": "hist", "enable_categorical": True, "random_state": 7,
}  # fmt: skip


def main() -> None:
    figures = {}
    for name in sys.argv[1:] or list(PRACTICE):
        figures[name] = found = measure(PRACTICE[name]())
        print(
            f"{name:>12}: frozen {found['frozen']:.4g}, adapted {found['adapted']:.4g}, fresh {found['fresh']:.4g}: closes "
            f"{found['closed']:.0%} of the gap; gain {found['gain_se']:.1f} standard errors, worse in {found['worse']} of "
            f"{found['windows']} windows; moves predictions by {found['moved']:.2f} at most; {found['s']:.2f} s per 1,000 rows",
            flush=True,
        )
    path = workspace().home / "bench" / "edge.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2), encoding="utf-8")


def measure(stream: Stream) -> dict[str, float]:
    """Return mean losses of the windows in which all three answer: log loss, or absolute error."""
    step = max(1, len(stream.target) // MOST_ROWS)
    features, target = stream.features[::step], stream.target[::step]
    cuts = np.linspace(0, len(target), WINDOWS + 1).astype(int)
    found: list[list[float]] = []
    moved, seconds, rows = 0.0, 0.0, 0
    for start in range(HISTORY, WINDOWS, PERIOD):
        frozen = train(stream, features, target, cuts[start - HISTORY : start + 1])
        with tempfile.TemporaryDirectory() as place:
            edge = export(Path(place), stream, frozen)
            for window in range(start, min(start + PERIOD, WINDOWS)):
                part = slice(cuts[window], cuts[window + 1])
                if window > start:
                    fresh = train(stream, features, target, cuts[window - HISTORY : window + 1])
                    answers = (frozen, edge.booster, fresh)
                    found.append([loss(stream, each, features[part], target[part]) for each in answers])
                columns, labels = (
                    columns_of(stream, features[part]),
                    target[part].astype(int if stream.scale is None else float),
                )
                begun = process_time()
                edge.adapt(columns, labels.tolist())
                seconds, rows = seconds + process_time() - begun, rows + len(labels)
            moved = max(moved, reach(edge))
    losses = np.array(found)
    gains, (frozen_loss, adapted, fresh_loss) = losses[:, 0] - losses[:, 1], losses.mean(axis=0)
    return {
        "frozen": frozen_loss,
        "adapted": adapted,
        "fresh": fresh_loss,
        "closed": (frozen_loss - adapted) / (frozen_loss - fresh_loss),
        "gain": gains.mean(),
        "gain_se": gains.mean() / (gains.std(ddof=1) / np.sqrt(len(gains))),
        "worse": int((gains < 0).sum()),
        "windows": len(gains),
        "moved": moved,
        "s": seconds / rows * 1000,
    }


def kinds(stream: Stream) -> list[str]:
    return ["c" if place in stream.categorical else "q" for place in range(stream.features.shape[1])]


def train(stream: Stream, features: np.ndarray, target: np.ndarray, cuts: np.ndarray) -> Any:
    """Train on the windows between the first and the last cut and return the booster."""
    kind = XGBClassifier if stream.scale is None else XGBRegressor
    part = slice(cuts[0], cuts[-1])
    return kind(**SETTINGS, feature_types=kinds(stream)).fit(features[part], target[part]).get_booster()


def export(folder: Path, stream: Stream, booster: Any) -> device.EdgeModel:
    """Write an exported folder by hand, with the features as whole-number categories or numbers, and open it."""
    names = [(f"f{place}", "categorical" if kind == "c" else "numeric") for place, kind in enumerate(kinds(stream))]
    categories = {
        name: [str(code) for code in range(int(np.nanmax(stream.features[:, place])) + 1)]
        for place, (name, kind) in enumerate(names)
        if kind == "categorical"
    }
    task, classes = ("binary", ["0", "1"]) if stream.scale is None else ("regression", [])
    description = {"task": task, "classes": classes, "features": names, "categories": categories}
    contents = {device.MODEL: bytes(booster.save_raw("ubj")), device.DESCRIPTION: json.dumps(description).encode()}
    manifest = {
        "format": device.FORMAT, "metric": "mae", "quantile": 0.5, "reference": {}, "label": "label", "time": "time",
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / device.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return device.EdgeModel(folder)


def columns_of(stream: Stream, part: np.ndarray) -> dict[str, np.ndarray]:
    return {f"f{place}": part[:, place] for place in range(stream.features.shape[1])}


def loss(stream: Stream, booster: Any, features: np.ndarray, target: np.ndarray) -> float:
    data = DMatrix(features, feature_types=kinds(stream), enable_categorical=True, nthread=1)
    predicted = booster.predict(data, validate_features=False).astype(float)
    if stream.scale is not None:
        return float(np.abs(predicted - target).mean())
    chosen = np.where(target > 0.5, predicted, 1 - predicted)
    return float(-np.log(np.clip(chosen, 1e-6, None)).mean())


def reach(edge: device.EdgeModel) -> float:
    """Return how far the adapted leaves can move a prediction, as `training.edge.max_change` counts it."""
    values = device.unpack(edge.journal.read()["values"]).astype(float)
    frozen, starts = edge.leaves.frozen.astype(float), edge.leaves.starts[:-1]
    both = [np.maximum.reduceat(np.abs(each), starts).sum() for each in (values - frozen, frozen)]
    return float(both[0] / both[1])


if __name__ == "__main__":
    main()
