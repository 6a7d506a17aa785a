"""Read who answers a model's rows now, and change it under the model's lease.

The split is one record in the ledger's store (`tasks.adapters.traffic`). A split that names another champion than the
registry, or a challenger that is quarantined or gone, means that the champion answers everything.
"""

from dataclasses import dataclass

from prefect.logging import get_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import registry, traffic
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.errors import RegistryError
from tasks.policy.rollout.traffic import TrafficSplit


@dataclass(frozen=True, slots=True)
class Traffic:
    """The versions that answer a model's rows, and the split between them; `challenger` is None without a rollout."""

    champion: ModelVersion
    split: TrafficSplit
    challenger: ModelVersion | None = None


def find_traffic(config: ModelConfig, champion: ModelVersion) -> Traffic:
    """Return who answers the model's rows now."""
    split = traffic.read_split(config.name)
    refusal = _why_not_follow(config, split, champion)
    if refusal:
        get_run_logger().warning("traffic: champion %s answers every row: %s", champion.version, refusal)
    if refusal or split.challenger is None or not (split.serves_challenger or split.shadows_challenger):
        return Traffic(champion, split.without_challenger())
    return Traffic(champion, split, registry.version(config.name, split.challenger))


def _why_not_follow(config: ModelConfig, split: TrafficSplit, champion: ModelVersion) -> str | None:
    """Return why a split is not followed; None if it is, or has no challenger."""
    if split.challenger is None:
        return None
    if split.champion != champion.version:
        return f"the split is between {split.champion} and {split.challenger}, but champion {champion.version} serves"
    try:
        challenger = registry.version(config.name, split.challenger)
    except RegistryError as error:
        return str(error)
    status = dict(challenger.tags).get("status")
    return f"challenger {split.challenger} is {status}" if status in ("quarantined", "rejected") else None
