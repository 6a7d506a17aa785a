"""The condition of a model's file in the back-test, where it names a class of the user's own.

It is judged after each window as `monitor` judges it: on the performance of the model that served, with the history of the
simulated run, and with the file's cooldown, cap and least numbers of rows. Drift and probes are not simulated; a condition
that reads them finds None, as where a gate stopped the flow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tasks.policy.backtest.simulation import SimulatedService
from tasks.policy.decision.retraining import RetrainingPolicy, decide_retraining
from tasks.policy.evidence.monitoring import History, WindowEvidence
from tasks.policy.records.base import Window
from tasks.policy.records.reports import PerformanceReport, QualityReport


@dataclass(frozen=True, slots=True)
class CandidateReports:
    """One candidate: the window after which it was trained, its training rows, and its performance on later windows."""

    window: Window
    rows: int
    reports: tuple[PerformanceReport, ...]

    def on(self, window: Window) -> PerformanceReport | None:
        """Return the report of a window; None if it has no labelled rows."""
        return next((report for report in self.reports if report.window == window), None)


class OwnCondition:
    """The policy for one run. `candidates` are those of a model's windows in order; the last window trains none.

    With late labels, candidate `t` of the matrix is the one trained `lag` windows after window `t`.
    """

    def __init__(self, model: str, policy: RetrainingPolicy, candidates: Sequence[CandidateReports], lag: int) -> None:
        self.model, self.policy, self.candidates, self.lag = model, policy, candidates, lag

    def act(self, service: SimulatedService) -> None:
        first = service.history + self.lag
        known = range(first, service.now + 1)
        evidence = [self._evidence(place, service.serving[place - first]) for place in known]
        if not evidence:
            return  # labels of served windows are not known yet
        *earlier, latest = evidence
        champion = self.candidates[service.champion + self.lag]
        retrained = tuple(self._trained_at(place) for place in service.trainings)
        history = History(
            performances=tuple(each.performance for each in earlier if each.performance),
            evidence=tuple(earlier),
            retrained_at=retrained,
            champion_since=champion.window.end,
            trained_until=champion.window.end,
            training_rows=champion.rows,
            rows_since_training=sum(each.rows for each in evidence if each.window.start >= champion.window.end),
            asked_at=retrained,
        )
        case = self.policy.case(latest, history, self._trained_at(service.now))
        if decide_retraining(self.model, self.policy, case).retrain:
            service.retrain()

    def _trained_at(self, place: int) -> datetime:
        """The end of the window after which candidate `place` of the matrix was trained."""
        return self.candidates[place + self.lag].window.end

    def _evidence(self, place: int, served_by: int) -> WindowEvidence:
        window = self.candidates[place].window
        report = self.candidates[served_by + self.lag].on(window)
        rows = report.rows if report else 0
        return WindowEvidence(window, rows, QualityReport(window, "pass", rows, (), 0, ()), performance=report)
