"""The gateway as a process under load: what a kill loses, what a stop loses, and requests while versions change."""

import signal
import time
from datetime import UTC, datetime

import httpx
import pyarrow as pa
import pytest
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

from infra.gateway.answer_log import AnswerLog
from tasks.adapters import lake, registry
from tests.support.gateway import NAME, Load, prepare, running, split_traffic, wait_for
from tests.support.trained_models import make_rows

WHY = "starts the gateway as a process, which loads XGBoost and MLflow"
LOST_S = 1.0
EFFECT_S = 4.0
"""The gateway polls each second; the machine that runs the tests is busy."""


@pytest.fixture
def config(workspace):
    return prepare(workspace)


@pytest.fixture
def path(config, workspace):
    return workspace.parent / "models" / f"{config.name}.yaml"


def landed(config) -> pa.Table:
    """Return all predictions of today in the lake, and of yesterday if a test runs at midnight."""
    window = config.window_at(datetime.now(UTC))
    before = config.window_at(window.start - (window.end - window.start) / 2)
    return pa.concat_tables(
        [lake.read_predictions(config, each) for each in (before, window)], promote_options="default"
    )


@pytest.mark.slow(WHY)
def test_a_killed_gateway_loses_at_most_the_last_second(config, path):
    with running(path) as gateway, Load(gateway.host) as load:
        wait_for(lambda: len(load.answers) > 500)
        time.sleep(2 * LOST_S)
        gateway.process.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        gateway.process.wait()
    answered = {each.row: each.at for each in load.answers if each.status == 200}
    assert AnswerLog(config).land() == 1
    rows = landed(config)["id"].to_pylist()
    lost = [killed_at - at for row, at in answered.items() if row not in set(rows)]
    print(f"answered {len(answered)}, in the lake {len(rows)}, lost {len(lost)}, oldest {max(lost, default=0):.2f} s")
    assert max(lost, default=0) <= LOST_S
    assert len(rows) == len(set(rows)) >= 500


@pytest.mark.slow(WHY)
def test_the_next_gateway_lands_what_a_killed_one_left(config, path):
    with running(path) as gateway, Load(gateway.host) as load:
        wait_for(lambda: len(load.answers) > 50)
        time.sleep(LOST_S)
        gateway.process.kill()
    with running(path):
        wait_for(lambda: landed(config).num_rows >= 50)


@pytest.mark.slow(WHY)
def test_a_stopped_gateway_drains_and_loses_nothing(config, path):
    with running(path, "--drain-s", "4") as gateway:
        with Load(gateway.host) as load:
            wait_for(lambda: len(load.answers) > 100)
            gateway.process.send_signal(signal.SIGTERM)
            wait_for(lambda: httpx.get(f"{gateway.address}/ready").status_code == 503, 2)
            refused_at = time.monotonic()
            assert httpx.get(f"{gateway.address}/health").status_code == 200
            wait_for(lambda: len(load.since(refused_at)) > 20)  # until balancers have looked, it answers on
        assert gateway.process.wait(60) == 0
    assert load.failures == []
    assert {each.status for each in load.answers} == {200}
    rows = landed(config)["id"].to_pylist()
    assert sorted(rows) == sorted(each.row for each in load.answers)


@pytest.mark.slow(WHY)
def test_versions_and_shares_change_under_load_without_a_failed_request(config, path):
    with running(path) as gateway, Load(gateway.host) as load:

        def versions(since: float) -> set[str | None]:
            return {each.version for each in load.since(since)}

        def settled(wanted: set[str], after: float = 0.3) -> bool:
            return versions(time.monotonic() - after) == wanted

        wait_for(lambda: settled({"1"}))
        split_traffic(config, mode="canary", share=0.5)
        wait_for(lambda: settled({"1", "2"}))
        split_traffic(config, mode="canary", share=0.0, step="paused")
        took = wait_for(lambda: settled({"1"}))
        assert took < EFFECT_S
        quiet_at = time.monotonic()
        time.sleep(1.5)
        assert versions(quiet_at) == {"1"}, "a weight of 0 sends nothing"
        split_traffic(config, mode="canary", share=0.5)
        assert wait_for(lambda: settled({"1", "2"})) < EFFECT_S
        registry.set_aliases(NAME, {registry.CHAMPION: "2"})
        assert wait_for(lambda: settled({"2"})) < EFFECT_S
    assert load.failures == []
    assert {each.status for each in load.answers} == {200}
    print(f"{len(load.answers)} requests, 0 failed; a share of 0 took effect in {took:.1f} s")


@pytest.mark.slow(WHY)
def test_mlflows_own_client_is_answered(config, path):
    with running(path) as gateway:
        host, _, port = gateway.host.partition(":")
        client = ScoringServerClient(host, port)
        client.wait_server_ready()
        rows = make_rows(seed=9).slice(0, 5).to_pandas().drop(columns=["label"])
        rows.loc[1, "x"] = None
        rows["time"] = rows["time"].astype(str)
        predictions = client.invoke(rows)["predictions"]
    scorer = registry.version_files.load_scorer(registry.version(NAME, "1"))
    assert predictions == scorer.predict(rows).tolist()
