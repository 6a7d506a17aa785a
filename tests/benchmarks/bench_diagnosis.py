"""`make bench-diagnosis`: diagnoses of injected changes in real flights, as a confusion table.

Rows: injected changes. Columns: diagnoses. Written to `.perennial/bench/diagnosis.json` with the summary shares.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from deployments.config.folders import available_models
from tasks.adapters.storage.workspace import make_folder, workspace
from tests.support.injections import Bed, Verdict, run

KINDS = (
    "none", "harmless_covariate_shift", "harmful_covariate_shift", "concept_drift", "upstream_data_fault",
    "insufficient_evidence",
)  # fmt: skip


def summary(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Return the shares of correct verdicts, of faults that led to a retrain, and of clean windows with an alarm."""
    faults = [verdict for verdict in verdicts if verdict.expected == {"upstream_data_fault"}]
    clean = [verdict for verdict in verdicts if verdict.injection == "clean"]
    return {
        "right": sum(verdict.right for verdict in verdicts) / len(verdicts),
        "verdicts": len(verdicts),
        "faults_retrained": sum(verdict.retrain for verdict in faults) / len(faults),
        "clean_alarms": sum(not verdict.right for verdict in clean) / len(clean),
    }


def show(console: Console, model: str, verdicts: Sequence[Verdict]) -> None:
    table = Table("injected", *(kind.replace("_", " ") for kind in KINDS), "right", "retrained", title=model)
    for name in dict.fromkeys(verdict.injection for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.injection == name]
        diagnoses = Counter(verdict.kind for verdict in own)
        right, retrained = sum(verdict.right for verdict in own), sum(verdict.retrain for verdict in own)
        counts = (str(diagnoses[kind]) if diagnoses[kind] else "" for kind in KINDS)
        table.add_row(name, *counts, f"{right}/{len(own)}", str(retrained))
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_diagnosis", description=__doc__)
    parser.add_argument("--windows", type=int, default=8, help="windows of the year that each change is injected into")
    parser.add_argument("--explain", action="store_true", help="print the reasons of every wrong verdict")
    options = parser.parse_args(arguments)
    console, found = Console(width=180), {}
    for model in available_models():
        verdicts = run(Bed(model), options.windows)
        show(console, model, verdicts)
        for verdict in verdicts:
            if options.explain and not verdict.right:
                console.print(f"{verdict.injection} {verdict.window}: {verdict.kind}: {' | '.join(verdict.reasons)}")
        diagnoses = [{"injected": one.injection, "window": one.window, "diagnoses": one.kind, "right": one.right,
                 "expected": sorted(one.expected), "retrain": one.retrain} for one in verdicts]  # fmt: skip
        found[model] = {**summary(verdicts), "table": diagnoses}
        console.print({key: value for key, value in found[model].items() if key != "table"})
    path = make_folder(workspace().home / "bench") / "diagnosis.json"
    path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    console.print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
