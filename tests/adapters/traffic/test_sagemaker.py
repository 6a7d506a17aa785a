"""SageMaker endpoint weights against moto's server. moto does not run models, so who answers is injected."""

import itertools
import random
from collections.abc import Iterator

import boto3
import pytest

from tasks.adapters.traffic import apply as applied, sagemaker
from tasks.adapters.traffic.apply import apply_split
from tasks.adapters.traffic.sagemaker import SagemakerTraffic
from tasks.policy.records.errors import TrafficError
from tasks.policy.rollout.traffic import SagemakerControl, TrafficSplit
from tests.support.object_store import s3

CONTROL = SagemakerControl(
    kind="sagemaker", endpoint="churn", champion="blue", challenger="green", probes=200, wait_minutes=0.01, settle_s=0
)
CANARY = TrafficSplit("churn", "7", "8", "canary", 0.1)
SHADOW = TrafficSplit("churn", "7", "8", "shadow")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """An endpoint with two variants on moto, the champion's with all traffic."""
    monkeypatch.setattr(sagemaker, "POLL_S", 0.05)
    with s3(monkeypatch, "models"):
        up = boto3.client("sagemaker")
        role = "arn:aws:iam::123456789012:role/FakeRole"
        image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/churn:1"
        up.create_model(ModelName="churn", PrimaryContainer={"Image": image}, ExecutionRoleArn=role)
        variants = [
            {
                "VariantName": name,
                "ModelName": "churn",
                "InstanceType": "ml.m5.large",
                "InitialInstanceCount": 1,
                "InitialVariantWeight": weight,
            }
            for name, weight in (("blue", 1.0), ("green", 0.5))
        ]
        up.create_endpoint_config(EndpointConfigName="churn", ProductionVariants=variants)
        up.create_endpoint(EndpointName="churn", EndpointConfigName="churn")
        yield up


def weights(client: object) -> dict[str, float]:
    described = client.describe_endpoint(EndpointName="churn")
    return {variant["VariantName"]: variant["CurrentWeight"] for variant in described["ProductionVariants"]}


def answering(share: float) -> object:
    chosen = random.Random(7)
    return lambda: "green" if chosen.random() < share else "blue"


def test_weights_follow_the_split(client: object) -> None:
    assert apply_split(CONTROL, CANARY) == pytest.approx({"champion": 0.9, "challenger": 0.1})
    assert weights(client) == pytest.approx({"blue": 0.9, "green": 0.1})
    for split in (SHADOW, CANARY.without_challenger(), TrafficSplit("churn", None)):
        SagemakerTraffic(CONTROL).set(CANARY)
        assert apply_split(CONTROL, split) == {"champion": 1.0, "challenger": 0.0}
        assert weights(client) == {"blue": 1.0, "green": 0.0}


def test_answers_are_counted(client: object) -> None:
    control = SagemakerTraffic(CONTROL, answering(0.1))
    control.set(CANARY)
    control.verify(CANARY)
    with pytest.raises(TrafficError, match=r"the challenger answered \d+ of 200 probes, expected between"):
        SagemakerTraffic(CONTROL, answering(0.5)).verify(CANARY)
    control.set(SHADOW)
    with pytest.raises(TrafficError, match="probes, expected none"):
        control.verify(SHADOW)
    with pytest.raises(TrafficError, match="variant 'red' answered a probe, expected blue or green"):
        SagemakerTraffic(CONTROL, lambda: "red").verify(SHADOW)


def test_weight_changed_by_someone_else(client: object) -> None:
    control = SagemakerTraffic(CONTROL)
    control.set(CANARY)
    desired = [{"VariantName": "green", "DesiredWeight": 0.9}]
    client.update_endpoint_weights_and_capacities(EndpointName="churn", DesiredWeightsAndCapacities=desired)
    with pytest.raises(TrafficError, match=r"the challenger's share is 0.5, expected 0.1"):
        control.verify(CANARY)


def test_invoked_variant_is_read_from_the_answer(client: object) -> None:
    """With a body, the endpoint is invoked; moto answers as a variant that no endpoint has."""
    with pytest.raises(
        TrafficError, match=r"variant 'invoked_production_variant' .* all traffic to the champion again"
    ):
        apply_split(CONTROL.model_copy(update={"body": {"instances": [[1.0]]}}), CANARY)
    assert weights(client) == {"blue": 1.0, "green": 0.0}


def test_endpoint_that_stays_in_an_update(client: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SagemakerTraffic, "_describe", lambda self: {"EndpointStatus": "Updating"})
    with pytest.raises(TrafficError, match=r"churn: is Updating, expected InService within 0.01 minutes"):
        apply_split(CONTROL, CANARY)
    assert weights(client) == {"blue": 1.0, "green": 0.5}, "an update during an update is refused by SageMaker"


def test_update_is_awaited(client: object, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses = itertools.chain(["InService", "Updating", "Updating"], itertools.repeat("InService"))
    monkeypatch.setattr(SagemakerTraffic, "_describe", lambda self: {"EndpointStatus": next(statuses)})
    SagemakerTraffic(CONTROL).set(CANARY)
    assert next(statuses) == "InService"
    assert weights(client)["green"] == pytest.approx(0.1)


def test_endpoint_out_of_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for status in ("Failed", "OutOfService", "RollingBack"):
        described = {"EndpointStatus": status}
        monkeypatch.setattr(SagemakerTraffic, "_describe", lambda self, described=described: described)
        with pytest.raises(TrafficError, match=f"is {status}, expected InService"):
            SagemakerTraffic(CONTROL).set(CANARY)


def test_unknown_names(client: object) -> None:
    with pytest.raises(TrafficError, match=r"endpoint other: AWS refused or did not answer \(ValidationException\)"):
        apply_split(CONTROL.model_copy(update={"endpoint": "other"}), CANARY)
    with pytest.raises(TrafficError, match="has a variant 'green', expected blue and red"):
        SagemakerTraffic(CONTROL.model_copy(update={"challenger": "red"})).observe()


def test_aws_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    control = CONTROL.model_copy(update={"region": "eu-central-1"})
    with pytest.raises(TrafficError, match=r"\(EndpointConnectionError\).* failed as well"):
        apply_split(control, CANARY)


def test_region_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(TrafficError, match=r"\(NoRegionError\)"):
        SagemakerTraffic(CONTROL).observe()


def test_credentials_of_a_block(client: object, prefect_server: None) -> None:
    from prefect_aws import AwsCredentials

    named = CONTROL.model_copy(update={"credentials": "production"})
    with pytest.raises(TrafficError, match="Prefect has no block AwsCredentials named 'production'"):
        SagemakerTraffic(named).observe()
    AwsCredentials(aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1").save("production")
    assert apply_split(named, CANARY)["challenger"] == pytest.approx(0.1)


def test_haproxy_needs_no_aws_library() -> None:
    assert not hasattr(applied, "SagemakerTraffic")
