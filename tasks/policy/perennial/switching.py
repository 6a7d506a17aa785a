"""When to switch: an option must promise to win back its price, by what it will lead and by what it has led so far.

gain = patience × forecast lead + ½ × debt - price, for every earlier candidate and for the fresh one; the best above 0
is taken. Debt is what the option would have saved since the last switch, never below 0, fading (ski rental; Karlin et
al. 1988): it answers leads that the forecast is slow to believe. Patience is the number of windows for which a lead is
counted. Where a champion ages by b a window the best period is √(2α/b) and the lead is then √(2αb) (Harris 1913), so
patience is α / lead = √(α/2b). Estimates of b from one stream were worse than one b for all, in units of its losses.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.policy.statistics.metrics import Floats

Flags = NDArray[np.bool_]

# Chosen, as in policy.py, on generated streams.
AGEING = 0.26
"""b by √(noise × level) of the losses: the best over generated streams, where half or twice as much costs 1 to 4 %."""
DEBT_WEIGHT = 0.5
DEBT_MEMORY = 0.85
"""What of a debt is left after each window."""
RETURN_CAUTION = 1.5
"""A return is chosen as the best of many, which flatters it: its debt counts by so much less."""


@dataclass(frozen=True)
class Options:
    """What can be done after window `now`, by candidate; the last entry of `forecast` and `exists` is the fresh one.

    `losses` are the candidates' on `now`, estimated where unknown; `fresh` is the loss there of the newest model.
    """

    now: int
    losses: Floats
    fresh: float
    newest: int
    forecast: Floats
    exists: Flags


class SwitchingRule:
    """Holds the debts since the last switch."""

    def __init__(self, alpha: float, share: float) -> None:
        self.alpha, self.share = alpha, share
        self.forget()

    def forget(self) -> None:
        self.debts, self.fresh_debt = np.zeros(0), 0.0

    def choose(self, options: Options, champion: int, patience: float) -> tuple[int, float]:
        """(candidate, gain): the champion, an earlier candidate or `now`, which is trained; what it gains by the rule."""
        self._add(options, champion)
        debt = np.append(self.debts / RETURN_CAUTION, self.fresh_debt)
        price = np.full(options.now + 1, (1 - self.share) * self.alpha)
        price[options.now] = self.alpha
        gain = patience * _leads(options.forecast, champion) + DEBT_WEIGHT * debt - price
        gain = np.where(options.exists, gain, -np.inf)
        gain[champion] = 0.0
        best = int(gain.argmax())
        return best, float(gain[best])

    def _add(self, options: Options, champion: int) -> None:
        own = options.losses[champion]
        self.debts = np.pad(self.debts, (0, options.now - len(self.debts)))
        self.debts = np.maximum(0.0, DEBT_MEMORY * self.debts + np.nan_to_num(own - options.losses))
        fresher = own - options.fresh if champion < options.newest else math.nan
        self.fresh_debt = max(0.0, DEBT_MEMORY * self.fresh_debt + (fresher if math.isfinite(fresher) else 0.0))


def _leads(forecast: Floats, champion: int) -> Floats:
    """How much less than the champion each option will lose; a champion without a forecast counts as the worst."""
    known = forecast[np.isfinite(forecast)]
    if not len(known):
        return np.zeros(len(forecast))
    own = forecast[champion] if math.isfinite(forecast[champion]) else known.max()
    return np.where(np.isfinite(forecast), own - forecast, -np.inf)


def patience(alpha: float, noise: float, level: float) -> float:
    """Windows for which a lead is counted, √(α/2b), the next one at least. `noise` is a σ, `level` a typical loss."""
    ageing = AGEING * math.sqrt(max(0.0, noise * level))
    return max(1.0, math.sqrt(alpha / (2 * ageing))) if ageing > 0 else 1.0
