"""A part of `make chaos` that CI can wait for: real processes are killed, and the loop completes by itself, once."""

import os
from collections.abc import Iterator

import pytest

from tests.chaos.faults import FAULTS, lacking, run_fault
from tests.chaos.matrix import BOUNDARIES, run_batch
from tests.chaos.stack import Stack, stack

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = str(tmp_path_factory.mktemp("chaos"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERENNIAL_HOME", home)
        with stack() as made:
            yield made


@pytest.fixture(autouse=True)
def _there(workspace, up: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks look where the processes write."""
    monkeypatch.setenv("PERENNIAL_HOME", str(up.space.home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", up.mlflow)


def problems(up: Stack, prefix: str, victim: str, *boundaries: str) -> list[str]:
    return [f"{row.boundary}: {row.problems}" for row in run_batch(up, prefix, victim, boundaries) if row.problems]


def test_runs_that_are_killed_are_taken_up_again_and_do_everything_once(up):
    boundaries = ("retrain: version made, registration not ended", "retrain: both facts in the ledger")
    assert not problems(up, "flow", "flow", *boundaries, "promote: champion moved, challenger not")


def test_a_loss_of_power_is_recovered_from_when_everything_is_back(up):
    boundaries = ("retrain: registered, not the challenger", "promote: aliases moved")
    assert not problems(up, "everything", "everything", *boundaries)


@pytest.mark.parametrize("fault", ["MLflow's database is locked for 20 s", "the lake's disk is full"])
def test_a_fault_below_ends_in_completion_or_in_a_told_failure(up, fault):
    missing = lacking().get(fault)
    if missing and not os.environ.get("PERENNIAL_REQUIRE_SYSTEM_TOOLS"):
        pytest.skip(f"{fault} cannot be made here: {missing}")
    assert not run_fault(up, list(FAULTS).index(fault), fault).problems


def test_the_matrix_has_boundaries_of_both_flows():
    assert {boundary.partition(":")[0] for boundary in BOUNDARIES} == {"retrain", "promote"}
