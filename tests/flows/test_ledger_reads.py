"""How often a run reads its model's ledger: each entry once, whatever the number of stages."""

from collections import Counter

import pytest

from flows.monitor import monitor
from flows.score import score
from tasks.adapters import ledger
from tasks.adapters.ledger import chain, files
from tasks.policy.records.base import utc

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The ledger's files that a new process reads, each with the number of times."""
    counted: Counter[str] = Counter()
    read = files.read

    def count(name: str) -> bytes | None:
        counted[name] += 1
        return read(name)

    for module in (chain, files):
        monkeypatch.setattr(module, "read", count)
    return counted


def test_a_monitor_run_reads_each_entry_of_the_ledger_once(tmp_path, begin, reads):
    model = begin(tmp_path)
    for day in ("2024-01-23", "2024-01-25"):
        score(model, until=utc(day))
        monitor(model, until=utc(day))
    score(model, until=utc("2024-01-27"))
    numbers = [files.key("small", entry.sequence) for entry in ledger.entries("small")]
    chain._KNOWN.clear()  # as in the process of a new run
    reads.clear()

    monitor(model, until=utc("2024-01-27"))

    *earlier, last = numbers
    assert {reads[number] for number in earlier} == {1}
    looks = 5  # admission, the past, the champion's entry, whether it may serve, and the entry that the run appends
    assert reads[last] <= looks and reads[f"small/{files.HEAD}"] <= looks
