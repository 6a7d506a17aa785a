"""A family of simple rules, each back-tested on what is known so far; the one that would have cost least is followed.

Debt rules: add up what an option would have saved against the champion, never below 0, fading a little; switch when
the sum reaches a multiple of the switch's cost (ski rental; Karlin et al. 1988). Forecast rules: switch when the
forecast lead, held over L windows, pays the switch; an eager rule has a long L. Timers. And never. Each lives its own life on
the same surrogate matrix, paying for what it does; a rule far from the default starts with a handicap, in retrains.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.policy.simulation import Floats

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

PATIENCE = (1.0, 2.0, 4.0, 8.0, 16.0)
DEBTS = tuple((multiple, fade) for multiple in (0.5, 1.0, 2.0, 4.0) for fade in (1.0, 0.85, 0.6))
RETURN_CAUTION = 1.5
"""A return is chosen as the best of many, which flatters it: its debt must reach this multiple."""
TIMERS = (1, 2, 4, 8)
HANDICAP_FORECAST, HANDICAP_DEBT, HANDICAP_TIMER, HANDICAP_NEVER = 2.0, 3.0, 3.0, 1.0


@dataclass(frozen=True)
class Options:
    """What can be done after window `now`: the surrogate losses there, the forecast, and what a switch costs.

    `forecast` has `now` + 1 entries, the last being the fresh option; `fresh` is a fresh candidate's loss on `now`.
    """

    now: int
    losses: Floats
    fresh: float
    newest: int
    forecast: Floats
    alpha: float
    share: float


@dataclass
class Lives:
    """One champion and one account of debts for every rule."""

    champion: Ints
    exists: Flags
    debts: Floats
    fresh_debt: Floats


class SwitchingRules:
    """All rules as arrays: forecast rules first, then debt rules and timers, never last."""

    def __init__(self) -> None:
        self.patience, (self.multiple, self.fade) = np.array(PATIENCE), np.array(DEBTS).T
        self.period = np.array(TIMERS)
        self.forecasts, self.debts, self.timers = len(PATIENCE), len(DEBTS), len(TIMERS)
        self.indebted = slice(self.forecasts, self.forecasts + self.debts)
        self.timed = slice(self.forecasts + self.debts, -1)
        self.count = self.forecasts + self.debts + self.timers + 1
        self.handicap = np.concatenate(
            [
                np.full(self.forecasts, HANDICAP_FORECAST),
                HANDICAP_DEBT * np.abs(np.log2(self.multiple)),
                np.full(self.timers, HANDICAP_TIMER),
                [HANDICAP_NEVER],
            ]
        )

    def name(self, rule: int) -> str:
        if rule == self.count - 1:
            return "never"
        if rule < self.forecasts:
            return f"a forecast lead held over {self.patience[rule]:g} windows"
        place = rule - self.forecasts
        if place >= self.debts:
            return f"every {self.period[place - self.debts]} windows"
        return f"debt of {self.multiple[place]:g} × the cost, fading to {self.fade[place]:g} a window"

    def begin(self, champion: int, exists: Flags) -> Lives:
        return Lives(
            np.full(self.count, champion),
            np.tile(exists, (self.count, 1)),
            np.zeros((self.debts, len(exists))),
            np.zeros(self.debts),
        )

    def choose(self, options: Options, lives: Lives) -> Ints:
        """Each rule's candidate from the next window on: its champion, an earlier one, or `now`, which is trained."""
        chosen = lives.champion.copy()
        chosen[: self.forecasts] = self._by_forecast(options, lives)
        chosen[self.indebted] = self._by_debt(options, lives)
        due = options.now - lives.champion[self.timed] >= self.period
        chosen[self.timed] = np.where(due, options.now, lives.champion[self.timed])
        return chosen

    def _by_forecast(self, options: Options, lives: Lives) -> Ints:
        now, rules = options.now, np.arange(self.forecasts)
        champion, exists = lives.champion[rules], lives.exists[rules, : now + 1].copy()
        forecast = np.where(np.isfinite(options.forecast), options.forecast, np.inf)
        if not np.isfinite(forecast).any():
            return champion
        worst = forecast[np.isfinite(forecast)].max()
        own = np.minimum(forecast[champion], worst)
        price = np.full(now + 1, (1 - options.share) * options.alpha)
        price[now], exists[:, now] = options.alpha, True
        gain = np.where(exists, self.patience[:, None] * (own[:, None] - forecast) - price, -np.inf)
        gain[rules, champion] = 0.0
        return np.asarray(gain.argmax(axis=1))

    def _by_debt(self, options: Options, lives: Lives) -> Ints:
        """Also brings the debts up to date; they start anew with every switch."""
        now, rules = options.now, np.arange(self.debts)
        champion = lives.champion[self.indebted]
        own = options.losses[champion, now]
        saved = np.nan_to_num(own[:, None] - options.losses[: now + 1, now])
        lives.debts[:, : now + 1] = np.maximum(0, self.fade[:, None] * lives.debts[:, : now + 1] + saved)
        fresher = np.where(champion < options.newest, np.nan_to_num(own - options.fresh), 0.0)
        lives.fresh_debt = np.maximum(0, self.fade * lives.fresh_debt + fresher)
        open_debts = np.where(lives.exists[self.indebted, :now], lives.debts[:, :now], -1.0)
        best = open_debts.argmax(axis=1)
        debt = open_debts[rules, best]
        may_return = debt >= RETURN_CAUTION * self.multiple * (1 - options.share) * options.alpha
        may_train = lives.fresh_debt >= self.multiple * options.alpha
        trains = may_train & (~may_return | (lives.fresh_debt >= debt))
        return np.where(trains, now, np.where(may_return, best, champion))

    def move(self, options: Options, lives: Lives, chosen: Ints) -> Floats:
        """Carry the choices out, each rule in its own life; returns what that costs."""
        switched, trains = chosen != lives.champion, chosen == options.now
        lives.exists[trains, options.now] = True
        lives.champion = chosen
        self.forget(lives, switched)
        price = np.where(trains, options.alpha, (1 - options.share) * options.alpha)
        return np.asarray(np.where(switched, price, 0.0))

    def forget(self, lives: Lives, switched: Flags) -> None:
        debtors = switched[self.indebted]
        lives.debts[debtors], lives.fresh_debt[debtors] = 0.0, 0.0
