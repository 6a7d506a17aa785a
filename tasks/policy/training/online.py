"""Decide which state of the online corrector serves: the newest one, the last good one, or none.

A corrector changes the leaves of a frozen booster after each window whose labels have closed. Each window is predicted
with what was learned before it (prequential evaluation; Dawid 1984, JRSS A 147:278), so no row judges a state that has
learned from it. A state serves while the corrected predictions are not inferior to those of the frozen champion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import Field

from tasks.policy.evidence.ledger import LedgerEntry
from tasks.policy.evidence.validation import MetricDifference
from tasks.policy.records.base import Settings, Window, from_json
from tasks.policy.rollout.versions import MOVES

UPDATED, ROLLED_BACK = "online.updated", "online.rolled_back"
"""Ledger entries of an update: the newest state serves, or what served before it does, because the newest one failed."""


class OnlinePolicy(Settings):
    """How the champion learns between retrains: its leaves are corrected after each window whose labels have closed."""

    windows: int = Field(12, ge=2, le=100, examples=[24])
    """Latest closed windows to learn from."""
    half_life_windows: float = Field(4.0, gt=0, le=100, examples=[8.0])
    """Age, in windows, at which a row counts half."""
    shrinkage_rows: float = Field(20.0, gt=0, examples=[50.0])
    """A leaf with this many rows moves half of the way; larger values make it more careful."""
    judged_windows: int = Field(6, ge=1, le=50, examples=[3])
    """Latest closed windows on which the corrected predictions are compared with those of the frozen champion."""
    min_windows: int = Field(2, ge=1, le=50, examples=[4])
    """Fewest such windows before a state may serve."""
    margin: float | None = Field(None, ge=0, examples=[0.01])
    """Largest distance that the interval may reach below the frozen champion, in units of the metric. Default: the margin of
    `validation`."""
    max_rows: int = Field(50_000, ge=100, le=5_000_000, examples=[200_000])
    """Most rows to learn from. Of more, each window gives an equal share."""

    @property
    def needed_windows(self) -> int:
        """Closed windows that are read: those to learn from, and enough for what was learned before each judged one."""
        return max(self.windows, self.judged_windows + 1)


@dataclass(frozen=True, slots=True)
class OnlineState:
    """A stored state of one version's corrector: its number, the SHA-256 of its file, and the windows it learned from."""

    number: int
    sha256: str
    learned: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class OnlineUpdate:
    """The ledger's record of one update: the newest state, the one that serves from the next window on, and why."""

    version: str
    window: Window
    """The window that `monitor` judged when it made the update."""
    newest: OnlineState
    serving: OnlineState | None
    """None if the frozen champion serves."""
    sentence: str
    gain: Annotated[MetricDifference | None, Field(exclude_if=lambda found: found is None)] = None
    """Gain of the newest states over the frozen champion on the latest windows."""


@dataclass(frozen=True, slots=True)
class OnlineComparison:
    """Corrected against frozen predictions: on the latest closed windows together, and on the newest of them."""

    windows: int
    pooled: MetricDifference | None = None
    latest: MetricDifference | None = None


def why_not_serving(found: OnlineComparison, margin: float, min_windows: int) -> str | None:
    """Return why a state may not serve; None if it may. Unknown fails.

    >>> why_not_serving(OnlineComparison(1), margin=0.01, min_windows=2)
    'it was compared with the frozen champion on 1 window, expected at least 2'
    """
    pooled, latest = found.pooled, found.latest
    if found.windows < min_windows or pooled is None or latest is None:
        return f"it was compared with the frozen champion on {_windows(found.windows)}, expected at least {min_windows}"
    if not pooled.low >= -margin:  # NaN fails too
        return (
            f"its gain in {pooled.name} over the last {_windows(found.windows)} may be as low as {pooled.low:.3g}, expected at "
            f"least {-margin:.3g}"
        )
    if not latest.gain >= -margin:
        return f"it lost {-latest.gain:.3g} in {latest.name} on the latest window, expected at most {margin:.3g}"
    return None


def describe_gain(state: OnlineState, found: OnlineComparison) -> str:
    """Say which state serves and what it gained, for the model's owner."""
    serves, gain = f"Online corrector: state {state.number} serves", found.pooled
    if gain is None:
        return serves
    over = f"{gain.name} of the last {_windows(found.windows)}"
    if gain.low <= 0 <= gain.high:
        return f"{serves}; {over} is no different from the frozen champion's ({gain.low:+.3g} to {gain.high:+.3g})"
    verb = "lowered" if gain.challenger < gain.champion else "raised"
    low, high = sorted((abs(gain.low), abs(gain.high)))
    return f"{serves}; it {verb} {over} by {abs(gain.gain):.3g} ({low:.3g} to {high:.3g}) compared with the frozen champion"


def describe_fallback(newest: OnlineState, refusal: str, serving: OnlineState | None) -> str:
    """Say what serves in place of the newest state, and why."""
    instead = f"state {serving.number}, the last good one, serves" if serving else "the frozen champion serves"
    return f"Online corrector: {instead}; state {newest.number} does not: {refusal}"


def _windows(count: int) -> str:
    return "1 window" if count == 1 else f"{count} windows"


def updates_of(entries: Sequence[LedgerEntry], version: str) -> tuple[OnlineUpdate, ...]:
    """Return the updates of a champion's corrector since it became champion, oldest first."""
    found: list[OnlineUpdate] = []
    for entry in entries:
        if entry.kind in MOVES:  # a champion starts without a state, also one that returns
            found.clear()
        elif entry.kind in (UPDATED, ROLLED_BACK):
            found.append(from_json(OnlineUpdate, entry.body))
    return tuple(update for update in found if update.version == version)


def serving_state(updates: Sequence[OnlineUpdate], start: datetime | None = None) -> OnlineState | None:
    """Return the state that serves rows from `start` on, or now; None for the frozen champion.

    A state never serves a window that began before the one after which it was made.
    """
    made = [update for update in updates if start is None or update.window.end <= start]
    return made[-1].serving if made else None


def good_states(updates: Sequence[OnlineUpdate], most: int) -> tuple[OnlineState, ...]:
    """Return the latest states that have served, newest first, without repeats."""
    served = {update.serving.number: update.serving for update in updates if update.serving}
    return tuple(served[number] for number in sorted(served, reverse=True)[:most])
