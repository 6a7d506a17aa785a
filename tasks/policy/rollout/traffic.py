"""The traffic split of a model: which version answers which unit. Every part that answers reads this one record.

A unit, such as a customer, is assigned by a keyed hash (Kohavi et al. 2020, "Trustworthy Online Controlled
Experiments", ch. 13). The hash is a number in [0, 1), and the challenger answers the units below its share: a unit
keeps its version across restarts, and never leaves the challenger while the share grows.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

TrafficMode = Literal["none", "shadow", "canary", "ab"]
Role = Literal["champion", "challenger", "shadow"]
"""Role of a logged prediction. Predictions of the champion and the challenger were served, those of a shadow were not."""


@dataclass(frozen=True, slots=True)
class TrafficSplit:
    """Who answers a model's requests. `share` is the challenger's share of units, 0 where it serves nothing."""

    model: str
    champion: str | None
    challenger: str | None = None
    mode: TrafficMode = "none"
    share: float = 0.0
    unit: str | None = None
    """Column that identifies a unit; None for the row id."""
    salt: str = ""
    """Key of the hash; one per rollout, so that two rollouts expose different units."""
    step: str = ""
    """Name of the rollout's step, as in `canary 10 %`; logged with each prediction."""
    since: datetime | None = None
    decision_id: str | None = None

    @property
    def serves_challenger(self) -> bool:
        """Whether some answers come from the challenger."""
        return self.mode in ("canary", "ab") and self.challenger is not None and self.share > 0

    @property
    def shadows_challenger(self) -> bool:
        """Whether the challenger predicts every row without being served."""
        return self.mode == "shadow" and self.challenger is not None

    def role_of(self, unit: object) -> Role:
        """Return who answers this unit: `champion` or `challenger`. A unit without a value gets the champion."""
        if not self.serves_challenger or unit is None:
            return "champion"
        return "challenger" if position(self.salt, unit) < self.share else "champion"

    def without_challenger(self) -> "TrafficSplit":
        """The split that sends all traffic to the champion."""
        return replace(self, challenger=None, mode="none", share=0.0, step="", decision_id=None)


def position(salt: str, unit: object) -> float:
    """Return the unit's place in [0, 1): BLAKE2b keyed with the salt. 7, 7.0 and "7" are the same unit.

    >>> position("a", 7) == position("a", 7.0) == position("a", "7")
    True
    """
    key = hashlib.sha256(salt.encode()).digest()
    hashed = hashlib.blake2b(canonical_unit(unit).encode(), key=key, digest_size=8).digest()
    return (int.from_bytes(hashed, "big") >> 11) / 2**53


def canonical_unit(unit: object) -> str:
    """Return the unit as text, the same for an integer read from Parquet and a number read from JSON."""
    if isinstance(unit, float) and math.isfinite(unit) and unit.is_integer():
        return str(int(unit))
    return str(unit)
