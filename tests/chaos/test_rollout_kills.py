"""A rollout outlives the runs that carry it on: killed at any boundary, without its registry, or suspended for too long."""

import pytest

from flows.monitor import monitor
from flows.promote import promote
from flows.rollout import rollout
from tasks.adapters import ledger, registry, traffic
from tasks.adapters.orchestration.server import free_port
from tasks.policy.records.base import utc
from tasks.policy.records.errors import RegistryError
from tests.chaos import rollout_kills as kills

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.slow("kills runs that are processes, and waits until their leases have expired"),
    pytest.mark.usefixtures("prefect_server"),
]
DUE = utc(kills.DUE)
SHORT = (
    "step: move recorded, traffic not written",
    "return: traffic returned, version not quarantined",
    "return: quarantined, end not in the ledger",
    "return: end announced, not recorded as announced",
    "promotion: aliases moved, rollout not ended",
)
"""The boundaries that CI kills at; `make chaos` kills at all of them."""


@pytest.fixture(scope="module")
def spaces(tmp_path_factory: pytest.TempPathFactory) -> kills.Workspaces:
    return kills.Workspaces(tmp_path_factory.mktemp("rollouts"))


@pytest.mark.parametrize("boundary", SHORT)
def test_a_killed_run_is_completed_once(workspace, spaces, boundary):
    assert kills.run_kill(spaces, boundary).problems == ()


@pytest.mark.parametrize(("scenario", "flow"), [("step", monitor), ("return", monitor), ("promotion", promote)])
def test_without_registry_nothing_moves_and_the_next_run_continues(workspace, spaces, monkeypatch, scenario, flow):
    with spaces.copy(scenario, f"unreachable_{scenario}") as model:
        before, split = ledger.entries(kills.NAME), traffic.read_split(kills.NAME)
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
            with pytest.raises(RegistryError, match="check MLFLOW_TRACKING_URI"):
                flow(str(model), until=DUE)
            assert (ledger.entries(kills.NAME), traffic.read_split(kills.NAME)) == (before, split)
        flow(str(model), until=DUE)
        assert kills.wrong(kills.SCENARIOS[scenario]) == ()


def test_a_return_does_not_wait_for_the_registry(workspace, spaces, monkeypatch):
    """The run that saw the breach was killed, and the next one reaches no registry: the traffic goes first."""
    stops = spaces.folder / "return_stops"
    with spaces.copy("return", "return_without_registry") as model:
        process = kills.start(stops, "monitor", model, f"{kills.KILLS['return: look recorded']} kill")
        assert process.wait(kills.RAN_S) != 0
        assert traffic.read_split(kills.NAME).challenger == "2"
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
            with pytest.raises(RegistryError, match="check MLFLOW_TRACKING_URI"):
                monitor(str(model), until=DUE)
        assert traffic.read_split(kills.NAME).challenger is None
        monitor(str(model), until=DUE)
        assert kills.wrong(kills.SCENARIOS["return"]) == ()


def test_a_suspended_run_cannot_write_the_traffic(workspace, spaces):
    """It had recorded a step; meanwhile a person aborted the rollout."""
    stops = spaces.folder / "suspended_stops"
    with spaces.copy("step", "suspended") as model:
        process = kills.start(stops, "monitor", model, f"{kills.WRITE} before 1 wait")
        kills.freeze(stops)
        rollout(str(model), action="abort", reason="not now", requested_by="Ada", until=DUE)
        output = kills.wake(stops, process)
        assert process.returncode != 0
        assert "was fenced out" in output
        assert traffic.read_split(kills.NAME).challenger is None
        assert registry.tags(kills.NAME, "2")["status"] == "rejected"
        monitor(str(model), until=DUE)
        assert traffic.read_split(kills.NAME).challenger is None
        assert ledger.verify(kills.NAME).problems == ()
