"""Learn from windows in time order: each window is predicted with what was learned before it.

The changes of the leaves enter with a share between 0, the frozen model, and 1. The share is the weight of the changed model
in an exponentially weighted forecast of the two (Hedge; Freund & Schapire 1997, JCSS 55:119). Where the changes do harm, it
goes to 0 by itself, so the loss stays close to that of the better one. Its memory decays, so it also comes back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from xgboost import Booster

from tasks.adapters.online.booster import node_count, score_window
from tasks.adapters.online.leaves import ScoredWindow, learn_leaves, probabilities
from tasks.policy.comparison.differences import difference
from tasks.policy.evidence.validation import MetricDifference
from tasks.policy.statistics.intervals import PairedPredictions
from tasks.policy.statistics.metrics import Floats, Metric
from tasks.policy.statistics.resampling import Resampling
from tasks.policy.training.online import OnlineComparison, OnlinePolicy, why_not_serving

RATE = 0.1
"""Weight of a row's log likelihood in the share. Rows of a window are alike, so ten of them count as one."""
MEMORY = 0.9
"""Share of the evidence that is left after each window."""
LEAST_VARIANCE = 1e-12


@dataclass(frozen=True, eq=False)
class Lesson:
    """What was learned from some windows: the change of each leaf, and the share of it that is applied."""

    changes: NDArray[np.float32] | None = field(repr=False)
    share: float

    @property
    def applied(self) -> NDArray[np.float32] | None:
        """The change of each leaf as it is served; None if nothing was learned."""
        return None if self.changes is None else (self.share * self.changes).astype(np.float32)


@dataclass(frozen=True, eq=False)
class InOrder:
    """The lesson that was known when each window was scored, and the lesson from all windows."""

    before: tuple[Lesson, ...]
    after: Lesson


def learn_in_order(
    windows: Sequence[ScoredWindow], policy: OnlinePolicy, nodes: int, is_regression: bool, lag: int = 0
) -> InOrder:
    """Learn from windows in time order. When a window is scored, the labels of the `lag` windows before it are not known."""
    lessons: list[Lesson] = []
    evidence, seen = 0.0, 0
    for number in range(len(windows) + 1):
        known = max(0, number - lag) if number < len(windows) else number
        while seen < known:
            evidence = MEMORY * evidence + _evidence(windows[seen], lessons[seen], is_regression)
            seen += 1
        share = float(probabilities(np.array([evidence]))[0])
        lessons.append(Lesson(learn_leaves(windows[:known], policy, nodes, is_regression), share))
    return InOrder(tuple(lessons[:-1]), lessons[-1])


def _evidence(window: ScoredWindow, lesson: Lesson, is_regression: bool) -> float:
    """Return by how much the changed model explains a window's labels better than the frozen one: a log likelihood ratio."""
    if lesson.changes is None or not len(window):
        return 0.0
    frozen, changed = window.margins, window.corrected(lesson.changes)
    if is_regression:
        old, new = (window.labels - frozen) ** 2, (window.labels - changed) ** 2
        return float(RATE * (old - new).sum() / (2 * max(float(old.mean()), LEAST_VARIANCE)))
    return float(RATE * (_log_losses(frozen, window.labels) - _log_losses(changed, window.labels)).sum())


def _log_losses(margins: Floats, labels: Floats) -> Floats:
    losses: Floats = np.logaddexp(0.0, margins) - labels * margins
    return losses


@dataclass(frozen=True, slots=True)
class Judge:
    """How corrected predictions are compared with frozen ones."""

    metric: Metric
    is_regression: bool
    resampling: Resampling

    def predictions(self, margins: Floats) -> Floats:
        return margins if self.is_regression else probabilities(margins)

    def compare(
        self, windows: Sequence[ScoredWindow], applied: Sequence[NDArray[np.float32] | None], most: int
    ) -> OnlineComparison:
        """Compare the frozen champion with the changes that were applied, on the latest windows with some."""
        used = [(window, own) for window, own in zip(windows, applied, strict=True) if own is not None and len(window)]
        used = used[-most:]
        if not used:
            return OnlineComparison(0)
        labels = np.concatenate([window.labels for window, _ in used])
        frozen = self.predictions(np.concatenate([window.margins for window, _ in used]))
        corrected = self.predictions(np.concatenate([window.corrected(own) for window, own in used]))
        pairs = PairedPredictions(labels, champion=frozen, challenger=corrected)
        newest = np.arange(len(labels)) >= len(labels) - len(used[-1][0])
        return OnlineComparison(len(used), self._difference(pairs), self._difference(pairs.where(newest)))

    def _difference(self, pairs: PairedPredictions) -> MetricDifference:
        return difference(self.metric, pairs, self.resampling)


def served_in_order(
    booster: Booster,
    windows: Sequence[tuple[NDArray[np.float32], Floats]],
    policy: OnlinePolicy,
    judge: Judge,
    margin: float,
) -> list[Floats]:
    """Return the predictions of each window (encoded rows, labels) as a champion with a corrector would have served them.

    For benchmarks: the labels of a window are known when the next one is scored, and the frozen booster serves where the
    newest state may not.
    """
    scored = [score_window(booster, matrix, labels) for matrix, labels in windows]
    lessons = learn_in_order(scored, policy, node_count(booster), judge.is_regression).before
    applied = [lesson.applied for lesson in lessons]
    served = []
    for number, window in enumerate(scored):
        found = judge.compare(scored[:number], applied[:number], policy.judged_windows)
        refused = why_not_serving(found, margin, policy.min_windows) is not None
        served.append(judge.predictions(window.margins if refused else window.corrected(applied[number])))
    return served
