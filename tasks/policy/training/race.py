"""Choose what to train on: a race of strategies, judged on closed windows that no entrant was trained on.

Each entrant is fitted to rows before the judged windows and scored on each of them, in time order. Losses of earlier races
count too: how far back they are trusted follows from the adaptive rolling window, and the best entrant from the
single-elimination tournament of Han, Huang and Wang (2024), "Model Assessment and Selection under Temporal Distribution
Shift", ICML. The winner must then beat the file's own settings by more than `min_gain_se` standard errors; otherwise these
stay, because the best of several entrants looks better than it is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from scipy.special import ndtr, stdtrit

from tasks.policy.records.base import Settings, Window
from tasks.policy.statistics.metrics import Floats

StrategyKind = Literal[
    "usual", "recency_weighted", "trailing", "since_change", "continue_champion", "refresh_leaves", "earlier_champion"
]
USUAL = "usual"
RACED = "training.raced"
"""Ledger entry of a race, once per decision."""
DOUBT = 0.1
"""Probability δ that an interval of the adaptive rolling window misses the mean, as in the paper's experiments."""


class RacePolicy(Settings):
    """Which strategies race, on how many windows, and what the winner must show."""

    strategies: tuple[StrategyKind, ...] = Field(
        ("recency_weighted", "trailing", "since_change", "continue_champion", "refresh_leaves", "earlier_champion"),
        examples=[["recency_weighted", "since_change"]],
    )
    """Entrants beside the file's own settings, which always race: rows weighted by their age, the latest windows, rows since
    a detected change, the champion continued on new rows, the champion with its leaves refreshed, an earlier champion."""
    half_life_windows: tuple[Annotated[float, Field(gt=0)], ...] = Field((24, 12, 4), examples=[[12]])
    """Ages in windows at which a row weighs half, one entrant each."""
    trailing_windows: tuple[Annotated[int, Field(ge=1)], ...] = Field((16,), examples=[[8, 32]])
    """Lengths in windows of the trailing spans, one entrant each."""
    windows: int = Field(4, ge=2, le=20, examples=[8])
    """Closed windows before the holdout on which the entrants are judged; twice as many in the first race."""
    min_gain_se: float = Field(2.0, ge=0, le=10, examples=[1.0])
    """Standard errors by which the winner's gain over the file's own settings must exceed zero, on many windows. On few, more
    are needed, by Student's t distribution: 14 on two windows, 3.3 on four, 2.4 on eight for a value of 2."""

    @property
    def most_fits(self) -> int:
        """Fits of one race if every strategy can run; an earlier champion is scored without one."""
        amounts = {"recency_weighted": len(self.half_life_windows), "trailing": len(self.trailing_windows)}
        return 1 + sum(amounts.get(kind, 1) for kind in self.strategies if kind != "earlier_champion")

    def errors_needed(self, windows: int) -> float:
        """`min_gain_se` for a mean of this many windows, whose standard error is itself uncertain (Student 1908).

        >>> [round(RacePolicy().errors_needed(windows), 1) for windows in (2, 4, 8, 1000)]
        [14.0, 3.3, 2.4, 2.0]
        """
        return float(stdtrit(windows - 1, ndtr(self.min_gain_se))) if windows > 1 else math.inf


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to choose the rows and weights of a fit; `amount` is in windows, `since` a time, `version` a model's number."""

    kind: StrategyKind = "usual"
    amount: float | None = None
    since: datetime | None = None
    version: str | None = None

    @property
    def name(self) -> str:
        """The entrant's name on pages and in records.

        >>> Strategy("recency_weighted", 12).name
        'recency weighted, half-life 12 windows'
        """
        if self.kind == "recency_weighted":
            return f"recency weighted, half-life {self.amount:g} windows"
        if self.kind == "trailing":
            return f"trailing {self.amount:g} windows"
        if self.kind == "since_change":
            return f"since the change on {self.since:%Y-%m-%d}"
        words = {
            "usual": "the file's settings",
            "continue_champion": f"version {self.version} continued",
            "refresh_leaves": f"version {self.version} with refreshed leaves",
            "earlier_champion": f"version {self.version} again",
        }
        return words[self.kind]

    @property
    def key(self) -> str:
        """What identifies it across races: versions and times change from race to race, the kind of entrant does not."""
        return self.kind if self.amount is None else f"{self.kind} {self.amount:g}"


@dataclass(frozen=True, slots=True)
class Entrant:
    """An entrant's loss on each judged window, None where undefined, and the CPU seconds of its fit; or why it did not run."""

    strategy: Strategy
    losses: tuple[float | None, ...] = ()
    cpu_s: float = 0.0
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class RaceReport:
    """The result of a race: `gain` is the winner's over the file's settings, in units of the loss, with an interval.

    `compared` counts the windows behind it, those of earlier races among them.
    """

    windows: tuple[Window, ...]
    metric: str
    entrants: tuple[Entrant, ...]
    winner: Strategy
    gain: float
    low: float
    high: float
    compared: int
    reasons: tuple[str, ...]
    cpu_s: float = 0.0
    wall_s: float = 0.0

    @property
    def earlier_version(self) -> str | None:
        """The version that won by serving as it is; None if something is to be trained."""
        return self.winner.version if self.winner.kind == "earlier_champion" else None


def adaptive_window(values: Floats, doubt: float = DOUBT) -> int:
    """How many of the latest values to average: few after a change, all while nothing changes.

    `values` are in time order, at least two. Algorithm 1 of Han, Huang and Wang (2024), without its term for the range of a
    single loss, because each value is already a window's mean.

    >>> adaptive_window(np.array([0.0, 0.1] * 20 + [5.0, 5.1] * 5))
    10
    >>> adaptive_window(np.array([0.0, 0.1] * 20))
    40
    """
    count = len(values)
    means = np.array([values[-k:].mean() for k in range(1, count + 1)])
    spreads = np.array([values[-k:].std(ddof=1) if k > 1 else math.inf for k in range(1, count + 1)])
    noise = spreads * np.sqrt(2 * math.log(2 / doubt) / np.arange(1, count + 1))
    risks = [math.inf]
    for k in range(1, count):
        shift = np.abs(means[k] - means[1 : k + 1]) - noise[k] - noise[1 : k + 1]
        risks.append(noise[k] + max(0.0, float(shift.max())))
    return int(np.argmin(risks)) + 1


def tournament(losses: Mapping[str, Floats]) -> str:
    """The winner of a single-elimination tournament; each pair meets on the windows that the adaptive window selects.

    `losses` have one value per window, in time order; of equal entrants the earlier one advances.
    """
    names = list(losses)
    while len(names) > 1:
        pairs = zip(names[0::2], names[1::2], strict=False)
        won = [second if _gain(losses[first], losses[second])[0] > 0 else first for first, second in pairs]
        names = won + names[len(names) - len(names) % 2 :]
    return names[0]


def decide_race(policy: RacePolicy, report: RaceReport, earlier: Sequence[RaceReport]) -> RaceReport:
    """The report with its winner, gain and reasons, from these losses and those of earlier races by the same metric."""
    pooled = _pooled((*(race for race in earlier if race.metric == report.metric), report))
    usual = pooled.get(USUAL, np.empty(0))
    eligible = {name: found for name, found in pooled.items() if _is_comparable(found, usual)}
    rivals = {name: found for name, found in eligible.items() if name != USUAL}
    if not rivals:
        return _keep(report, "no other entrant could be compared on two windows", (0.0, 0.0, 0))
    best = tournament(rivals)
    gain, error, compared = _gain(usual, rivals[best])
    strategy = next(each.strategy for each in report.entrants if each.strategy.key == best)
    measured = f"{gain:+.4g} ± {error:.2g} {report.metric} over {compared} windows"
    needed = policy.errors_needed(compared)
    found = (gain, needed * error if error else 0.0, compared)
    if not gain > found[1]:
        expected = f"expected more than {needed:.2g} standard errors"
        return _keep(
            report, f"no gain: the best other entrant, {strategy.name}, is ahead by {measured}, {expected}", found
        )
    return _decided(report, strategy, f"race: {strategy.name} wins, ahead of the file's settings by {measured}", found)


def describe_race(policy: RacePolicy, entrants: Sequence[Strategy], last: RaceReport | None) -> str:
    """Who would race on how many windows, and what the last race cost."""
    names = "; ".join(each.name for each in entrants)
    cost = (
        f"the last race took {last.cpu_s:,.1f} CPU s"
        if last
        else "each is fitted once, so it costs that many trainings"
    )
    return f"race: {len(entrants)} strategies on the latest {policy.windows} closed windows ({names}); {cost}"


def mean_loss(entrant: Entrant) -> float | None:
    """The mean of an entrant's losses on the windows where they are defined; None without any."""
    known = [loss for loss in entrant.losses if loss is not None]
    return sum(known) / len(known) if known else None


def gain_over(usual: Entrant, entrant: Entrant) -> float | None:
    """How much lower an entrant's mean loss is than that of the file's settings, on the windows that both have."""
    pairs = zip(usual.losses, entrant.losses, strict=False)
    gains = [first - second for first, second in pairs if first is not None and second is not None]
    return sum(gains) / len(gains) if gains else None


def _is_comparable(found: Floats, usual: Floats) -> bool:
    return (
        bool(len(usual)) and int((np.isfinite(found) & np.isfinite(usual)).sum()) >= 2 and bool(np.isfinite(found[-1]))
    )


def _pooled(races: Sequence[RaceReport]) -> dict[str, Floats]:
    """Each entrant of the latest race: its losses over all races, by window in time order, NaN where it did not run."""
    windows = sorted({window for race in races for window in race.windows})
    found = {each.strategy.key: np.full(len(windows), np.nan) for each in races[-1].entrants if each.refused is None}
    for race in races:
        places = [windows.index(window) for window in race.windows]
        for each in race.entrants:
            if each.refused is None and each.strategy.key in found:
                found[each.strategy.key][places] = [math.nan if loss is None else loss for loss in each.losses]
    return found


def _gain(first: Floats, second: Floats) -> tuple[float, float, int]:
    """The second's mean gain over the first, its standard error and the number of windows that the adaptive window selects."""
    gains = (first - second)[np.isfinite(first) & np.isfinite(second)]
    if len(gains) < 2:
        return 0.0, math.inf, len(gains)
    latest = gains[-adaptive_window(gains) :]
    return float(latest.mean()), float(latest.std(ddof=1) / math.sqrt(len(latest))), len(latest)


def _keep(report: RaceReport, reason: str, measured: tuple[float, float, int]) -> RaceReport:
    return _decided(report, Strategy(), f"race: the file's settings stay; {reason}", measured)


def _decided(report: RaceReport, winner: Strategy, reason: str, measured: tuple[float, float, int]) -> RaceReport:
    """The report with its outcome; `measured` are the gain, half the width of its interval, and the windows behind it."""
    gain, half_width, compared = measured
    refused = tuple(
        f"race: {each.strategy.name} did not run: {each.refused}" for each in report.entrants if each.refused
    )
    bounds = (gain - half_width, gain + half_width)
    return RaceReport(
        report.windows, report.metric, report.entrants, winner, gain, *bounds, compared, (reason, *refused),
        report.cpu_s, report.wall_s,
    )  # fmt: skip
