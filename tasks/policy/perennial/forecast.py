"""Forecast the losses of each option over the next windows from the losses of all options so far.

An option is an existing candidate or the fresh model that could be trained now. Losses are relative to the mean of the
options on the same window, so what is hard for all of them cancels. One ridge regression (Hoerl and Kennard 1970),
pooled over all options and past windows, learns how much of a lead persists: from the last window, the means of the
last 3, 8 and 16, the age, and being fresh. It is fitted only on past windows; older ones have less weight.
"""

import numpy as np

from tasks.policy.statistics.metrics import Floats

# Chosen, as in policy.py, on generated streams.
AHEAD = 2
"""Windows after which a forecast is compared with the outcome."""
SPANS = (3, 8, 16)
"""Numbers of latest windows whose mean lead is a feature."""
PRIOR = np.array([0.15, 0.25, 0.2, 0.1, 0.0, 0.0])
"""Prior weights: of the last window, the three means, the age and being fresh."""
PRIOR_WEIGHT = 0.008
"""Precision of the prior, for losses scaled to a window noise of 0.01."""
MEMORY = 0.97
"""Factor on a window's weight after each further window."""
AGE_SCALE = 0.05
FRESH_SCALE = 0.02


def row_means(values: Floats) -> Floats:
    """Mean of the known cells of each row; 0 for a row without any."""
    known = np.isfinite(values).sum(axis=1)
    return np.asarray(np.where(known > 0, np.nansum(values, axis=1) / np.maximum(known, 1), 0.0))


class OptionForecast:
    """Online regression, updated window by window. `first` is the earliest candidate included."""

    def __init__(self, first: int) -> None:
        self.first = first
        size = len(PRIOR)
        self.precision, self.moment = np.eye(size) * PRIOR_WEIGHT, PRIOR * PRIOR_WEIGHT
        self.fresh: dict[int, float] = {}
        self.features: dict[int, Floats] = {}

    def update(self, losses: Floats, now: int, newest: int) -> Floats:
        """[now + 1] forecast mean loss over the next windows, relative; the last is the fresh option, NaN is unknown.

        `losses` [candidate, window] is known up to `now`; `newest` is the youngest candidate with a loss on that
        window.
        """
        self.fresh[now] = losses[newest, now]
        self.features[now] = features = self._features(losses, now)
        self._learn(losses, now)
        forecast = np.full(now + 1, np.nan)
        forecast[self.first :] = features @ np.linalg.solve(self.precision, self.moment)
        return forecast

    def _features(self, losses: Floats, now: int) -> Floats:
        start = max(0, now - SPANS[-1] + 1)
        fresh = [self.fresh.get(window, np.nan) for window in range(start, now + 1)]
        seen = np.vstack([losses[self.first : now, start : now + 1], fresh])
        known = np.isfinite(seen)
        seen = seen - np.nansum(seen, axis=0) / np.maximum(known.sum(axis=0), 1)
        means = [row_means(seen[:, -span:]) for span in SPANS]
        last = np.where(known[:, -1], np.nan_to_num(seen[:, -1]), means[0])
        age = np.append(now - np.arange(self.first, now), 0.0)
        is_fresh = np.append(np.zeros(len(age) - 1), FRESH_SCALE)
        features = np.column_stack([last, *means, np.sqrt(age / 20) * AGE_SCALE, is_fresh])
        return np.asarray(features - features.mean(axis=0))

    def _learn(self, losses: Floats, now: int) -> None:
        """Add the realised losses of the options of `AHEAD` windows ago; the prior is not discounted."""
        then = now - AHEAD
        features = self.features.pop(then, None)
        if features is None:
            return
        outcomes = losses[self.first : then + 1, then + 1 : now + 1]
        known = np.isfinite(outcomes).any(axis=1)
        prior = np.eye(len(PRIOR)) * PRIOR_WEIGHT
        self.precision = prior + MEMORY * (self.precision - prior)
        self.moment = prior @ PRIOR + MEMORY * (self.moment - prior @ PRIOR)
        if known.sum() < 2:
            return
        target = row_means(outcomes)[known]
        seen = features[known] - features[known].mean(axis=0)
        weight = 10 / known.sum()
        self.precision = self.precision + weight * seen.T @ seen
        self.moment = self.moment + weight * seen.T @ (target - target.mean())
