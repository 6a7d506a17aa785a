"""`make bench-loop`: cost of the loop, against a bare script with the same reads, fits and metrics.

Both run every model in a separate process, one after the other in one run, which makes the ratio of wall times robust on a
noisy machine. The ratio of CPU seconds is robust on a busy one too. The bare script has no server, registry, ledger,
gates, reports or page. It fits the first model, one model before every window, as many more as the loop retrained, and
the probes.
"""

import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

from deployments.config.folders import available_models
from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from tasks.adapters.storage.workspace import make_folder, workspace
from tasks.policy.records.base import Window
from tasks.policy.statistics.resampling import thin


def bare(model: str, retrains: int) -> None:
    """Run the same reads, fits and metrics, and nothing else."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from tasks.adapters.evaluation import probes
    from tasks.adapters.models import estimators

    config, cheap = load_model_config(model), probes.probe_config(load_model_config(model))
    time, windows = config.columns.time, config.windows()
    extra = set(windows[:: max(1, len(windows) // max(1, retrains))][:retrains])
    rows, first, small = _read(config, config.history()), None, []
    for window in windows:
        days = (
            timedelta(days=config.training.window_days)
            if config.training.window_days
            else window.start - config.period.start
        )
        recent = pc.greater_equal(rows[time], pa.scalar(window.start - days))
        training = rows.filter(pc.and_(recent, pc.less_equal(rows["label_at"], pa.scalar(window.start))))
        every = estimators.fit(config, training).scorer
        first = first or estimators.fit(config, training).scorer
        champion = estimators.fit(config, training).scorer if window in extra else first
        step = max(probes.EVERY_NTH, -(-len(training) // probes.PROBE_ROWS))
        small.append(estimators.fit(cheap, training.take(thin(len(training), step, seed=0))).scorer)
        current = _read(config, window)
        _measure(config, window, current, champion, [first, every])
        probes.losses(config, small[-probes.LATEST :], current.filter(pc.is_valid(current[config.columns.label])))
        rows = pa.concat_tables([rows, current])


def _read(config: ModelConfig, window: Window) -> Any:
    from tasks.adapters.sources import read as sources

    labels = sources.read_labels(config, window).drop_columns([config.columns.time])
    return sources.read_window(config, window).join(labels, keys=config.columns.key, join_type="left outer")


def _measure(config: ModelConfig, window: Window, rows: Any, champion: Any, rivals: Sequence[Any]) -> None:
    """Compute every metric of the champion with its interval, on the labels known at the end and on all; return the primary ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from tasks.policy.monitoring.slices import RESAMPLING
    from tasks.policy.statistics import intervals, metrics

    label, primary = config.columns.label, config.primary_metric
    names = metrics.metric_names(config.task)
    measured = [metrics.Metric(name) for name in names]
    labelled = rows.filter(pc.is_valid(rows[label]))
    for known in (labelled.filter(pc.less_equal(labelled["label_at"], pa.scalar(window.end))), labelled):
        y_true, y_pred = champion.predict_labelled(known, known[label])
        for metric in measured:
            metrics.compute(metric, y_true, y_pred)
        intervals.metric_intervals(measured, y_true, y_pred, RESAMPLING)
    intervals.metric_interval(primary, y_true, y_pred)
    for scorer in rivals:
        metrics.compute(primary, *scorer.predict_labelled(labelled, labelled[label]))


def main() -> int:
    models = available_models()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PERENNIAL_HOME": folder}
        started, used = perf_counter(), _cpu_s()
        subprocess.run([sys.executable, "-m", "deployments", "demo"], env=environment, check=True)
        loop_s, loop_cpu_s = perf_counter() - started, _cpu_s() - used
        summary = json.loads((Path(folder) / "replay" / "summary.json").read_text())
        os.environ["PERENNIAL_HOME"] = folder  # the bare script reads the same cached year
        started, used = perf_counter(), _cpu_s()
        _side_by_side([(model, summary[model]["retrains"]) for model in models])
        bare_s, bare_cpu_s = perf_counter() - started, _cpu_s() - used
    os.environ.pop("PERENNIAL_HOME")
    outcome: dict[str, Any] = {
        "loop_s": round(loop_s, 1),
        "bare_s": round(bare_s, 1),
        "ratio": round(loop_s / bare_s, 2),
    }
    outcome |= {"loop_cpu_s": round(loop_cpu_s, 1), "bare_cpu_s": round(bare_cpu_s, 1)}
    outcome["cpu_ratio"] = round(loop_cpu_s / bare_cpu_s, 2)
    outcome["seconds"] = {model: summary[model]["seconds"] for model in models}
    path = make_folder(workspace().home / "bench") / "loop.json"
    path.write_text(json.dumps(outcome, indent=2))
    cpu = f"CPU {loop_cpu_s:.0f} and {bare_cpu_s:.0f} s, ratio {outcome['cpu_ratio']}"
    print(
        f"loop {loop_s:.0f} s, bare script {bare_s:.0f} s, ratio {outcome['ratio']} (target 1.5); {cpu}; written to {path}"
    )
    return 0


def _cpu_s() -> float:
    """Return the CPU seconds of all child processes that have ended, including their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _side_by_side(arguments: Sequence[tuple[str, int]]) -> None:
    spawn = multiprocessing.get_context("spawn")
    children = [spawn.Process(target=bare, args=pair) for pair in arguments]
    for child in children:
        child.start()
    for child in children:
        child.join()
    if any(child.exitcode for child in children):
        raise SystemExit("the bare script failed")


if __name__ == "__main__":
    sys.exit(main())
