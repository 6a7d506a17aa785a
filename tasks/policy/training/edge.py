"""Decide whether an update that a device wrote may become a challenger.

The signature shows that the update comes from a folder that Perennial exported. What remains is judged here: that it changes
the model that serves now, that it is fresh and not one that was taken in before, and that it moves predictions only so far.
Whether it is better is not judged here: it is validated like any challenger.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import CLOCKS_APART, Settings, digest
from tasks.policy.records.errors import ForeignUpdate, ReplayedUpdate, StaleUpdate, UpdateBeyondLimits, UpdateRefused

EXPORTED, IMPORTED = "edge.exported", "edge.imported"
"""Ledger entries for a folder that was exported, and for an update that was taken in."""


class EdgePolicy(Settings):
    """What an update of an exported model must keep to (see "Devices")."""

    max_age_days: float = Field(30, gt=0, le=3650, examples=[7])
    """An update that its device wrote longer ago is refused."""
    max_change: float = Field(1.0, gt=0, le=10, examples=[0.5])
    """The furthest that an update may move a prediction before the link function: as a share of the largest that the leaves of
    the exported model can add up to."""


@dataclass(frozen=True, slots=True)
class EdgeExport:
    """An exported folder: the version in it, the hash of its files, and the id of the key that its updates are signed with."""

    model: str
    version: str
    sha256: str
    key_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class EdgeLoss:
    """Mean loss of the frozen and of the adapted model on the same rows of a device, and their difference with its interval."""

    rows: int
    frozen: float
    adapted: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class EdgeLogHead:
    """The last entry of a device's own log when it wrote an update."""

    sequence: int
    hash: str


@dataclass(frozen=True, slots=True)
class EdgeUpdate:
    """What a device reports, without the leaf values. It holds no row.

    `losses` are of rows before the latest adaptation learned from them (`before`), and of its held-back rows (`held_back`).
    """

    model: str
    version: str
    sha256: str
    number: int
    created_at: datetime
    counts: Mapping[str, int]
    losses: Mapping[str, EdgeLoss]
    log: EdgeLogHead
    learned_until: datetime | None = None
    """Time of the latest row that it learned from, where the device's rows had one."""
    key_id: str = ""
    content_sha256: str = ""

    @property
    def decision_id(self) -> str:
        """The id of the decision to take it in: the same file always has the same one."""
        return digest(self.model, IMPORTED, self.content_sha256)

    def seen_until(self, champion: ModelVersion) -> datetime:
        """The time from which on rows are new to both the champion and the adapted model, as far as the device says."""
        if self.learned_until is None:
            return champion.trained.end
        return max(champion.trained.end, self.learned_until + timedelta(microseconds=1))

    @property
    def sentence(self) -> str:
        """Its origin and what the device measured, for the reason of the run."""
        origin = f"update {self.number} of the device with key {self.key_id}, for version {self.version}"
        rows = f"adapted to {self.counts.get('adapted_rows', 0):,} rows"
        loss = self.losses.get("held_back")
        if loss is None:
            return f"{origin}: {rows}"
        change = f"{loss.difference:+.4g} ({loss.low:+.4g} to {loss.high:+.4g})"
        return (
            f"{origin}: {rows}; loss {loss.frozen:.4g} to {loss.adapted:.4g} on {loss.rows:,} held-back rows, {change}"
        )


@dataclass(frozen=True, slots=True)
class ImportFacts:
    """What Perennial knows when it judges an update: the export, the champion, the updates taken in before, the time."""

    export: EdgeExport
    champion: ModelVersion
    now: datetime
    imported: tuple[EdgeUpdate, ...] = field(default=())


def find_fault(update: EdgeUpdate, facts: ImportFacts, policy: EdgePolicy) -> UpdateRefused | None:
    """Return the error that refuses a signed update; None if it may be validated."""
    export, champion = facts.export, facts.champion
    place = f"{export.model}: update {update.number} of device {export.key_id}"
    if (update.model, update.version, update.sha256) != (export.model, export.version, export.sha256):
        return ForeignUpdate(
            f"{place}: is about {update.model} version {update.version}, but its key was exported with {export.model} version "
            f"{export.version}; expected an update that the exported folder wrote"
        )
    if any(known.content_sha256 == update.content_sha256 for known in facts.imported):
        return ReplayedUpdate(f"{place}: was imported before; expected a new update, written after further adaptations")
    latest = max((known.number for known in facts.imported), default=0)
    if update.number <= latest:
        return ReplayedUpdate(f"{place}: update {latest} of this device was imported already, expected a later one")
    return _find_age(place, update, facts, policy) or _find_stale_base(place, update, champion)


def _find_age(place: str, update: EdgeUpdate, facts: ImportFacts, policy: EdgePolicy) -> UpdateRefused | None:
    age = facts.now - update.created_at
    if age < -CLOCKS_APART:
        return StaleUpdate(
            f"{place}: was written on {update.created_at:%Y-%m-%d %H:%M} UTC by the device's clock, which is ahead of now, "
            f"{facts.now:%Y-%m-%d %H:%M} UTC; set that clock and write the update again"
        )
    if age > timedelta(days=policy.max_age_days):
        return StaleUpdate(
            f"{place}: is {age.days} days old, expected at most {policy.max_age_days:g} (training.edge.max_age_days); write a "
            "new one on the device"
        )
    return None


def _find_stale_base(place: str, update: EdgeUpdate, champion: ModelVersion) -> UpdateRefused | None:
    if (champion.version, champion.sha256) == (update.version, update.sha256):
        return None
    return StaleUpdate(
        f"{place}: changes version {update.version}, but version {champion.version} is the champion now; expected an update of "
        f"the champion: export it to the device with perennial edge export {update.model}"
    )


def find_excess(
    update: EdgeUpdate,
    frozen: NDArray[np.float32],
    leaves: NDArray[np.float32],
    starts: NDArray[np.int64],
    limit: float,
) -> UpdateRefused | None:
    """Return the error that refuses leaf values which change nothing or too much; None within the limit.

    `frozen` and `leaves` are the values of both models, tree after tree; `starts` is where each tree begins.
    """
    place = f"{update.model}: update {update.number} of device {update.key_id}"
    if leaves.shape != frozen.shape or not np.isfinite(leaves).all():
        return UpdateBeyondLimits(f"{place}: has {leaves.size:,} leaves, expected {frozen.size:,} finite numbers")
    if np.array_equal(leaves, frozen):
        return UpdateBeyondLimits(f"{place}: changes nothing; expected an update of a device that has adapted")
    most = _reach(frozen, starts)
    share = _reach(leaves.astype(float) - frozen, starts) / most if most > 0 else np.inf
    if share > limit:
        return UpdateBeyondLimits(
            f"{place}: can move a prediction by {share:.2g} times what the exported model's leaves add up to, expected at most "
            f"{limit:g} (training.edge.max_change); retrain instead, or allow more"
        )
    return None


def _reach(values: NDArray[np.floating], starts: NDArray[np.int64]) -> float:
    """Return the largest magnitude that one leaf of each tree can add up to."""
    return float(np.maximum.reduceat(np.abs(values.astype(float)), starts[:-1]).sum()) if values.size else 0.0
