"""`perennial`, the recommended retraining policy, as an online object: window in, action out, with its reasons.

After each window it may train a cheap probe. Probes and candidates, corrected for the probes' own weakness, fill the loss
matrix as far as it is known. From it the next losses of every option are forecast, and one
rule weighs lead against price: keep, go back to an earlier candidate, or retrain. Until the stream has shown that it
changes, beyond chance, one retrain at most is made. Its only setting is α, what a retrain costs in window losses.

To live with it: `ProbeRule(α, share, history)` once, `update(champion, losses, probes)` after each window, do what the
`Action` says, keep `state()`. Losses and probes are those of every existing candidate and probe on that window, by the
window after which each was trained; nothing else is read. An action that was refused is seen in the next `champion`.
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

# Chosen on the generated streams of tests/benchmarks/synthetic_streams.py, judged by `make bench-policy`. With these values
# 13 of 360 runs retrain more than once on 60 further generated streams without drift (before the test of order: 56).
ESTABLISHED = 3.5
"""σ of order and lead together from which the stream counts as one that changes."""
TRIAL = 1.0
"""σ of lead that one retrain may be tried on before that."""
RETURN = 4.5
"""σ by which an earlier candidate must have beaten the champion to be gone back to before that; it is the best of many."""
PROBED_SIGMAS = 5.0
"""A probe for every so many σ of one window that a retrain costs."""
SPARSEST = 4
"""At least one probe in so many windows, however dear a retrain is."""
SEEN_WINDOWS = 3
SURE = 5.0
SEEN_SHARE = 0.7
"""A fresh model is believed to keep this share of what was led by in `SEEN_WINDOWS`, where that is beyond `SURE` σ."""
NOISE_UNIT = 0.01
"""The noise of one window to which losses are scaled for the forecast, whose prior is made for it (`forecast.py`)."""
RECENT_WINDOWS = 12
"""The champion's windows that its latest loss is held against, to decide on a probe."""


@dataclass(frozen=True, slots=True)
class Action:
    """What to do after a window. `deploy` serves from the next window on; it is `window` itself for a retrain."""

    window: int
    retrain: bool
    deploy: int | None
    probe: bool
    reasons: tuple[str, ...]


class ProbeRule:
    """One model's policy. `history[i]` is window i before service; its candidates are known by their windows."""

    def __init__(self, alpha: float, share: float, history: tuple[Observation, ...]) -> None:
        self.alpha = alpha
        self.share = share
        self.begun = len(history)
        self.observed: list[Observation] = list(history)
        self.known = LossMatrix(history)
        self.champion = self.begun - 1
        self.since = self.begun
        self.established = False
        """Whether the stream has shown that it changes."""
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
        """Take in the next window: the losses on it of every existing candidate and probe, and who served it."""
        now = len(self.observed)
        seen = Observation(champion, _pairs(losses), _pairs(probes))
        self.observed.append(seen)
        if champion != self.champion:
            self.champion, self.since = champion, now
            self.rule.forget()
        self.known.take_in(now, seen, self.since)
        self._measure(now)
        order, lead = self._evidence(now)
        self.established = self.established or math.hypot(max(0.0, order), max(0.0, lead)) >= ESTABLISHED
        self.tried = self.tried or max([champion, *losses]) >= self.begun
        may_train = self.established or (lead >= TRIAL and not self.tried)
        options, horizon = self._options(now, losses, may_train), patience(self.alpha, self.unit, self.level)
        chosen, gain = self.rule.choose(options, champion, horizon)
        probe = self._decide_probe(now)
        reasons = (
            self._about_change(order, lead),
            f"a lead that is forecast counts for {horizon:.1f} windows",
            self._about(chosen, gain, now),
        )
        return Action(now, chosen == now, None if chosen == champion else chosen, probe, reasons)

    def _start(self) -> None:
        """Let the forecast learn from the history block, in which every candidate is known."""
        known = np.isfinite(self.known.losses[: self.begun - 1, : self.begun]).any(axis=1)
        earliest = int(np.argmax(known)) if known.any() else self.begun - 1
        first = int(0.25 * self.begun) - 1
        self.forecast = OptionForecast(max(first, min(earliest, self.begun - 1), 0))
        self._measure(self.begun - 1)
        self.scale = NOISE_UNIT / self.unit if self.unit > 0 else 1.0
        for window in range(self.forecast.first + 1, self.begun):
            self._forecast(window)

    def _measure(self, now: int) -> None:
        """σ of the difference of two models on one window, and a typical loss: once, as soon as both can be told."""
        if self.unit > 0:
            return
        known = self.known.losses[: now + 1, : now + 1]
        known = known[np.isfinite(known)]
        self.unit = math.sqrt(paired_noise(self.known.filled[self.begun // 2 : now, : now + 1]).window)
        self.level = float(np.median(known)) if len(known) else 0.0

    def _evidence(self, now: int) -> tuple[float, float]:
        """σ of the order of windows, from probes of early history, and of the lead of fresher models since the switch."""
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
            exists[:now] &= self._surely_better(now)
        column = self.known.filled[:now, now]
        forecast = self._within_seen(self._forecast(now), now)
        return Options(now, column, float(column[newest]), newest, forecast, exists)

    def _within_seen(self, forecast: Floats, now: int) -> Floats:
        """The fresh model's forecast lead, kept within what the newest models have led by in the last windows.

        What the forecast has learned in quiet times must not make it doubt a lead far beyond noise, nor what it has
        learned of seasons make it promise a lead that nobody has seen.
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

    def _surely_better(self, now: int) -> Flags:
        """Which candidates have beaten the champion on the same windows by `RETURN` σ; the champion itself may stay."""
        own, window = self.known.losses[self.champion], self.known.lead_noise(now, self.champion, self.since).window
        better = np.zeros(now, dtype=bool)
        for candidate in np.flatnonzero(np.isfinite(self.known.losses[:now, now])).tolist():
            both = slice(max(candidate, self.champion) + 1, now + 1)
            lead = own[both] - self.known.losses[candidate, both]
            better[candidate] = lead_sigmas(lead, PairedNoise(window, 0.0)) >= RETURN
        better[self.champion] = True
        return better

    def _decide_probe(self, now: int) -> bool:
        """After every window; seldomer where a retrain is so dear that a few windows' leads cannot pay it."""
        apart = self.alpha / (PROBED_SIGMAS * self.unit) if self.unit > 0 else 1.0
        if now - self.last_probe < min(SPARSEST, max(1, round(apart))) and not self._loss_rose(now):
            return False
        self.last_probe = now
        return True

    def _loss_rose(self, now: int) -> bool:
        """Whether the champion's loss lies 3 σ above its own recent windows: worth a look by a probe, no more."""
        before = self.known.losses[self.champion, max(0, now - RECENT_WINDOWS) : now]
        before = before[np.isfinite(before)]
        return len(before) > 3 and bool(self.known.losses[self.champion, now] > before.mean() + 3 * before.std())

    def _about_change(self, order: float, lead: float) -> str:
        passed = math.hypot(max(0.0, order), max(0.0, lead)) >= ESTABLISHED
        verdict = "yes" if passed else "yes, passed before" if self.established else "no"
        return (
            f"fresher models lead the champion by {lead:.1f} σ of paired evidence since window {self.since}, neighbouring "
            f"windows are alike by {order:.1f} σ; {ESTABLISHED:g} σ together count as change: {verdict}"
        )

    def _about(self, chosen: int, gain: float, now: int) -> str:
        if chosen == self.champion:
            why = "no switch pays its cost" if self.established else "no change is established that would pay the cost"
            return f"keep candidate {chosen}: {why} of {self.alpha:g}"
        if chosen == now:
            return f"retrain after window {now}: a fresh model pays its cost of {self.alpha:g} and {gain:.2g} more"
        price = (1 - self.share) * self.alpha
        return f"go back to candidate {chosen}: the return pays its cost of {price:g} and {gain:.2g} more"


def _pairs(losses: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted((int(key), float(loss)) for key, loss in losses.items() if math.isfinite(loss)))
