"""`make bench-settings`: compare training settings of the demo models on their history.

The replay serves from 21 April on, so settings must not be chosen by its results. Here each variant is trained again
before each of the last twelve five-day stretches of the history and scored on that stretch (forward validation: Bergmeir
& Benítez 2012, "On the use of cross-validation for time series predictor evaluation"). The table lists the mean metric,
the paired difference from the YAML's settings with its standard error, and the CPU seconds of the twelve fits; of two
equal variants, choose the cheaper. The last line shows the resolution of a five-day holdout: the spread of the difference
between two models trained ten days apart, which a non-inferiority margin must exceed.
"""

import json
import sys
from datetime import datetime, timedelta
from time import process_time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from deployments.config.folders import available_models
from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from tasks.adapters import sources
from tasks.adapters.models import estimators
from tasks.adapters.models.encoding import encode_labels
from tasks.adapters.storage.workspace import make_folder, workspace
from tasks.policy.statistics import metrics

STRETCHES = 12
STRETCH = timedelta(days=5)
APART = timedelta(days=10)
VARIANTS: dict[str, dict[str, Any]] = {
    "as in the YAML": {},
    "all history": {"window_days": None},
    "trailing 45 days": {"window_days": 45},
    "trailing 75 days": {"window_days": 75},
    "early stopping": {"early_stopping_rounds": 20},
    "depth 3": {"max_depth": 3},
    "depth 6": {"max_depth": 6},
    "25 trees": {"n_estimators": 25},
    "40 trees": {"n_estimators": 40},
    "40 trees, all history": {"n_estimators": 40, "window_days": None},
    "80 trees": {"n_estimators": 80},
    "learning rate 0.1": {"learning_rate": 0.1},
    "learning rate 0.3": {"learning_rate": 0.3},
    "min_child_weight 1": {"min_child_weight": 1},
    "min_child_weight 50": {"min_child_weight": 50},
}


class History:
    """The labelled rows of a model's history by time; a label counts once its delay has passed."""

    def __init__(self, config: ModelConfig) -> None:
        self.config, period = config, config.history()
        labels = sources.read_labels(config, period).drop_columns([config.columns.time])
        rows = sources.read_window(config, period).join(labels, keys=config.columns.key, join_type="left outer")
        self._rows = rows.filter(pc.is_valid(rows[config.columns.label]))
        self.start, self.end = period.start, period.end

    def rows(self, start: datetime, end: datetime) -> pa.Table:
        time = self._rows[self.config.columns.time]
        return self._rows.filter(pc.and_(pc.greater_equal(time, pa.scalar(start)), pc.less(time, pa.scalar(end))))

    def score(self, changes: dict[str, Any], stretch: datetime, age: timedelta = timedelta()) -> float:
        """Return the primary metric on the stretch, for a model trained `age` before it."""
        own = {name: changes[name] for name in changes if name in ("window_days", "early_stopping_rounds")}
        parameters = {**self.config.training.parameters, **{k: v for k, v in changes.items() if k not in own}}
        training = self.config.training.model_copy(update={**own, "parameters": parameters})
        cut = stretch - age - self.config.columns.label_delay
        start = max(self.start, cut - timedelta(days=training.window_days)) if training.window_days else self.start
        scorer = estimators.fit(self.config.model_copy(update={"training": training}), self.rows(start, cut)).scorer
        seen = self.rows(stretch, stretch + STRETCH)
        y_true = encode_labels(seen[self.config.columns.label], scorer.classes)
        return metrics.compute(self.config.primary_metric, y_true, scorer.predict(seen))


def judge(model: str, console: Console) -> dict[str, Any]:
    history = History(load_model_config(model))
    stretches = [history.end - STRETCH * back for back in range(STRETCHES, 0, -1)]
    scores, seconds = {}, {}
    for name, change in VARIANTS.items():
        started = process_time()
        scores[name] = np.array([history.score(change, at) for at in stretches])
        seconds[name] = process_time() - started
    present, metric = scores["as in the YAML"], history.config.performance.metric
    table = Table(f"{model}, history alone", metric, "difference", "standard error", "CPU s")
    found: dict[str, Any] = {}
    for name, values in scores.items():
        difference = values - present
        error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
        table.add_row(name, f"{values.mean():.4g}", f"{difference.mean():+.3g}", f"{error:.2g}", f"{seconds[name]:.1f}")
        found[name] = {"mean": float(values.mean()), "difference": float(difference.mean()), "standard_error": error}
        found[name]["cpu_s"] = seconds[name]
    apart = np.array([history.score({}, at, APART) for at in stretches]) - present
    found["ten_days_older"] = {"mean": float(apart.mean()), "spread": float(apart.std(ddof=1))}
    console.print(table)
    console.print(f"ten days older: {apart.mean():+.3g} on average, {apart.min():+.3g} to {apart.max():+.3g}")
    return found


def main() -> int:
    console = Console()
    found = {model: judge(model, console) for model in available_models()}
    path = make_folder(workspace().home / "bench") / "flight_settings.json"
    path.write_text(json.dumps(found, indent=2))
    console.print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
