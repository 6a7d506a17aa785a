"""Work pools and places: committed templates are up to date, and a placed retrain runs in its place."""

import json
import os
import subprocess
import sys
from time import monotonic, sleep
from typing import Any

import pytest

from deployments.apply.definitions import Definitions, read_definitions
from deployments.apply.pools import POOLS, located_pool, read_pool
from deployments.config.folders import available_models
from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from tasks.policy.economics.placement import Place, PlacementPolicy
from tasks.policy.records.errors import ModelConfigError, PoolError
from tests.support.deployed_runs import deployed_runs
from tests.support.pool_templates import WORKERS, wanted, worker_of
from tests.support.small_model import write_model

REGENERATE = "if the change is meant, write the templates anew: python -m tests.support.pool_templates"
NAMES = ("perennial", "perennial-docker", "perennial-ecs", "perennial-kubernetes")


def models(**placements: PlacementPolicy) -> list[ModelConfig]:
    """Return the project's models, some with other placements."""
    return [
        config.model_copy(update={"placement": placements[config.name]} if config.name in placements else {})
        for config in map(load_model_config, available_models())
    ]


def sent_to(place: str) -> PlacementPolicy:
    return PlacementPolicy(serverless=Place(place=place), prefer="serverless")


# templates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_pool_templates_are_up_to_date(name):
    committed = json.loads((POOLS / f"{name}.json").read_text(encoding="utf-8"))
    assert committed == wanted()[name], REGENERATE


def test_every_worker_type_has_a_template():
    assert {read_pool(path.stem).type for path in POOLS.glob("*.json")} == set(WORKERS)
    assert {path.stem for path in POOLS.glob("*.json")} == set(NAMES)


async def _configuration(name: str, values: dict[str, Any]) -> Any:
    pool = read_pool(name)
    return await worker_of(pool.type).job_configuration.from_template_and_values(pool.template, values)


@pytest.mark.parametrize("name", NAMES)
def test_workers_accept_our_job_variables(name, prefect_server):
    import asyncio

    item = next(each for each in read_definitions().deployments if each["name"] == "retrain")
    values = item["work_pool"]["job_variables"]
    configuration = asyncio.run(_configuration(name, values))
    env = getattr(configuration, "env", None) or {}
    assert env["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("perennial-docker", {"mem_limit": 4}),
        ("perennial-ecs", {"cpu": "many"}),
        ("perennial-kubernetes", {"finished_job_ttl": "soon"}),
        ("perennial", {"stream_output": "perhaps"}),
    ],
)
def test_invalid_job_variable_fails_the_schema(name, values):
    from prefect.utilities.schema_tools.validation import validate

    schema = read_pool(name).template["variables"]
    assert not validate({}, schema)
    assert [list(error.path) for error in validate(values, schema)] == [list(values)]


def test_unknown_pool_is_named():
    with pytest.raises(PoolError, match=r"work pool other: no infra/pools/other\.json; expected one of perennial,"):
        read_pool("other")


LOCATIONS = {
    "PERENNIAL_LAKE": "s3://bucket/lake",
    "PERENNIAL_LEDGER": "ledger",
    "PERENNIAL_ARTIFACTS": "file:///srv/models",
    "MLFLOW_TRACKING_URI": "http://mlflow.internal:5000",
    "AWS_SECRET_ACCESS_KEY": "secret",
}


@pytest.mark.parametrize("name", NAMES)
def test_containers_get_addresses_but_no_folders_or_secrets(name, prefect_server):
    import asyncio

    from prefect.utilities.schema_tools.validation import validate

    pool = located_pool(name, LOCATIONS)
    assert not validate({}, pool.template["variables"])
    made = worker_of(pool.type).job_configuration.from_template_and_values(pool.template, {"env": {"OWN": "1"}})
    env = asyncio.run(made).env
    environment = {"PERENNIAL_LAKE": "s3://bucket/lake", "MLFLOW_TRACKING_URI": "http://mlflow.internal:5000"}
    assert env == {"OWN": "1"} | (environment if pool.type != "process" else {})
    guarded = {"MLFLOW_TRACKING_URI": "http://keeper:secret@mlflow.internal:5000"}
    assert located_pool(name, guarded) == located_pool(name, {}) == read_pool(name)


# definitions ---------------------------------------------------------------------------------------------------------


def deployment(definitions: Definitions, name: str) -> dict[str, Any] | None:
    return next((each for each in definitions.deployments if each["name"] == name), None)


def test_places_are_deployed_on_demand():
    assert deployment(read_definitions(models()), "retrain-ecs") is None
    definitions = read_definitions(models(air_time=sent_to("ecs")))
    placed = deployment(definitions, "retrain-ecs")
    assert placed["entrypoint"] == "flows.retrain.retrain"
    assert placed["work_pool"]["name"] == "perennial-ecs"
    assert placed["work_pool"]["job_variables"]["env"]["PERENNIAL_TRAINING_PLACE"] == "ecs"
    assert "for air_time" in placed["description"]
    (trigger,) = placed["triggers"]
    assert trigger["expect"] == ["perennial.retraining.requested.ecs"]
    assert definitions.pools == ("perennial", "perennial-ecs")
    usual = [trigger["expect"] for trigger in deployment(definitions, "retrain")["triggers"]]
    assert usual == [["perennial.retraining.requested"], ["perennial.return.requested"]], "a return trains nothing"


def test_each_place_has_its_own_slots():
    assert [limit["name"] for limit in read_definitions(models()).limits] == ["perennial-training-dedicated"]
    definitions = read_definitions(models(air_time=sent_to("gpu"), flight_delay=sent_to("ecs")))
    names = [limit["name"] for limit in definitions.limits]
    assert names == ["perennial-training-dedicated", "perennial-training-gpu"], "serverless places share no memory"
    placed = deployment(definitions, "retrain-gpu")
    assert placed["concurrency_limit"]["limit"] == 1
    assert placed["concurrency_limit"]["collision_strategy"] == "ENQUEUE"


def test_unknown_place_is_named():
    with pytest.raises(
        PoolError, match=r"air_time: placement names moon, prefect.yaml has the places dedicated, gpu, docker"
    ):
        read_definitions(models(air_time=sent_to("moon")))


def test_placement_settings_are_validated(tmp_path):
    with pytest.raises(ModelConfigError, match=r"placement\.deadline_hours is -1"):
        load_model_config(
            write_model(tmp_path, **{"window_days: 2": "placement: {deadline_hours: -1}\nwindow_days: 2"})
        )


# on a server ---------------------------------------------------------------------------------------------------------


def await_until(condition: Any, seconds: float = 150) -> Any:
    deadline = monotonic() + seconds
    while not (seen := condition()) and monotonic() < deadline:
        sleep(0.3)
    return seen


def unfinished() -> Any:
    from prefect.client.schemas.filters import FlowRunFilterState, FlowRunFilterStateType
    from prefect.client.schemas.objects import StateType

    waiting = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED]
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=waiting))


def poll_once(queue: str) -> str:
    """Run a worker of this queue only, until due runs have ended."""
    from prefect.settings import PREFECT_API_URL

    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "perennial", "--work-queue", queue]
    ended = subprocess.run(
        [*command, "--type", "process", "--run-once"], env={**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    return ended.stdout + ended.stderr


@pytest.mark.slow("starts the worker of each place as a process")
@pytest.mark.timeout(900)
def test_gpu_retrain_runs_on_the_gpu_worker_only(prefect_server, tmp_path):
    from prefect.client.orchestration import get_client

    from deployments.apply.deploy import apply
    from tasks.adapters.orchestration import events as announcements
    from tasks.policy.economics.placement import decide_placement
    from tasks.record.publication import _request

    definitions = read_definitions(models(air_time=sent_to("gpu")))
    apply(definitions=definitions)
    assert apply(definitions=definitions) == ()
    with get_client(sync_client=True) as client:
        for left in deployed_runs(client, unfinished()):
            client.delete_flow_run(
                left.id
            )  # runs of earlier tests, one of which would occupy the deployment's only slot
    places = {"plain": decide_placement(PlacementPolicy(), 10), "large": decide_placement(sent_to("gpu"), 10)}
    for model, placement in places.items():
        announcements.announce(_request(placement), model, {"model": model, "reasons": list(placement.reasons)})
    with get_client(sync_client=True) as client:

        def run_of(model: str) -> Any:
            return next((run for run in deployed_runs(client) if run.parameters.get("model") == model), None)

        assert await_until(lambda: run_of("plain") and run_of("large"))
        assert (run_of("plain").work_queue_name, run_of("large").work_queue_name) == ("default", "gpu")
        output = poll_once("gpu")
        assert run_of("large").state.is_final(), output  # the model does not exist: the run fails, but it ran there
        assert "no such model" in run_of("large").state.message
        assert run_of("plain").state.is_scheduled()
        output = poll_once("default")
        assert run_of("plain").state.is_final(), output
    apply()


def test_apply_restores_a_changed_pool_template(prefect_server):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolUpdate

    from deployments.apply.deploy import apply

    apply()
    pool = read_pool("perennial")
    changed = json.loads(json.dumps(pool.template))
    changed["variables"]["properties"]["stream_output"]["default"] = False
    with get_client(sync_client=True) as client:
        client.update_work_pool("perennial", WorkPoolUpdate(base_job_template=changed))
        (change,) = apply()
        assert "work pool   perennial: defaults.stream_output False → True" in str(change)
        assert client.read_work_pool("perennial").base_job_template == pool.template
