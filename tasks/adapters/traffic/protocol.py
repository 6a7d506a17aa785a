"""The protocol of what serves a model outside Perennial: set the split, observe it, and verify who really answers."""

from collections.abc import Mapping
from typing import Protocol

from tasks.policy.rollout.traffic import TrafficSplit


class TrafficControl(Protocol):
    """One service whose traffic follows a `TrafficSplit`."""

    def set(self, split: TrafficSplit) -> None:
        """Make the service follow the split. Raises TrafficError if it cannot be reached or refuses."""

    def observe(self) -> Mapping[str, float]:
        """Return each version's share of the traffic as the service has it configured, in [0, 1]."""

    def verify(self, split: TrafficSplit) -> None:
        """Ask who really answers. Raises TrafficError where the answers do not follow the split."""
