"""Container runs whose workspace would be deleted with them are refused."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from deployments.apply.definitions import Definitions, read_definitions
from deployments.apply.storage_preflight import refuse_ephemeral_storage, withheld
from tasks.policy.records.errors import DeploymentError
from tests.infra.test_pools import sent_to
from tests.support.deployed_models import models

ADDRESSES = {
    "PERENNIAL_LAKE": "s3://bucket/lake",
    "PERENNIAL_LEDGER": "s3://bucket/ledger",
    "MLFLOW_TRACKING_URI": "http://mlflow.internal:5000",
}
CONTAINERS = ("docker", "ecs", "kubernetes")


def placed_on(place: str, **environment: str) -> Definitions:
    """Return definitions with one model's retrains on a place, and these job variables."""
    (model, *others) = models()
    definitions = read_definitions(
        [model.model_copy(update={"name": "placed", "placement": sent_to(place)}), model, *others]
    )
    index: dict[str, Any] = deepcopy(definitions.index)
    for deployment in index["deployments"]:
        deployment["work_pool"].setdefault("job_variables", {}).setdefault("env", {}).update(environment)
    return replace(definitions, index=index)


@pytest.mark.parametrize("place", CONTAINERS)
def test_containers_need_workspace_addresses(place):
    definitions = placed_on(place)
    with pytest.raises(DeploymentError) as refusal:
        refuse_ephemeral_storage(definitions, {})
    assert str(refusal.value).startswith(
        f"retrain-{place}: its containers have no PERENNIAL_LAKE and no PERENNIAL_LEDGER and no MLFLOW_TRACKING_URI, "
        "so a run ends Completed and what it wrote is lost with its container; expected addresses that every "
        "host reaches, such as PERENNIAL_LAKE=s3://bucket/lake, PERENNIAL_LEDGER=s3://bucket/ledger, "
        "MLFLOW_TRACKING_URI=http://mlflow.internal:5000\nnothing was changed; "
    )
    refuse_ephemeral_storage(definitions, ADDRESSES)


@pytest.mark.parametrize("place", ["dedicated", "gpu"])
def test_own_hosts_need_no_addresses(place):
    refuse_ephemeral_storage(placed_on(place) if place != "dedicated" else read_definitions(models()), {})


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("PERENNIAL_LAKE", "lake"),
        ("PERENNIAL_LAKE", ""),
        ("PERENNIAL_LEDGER", "file:///srv/ledger"),
        ("MLFLOW_TRACKING_URI", "sqlite:////srv/mlflow.db"),
        ("MLFLOW_TRACKING_URI", "sqlite+pysqlite:////srv/mlflow.db"),
    ],
)
def test_local_paths_are_not_addresses(part, value):
    with pytest.raises(DeploymentError, match=f"^retrain-docker: its containers have no {part}, so"):
        refuse_ephemeral_storage(placed_on("docker"), {**ADDRESSES, part: value})


def test_model_files_need_an_address_without_mlflow_server():
    registry = {**ADDRESSES, "MLFLOW_TRACKING_URI": "postgresql://database.internal/mlflow"}
    with pytest.raises(DeploymentError, match=r"^retrain-docker: its containers have no PERENNIAL_ARTIFACTS, so"):
        refuse_ephemeral_storage(placed_on("docker"), registry)
    refuse_ephemeral_storage(placed_on("docker"), {**registry, "PERENNIAL_ARTIFACTS": "s3://bucket/models"})


@pytest.mark.parametrize("environment", [ADDRESSES, {"PERENNIAL_HOME": "/srv/volume"}])
def test_job_variables_in_prefect_yaml_count(environment):
    refuse_ephemeral_storage(placed_on("docker", **environment), {})


@pytest.mark.parametrize(
    "address",
    [
        "http://keeper:hidden@mlflow.internal:5000",
        "postgresql://db.internal/mlflow?user=keeper&password=hidden",
        "https://mlflow.internal/?Access_Token=hidden",
        "https://mlflow.internal/?aws_secret_access_key=hidden",
    ],
)
def test_address_with_password_is_withheld_and_reported(address):
    secret = {**ADDRESSES, "PERENNIAL_ARTIFACTS": "s3://bucket/models", "MLFLOW_TRACKING_URI": address}
    definitions = placed_on("docker")
    refuse_ephemeral_storage(definitions, secret)
    (warning,) = withheld(definitions, secret)
    assert warning.startswith(
        "retrain-docker: MLFLOW_TRACKING_URI holds a password and is not written to the pool's template"
    )
    assert "hidden" not in warning
    assert withheld(definitions, ADDRESSES) == []
    harmless = {**ADDRESSES, "MLFLOW_TRACKING_URI": "postgresql://db.internal/mlflow?sslmode=require&user=keeper"}
    assert withheld(definitions, harmless) == []
    assert withheld(placed_on("gpu"), secret) == [], "a process inherits its host's settings"


# on a server ---------------------------------------------------------------------------------------------------------


def test_apply_requires_addresses_and_writes_them_to_the_pool(prefect_server, monkeypatch):
    from prefect.client.orchestration import get_client

    from deployments.apply.deploy import apply

    apply()
    definitions = placed_on("docker")
    try:
        with get_client(sync_client=True) as client:
            for dry_run in (True, False):
                with pytest.raises(DeploymentError, match="retrain-docker: its containers have no PERENNIAL_LAKE"):
                    apply(dry_run=dry_run, definitions=definitions)
            assert "perennial-docker" not in [pool.name for pool in client.read_work_pools()]
            for part, address in ADDRESSES.items():
                monkeypatch.setenv(part, address)
            planned = [str(change) for change in apply(dry_run=True, definitions=definitions)]
            assert "created  work pool   perennial-docker" in planned
            apply(definitions=definitions)
            template = client.read_work_pool("perennial-docker").base_job_template
            assert template["variables"]["properties"]["env"]["default"] == ADDRESSES
            for part in ADDRESSES:
                monkeypatch.delenv(part)
            with pytest.raises(DeploymentError, match="nothing was changed"):
                apply(definitions=definitions)
            assert client.read_work_pool("perennial-docker").base_job_template == template
    finally:
        apply()
        with get_client(sync_client=True) as client:
            if "perennial-docker" in [pool.name for pool in client.read_work_pools()]:
                client.delete_work_pool("perennial-docker")
