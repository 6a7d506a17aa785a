"""A short part of `make chaos` for CI: real processes are killed, and the loop completes once."""

import os
from collections.abc import Iterator

import pytest

from tests.chaos.faults import FAULTS, lacking, run_fault
from tests.chaos.matrix import BOUNDARIES, run_batch
from tests.chaos.stack import Stack, stack, wait_for

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.slow("kills a server, a worker and its runs, and waits for the recovery"),
]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = str(tmp_path_factory.mktemp("chaos"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", home)
        with stack() as made:
            yield made


@pytest.fixture(autouse=True)
def _there(workspace, up: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the checks at the processes' workspace."""
    monkeypatch.setenv("PERENNIAL_HOME", str(up.space.home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", up.mlflow)


def problems(up: Stack, prefix: str, victim: str, *boundaries: str) -> list[str]:
    return [f"{row.boundary}: {row.problems}" for row in run_batch(up, prefix, victim, boundaries) if row.problems]


def test_schedules_create_runs(up):
    """Prefect's scheduler only logs failures; without it nothing would be monitored."""
    scheduled = {"state": {"type": {"any_": ["SCHEDULED"]}}}
    assert wait_for(lambda: up.ask("flow_runs/filter", flow_runs=scheduled), "the runs of an active schedule")


def test_recovery_after_power_loss(up):
    """No process is left to report the runs; missed heartbeats, the automation and the lease recover them."""
    boundaries = (
        "retrain: version made, registration not ended",
        "retrain: both facts in the ledger",
        "promote: champion moved, challenger not",
    )
    assert not problems(up, "everything", "everything", *boundaries)


def test_full_disk_fails_clearly_and_recovers(up):
    fault = "the lake's disk is full"
    missing = lacking().get(fault)
    if missing and not os.environ.get("PERENNIAL_REQUIRE_SYSTEM_TOOLS"):  # .ci/run allows no skips
        pytest.skip(f"{fault} cannot be made here: {missing}")
    assert not run_fault(up, list(FAULTS).index(fault), fault).problems


def test_matrix_covers_both_flows():
    assert {boundary.partition(":")[0] for boundary in BOUNDARIES} == {"retrain", "promote"}
