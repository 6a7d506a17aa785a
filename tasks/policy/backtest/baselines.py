"""Baselines that `perennial` is compared with, implemented as their authors describe them.

Every retrain of a baseline is one training and one deployment. Limits are the usual ones, not fitted to any stream.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tasks.policy.backtest.simulation import PolicyFactory, SimulatedService


@dataclass
class Timer:
    """Retrain every `period` windows; never if None."""

    period: int | None

    def act(self, service: SimulatedService) -> None:
        if self.period is not None and service.now - service.champion >= self.period:
            service.retrain()


@dataclass
class Threshold:
    """Retrain when k of the last m windows are 3 σ above the champion's first windows (k-of-m rule)."""

    k: int = 3
    m: int = 3
    calibration: int = 3
    sigma: float = 3.0

    def act(self, service: SimulatedService) -> None:
        history = service.loss[: service.history, : service.history]
        spread = _window_spread(history)
        own = service.loss[service.champion, max(service.champion + 1, service.history) :]
        own = own[np.isfinite(own)]
        if len(own) <= self.calibration:
            return
        limit = own[: self.calibration].mean() + self.sigma * spread
        breaches = own[self.calibration :][-self.m :] > limit
        if breaches.sum() >= self.k and breaches[-1]:
            service.retrain()


def _window_spread(history: np.ndarray) -> float:
    """Noise of one window: σ of the loss around that of the previous window, for the same model in history."""
    steps = np.diff(history, axis=1)
    steps = steps[np.isfinite(steps)]
    return float(np.std(steps) / math.sqrt(2)) if len(steps) > 1 else 0.02


class StreamDetector:
    """Retrain when a change detector alarms on the champion's window losses, and reset the detector."""

    def __init__(self, make: Callable[[], Callable[[float], bool]]) -> None:
        self._make, self._update = make, make()

    def act(self, service: SimulatedService) -> None:
        loss = float(service.loss[service.champion, service.now])
        if math.isfinite(loss) and self._update(loss) and service.retrain():
            self._update = self._make()


@dataclass
class DriftShare:
    """Retrain when at least `share` of the features drifted between the champion's training rows and this window."""

    key: str
    share: float = 0.5

    def act(self, service: SimulatedService) -> None:
        value = float(getattr(service, self.key)[service.champion, service.now])
        if value >= self.share:
            service.retrain()


@dataclass
class Debt:
    """Retrain once the excess loss accumulated since the first served window, floored at 0, reaches α."""

    alpha: float
    debt: float = 0.0
    level: float = field(default=math.nan)
    champion: int = -1

    def act(self, service: SimulatedService) -> None:
        loss = float(service.loss[service.champion, service.now])
        if not math.isfinite(loss):
            return
        if self.champion != service.champion or math.isnan(self.level):
            self.champion, self.level, self.debt = service.champion, loss, 0.0
            return
        self.debt = max(0.0, self.debt + loss - self.level)
        if self.debt >= self.alpha:
            service.retrain()


@dataclass
class PlainProbe:
    """Accumulate probe[champion, now] - probe[now - 1, now], floored at 0; retrain when it reaches α (issue 3, §3)."""

    alpha: float
    gain: float = 0.0

    def act(self, service: SimulatedService) -> None:
        if not service.train_probe():
            return
        advantage = float(service.probe[service.champion, service.now] - service.probe[service.now - 1, service.now])
        if math.isfinite(advantage):
            self.gain = max(0.0, self.gain + advantage)
        if self.gain >= self.alpha and service.retrain():
            self.gain = 0.0


def _timer(period: int | None) -> PolicyFactory:
    return lambda alpha, share: Timer(period)


def _drift(key: str) -> PolicyFactory:
    return lambda alpha, share: DriftShare(key)


BASELINES: dict[str, PolicyFactory] = {
    "never": _timer(None),
    "every": _timer(1),
    "timer_2": _timer(2),
    "timer_4": _timer(4),
    "timer_8": _timer(8),
    "timer_16": _timer(16),
    "threshold_3_of_3": lambda alpha, share: Threshold(3, 3),
    "threshold_2_of_3": lambda alpha, share: Threshold(2, 3),
    "drift_share_ks": _drift("ks"),
    "drift_share_ev": _drift("ev"),
    "debt": lambda alpha, share: Debt(alpha),
    "plain_probe": lambda alpha, share: PlainProbe(alpha),
}
"""Baselines by their name in the table. Detectors (river) are added by their adapter."""
