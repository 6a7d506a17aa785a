"""Time to read a long ledger, in the first process on a machine and in later ones.

`python -m tests.benchmarks.bench_ledger` (make bench-ledger) creates ledgers of 10,000 and 100,000 entries in a local
folder, reads each in separate processes, and writes bench/ledger.json in the workspace. The seconds cover reading all
entries, without imports.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tasks.adapters import ledger
from tasks.adapters.ledger.files import GENESIS, HEAD, Head, key
from tasks.adapters.storage.workspace import workspace
from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.records.base import digest, to_json, utc

LENGTHS = (10_000, 100_000)
MODEL = "benchmark"
BODY = json.dumps({"sentence": "nothing that anybody reads", "numbers": [round(n / 7, 6) for n in range(60)]})
READS = 4


def main() -> None:
    if len(sys.argv) > 1:
        began, cpu = time.perf_counter(), time.process_time()
        found = len(ledger.entries(MODEL))
        print(json.dumps({"entries": found, "s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu}))
        return
    figures = {}
    for length in LENGTHS:
        with tempfile.TemporaryDirectory() as home:
            write_ledger(Path(home) / "ledger", length)
            first, *later = [read_apart(home) for _ in range(READS)]
        figures[str(length)] = {"first": first, "later": min(later, key=lambda read: read["s"])}
        print(f"{length:>7} entries: first {first['s']:.2f} s, then {figures[str(length)]['later']['s']:.2f} s")
    path = workspace().home / "bench" / "ledger.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=2), encoding="utf-8")


def write_ledger(folder: Path, length: int) -> None:
    """Write entries as `ledger.append` does, without a request to the store for each."""
    (folder / MODEL).mkdir(parents=True)
    previous_hash, at = GENESIS, utc("2024-01-01")
    for sequence in range(1, length + 1):
        entry = LedgerEntry(MODEL, sequence, "window.judged", at, f"d{sequence}", "perennial", BODY, previous_hash)
        text = to_json(entry)
        previous_hash = digest(text, length=64)
        (folder / key(MODEL, sequence)).write_text(text, encoding="utf-8")
    (folder / MODEL / HEAD).write_text(to_json(Head(length, previous_hash)), encoding="utf-8")


def read_apart(home: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_ledger", "read"],
        env={name: value for name, value in os.environ.items() if name != "PERENNIAL_LEDGER"}
        | {"PERENNIAL_HOME": home},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
