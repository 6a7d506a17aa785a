"""Cost of the full evidence on a window, against Evidently's preset, scipy per column and a bare Parquet scan.

`python -m tests.benchmarks.bench_monitor` (make bench-monitor) prints a table and writes bench/monitor.json in the
workspace. Each case runs in a separate process. CPU seconds are user and system time after imports, including children.
Memory is the process's peak above its usage after imports. `ours` reads the window once and writes the quality page and
Evidently's drift page; the reference was frozen before, which only `freeze` includes. The preset and scipy read both
files, because they store no profile. The scan decodes the same batches on one thread.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.adapters.storage.workspace import workspace
from tests.benchmarks.monitor_rows import HISTORY, WINDOW, Shape, generate, model

SHAPES = (Shape(1_000_000, 35), Shape(100_000, 500))
CASES = ("scan", "ours", "scipy", "evidently", "freeze")
BATCH_ROWS = 65_536  # as the lake reads
BUFFER_BYTES = 65_536  # read a column's bytes as needed, not all at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, help="run one case in this process and print its figures")
    parser.add_argument("--shape", help="rows x features of that case, such as 1000000x35")
    parser.add_argument(
        "--only", nargs="*", choices=CASES, default=CASES, help="cases to run; others keep their figures"
    )
    chosen = parser.parse_args()
    folder = workspace().home / "bench"
    if chosen.case:
        shape = Shape(*map(int, chosen.shape.split("x")))
        print(json.dumps(RUNNERS[chosen.case](shape, *generate(shape, folder / "rows"))))
        return
    path = folder / "monitor.json"
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for shape in SHAPES:
        with ProcessPoolExecutor(
            1, get_context("spawn")
        ) as apart:  # a process passes its peak memory on to its children
            apart.submit(generate, shape, folder / "rows").result()
        for case in ("freeze", *(one for one in chosen.only if one != "freeze")):
            figures.setdefault(shape.name, {})[case] = run_apart(case, shape)
    path.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    print_table(figures)


def run_apart(case: str, shape: Shape) -> dict[str, float]:
    """Run one case in a separate process; its last printed line contains the figures."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_monitor", "--case", case, "--shape", shape.name]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | one_thread)
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{shape.name} {case}: {figures['cpu_s']:.2f} CPU s, {figures['peak_mb']:.0f} MB", flush=True)
    return figures


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Return CPU seconds and peak memory of `work`, above the process's usage before."""
    before_cpu, before_kb = cpu_s(), resident_kb()
    work()
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu_s": round(cpu_s() - before_cpu, 3), "peak_mb": round((peak_kb - before_kb) / 1024, 1)}


def cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def resident_kb() -> int:
    """Return the process's peak memory so far, on the scale of ru_maxrss."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def batches_of(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
    yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False)


def run_scan(shape: Shape, before: Path, now: Path) -> dict[str, float]:
    return measured(lambda: sum(batch.num_rows for batch in batches_of(now)))


def run_freeze(shape: Shape, before: Path, now: Path) -> dict[str, float]:
    """Freeze the reference, once per trained model and not part of a window's cost. Writes the profile, suite and samples for `ours`."""
    from tasks.adapters.gates.expectation_suite import learned_suite
    from tasks.adapters.profiling import reference_sample
    from tasks.adapters.profiling.binned_rows import draw_rows, to_parquet
    from tasks.adapters.profiling.profile import freeze_reference
    from tasks.policy.records.base import to_json

    config, path = model(shape), before.with_suffix(".json")

    def freeze() -> None:
        batches = list(batches_of(before))
        profile = freeze_reference(batches, config, HISTORY, shape.name)
        path.write_text(to_json(profile), encoding="utf-8")
        before.with_suffix(".suite.json").write_text(learned_suite(config, profile), encoding="utf-8")
        rows = pa.Table.from_batches(batches)
        before.with_suffix(".coded").write_bytes(to_parquet(draw_rows(config, profile, rows)))
        sample = reference_sample.draw_sample(config, profile, rows)
        before.with_suffix(".sample").write_bytes(reference_sample.to_parquet(sample))

    return measured(freeze)


def run_ours(shape: Shape, before: Path, now: Path) -> dict[str, float]:
    import tasks.adapters.gates.evidently
    import tasks.adapters.gates.evidently_metrics
    import tasks.adapters.gates.evidently_page
    import tasks.adapters.gates.great_expectations
    import tasks.adapters.profiling.domain_classifier  # noqa: F401, imported before the clock starts
    from tasks.adapters.profiling import reference_sample
    from tasks.adapters.profiling.binned_rows import from_parquet
    from tasks.adapters.profiling.profile import profile_columns
    from tasks.monitoring.drift import DriftReference, report_drift
    from tasks.monitoring.quality import QualityReference, judge_quality
    from tasks.policy.records.base import from_json
    from tasks.policy.records.profile import ReferenceProfile

    config = model(shape)

    def gather_evidence() -> None:
        reference = from_json(ReferenceProfile, before.with_suffix(".json").read_text(encoding="utf-8"))
        sample = workspace().report(config.name, WINDOW.name, "sample.parquet")
        read = partial(batches_of, now)
        profile = profile_columns(read, reference, config, WINDOW, sample)
        suite = before.with_suffix(".suite.json").read_text(encoding="utf-8")
        quality = judge_quality(config, profile, QualityReference(reference, suite), read)
        coded = from_parquet(before.with_suffix(".coded").read_bytes())
        learned = reference_sample.from_parquet(before.with_suffix(".sample").read_bytes())
        drift = report_drift(config, profile, DriftReference(reference, coded=coded, sample=learned))
        assert profile.rows == shape.rows and quality.report_uri and drift.report_uri
        assert drift.joint and drift.joint.verdict == "drifted", "joint drift was not measured"
        assert drift.drifted_share > 0.05, "the moved tenth of the features was not detected"
        assert drift.second_opinion and drift.second_opinion.drifted_share > 0.05, "Evidently did not detect it"

    return measured(gather_evidence)


def run_evidently(shape: Shape, before: Path, now: Path) -> dict[str, float]:
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    features = [*shape.numeric, *shape.categorical]
    definition = DataDefinition(
        numerical_columns=list(shape.numeric), categorical_columns=list(shape.categorical),
        datetime_columns=[], text_columns=[], unknown_columns=[], list_columns=[],
    )  # fmt: skip

    def report() -> None:
        reference, current = (
            Dataset.from_pandas(pd.read_parquet(path, columns=features), data_definition=definition)
            for path in (before, now)
        )
        with tempfile.TemporaryDirectory() as folder:
            Report([DataDriftPreset()]).run(current, reference).save_html(str(Path(folder) / "report.html"))

    return measured(report)


def run_scipy(shape: Shape, before: Path, now: Path) -> dict[str, float]:
    import numpy as np
    from scipy import stats

    def column(path: Path, name: str) -> pa.ChunkedArray:
        return pq.read_table(path, columns=[name], use_threads=False).column(name).drop_null()

    def test_columns() -> None:
        for name in shape.numeric:
            reference, current = (column(path, name).to_numpy() for path in (before, now))
            stats.ks_2samp(reference, current)
            stats.wasserstein_distance(reference, current)
        for name in shape.categorical:
            tables = [column(path, name).value_counts() for path in (before, now)]
            counts = [dict(zip(one.field(0).to_pylist(), one.field(1).to_pylist(), strict=True)) for one in tables]
            names = sorted(counts[0] | counts[1])
            stats.chi2_contingency(np.array([[side.get(one, 0) for one in names] for side in counts]))

    return measured(test_columns)


RUNNERS = {"scan": run_scan, "ours": run_ours, "scipy": run_scipy, "evidently": run_evidently, "freeze": run_freeze}


def print_table(figures: dict[str, dict[str, dict[str, float]]]) -> None:
    print(f"\n{'rows x features':<16}{'case':<12}{'CPU s':>9}{'× scan':>9}{'ours is':>12}{'peak MB':>10}{'× ours':>9}")
    for shape, cases in figures.items():
        ours, scan = cases.get("ours"), cases.get("scan")
        for case, figure in cases.items():
            cheaper = f"{figure['cpu_s'] / ours['cpu_s']:.1f}× less" if ours and case != "ours" else ""
            scans = f"{figure['cpu_s'] / scan['cpu_s']:.1f}" if scan else ""
            memory = f"{figure['peak_mb'] / max(ours['peak_mb'], 1):.1f}" if ours else ""
            print(
                f"{shape:<16}{case:<12}{figure['cpu_s']:>9.2f}{scans:>9}{cheaper:>12}{figure['peak_mb']:>10.0f}{memory:>9}"
            )
    print(
        "targets for ours: ≥ 10× less CPU than evidently, ≤ 1/10 of its memory, ≤ 12× the scan. freeze: once per model."
    )


if __name__ == "__main__":
    main()
