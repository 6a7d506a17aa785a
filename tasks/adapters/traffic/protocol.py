"""The protocol of what serves a model outside Perennial: set the split, observe it, and verify who really answers."""

from collections.abc import Mapping
from typing import Protocol

from tasks.policy.rollout.traffic import Role, TrafficSplit


class TrafficControl(Protocol):
    """One service whose traffic follows a `TrafficSplit`."""

    def set(self, split: TrafficSplit) -> None:
        """Make the service follow the split. Raises TrafficError if it cannot be reached or refuses."""

    def observe(self) -> Mapping[Role, float]:
        """Return the share of the traffic that each role has in the service's configuration, in [0, 1].

        Raises TrafficError if the service cannot be reached, or no role has any traffic.
        """

    def verify(self, split: TrafficSplit) -> None:
        """Ask who really answers. Raises TrafficError where the configuration or the answers do not follow the split."""
