"""Traffic of a SageMaker endpoint: the weights of its production variants, one variant per role.

SageMaker updates weights within minutes and serves meanwhile. Each request is routed at random by the weights; the answer
names the variant (`InvokedProductionVariant`), which `verify` counts where the settings have a body for probes.
"""

import json
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from prefect_aws import AwsCredentials

from tasks.adapters.traffic.answers import check_share
from tasks.policy.records.errors import TrafficError
from tasks.policy.rollout.traffic import Role, SagemakerControl, TrafficSplit

POLL_S = 5.0
WEIGHTS_DIFFER = 1e-4  # SageMaker stores weights in single precision
IN_SERVICE = "InService"
CHANGING = ("Creating", "Updating", "SystemUpdating")


class SagemakerTraffic:
    """A SageMaker endpoint with one production variant per role.

    `probe` sends one request and returns the name of the variant that answered. Default: the endpoint is invoked with the
    body of the settings; without a body, only the weights are compared.
    """

    def __init__(self, settings: SagemakerControl, probe: Callable[[], str] | None = None) -> None:
        self.settings = settings
        self.where = f"SageMaker endpoint {settings.endpoint}"
        self._probe = probe or (self._invoke if settings.body else None)

    def set(self, split: TrafficSplit) -> None:
        """Update both weights and wait until the endpoint is in service with them."""
        self._wait_until_in_service()
        share = split.share if split.serves_challenger else 0.0
        weights = ((self.settings.champion, 1 - share), (self.settings.challenger, share))
        desired = [{"VariantName": name, "DesiredWeight": weight} for name, weight in weights]
        endpoint = self.settings.endpoint
        try:
            self._control.update_endpoint_weights_and_capacities(
                EndpointName=endpoint, DesiredWeightsAndCapacities=desired
            )
        except (BotoCoreError, ClientError) as error:
            raise self._unreachable(error) from None
        self._wait_until_in_service()

    def observe(self) -> Mapping[Role, float]:
        """Return each role's share of the current weights."""
        variants = {variant["VariantName"]: variant for variant in self._describe()["ProductionVariants"]}
        listed = {self.settings.champion, self.settings.challenger}
        for name in sorted(listed ^ set(variants)):
            raise TrafficError(
                f"{self.where}: has {'a' if name in variants else 'no'} variant {name!r}, expected "
                f"{' and '.join(sorted(listed))}; list the endpoint's variants in rollout.control"
            )
        weights = {name: float(variant.get("CurrentWeight", 0.0)) for name, variant in variants.items()}
        total = sum(weights.values())
        if total <= 0:
            raise TrafficError(
                f"{self.where}: all weights are 0, expected the champion's above 0; set it with the AWS console or run this "
                "again"
            )
        return {
            "champion": weights[self.settings.champion] / total,
            "challenger": weights[self.settings.challenger] / total,
        }

    def verify(self, split: TrafficSplit) -> None:
        """Compare the current weights with the split and, where probes can be sent, count which variant answered."""
        share = split.share if split.serves_challenger else 0.0
        found = self.observe()["challenger"]
        if abs(found - share) > WEIGHTS_DIFFER:
            raise TrafficError(
                f"{self.where}: the challenger's share is {found:.4g}, expected {share:.4g}; look for another process that "
                "changes the endpoint"
            )
        if self._probe is None:
            return
        answered = [self._probe() for _ in range(self.settings.probes)]
        strangers = sorted({*answered} - {self.settings.champion, self.settings.challenger})
        if strangers:
            raise TrafficError(
                f"{self.where}: variant {strangers[0]!r} answered a probe, expected {self.settings.champion} or "
                f"{self.settings.challenger}; list the endpoint's variants in rollout.control"
            )
        check_share(self.where, answered.count(self.settings.challenger), len(answered), share)

    def _wait_until_in_service(self) -> None:
        deadline = time.monotonic() + 60 * self.settings.wait_minutes
        while (status := self._describe()["EndpointStatus"]) in CHANGING and time.monotonic() < deadline:
            time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))
        if status != IN_SERVICE:
            raise TrafficError(
                f"{self.where}: is {status}, expected {IN_SERVICE} within {self.settings.wait_minutes:g} minutes; look at its "
                "events in the AWS console"
            )

    def _describe(self) -> Mapping[str, Any]:
        try:
            return self._control.describe_endpoint(EndpointName=self.settings.endpoint)
        except (BotoCoreError, ClientError) as error:
            raise self._unreachable(error) from None

    def _invoke(self) -> str:
        try:
            answer = self._runtime.invoke_endpoint(
                EndpointName=self.settings.endpoint,
                ContentType="application/json",
                Body=json.dumps(self.settings.body),
            )
        except (BotoCoreError, ClientError) as error:
            raise self._unreachable(error) from None
        return str(answer.get("InvokedProductionVariant"))

    @cached_property
    def _control(self) -> Any:
        return self._client("sagemaker")

    @cached_property
    def _runtime(self) -> Any:
        return self._client("sagemaker-runtime")

    def _client(self, service: str) -> Any:
        """Return a client of the settings' credentials. Raises TrafficError without a block of that name."""
        try:
            name = self.settings.credentials
            credentials = AwsCredentials.load(name) if name else AwsCredentials()
        except ValueError:  # Prefect's error for a block that does not exist
            raise TrafficError(
                f"{self.where}: Prefect has no block AwsCredentials named {name!r}, expected it; create the block, or leave "
                "out rollout.control.credentials"
            ) from None
        try:
            session = credentials.get_boto3_session()
            region = self.settings.region or credentials.region_name
            return session.client(
                service, **{**credentials.aws_client_parameters.get_params_override(), "region_name": region}
            )
        except (BotoCoreError, ClientError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> TrafficError:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
        return TrafficError(
            f"{self.where}: AWS refused or did not answer ({code}), expected an endpoint that these credentials may describe, "
            "update and invoke; check its name, rollout.control.region and the role's permissions"
        )
