"""`perennial`, the recommended retraining policy, as an online object: window in, action out, with its reasons.

After each window it may train a cheap probe. Probes and candidates, corrected for the probes' own weakness, make up a
surrogate of the performance matrix as far as it is known. On it a family of simple rules is back-tested, and the rule
that would have cost least so far is followed: keep, go back to an earlier candidate, or retrain. Until a fresher model
has beaten the champion on the same rows beyond chance (4.5 σ of accumulated paired differences) nothing is switched.
Its only setting is α, what a retrain costs in window losses.

To live with it: `ProbeRule(α, share, history)` once, `update(champion, losses, probes)` after each window, do what the
`Action` says, keep `state()`. Losses and probes are those of every existing candidate and probe on that window, by the
window after which each was trained; nothing else is read. An action that was refused is seen in the next `champion`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.policy.option_forecast import OptionForecast
from tasks.policy.surrogate import NOISE_WINDOWS, Observation, Surrogate, sigmas
from tasks.policy.switching_rules import Flags, Lives, Options, SwitchingRules

ESTABLISHED = 4.5
"""σ of paired evidence after which the stream counts as one that changes."""
HINT = 3.0
"""σ from which probes are trained after every window; what chance shows oftener would cost a probe for nothing."""
NOISE_UNIT = 0.01
SPARSEST = 4


@dataclass(frozen=True, slots=True)
class Action:
    """What to do after a window. `deploy` serves from the next window on; it is `window` itself for a retrain."""

    window: int
    retrain: bool
    deploy: int | None
    probe: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RuleState:
    """All that the policy rests on; it is replayed to go on, so what was decided follows from what was seen."""

    alpha: float
    share: float
    history: tuple[Observation, ...]
    service: tuple[Observation, ...]


class ProbeRule:
    """One model's policy. `history[i]` is window i before service; its candidates are known by their windows."""

    def __init__(self, alpha: float, share: float, history: tuple[Observation, ...]) -> None:
        self.alpha, self.share, self.begun = alpha, share, len(history)
        self.observed: list[Observation] = list(history)
        self.known = Surrogate(history)
        self.champion, self.since, self.established = self.begun - 1, self.begun, False
        noise = self.known.noise(self.begun - 1, 0, self.champion, self.since)
        self.scale = NOISE_UNIT / noise if noise > 0 else 1.0
        self.interval, self.next_probe = 1, self.begun
        self.rules = SwitchingRules()
        self.account = np.zeros(self.rules.count)
        self._start()

    @classmethod
    def resume(cls, state: RuleState) -> "ProbeRule":
        rule = cls(state.alpha, state.share, state.history)
        for seen in state.service:
            rule.update(seen.champion, dict(seen.losses), dict(seen.probes))
        return rule

    def state(self) -> RuleState:
        return RuleState(self.alpha, self.share, tuple(self.observed[: self.begun]), tuple(self.observed[self.begun :]))

    def update(self, champion: int, losses: Mapping[int, float], probes: Mapping[int, float]) -> Action:
        """Take in the next window: the losses on it of every existing candidate and probe, and who served it."""
        now = len(self.observed)
        seen = Observation(champion, _pairs(losses), _pairs(probes))
        self.observed.append(seen)
        if champion != self.champion:
            self.champion, self.since = champion, now
            self.rules.forget(self.own, np.ones(self.rules.count, dtype=bool))
        self.known.take_in(now, seen, self.since)
        self._grow()
        options = self._options(now)
        self._live(options)
        evidence = sigmas(self.known.leads_of_fresher(now, champion, self.since), self._noise(now))
        self.established = self.established or evidence >= ESTABLISHED
        exists = np.zeros(len(self.known.losses), dtype=bool)
        exists[[candidate for candidate in losses if candidate < now]] = True
        chosen, rule = self._follow(options, exists)
        chosen, held = self._hold_back(chosen, now)
        probe = self._decide_probe(now, evidence, retrains=chosen == now)
        return self._action(now, chosen, rule, evidence, probe, held)

    def _grow(self) -> None:
        for lives in (self.lives, self.own):
            missing = len(self.known.losses) - lives.exists.shape[1]
            if missing:
                lives.exists = np.pad(lives.exists, ((0, 0), (0, missing)))
                lives.debts = np.pad(lives.debts, ((0, 0), (0, missing)))

    def _noise(self, now: int) -> float:
        return self.known.noise(now, self.forecast.first, self.champion, self.since)

    def _start(self) -> None:
        """Run the rules over the history block, in which every candidate is known."""
        known = np.isfinite(self.known.losses[: self.begun - 1, : self.begun]).any(axis=1)
        earliest = int(np.argmax(known)) if known.any() else self.begun - 1
        begin = min(max(int(0.4 * self.begun), earliest + 1), self.begun - 1)
        self.forecast = OptionForecast(max(begin - 1 - int(0.15 * self.begun), min(earliest, self.begun - 1), 0))
        exists = np.zeros(len(self.known.losses), dtype=bool)
        exists[:begin] = np.isfinite(self.known.losses[:begin, : self.begun]).any(axis=1)
        self.lives: Lives = self.rules.begin(max(begin - 1, 0), exists)
        self.own: Lives = self.rules.begin(self.champion, exists)
        for window in range(self.forecast.first + 1, self.begun):
            options = self._options(window)
            if window >= begin:
                self._live(options)

    def _options(self, now: int) -> Options:
        newest = self.known.newest_at(now)
        forecast = self.forecast.update(self.known.filled * self.scale, now, newest) / self.scale
        fresh = float(self.known.filled[newest, now])
        return Options(now, self.known.filled, fresh, newest, forecast, self.alpha, self.share)

    def _live(self, options: Options) -> None:
        """One window in the life of every rule: its loss above the best there was, and what its switch costs."""
        losses = self.known.filled[: options.now, options.now]
        if np.isfinite(losses).any():
            own = self.known.filled[self.lives.champion, options.now]
            self.account += np.where(np.isfinite(own), own, np.nanmean(losses)) - np.nanmin(losses)
        self.account += self.rules.move(options, self.lives, self.rules.choose(options, self.lives))

    def _follow(self, options: Options, exists: Flags) -> tuple[int, int]:
        """(candidate, rule): what the rule of the least cost so far says in our place."""
        self.own.champion = np.full(self.rules.count, self.champion)
        self.own.exists = np.tile(exists, (self.rules.count, 1))
        best = int(np.argmin(self.account / self.alpha + self.rules.handicap))
        return int(self.rules.choose(options, self.own)[best]), best

    def _hold_back(self, chosen: int, now: int) -> tuple[int, bool]:
        """The champion stays while nothing has shown that the stream changes, unless an earlier one is surely better."""
        if chosen == self.champion or self.established:
            return chosen, False
        if chosen < now:
            later = slice(max(self.champion, chosen) + 1, now + 1)
            lead = self.known.losses[self.champion, later] - self.known.losses[chosen, later]
            if sigmas(lead, self._noise(now)) >= ESTABLISHED:
                return chosen, False
        return self.champion, True

    def _decide_probe(self, now: int, evidence: float, retrains: bool) -> bool:
        """After every window where there is a hint of change; seldom where a retrain is dear and nothing happens."""
        sparsest = min(SPARSEST, max(1, int(self.alpha * self.scale / (2.5 * NOISE_UNIT))))
        hint = evidence >= HINT or self._loss_rose(now)
        if hint:
            self.interval, self.next_probe = 1, min(self.next_probe, now)
        if not retrains and now < self.next_probe:
            return False
        self.next_probe = now + self.interval
        self.interval = 1 if hint else min(sparsest, self.interval + 1)
        return True

    def _loss_rose(self, now: int) -> bool:
        """Whether the champion's loss lies 3 σ above its own recent windows: worth a look by a probe, no more."""
        before = self.known.losses[self.champion, max(0, now - NOISE_WINDOWS) : now]
        before = before[np.isfinite(before)]
        return len(before) > 3 and bool(self.known.losses[self.champion, now] > before.mean() + 3 * before.std())

    def _action(self, now: int, chosen: int, rule: int, evidence: float, probe: bool, held: bool) -> Action:
        reasons = [
            f"fresher models beat the champion by {evidence:.1f} σ of paired evidence since window {self.since}, "
            f"limit {ESTABLISHED:g} σ{' (passed before)' if self.established and evidence < ESTABLISHED else ''}",
            f"of {self.rules.count} rules back-tested on {now + 1} windows the cheapest was: {self.rules.name(rule)}",
        ]
        if chosen == self.champion:
            why = "no change is established yet" if held else "by it no switch pays its cost"
            reasons.append(f"keep candidate {chosen}: {why} of {self.alpha:g}")
        elif chosen == now:
            reasons.append(f"retrain after window {now}: by it a fresh model pays its cost of {self.alpha:g}")
        else:
            price = (1 - self.share) * self.alpha
            reasons.append(f"go back to candidate {chosen}: by it the return pays its cost of {price:g}")
        deploy = None if chosen == self.champion else chosen
        return Action(now, chosen == now, deploy, probe, tuple(reasons))


def _pairs(losses: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
    return tuple(sorted((int(key), float(loss)) for key, loss in losses.items() if math.isfinite(loss)))
