"""Compare searched settings with XGBoost's defaults on the practice streams, each judged on rows after its training.

At each of three moments of a stream both are trained on all rows before it, the search within its budget of minutes, and
judged on the rows until the next moment. The later searches start from the earlier ones. The table lists the mean loss of
both, the gain over blocks of the judged rows with its standard error, and CPU seconds.

    python -m tests.benchmarks.bench_search --minutes 1 bike elec2 metro weather
"""

import argparse
import json
import os
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from time import process_time

import numpy as np
import pandas as pd
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from deployments.config.model import ModelConfig
from tasks.adapters.own_training import trainer
from tasks.adapters.search.folds import block_losses
from tasks.adapters.search.forward_search import SearchJob, search
from tasks.adapters.storage.workspace import make_folder, workspace
from tasks.policy.training.search import SearchPolicy
from tests.benchmarks.streams import FOLDER, PRACTICE

MOMENTS = (0.55, 0.7, 0.85, 1.0)
BLOCKS = 12


@dataclass(frozen=True)
class Compared:
    """Losses (blocks,) of both settings at one moment, CPU seconds of both, and the search in a sentence."""

    fixed: np.ndarray
    searched: np.ndarray
    fixed_cpu_s: float
    search_cpu_s: float
    sentence: str
    parameters: dict
    recipe: object


def times_of(name: str) -> pd.DatetimeIndex:
    """Return the rows' own times, in order."""
    frame = pd.read_parquet(FOLDER / f"{name}.parquet")
    if name == "bike":
        moment = pd.to_datetime(frame["dteday"], format="mixed") + pd.to_timedelta(frame["hr"], unit="h")
    elif name == "metro":
        moment = frame.drop_duplicates("date_time")["date_time"]
    else:
        moment = frame["time"]
    return pd.DatetimeIndex(pd.to_datetime(moment, utc=True)).sort_values().astype("datetime64[us, UTC]")


def stream_rows(name: str) -> tuple[ModelConfig, pa.Table]:
    stream = PRACTICE[name]()
    columns = {f"f{place}": stream.features[:, place] for place in range(stream.features.shape[1])}
    texts = [f"f{place}" for place in stream.categorical]
    count = len(stream.target)
    table = pa.table(
        {
            "id": [f"{row:08d}" for row in range(count)],
            "time": pa.array(times_of(name)),
            **{
                key: pa.array([str(value) for value in values]) if key in texts else pa.array(values.astype(float))
                for key, values in columns.items()
            },
            "label": pa.array(stream.target) if stream.scale else pa.array(stream.target.astype(int)),
        }
    )
    task = "regression" if stream.scale else "binary"
    numeric = [key for key in columns if key not in texts]
    config = ModelConfig.model_validate(
        {
            "name": name, "owner": "bench@example.com", "purpose": "Compares settings.", "risk": "low", "task": task,
            "source": {"kind": "parquet", "path": "rows.parquet"},
            "columns": {"id": "id", "time": "time", "label": "label",
                        "features": {"numeric": numeric, "categorical": texts}},
            "window_days": 5, "period": {"start": "1900-01-01T00:00:00Z", "history_until": "2030-01-01T00:00:00Z"},
            "performance": {"metric": "mae" if stream.scale else "log_loss"},
            "retraining": {"when": {"trigger": "every", "days": 30}}, "rollout": {"mode": "none"},
        }
    )  # fmt: skip
    return config, table


def compare(name: str, policy: SearchPolicy) -> list[Compared]:
    config, table = stream_rows(name)
    edges, found, settings, recipe = [int(share * len(table)) for share in MOMENTS], [], None, None
    for number, (cut, end) in enumerate(pairwise(edges)):
        known, later = table.slice(0, cut), table.slice(cut, end - cut)
        began = process_time()
        fixed = block_losses(config, trainer.fit(config, known).scorer, later, BLOCKS)
        between = process_time()
        until = str(table["time"][cut].as_py())
        job = SearchJob(policy, f"d{number}", f"{name}-{cut}", until, settings, recipe)
        chosen, report = search(config, known, job)
        settings, recipe = report.parameters, report.recipe
        searched = block_losses(config, trainer.fit(chosen, known).scorer, later, BLOCKS)
        found.append(Compared(fixed, searched, between - began, process_time() - between, report.sentence,
                              report.parameters, report.recipe))  # fmt: skip
        print(
            name, number, report.sentence, fixed.mean(), searched.mean(), report.searched_rows, report.rows, flush=True
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("streams", nargs="*", default=["bike", "elec2", "metro", "weather"])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--no-features", action="store_true")
    given = parser.parse_args()
    console, out = Console(width=130), {}
    shown = Table("stream", "fixed", "searched", "gain", "standard error", "CPU s fixed", "CPU s searched")
    for name in given.streams:
        with tempfile.TemporaryDirectory() as home:
            os.environ["PERENNIAL_LAKE"] = home
            found = compare(name, SearchPolicy(minutes=given.minutes, features=not given.no_features))
        gains = np.concatenate([each.fixed - each.searched for each in found])
        error = float(gains.std(ddof=1) / np.sqrt(len(gains)))
        fixed, searched = (
            float(np.concatenate([getattr(e, side) for e in found]).mean()) for side in ("fixed", "searched")
        )
        cpu = sum(each.fixed_cpu_s for each in found), sum(each.search_cpu_s for each in found)
        shown.add_row(
            name, f"{fixed:.4g}", f"{searched:.4g}", f"{gains.mean():+.3g}", f"{error:.2g}", *(f"{s:.0f}" for s in cpu)
        )
        out[name] = {"fixed": fixed, "searched": searched, "gain": float(gains.mean()), "error": error, "cpu_s": cpu[1],
                     "searches": [each.sentence for each in found]}  # fmt: skip
    console.print(shown)
    path = make_folder(workspace().home / "bench") / "search.json"
    path.write_text(json.dumps(out, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
