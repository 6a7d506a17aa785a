"""The traffic split of a model: which version answers which unit. Every part that answers reads this one record.

A unit, such as a customer, is assigned by a keyed hash (Kohavi et al. 2020, "Trustworthy Online Controlled
Experiments", ch. 13). The hash is a number in [0, 1), and the challenger answers the units below its share: a unit
keeps its version across restarts, and never leaves the challenger while the share grows.
"""

import hashlib
import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, Literal, Self

import scipy  # its submodules load on first use
from pydantic import Field, JsonValue, model_validator

from tasks.policy.records.base import Settings

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

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share:g}, expected 0 to 1")

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
        if not self.serves_challenger or unit is None or unit != unit:  # NaN, as pandas writes a missing number
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


MISMATCH_LEVEL = 0.001
"""p-value below which the units of the two versions do not match the split; the usual one, because every look tests."""
LEAST_EXPECTED = 5.0
"""Units that each version must be expected to have for the test (Cochran 1954, Biometrics 10:417)."""
RING_POINTS = 4096
"""Fewest points on haproxy's ring: 16 for each unit of weight, of which one version has 256."""


def sample_ratio_mismatch(
    share: float, champion: int, challenger: int, control: "TrafficControlSettings | None" = None
) -> str | None:
    """Say that the units of both versions do not match the challenger's share; None if they do, or are too few.

    The versions then answered different kinds of units, so they cannot be compared (Fabijan et al. 2019, KDD, "Diagnosing
    sample ratio mismatch in online controlled experiments"). The test is the exact binomial one, as Pearson's χ² exceeds its
    level with few units. haproxy's consistent hash places points at random, so its part of the ring differs from the share;
    the count is then beta-binomial, and χ² with that variance tests it.

    >>> sample_ratio_mismatch(0.5, champion=5000, challenger=5100)
    >>> print(sample_ratio_mismatch(0.5, champion=500, challenger=700))
    sample ratio mismatch: the challenger was to answer 700 of 1,200 units, expected about 600 at a share of 50 % (p = 8e-09)
    """
    units = champion + challenger
    if min(share, 1 - share) * units < LEAST_EXPECTED:
        return None
    if isinstance(control, HaproxyControl):
        variance = units * share * (1 - share) * (1 + (units - 1) / (RING_POINTS + 1))
        p_value = float(scipy.special.chdtrc(1, (challenger - share * units) ** 2 / variance))
    else:
        p_value = float(scipy.stats.binomtest(challenger, units, share).pvalue)
    if p_value >= MISMATCH_LEVEL:
        return None
    return (
        f"sample ratio mismatch: the challenger was to answer {challenger:,} of {units:,} units, expected about "
        f"{share * units:,.0f} at a share of {100 * share:.3g} % (p = {p_value:.1g})"
    )


# what serves a model outside Perennial: `rollout.control` in the model's file

Socket = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9_./-]{1,100}|[A-Za-z0-9.-]{1,253}:[0-9]{1,5})$")]
ProxyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,100}$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")]
FrontendUrl = Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.:-]{1,253}(/[^\s@]{0,1000})?$")]
VariantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$")]


class HaproxyControl(Settings):
    """haproxy in front of the champion's and the challenger's servers; its weights follow the rollout.

    The backend needs `balance hash req.hdr(x-unit)` and `hash-type consistent`, and the challenger's servers `weight 0`.
    """

    kind: Literal["haproxy"] = Field(examples=["haproxy"])
    """What serves the model."""
    sockets: tuple[Socket, ...] = Field(min_length=1, max_length=16, examples=[["/run/haproxy/admin.sock"]])
    """Runtime socket of each haproxy, with `level admin`: a path, or host:port."""
    backend: ProxyName = Field(examples=["churn"])
    """Name of the backend that holds the servers of both versions, and no others."""
    champion: tuple[ProxyName, ...] = Field(min_length=1, max_length=100, examples=[["champion"]])
    """Names of the servers that answer with the version under the alias `champion`."""
    challenger: tuple[ProxyName, ...] = Field(min_length=1, max_length=100, examples=[["challenger"]])
    """Names of the servers that answer with the version under the alias `challenger`."""
    url: FrontendUrl = Field(examples=["http://models.example.com:8080/churn"])
    """URL behind the frontend to which probe requests are sent, without credentials."""
    body: dict[str, JsonValue] = Field({}, examples=[{"rows": [{"tenure_days": 10}]}])
    """Body of a probe, sent by POST as JSON. Default: probes are sent by GET."""
    unit_header: HeaderName = Field("x-unit", examples=["x-customer"])
    """Request header with the unit, which the backend hashes."""
    version_header: HeaderName = Field("x-model-version", examples=["x-version"])
    """Response header with the version that answered."""
    probes: int = Field(300, ge=50, le=10_000, examples=[1000])
    """Units that are probed, with two requests each, after every change of the split."""
    timeout_s: float = Field(5.0, ge=0.1, le=60, examples=[2.0])
    """Seconds that a socket or a probe may take to answer."""
    settle_s: float = Field(10.0, ge=0, le=600, examples=[30.0])
    """Seconds within which the answers must follow a new split."""

    @model_validator(mode="after")
    def _check_servers(self) -> Self:
        named = [*self.champion, *self.challenger]
        twice = sorted({name for name in named if named.count(name) > 1})
        if twice:
            raise ValueError(
                f"{', '.join(twice)} is listed twice, expected each server once, in champion or challenger"
            )
        return self


class SagemakerControl(Settings):
    """A SageMaker endpoint with one production variant per role; the variants' weights follow the rollout.

    SageMaker chooses a variant for each request at random, so a unit does not stay with one version.
    """

    kind: Literal["sagemaker"] = Field(examples=["sagemaker"])
    """What serves the model."""
    endpoint: VariantName = Field(examples=["churn"])
    """Name of the endpoint."""
    champion: VariantName = Field(examples=["champion"])
    """Name of the production variant with the version under the alias `champion`."""
    challenger: VariantName = Field(examples=["challenger"])
    """Name of the production variant with the version under the alias `challenger`."""
    credentials: str | None = Field(None, pattern=r"^[a-z0-9-]{1,100}$", examples=["production"])
    """Name of a Prefect block AwsCredentials. Default: the credentials of the environment."""
    region: str | None = Field(None, pattern=r"^[a-z]{2}(-[a-z]{2,12}){1,3}-[0-9]{1,2}$", examples=["eu-central-1"])
    """AWS region of the endpoint. Default: that of the credentials or the environment."""
    body: dict[str, JsonValue] = Field({}, examples=[{"instances": [[10, 3.5]]}])
    """Body of a probe, sent as JSON to the endpoint. Default: only the weights are compared."""
    probes: int = Field(300, ge=50, le=10_000, examples=[100])
    """Probes that are sent after every change of the split."""
    wait_minutes: float = Field(15.0, ge=0.01, le=120, examples=[30.0])
    """Minutes within which the endpoint must be in service with the new weights."""
    settle_s: float = Field(10.0, ge=0, le=600, examples=[30.0])
    """Seconds within which the answers must follow a new split."""

    @model_validator(mode="after")
    def _check_variants(self) -> Self:
        if self.champion == self.challenger:
            raise ValueError(f"champion and challenger are both {self.champion}, expected two variants")
        return self


TrafficControlSettings = HaproxyControl | SagemakerControl
