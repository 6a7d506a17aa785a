"""Learning in time order: nothing is judged by rows that taught it, and harm takes the share to 0."""

import numpy as np
import pytest
import xgboost

from tasks.adapters.online.leaves import ScoredWindow, learn_leaves
from tasks.adapters.online.prequential import Judge, learn_in_order, served_in_order
from tasks.policy.statistics.metrics import Metric
from tasks.policy.statistics.resampling import Resampling
from tasks.policy.training.online import OnlinePolicy
from tests.benchmarks.synthetic_streams import synthetic_stream

POLICY = OnlinePolicy()


def shifted(levels: list[float], rows: int = 200) -> list[ScoredWindow]:
    """Windows of one leaf whose labels lie at these levels, predicted with 0."""
    random = np.random.default_rng(0)
    leaves = np.zeros((rows, 1), np.int32)
    return [ScoredWindow(np.zeros(rows), leaves, random.normal(level, 1.0, rows)) for level in levels]


@pytest.mark.parametrize("lag", [0, 1, 2])
def test_a_window_is_predicted_with_earlier_windows_only(lag):
    """With other labels in a window, and after it, what served it is the same."""
    windows = shifted([1.0, 1.0, 1.0, 1.0])
    served = learn_in_order(windows, POLICY, 1, True, lag).before
    changed = [*windows[: 3 - lag], *shifted([50.0] * (1 + lag))]
    again = learn_in_order(changed, POLICY, 1, True, lag).before
    assert (served[3].share, served[3].changes) == (again[3].share, again[3].changes)


def test_the_last_lesson_is_from_all_windows():
    windows = shifted([1.0, 2.0])
    after = learn_in_order(windows, POLICY, 1, True, lag=1).after
    np.testing.assert_array_equal(after.changes, learn_leaves(windows, POLICY, 1, True))


def test_share_by_hand():
    """Half before any evidence; then the logistic of 0.1 · (Σ old² - Σ new²) / (2 · mean old²)."""
    windows = shifted([1.0, 1.0, 1.0])
    order = learn_in_order(windows, POLICY, 1, True)
    change = float(order.before[1].changes[0, 0])
    labels = windows[1].labels
    evidence = 0.1 * ((labels**2).sum() - ((labels - change) ** 2).sum()) / (2 * (labels**2).mean())
    assert [lesson.share for lesson in order.before[:2]] == [0.5, 0.5]
    assert order.before[2].share == pytest.approx(1 / (1 + np.exp(-evidence)), rel=1e-6)


def test_share_falls_where_changes_do_harm():
    alternating = learn_in_order(shifted([2.0, -2.0] * 4), POLICY, 1, True).after
    steady = learn_in_order(shifted([2.0] * 8), POLICY, 1, True).after
    assert alternating.share < 0.01
    assert steady.share > 0.99


def test_comparison_leaves_out_windows_without_a_state():
    windows = shifted([1.0, 1.0, 1.0])
    judge = Judge(Metric("mae"), True, Resampling())
    found = judge.compare(windows, [None, np.array([[0.5]], np.float32), np.array([[0.5]], np.float32)], most=6)
    assert (found.windows, found.pooled.rows, found.latest.rows) == (2, 400, 200)
    assert judge.compare(windows, [None] * 3, most=6).pooled is None


class Served:
    """A synthetic stream, served by a booster that is trained on its first third."""

    def __init__(self, kind: str, task: str) -> None:
        self.stream = synthetic_stream(kind, task, 1)
        windows = self.stream.windows
        self.edges = np.linspace(0, len(self.stream.target), windows + 1).round().astype(int)
        self.first, self.last = windows // 3, windows // 3 + windows // 2
        self.is_regression = self.stream.scale is not None
        self.champion = self.fitted(self.first)
        self.rows = [(self.part("features", w), self.part("target", w).astype(float)) for w in self.served]
        frozen = [self.champion.predict(xgboost.DMatrix(matrix)) for matrix, _ in self.rows]
        self.frozen = self.loss(frozen)
        self.margin = 0.02 * self.frozen

    @property
    def served(self) -> range:
        return range(self.first, self.last)

    def part(self, name: str, window: int) -> np.ndarray:
        return getattr(self.stream, name)[self.edges[window] : self.edges[window + 1]]

    def fitted(self, until: int) -> xgboost.Booster:
        rows = slice(max(0, self.edges[until] - self.edges[self.first]), self.edges[until])
        objective = "reg:squarederror" if self.is_regression else "binary:logistic"
        settings = {"max_depth": 4, "eta": 0.2, "nthread": 1, "objective": objective}
        return xgboost.train(settings, xgboost.DMatrix(self.stream.features[rows], self.stream.target[rows]), 40)

    def loss(self, predicted: list[np.ndarray]) -> float:
        """Return the mean absolute error, or the log loss, over all windows."""
        labels, found = np.concatenate([own for _, own in self.rows]), np.concatenate(predicted)
        if self.is_regression:
            return float(np.abs(labels - found).mean())
        return float(-np.log(np.clip(np.where(labels == 1, found, 1 - found), 1e-6, 1)).mean())

    def online(self) -> float:
        judge = Judge(Metric("mae" if self.is_regression else "log_loss"), self.is_regression, Resampling())
        return self.loss(served_in_order(self.champion, self.rows, POLICY, judge, self.margin))

    def fresh(self) -> float:
        """Return the loss of a booster that is trained again after every window."""
        paired = zip(self.served, self.rows, strict=True)
        return self.loss([self.fitted(window).predict(xgboost.DMatrix(matrix)) for window, (matrix, _) in paired])


@pytest.mark.parametrize(("kind", "task"), [("gradual", "class"), ("gradual", "value"), ("incremental", "value")])
def test_a_third_of_the_gap_is_closed_on_gradual_streams(kind, task):
    served = Served(kind, task)
    gap = served.frozen - served.fresh()
    assert gap > served.margin
    assert served.frozen - served.online() >= 0.3 * gap


HARMLESS = [("none", "class"), ("none", "value"), ("outage", "class"), ("abrupt", "value"), ("seasonal", "class")]


@pytest.mark.parametrize(("kind", "task"), [*HARMLESS, ("recurring", "value")])
def test_no_stream_loses_more_than_the_margin(kind, task):
    served = Served(kind, task)
    assert served.online() <= served.frozen + served.margin
