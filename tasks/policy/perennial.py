"""`perennial`, the recommended retraining policy, as an online object: window in, action out, with its reasons.

After each window it may train a cheap probe. Probes and candidates, corrected for the probes' own weakness, make up a
surrogate of the performance matrix as far as it is known. On it a family of simple rules is back-tested, and the rule
that would have cost least so far is followed: keep, go back to an earlier candidate, or retrain. Until a fresher model
has beaten the champion on the same rows beyond chance (4 σ of accumulated paired differences) nothing is switched.
Its only setting is α, what a retrain costs in window losses.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tasks.policy.option_forecast import OptionForecast
from tasks.policy.simulation import Floats
from tasks.policy.switching_rules import Flags, Lives, Options, SwitchingRules

ESTABLISHED = 4.0
"""σ of paired evidence after which the stream counts as one that changes."""
HINT = 2.0
"""σ from which probes are trained after every window."""
NOISE_UNIT = 0.01
NOISE_WINDOWS = 12
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
class Observation:
    """What was known of one window: losses of candidates and of probes on it, and who served it."""

    champion: int
    losses: tuple[tuple[int, float], ...]
    probes: tuple[tuple[int, float], ...]


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
        size = 2 * len(history) + 64
        self.losses, self.probes, self.surrogate = (np.full((size, size), np.nan) for _ in range(3))
        for window, seen in enumerate(history):
            self._note(window, seen)
        self.surrogate[:] = np.where(np.isfinite(self.losses), self.losses, self.probes)
        self.scale = self._scale()
        self.champion, self.since, self.established = self.begun - 1, self.begun, False
        self.interval, self.next_probe = 1, self.begun
        self.newest: dict[int, int] = {}
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
        return RuleState(
            self.alpha, self.share, tuple(self.observed[: self.begun]), tuple(self.observed[self.begun :])
        )

    def update(self, champion: int, losses: Mapping[int, float], probes: Mapping[int, float]) -> Action:
        """Take in the next window: the losses on it of every existing candidate and probe, and who served it."""
        now = len(self.observed)
        seen = Observation(champion, _pairs(losses), _pairs(probes))
        self.observed.append(seen)
        self._grow(now)
        self._note(now, seen)
        if champion != self.champion:
            self.champion, self.since = champion, now
            self.rules.forget(self.own, np.ones(self.rules.count, dtype=bool))
        self._extend_surrogate(now)
        options = self._options(now)
        self._live(options)
        evidence = self._evidence_against(now, self.newest.get(now, now - 1))
        self.established = self.established or evidence >= ESTABLISHED
        exists = np.zeros(len(self.losses), dtype=bool)
        exists[[candidate for candidate in losses if candidate < now]] = True
        chosen, rule = self._follow(options, exists)
        chosen, held = self._hold_back(chosen, now)
        probe = self._decide_probe(now, evidence, retrains=chosen == now)
        return self._action(now, chosen, rule, evidence, probe, held)

    # What is known

    def _note(self, window: int, seen: Observation) -> None:
        for table, pairs in ((self.losses, seen.losses), (self.probes, seen.probes)):
            for candidate, loss in pairs:
                table[candidate, window] = loss

    def _grow(self, now: int) -> None:
        grown = len(self.losses)
        if now + 1 < grown:
            return
        self.losses, self.probes, self.surrogate = (
            np.pad(table, (0, grown), constant_values=np.nan) for table in (self.losses, self.probes, self.surrogate)
        )
        for lives in (self.lives, self.own):
            lives.exists = np.pad(lives.exists, ((0, 0), (0, grown)))
            lives.debts = np.pad(lives.debts, ((0, 0), (0, grown)))

    def _extend_surrogate(self, now: int) -> None:
        """Losses on `now` of every candidate that could have been trained: known, else its probe's, else an older probe's."""
        offset = self._probe_weakness(now)
        column, older = self.surrogate[:, now], math.nan
        blind = not np.isfinite(self.probes[:now, now]).any()
        for candidate in range(now):
            probe = self.probes[candidate, now]
            if blind and candidate == self.begun - 1:
                older, self.newest[now] = self._expected_of_fresh(now), now - 1
            if math.isfinite(probe):
                older, self.newest[now] = probe + offset, candidate
            own = self.losses[candidate, now]
            column[candidate] = own if math.isfinite(own) else older

    def _expected_of_fresh(self, now: int) -> float:
        """Without probes: the level that the champion had when it was fresh, its first three windows."""
        first = max(self.champion + 1, self.begun - 3 if self.champion < self.begun else 0)
        own = self.losses[self.champion, max(self.since, first) : now + 1]
        own = own[np.isfinite(own)][:3]
        return float(own.mean()) if len(own) else math.nan

    def _probe_weakness(self, now: int) -> float:
        """Full candidate less its probe, over recent windows and candidates that saw as much data as those of today."""
        first = max(0, self.begun - 1 - self.begun // 8)
        gaps = (self.losses - self.probes)[first:now, max(0, now - 7) : now + 1]
        return float(np.nanmean(gaps)) if np.isfinite(gaps).any() else 0.0

    # The rules

    def _scale(self) -> float:
        noise = self._noise(self.begun - 1, 0)
        return NOISE_UNIT / noise if noise > 0 else 1.0

    def _start(self) -> None:
        """Run the rules over the history block, in which every candidate is known."""
        known = np.isfinite(self.losses[: self.begun - 1, : self.begun]).any(axis=1)
        earliest = int(np.argmax(known)) if known.any() else self.begun - 1
        begin = min(max(int(0.4 * self.begun), earliest + 1), self.begun - 1)
        self.forecast = OptionForecast(max(begin - 1 - int(0.15 * self.begun), min(earliest, self.begun - 1), 0))
        exists = np.zeros(len(self.losses), dtype=bool)
        exists[:begin] = np.isfinite(self.losses[:begin, : self.begun]).any(axis=1)
        self.lives: Lives = self.rules.begin(max(begin - 1, 0), exists)
        self.own: Lives = self.rules.begin(self.champion, exists)
        for window in range(self.forecast.first + 1, self.begun):
            options = self._options(window)
            if window >= begin:
                self._live(options)

    def _options(self, now: int) -> Options:
        newest = self.newest.get(now, now - 1)
        forecast = self.forecast.update(self.surrogate * self.scale, now, newest) / self.scale
        fresh = float(self.surrogate[newest, now])
        return Options(now, self.surrogate, fresh, newest, forecast, self.alpha, self.share)

    def _live(self, options: Options) -> None:
        """One window in the life of every rule: its loss above the best there was, and what its switch costs."""
        losses = self.surrogate[: options.now, options.now]
        if np.isfinite(losses).any():
            own = self.surrogate[self.lives.champion, options.now]
            self.account += np.where(np.isfinite(own), own, np.nanmean(losses)) - np.nanmin(losses)
        self.account += self.rules.move(options, self.lives, self.rules.choose(options, self.lives))

    def _follow(self, options: Options, exists: Flags) -> tuple[int, int]:
        """(candidate, rule): what the rule of the least cost so far says in our place."""
        self.own.champion = np.full(self.rules.count, self.champion)
        self.own.exists = np.tile(exists, (self.rules.count, 1))
        best = int(np.argmin(self.account / self.alpha + self.rules.handicap))
        return int(self.rules.choose(options, self.own)[best]), best

    # Evidence

    def _noise(self, now: int, first: int) -> float:
        """σ of the difference of two models on one window, from how such differences move between windows."""
        start = max(first, now - NOISE_WINDOWS)
        rows = self.surrogate[start : max(start + 1, now - 3), max(0, now - NOISE_WINDOWS) : now + 1]
        spreads = []
        for place in range(0, len(rows) - 4, 2):
            difference = rows[place] - rows[place + 4]
            difference = difference[np.isfinite(difference)]
            if len(difference) > 3:
                spreads.append(float(np.std(np.diff(difference))) / math.sqrt(2))
        paired = float(np.median(spreads)) if spreads else 0.0
        if now < self.begun or np.isfinite(self.probes[:now, now]).any():
            return paired
        own = self.losses[self.champion, self.since : now + 1]  # without probes nothing cancels a window's own noise
        own = own[np.isfinite(own)]
        return max(paired, float(np.std(np.diff(own))) / math.sqrt(2)) if len(own) > 3 else math.inf

    def _sigmas(self, differences: Floats, now: int) -> float:
        """The most significant sum of the latest paired differences, in σ; infinite without any noise."""
        known = differences[np.isfinite(differences)][::-1]
        if not len(known):
            return 0.0
        strongest = float((np.cumsum(known) / np.sqrt(np.arange(1, len(known) + 1))).max())
        noise = self._noise(now, self.forecast.first)
        return strongest / noise if noise > 0 else math.copysign(math.inf, strongest) if strongest else 0.0

    def _evidence_against(self, now: int, newest: int) -> float:
        """How surely a fresher model beats the champion, in σ: equal-sized probes on the same rows where both exist."""
        champion, leads = self.champion, []
        for window in range(max(self.since, champion + 2), now + 1):
            fresher = self.newest.get(window, window - 1)
            if fresher > champion:
                lead = self.probes[champion, window] - self.probes[fresher, window]
                full = self.surrogate[champion, window] - self.surrogate[fresher, window]
                leads.append(lead if math.isfinite(lead) else full)
        return self._sigmas(np.array(leads), now)

    def _hold_back(self, chosen: int, now: int) -> tuple[int, bool]:
        """The champion stays while nothing has shown that the stream changes, unless an earlier one is surely better."""
        if chosen == self.champion or self.established:
            return chosen, False
        if chosen < now:
            later = slice(max(self.champion, chosen) + 1, now + 1)
            if self._sigmas(self.losses[self.champion, later] - self.losses[chosen, later], now) >= ESTABLISHED:
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
        before = self.losses[self.champion, max(0, now - NOISE_WINDOWS) : now]
        before = before[np.isfinite(before)]
        return len(before) > 3 and bool(self.losses[self.champion, now] > before.mean() + 3 * before.std())

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
