"""Apply a traffic split to what serves the model outside Perennial: set, observe, verify; else return to the champion."""

import logging
import time
from collections.abc import Mapping

from tasks.adapters.traffic.haproxy import HaproxyTraffic
from tasks.adapters.traffic.protocol import TrafficControl
from tasks.policy.records.errors import TrafficError
from tasks.policy.rollout.traffic import HaproxyControl, Role, TrafficControlSettings, TrafficSplit

logger = logging.getLogger(__name__)
RETRY_S = 1.0


def apply_split(settings: TrafficControlSettings, split: TrafficSplit) -> Mapping[Role, float]:
    """Make the service follow the split and prove that it does; return each role's share. Safe to repeat.

    Call it after `write_split`. If the service does not follow, all traffic is sent to the champion again.
    Raises TrafficError.
    """
    control = control_of(settings)
    try:
        control.set(split)
        observed = control.observe()
        _verify(control, split, settings.settle_s)
    except TrafficError as error:
        try:
            control.set(split.without_challenger())
        except TrafficError as second:
            raise TrafficError(f"{error}. Returning all traffic to the champion failed as well: {second}") from None
        raise TrafficError(f"{error}. The weights send all traffic to the champion again") from None
    logger.info("%s: the challenger has %.1f %% of the traffic", split.model, 100 * observed["challenger"])
    return observed


def control_of(settings: TrafficControlSettings) -> TrafficControl:
    """Return the control of the service that the settings name."""
    if isinstance(settings, HaproxyControl):
        return HaproxyTraffic(settings)
    from tasks.adapters.traffic.sagemaker import SagemakerTraffic  # importing prefect-aws takes three seconds

    return SagemakerTraffic(settings)


def _verify(control: TrafficControl, split: TrafficSplit, settle_s: float) -> None:
    """Verify until it succeeds, for at most `settle_s` seconds: servers take a moment to load another version."""
    deadline = time.monotonic() + settle_s
    while True:
        try:
            return control.verify(split)
        except TrafficError:
            if time.monotonic() + RETRY_S > deadline:
                raise
            time.sleep(RETRY_S)
