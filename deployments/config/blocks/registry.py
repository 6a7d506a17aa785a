"""Settings of the registry: the block `registry` of a model's YAML file."""

from typing import Literal

from pydantic import Field

from tasks.policy.records.base import Settings


class RegistryRules(Settings):
    """What happens when someone else moves the model's aliases in MLflow."""

    outside_moves: Literal["refuse", "record"] = Field("refuse", examples=["record"])
    """`refuse`: a moved champion is reported, and nothing is promoted or rolled back until the alias is set back. `record`:
    the next `score` or `monitor` checks the version, takes it in if it is unknown, and records the move (see "Your champion")."""
