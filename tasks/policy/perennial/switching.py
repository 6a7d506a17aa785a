"""Decide when to switch: the forecast lead and the past lead of an option must pay for its price.

gain = patience × forecast lead + ½ × debt - price, for every earlier candidate and for the fresh one; the best above 0
is chosen. Debt is what the option would have saved since the last switch, discounted and floored at 0 (ski rental;
Karlin et al. 1988); it covers leads that the forecast learns slowly. Patience is the number of windows for which a lead
is counted. If a champion ages by b a window, the best period is √(2α/b) and the lead is then √(2αb) (Harris 1913), so
patience is α / lead = √(α/2b). One value of b for all streams, in units of their losses, was better than estimates from
each stream.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.policy.statistics.metrics import Floats

Flags = NDArray[np.bool_]

# Chosen, as in policy.py, on generated streams.
AGEING = 0.26
"""b in units of √(noise × level) of the losses: best over generated streams; half or twice costs 1 to 4 %."""
DEBT_WEIGHT = 0.5
DEBT_MEMORY = 0.85
"""Factor on a debt after each window."""
RETURN_CAUTION = 1.5
"""Divisor of an earlier candidate's debt, which is biased upwards because it is the best of many."""


@dataclass(frozen=True)
class Options:
    """The options after window `now`, by candidate; the last entry of `forecast` and `exists` is the fresh model.

    `losses` are the candidates' on `now`, estimated where unknown; `fresh` is the loss of the newest model on `now`.
    """

    now: int
    losses: Floats
    fresh: float
    newest: int
    forecast: Floats
    exists: Flags


class Choice(NamedTuple):
    """An option, its gain by the rule (0 for the champion), and its saving and price.

    If the champion stays, `saved` and `price` are those of a fresh model. `saved` is None without a forecast.
    """

    option: int
    gain: float
    saved: float | None
    price: float


class SwitchingRule:
    """Choose between options, with debts accumulated since the last switch."""

    def __init__(self, alpha: float, share: float) -> None:
        self.alpha, self.share = alpha, share
        self.reset()

    def reset(self) -> None:
        self.debts, self.fresh_debt = np.zeros(0), 0.0

    def choose(self, options: Options, champion: int, patience: float) -> Choice:
        """Return the champion, an earlier candidate, or `now` for a retrain."""
        self._add(options, champion)
        debt = np.append(self.debts / RETURN_CAUTION, self.fresh_debt)
        price = np.full(options.now + 1, (1 - self.share) * self.alpha)
        price[options.now] = self.alpha
        saved = patience * _leads(options.forecast, champion) + DEBT_WEIGHT * debt
        gain = saved - price
        gain = np.where(options.exists, gain, -np.inf)
        gain[champion] = 0.0
        best = int(gain.argmax())
        weighed = options.now if best == champion else best
        known = float(saved[weighed]) if math.isfinite(saved[weighed]) else None
        return Choice(best, float(gain[best]), known, float(price[weighed]))

    def _add(self, options: Options, champion: int) -> None:
        own = options.losses[champion]
        self.debts = np.pad(self.debts, (0, options.now - len(self.debts)))
        self.debts = np.maximum(0.0, DEBT_MEMORY * self.debts + np.nan_to_num(own - options.losses))
        fresher = own - options.fresh if champion < options.newest else math.nan
        self.fresh_debt = max(0.0, DEBT_MEMORY * self.fresh_debt + (fresher if math.isfinite(fresher) else 0.0))


def _leads(forecast: Floats, champion: int) -> Floats:
    """Forecast loss of the champion minus that of each option; a champion without a forecast counts as the worst."""
    known = forecast[np.isfinite(forecast)]
    if not len(known):
        return np.zeros(len(forecast))
    own = forecast[champion] if math.isfinite(forecast[champion]) else known.max()
    return np.where(np.isfinite(forecast), own - forecast, -np.inf)


def patience(alpha: float, noise: float, level: float) -> float:
    """Number of windows for which a lead is counted: √(α/2b), at least 1. `noise` is a σ, `level` a typical loss."""
    ageing = AGEING * math.sqrt(max(0.0, noise * level))
    return max(1.0, math.sqrt(alpha / (2 * ageing))) if ageing > 0 else 1.0
