"""The known losses of a model's candidates and probes, and an estimate of every missing one.

An entry is the candidate's own loss; else its probe's loss corrected for the weakness of probes; else that of the
newest probe before it. Paired differences on the same windows give the uncertainty of a difference.
"""

import math
from dataclasses import dataclass

import numpy as np

from tasks.policy.perennial.change_tests import PairedNoise, paired_noise
from tasks.policy.statistics.metrics import Floats

# Chosen on the generated streams of tests/benchmarks/synthetic_streams.py
AGE_FOCUS = 2.0
"""Rate at which the weight of a gap falls with each doubling of the age ratio, in powers of e."""
GAP_MEMORY = 0.95
"""Factor on a gap's weight after each window."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One window: losses of candidates and probes by their number, and the candidate that served."""

    champion: int
    losses: tuple[tuple[int, float], ...]
    probes: tuple[tuple[int, float], ...]


class LossMatrix:
    """Losses [candidate, window]: `losses` and `probes` observed, `filled` estimated. Service starts at `begun`."""

    def __init__(self, history: tuple[Observation, ...]) -> None:
        self.begun = len(history)
        size = 2 * self.begun + 64
        self.losses, self.probes = np.full((size, size), np.nan), np.full((size, size), np.nan)
        for window, seen in enumerate(history):
            self._record(window, seen)
        self.filled = np.where(np.isfinite(self.losses), self.losses, self.probes)
        self.newest: dict[int, int] = {}

    def newest_at(self, window: int) -> int:
        """The youngest candidate or probe with a loss on the window."""
        return self.newest.get(window, window - 1)

    def add_window(self, now: int, seen: Observation, since: int) -> None:
        """Record a window of service and fill its column; the champion has served since window `since`."""
        grown = len(self.losses)
        if now + 1 >= grown:
            self.losses, self.probes, self.filled = (
                np.pad(table, (0, grown), constant_values=np.nan) for table in (self.losses, self.probes, self.filled)
            )
        self._record(now, seen)
        offset = self._probe_weakness(now)
        column, older = self.filled[:, now], math.nan
        blind = not np.isfinite(self.probes[:now, now]).any()
        for candidate in range(now):
            probe = self.probes[candidate, now]
            if blind and candidate == self.begun - 1:
                older, self.newest[now] = self._expected_of_fresh(now, seen.champion, since), now - 1
            if math.isfinite(probe):
                older, self.newest[now] = probe + offset[candidate], candidate
            own = self.losses[candidate, now]
            column[candidate] = own if math.isfinite(own) else older

    def _record(self, window: int, seen: Observation) -> None:
        for table, pairs in ((self.losses, seen.losses), (self.probes, seen.probes)):
            for candidate, loss in pairs:
                table[candidate, window] = loss

    def _probe_weakness(self, now: int) -> Floats:
        """[now] loss of each full candidate minus its probe's, weighted to similar ages and recent windows.

        A full model's lead over its probe fades as both age, so gaps of old candidates say little about a fresh one.
        """
        first = self.begun // 2
        gaps = (self.losses - self.probes)[first:now, : now + 1]
        candidate, window = np.nonzero(np.isfinite(gaps))
        if not len(candidate):
            return np.zeros(now)
        ages = np.log2(window - candidate - first)
        steps = np.log2(now - np.arange(now))
        weights = np.exp(-AGE_FOCUS * np.abs(steps[:, None] - ages)) * GAP_MEMORY ** (now - window)
        return np.asarray(weights @ gaps[candidate, window] / weights.sum(axis=1))

    def _expected_of_fresh(self, now: int, champion: int, since: int) -> float:
        """Estimate without probes: the champion's mean loss on its first three windows, when it was fresh."""
        first = max(champion + 1, self.begun - 3 if champion < self.begun else 0)
        own = self.losses[champion, max(since, first) : now + 1]
        own = own[np.isfinite(own)][:3]
        return float(own.mean()) if len(own) else math.nan

    def lead_noise(self, now: int, champion: int, since: int) -> PairedNoise:
        """The noise of `leads_of_fresher`: that of two probes, or of the champion's own windows if there are none."""
        paired = paired_noise(self.probes[self.begun // 2 : now, : now + 1])
        if now < self.begun or np.isfinite(self.probes[:now, now]).any():
            return paired
        own = self.losses[champion, since : now + 1]  # without probes a window's own noise does not cancel
        own = own[np.isfinite(own)]
        return PairedNoise(
            max(paired.window, float(np.var(np.diff(own)))) if len(own) > 3 else math.inf, paired.training
        )

    def leads_of_fresher(self, now: int, champion: int, since: int) -> Floats:
        """Champion's loss minus a fresher model's, by window since it serves; equal-sized probes where both exist."""
        leads = []
        for window in range(max(since, champion + 2), now + 1):
            fresher = self.newest_at(window)
            if fresher > champion:
                lead = self.probes[champion, window] - self.probes[fresher, window]
                full = self.filled[champion, window] - self.filled[fresher, window]
                leads.append(lead if math.isfinite(lead) else full)
        return np.array(leads)
