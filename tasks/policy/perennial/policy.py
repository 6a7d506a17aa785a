"""`perennial`, the recommended retraining policy, as an online object: window in, action out.

After each window it may train a probe, a small and cheap model. Losses of probes and candidates are combined into an
estimate of the performance matrix, corrected for the weakness of probes. From it the policy forecasts the next loss of
every option and compares lead and price: keep the champion, return to an earlier candidate, or retrain. It makes at
most one retrain until there is significant evidence that the relationship changes. Its only setting is α, the cost of a
retrain in losses of one window.

Usage: create `ProbeRule(α, share, history)`, then call `update(champion, losses, probes)` after each window and carry
out the `Action`. Losses and probes cover every existing candidate and probe, keyed by the window after which each was
trained. The `champion` of the next call shows whether the action was carried out.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.policy.perennial.change_tests import PairedNoise, lead_sigmas, order_sigmas, paired_noise
from tasks.policy.perennial.forecast import OptionForecast
from tasks.policy.perennial.loss_matrix import LossMatrix, Observation
from tasks.policy.perennial.switching import Flags, Options, SwitchingRule, patience
from tasks.policy.statistics.metrics import Floats

# Chosen on the generated streams of tests/benchmarks/synthetic_streams.py, evaluated by `make bench-policy`. On 60
# further generated streams without drift, 13 of 360 runs retrain more than once (before the order test: 56).
ESTABLISHED = 3.5
"""Combined evidence of order and lead, in σ, from which the stream counts as changing."""
TRIAL = 1.0
"""Lead, in σ, from which a single retrain may be tried before that."""
RETURN = 4.5
"""Lead, in σ, that an earlier candidate needs to be restored before that; it is high because it is the best of many."""
PROBED_SIGMAS = 5.0
"""Windows between probes: the cost of a retrain divided by this many σ of one window."""
SPARSEST = 4
"""Largest number of windows between probes, however expensive a retrain is."""
SEEN_WINDOWS = 3
SURE = 5.0
SEEN_SHARE = 0.7
"""Share of the mean lead of the last `SEEN_WINDOWS` that a fresh model is assumed to keep, if it is beyond `SURE` σ."""
NOISE_UNIT = 0.01
"""Window noise to which losses are scaled for the forecast, as its prior assumes (`forecast.py`)."""
RECENT_WINDOWS = 12
"""Number of the champion's windows that its latest loss is compared with, to decide on a probe."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """Inputs of the choice: the option's saving against its price, and the evidence that models age on this stream."""

    saved: float | None
    """Expected saving of the option, in losses of one window; None without a forecast."""
    price: float
    patience: float
    """Number of windows for which a forecast lead is counted."""
    lead_sigmas: float
    """Evidence that fresher models lead the champion, since window `since`."""
    order_sigmas: float
    """Evidence that neighbouring windows are more alike than distant ones."""
    since: int
    established: bool
    """Whether the evidence has ever passed `ESTABLISHED`; otherwise only one trial retrain is allowed (`may_train`)."""
    tried: bool
    """Whether the one retrain that is allowed without established change has been made."""
    may_train: bool

    @property
    def change_sigmas(self) -> float:
        """Both kinds of evidence combined, in σ."""
        return math.hypot(max(0.0, self.order_sigmas), max(0.0, self.lead_sigmas))


@dataclass(frozen=True, slots=True)
class Action:
    """The action after a window. `deploy` serves from the next window on; it equals `window` for a retrain."""

    window: int
    retrain: bool
    deploy: int | None
    probe: bool
    weighed: Weighed


class ProbeRule:
    """The policy of one model. `history[i]` is window i before service; candidates are numbered by their windows."""

    def __init__(self, alpha: float, share: float, history: tuple[Observation, ...]) -> None:
        self.alpha = alpha
        self.share = share
        self.begun = len(history)
        self.observed: list[Observation] = list(history)
        self.known = LossMatrix(history)
        self.champion = self.begun - 1
        self.since = self.begun
        self.established = False
        """Whether the evidence has shown that the stream changes."""
        self.tried = False
        """Whether a retrain was tried before that."""
        self.last_probe = self.begun - 1
        self.unit = 0.0
        """σ of the difference of two models on one window; 0 until it is known."""
        self.level = 0.0
        """A typical loss."""
        self.rule = SwitchingRule(alpha, share)
        self._start()

    def update(self, champion: int, losses: Mapping[int, float], probes: Mapping[int, float]) -> Action:
        """Add the next window, with its losses of every existing candidate and probe and its champion; decide."""
        now = len(self.observed)
        seen = Observation(champion, _pairs(losses), _pairs(probes))
        self.observed.append(seen)
        if champion != self.champion:
            self.champion, self.since = champion, now
            self.rule.reset()
        self.known.add_window(now, seen, self.since)
        self._measure(now)
        order, lead = self._evidence(now)
        self.established = self.established or math.hypot(max(0.0, order), max(0.0, lead)) >= ESTABLISHED
        self.tried = self.tried or max([champion, *losses]) >= self.begun
        may_train = self.established or (lead >= TRIAL and not self.tried)
        options, horizon = self._options(now, losses, may_train), patience(self.alpha, self.unit, self.level)
        choice = self.rule.choose(options, champion, horizon)
        weighed = Weighed(
            choice.saved, choice.price, horizon, lead, order, self.since, self.established, self.tried, may_train
        )
        deploy = None if choice.option == champion else choice.option
        return Action(now, choice.option == now, deploy, self._decide_probe(now), weighed)

    def _start(self) -> None:
        """Fit the forecast on the windows before service, on which every candidate is known."""
        known = np.isfinite(self.known.losses[: self.begun - 1, : self.begun]).any(axis=1)
        earliest = int(np.argmax(known)) if known.any() else self.begun - 1
        first = int(0.25 * self.begun) - 1
        self.forecast = OptionForecast(max(first, min(earliest, self.begun - 1), 0))
        self._measure(self.begun - 1)
        self.scale = NOISE_UNIT / self.unit if self.unit > 0 else 1.0
        for window in range(self.forecast.first + 1, self.begun):
            self._forecast(window)

    def _measure(self, now: int) -> None:
        """Set σ of the difference of two models on one window, and a typical loss, once both are known."""
        if self.unit > 0:
            return
        known = self.known.losses[: now + 1, : now + 1]
        known = known[np.isfinite(known)]
        self.unit = math.sqrt(paired_noise(self.known.filled[self.begun // 2 : now, : now + 1]).window)
        self.level = float(np.median(known)) if len(known) else 0.0

    def _evidence(self, now: int) -> tuple[float, float]:
        """Evidence in σ: order of windows, from probes of early history; lead of fresher models since the switch."""
        early = self.begun // 2
        order = order_sigmas(self.known.probes[1:early, early : now + 1])
        leads = self.known.leads_of_fresher(now, self.champion, self.since)
        return order, lead_sigmas(leads, self.known.lead_noise(now, self.champion, self.since))

    def _forecast(self, now: int) -> Floats:
        newest = self.known.newest_at(now)
        return self.forecast.update(self.known.filled * self.scale, now, newest) / self.scale

    def _options(self, now: int, losses: Mapping[int, float], may_train: bool) -> Options:
        newest, exists = self.known.newest_at(now), np.zeros(now + 1, dtype=bool)
        exists[[candidate for candidate in losses if candidate < now]] = True
        exists[now] = may_train
        if not self.established:
            exists[:now] &= self._significantly_better(now)
        column = self.known.filled[:now, now]
        forecast = self._within_seen(self._forecast(now), now)
        return Options(now, column, float(column[newest]), newest, forecast, exists)

    def _within_seen(self, forecast: Floats, now: int) -> Floats:
        """Bound the fresh model's forecast lead by the leads of the newest models in the last windows.

        A forecast fitted on stable windows must not discount a lead far beyond noise, and one fitted on seasons must
        not predict a lead that was never observed.
        """
        own, recent = forecast[self.champion], range(max(self.champion + 1, now - SEEN_WINDOWS + 1), now + 1)
        filled, newest = self.known.filled, self.known.newest_at
        leads: Floats = np.array([filled[self.champion, j] - filled[newest(j), j] for j in recent])
        leads = leads[np.isfinite(leads)]
        if not len(leads) or not math.isfinite(own - forecast[now]) or self.unit <= 0:
            return forecast
        mean, most = float(leads.mean()), max(0.0, float(leads.max())) + self.unit
        lead = min(float(own - forecast[now]), most)
        if mean * math.sqrt(len(leads)) > SURE * self.unit:
            sure = 1 - (SURE * self.unit / mean) ** 2 / len(leads)  # James and Stein 1961
            lead = max(lead, SEEN_SHARE * mean * sure)
        return np.append(forecast[:now], own - lead)

    def _significantly_better(self, now: int) -> Flags:
        """Candidates that beat the champion on the same windows by `RETURN` σ; the champion is always included."""
        own, window = self.known.losses[self.champion], self.known.lead_noise(now, self.champion, self.since).window
        better = np.zeros(now, dtype=bool)
        for candidate in np.flatnonzero(np.isfinite(self.known.losses[:now, now])).tolist():
            both = slice(max(candidate, self.champion) + 1, now + 1)
            lead = own[both] - self.known.losses[candidate, both]
            better[candidate] = lead_sigmas(lead, PairedNoise(window, 0.0)) >= RETURN
        better[self.champion] = True
        return better

    def _decide_probe(self, now: int) -> bool:
        """Probe after every window; less often if a retrain costs more than the leads of a few windows."""
        apart = self.alpha / (PROBED_SIGMAS * self.unit) if self.unit > 0 else 1.0
        if now - self.last_probe < min(SPARSEST, max(1, round(apart))) and not self._loss_rose(now):
            return False
        self.last_probe = now
        return True

    def _loss_rose(self, now: int) -> bool:
        """Whether the champion's loss is 3 σ above its own recent windows; this justifies a probe only."""
        before = self.known.losses[self.champion, max(0, now - RECENT_WINDOWS) : now]
        before = before[np.isfinite(before)]
        return len(before) > 3 and bool(self.known.losses[self.champion, now] > before.mean() + 3 * before.std())


def _pairs(losses: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted((int(key), float(loss)) for key, loss in losses.items() if math.isfinite(loss)))
