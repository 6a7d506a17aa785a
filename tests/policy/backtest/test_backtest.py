"""The back-test shows policies only what was known, charges their costs, and knows the optimum in hindsight."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from tasks.policy.backtest.baselines import BASELINES, Debt, PlainProbe, Threshold, Timer
from tasks.policy.backtest.oracle import as_run, best_mean_loss, best_run, best_schedule, evenly_spaced
from tasks.policy.backtest.perennial_policy import PerennialPolicy
from tasks.policy.backtest.simulation import PerformanceMatrix, SimulatedService, cost, read_matrix, simulate
from tasks.policy.backtest.study import gain_interval, lifts, run_backtest, served_losses, summary
from tasks.policy.records.errors import MatrixError

NAN = float("nan")


def matrix_of(kind: str = "drift", windows: int = 24, history: int = 8, seed: int = 0) -> PerformanceMatrix:
    """A small matrix: losses grow with age ("drift"), or do not ("none"); probes are 0.02 worse."""
    generator = np.random.default_rng(seed)
    age = np.arange(windows)[None, :] - np.arange(windows)[:, None]
    excess = 0.01 * age if kind == "drift" else np.zeros_like(age, dtype=float)
    loss = 0.2 + excess + generator.normal(0, 0.004, (windows, windows)) + generator.normal(0, 0.02, windows)
    probe = loss + 0.02 + generator.normal(0, 0.003, (windows, windows))
    hidden = age <= 0
    return PerformanceMatrix(np.where(hidden, NAN, loss), history, np.where(hidden, NAN, probe))


# Four windows, one of history. Candidate 0 serves first; 1 is bad, 2 is good on the last window.
SMALL = PerformanceMatrix(
    np.array([[NAN, 0.3, 0.5, 0.5], [NAN, NAN, 0.1, 0.9], [NAN, NAN, NAN, 0.2], [NAN] * 4]), history=1
)


def test_a_timer_is_priced_by_hand() -> None:
    """Retraining every window: candidates 0, 1, 2 serve windows 1, 2, 3 and lose 0.3, 0.1, 0.2; two retrains cost 2 · 0.3 / 3."""
    run = simulate(SMALL, Timer(1))
    assert run.serving == (0, 1, 2)
    assert run.trainings == (1, 2)
    assert run.deployments == 2
    assert run.mean_loss == pytest.approx(0.2)
    assert cost(run, alpha=0.3, share=0.2, served=3) == pytest.approx(0.2 + 0.2)


def test_optimum_equals_exhaustive_search_by_hand() -> None:
    """At α = 0.3: never costs 1.3/3, candidate 1 throughout 1.6/3, 1 then back to 0 costs 0.9 + 0.3 + 0.24, both retrains
    0.6 + 0.6, only the last 1.0 + 0.3 = 1.3/3; the least is 0.6 + 0.6 = 1.2/3."""
    best = best_run(SMALL, alpha=0.3, share=0.2)
    assert best.serving == (0, 1, 2)
    assert cost(best, 0.3, 0.2, 3) == pytest.approx(0.4)


def brute_force(matrix: PerformanceMatrix, alpha: float, share: float) -> float:
    """Return the least cost over all sequences of candidates that exist in time."""
    choices = [range(window - matrix.lag) for window in range(matrix.first_served, matrix.windows)]
    costs = [
        cost(as_run(matrix, serving), alpha, share, matrix.served)
        for serving in itertools.product(*choices)
        if serving[0] == matrix.history - 1
    ]
    return min(costs)


@settings(max_examples=100, deadline=None)
@example(932, 0.2, 0.9, 0)  # training pays only because the candidate is deployed twice
@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.05, 0.2]), st.sampled_from([0.0, 0.2, 0.9]), st.integers(0, 2))
def test_optimum_is_exact_with_returns(seed: int, alpha: float, share: float, lag: int) -> None:
    generator = np.random.default_rng(seed)
    loss = np.where(np.tri(7, 7, 0, dtype=bool), NAN, generator.uniform(0, 0.5, (7, 7)))
    matrix = PerformanceMatrix(loss, history=2, lag=lag)
    exact = cost(best_run(matrix, alpha, share), alpha, share, matrix.served)
    assert exact == pytest.approx(brute_force(matrix, alpha, share))


def with_empty_windows(seed: int, windows: int, lag: int = 0) -> PerformanceMatrix:
    """Return a matrix with two windows of history; of the later windows, four in ten have no losses."""
    generator = np.random.default_rng(seed)
    loss = np.where(np.tri(windows, windows, 0, dtype=bool), NAN, generator.uniform(0, 0.5, (windows, windows)))
    empty = generator.random(windows) < 0.4
    empty[: 3 + lag] = False
    return PerformanceMatrix(np.where(empty, NAN, loss), history=2, lag=lag)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.02, 0.1, 0.2]), st.sampled_from([0.0, 0.2, 0.9]), st.integers(0, 2))
def test_optimum_is_exact_with_empty_windows(seed: int, alpha: float, share: float, lag: int) -> None:
    matrix = with_empty_windows(seed, 7, lag)
    exact = cost(best_run(matrix, alpha, share), alpha, share, matrix.served)
    assert exact == pytest.approx(brute_force(matrix, alpha, share))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.02, 0.1, 0.2]))
def test_best_schedule_is_exact_with_empty_windows(seed: int, alpha: float) -> None:
    matrix = with_empty_windows(seed, 9)
    tried = []
    for steps in itertools.chain.from_iterable(itertools.combinations(range(1, 7), n) for n in range(7)):
        serving = [matrix.history - 1] * matrix.served
        for step in steps:
            serving[step:] = [matrix.history + step - 1] * (matrix.served - step)
        tried.append(cost(as_run(matrix, tuple(serving)), alpha, 0.2, matrix.served))
    assert cost(best_schedule(matrix, alpha), alpha, 0.2, matrix.served) == pytest.approx(min(tried))


def test_no_policy_beats_hindsight_with_empty_windows() -> None:
    """Candidates age by 0.02 a window; a retrain that pays over ten windows need not pay over the five with losses."""
    loss = 0.2 + 0.02 * np.maximum(0, np.arange(12)[None] - np.arange(12)[:, None] - 1.0)
    loss[:, [3, 5, 7, 9, 11]] = NAN
    policies = {name: BASELINES[name] for name in ("never", "every", "timer_2", "timer_4")}
    for scores in run_backtest(PerformanceMatrix(loss, 2), policies, (0.05, 0.1)).policies.values():
        for score in scores.values():
            assert score.regret >= -1e-12
            assert score.skill is None or score.skill <= 1 + 1e-12


@pytest.mark.parametrize("lag", [0, 2])
def test_no_policy_beats_hindsight(lag: int) -> None:
    for kind, seed in (("drift", 1), ("none", 2)):
        matrix = replace(matrix_of(kind, seed=seed), lag=lag)
        outcome = run_backtest(matrix, {"perennial": PerennialPolicy, **BASELINES})
        assert min(score.regret for scores in outcome.policies.values() for score in scores.values()) >= -1e-12


def test_skill_is_zero_for_trivial_policy_and_one_for_optimum() -> None:
    outcome = run_backtest(matrix_of(), {name: BASELINES[name] for name in ("never", "every")}, alphas=(0.05,))
    skills = [outcome.policies[name][0.05].skill for name in ("never", "every")]
    assert max(skill for skill in skills if skill is not None) == pytest.approx(0.0)
    assert outcome.optimum[0.05].skill == pytest.approx(1.0)


def test_lift_is_one_for_best_schedule_and_null_without_retrains() -> None:
    matrix = matrix_of(seed=3)
    outcome = run_backtest(matrix, {"never": BASELINES["never"], "timer_4": BASELINES["timer_4"]}, alphas=(0.05,))
    assert outcome.policies["never"][0.05].lift is None
    run = outcome.policies["timer_4"][0.05].run
    even = as_run(matrix, evenly_spaced(matrix, len(run.trainings))).mean_loss
    best = best_mean_loss(matrix, len(run.trainings))
    assert outcome.policies["timer_4"][0.05].lift == pytest.approx((even - run.mean_loss) / (even - best))


def test_best_schedule_for_a_retrain_count_equals_exhaustive_search() -> None:
    matrix = matrix_of("none", windows=9, history=2, seed=5)
    tried = []
    for steps in itertools.combinations(range(1, matrix.served), 2):
        serving, champion = [], matrix.history - 1
        for step in range(matrix.served):
            champion = matrix.history + step - 1 if step in steps else champion
            serving.append(champion)
        tried.append(as_run(matrix, tuple(serving)).mean_loss)
    assert best_mean_loss(matrix, 2) == pytest.approx(min(tried))


def test_best_schedule_without_returns_equals_exhaustive_search() -> None:
    matrix = matrix_of("drift", windows=10, history=3, seed=6)
    tried = []
    for steps in itertools.chain.from_iterable(itertools.combinations(range(1, 7), n) for n in range(7)):
        serving, champion = [], matrix.history - 1
        for step in range(matrix.served):
            champion = matrix.history + step - 1 if step in steps else champion
            serving.append(champion)
        tried.append(cost(as_run(matrix, tuple(serving)), 0.03, 0.2, matrix.served))
    assert cost(best_schedule(matrix, 0.03), 0.03, 0.2, matrix.served) == pytest.approx(min(tried))


def test_evenly_spaced_schedule_has_equal_gaps() -> None:
    assert evenly_spaced(matrix_of(windows=16, history=8), 3) == (7, 7, 9, 9, 11, 11, 13, 13)


@dataclass
class Recorder:
    """Record everything it is shown, and train when told to."""

    train_after: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []

    def act(self, service: SimulatedService) -> None:
        self.seen.append((service.loss, service.probe))
        if service.now in self.train_after:
            service.retrain()
            service.train_probe()


def test_policy_sees_only_known_past() -> None:
    matrix, policy = matrix_of(), Recorder(train_after=(10,))
    simulate(matrix, policy)
    for step, (loss, probe) in enumerate(policy.seen):
        now = matrix.history + step
        assert loss.shape == probe.shape == (now + 1, now + 1)
        known = np.flatnonzero(np.isfinite(loss).any(axis=1))
        assert set(known) <= set(range(matrix.history)) | ({10} if now > 10 else set())
        np.testing.assert_array_equal(loss[: matrix.history], matrix.loss[: matrix.history, : now + 1])
    assert np.isfinite(policy.seen[-1][1][10, 11:]).all()


def test_late_labels_delay_policy_and_optimum() -> None:
    """Trained once window 10 is known, two windows later, the candidate serves from window 13 on."""
    matrix, policy = replace(matrix_of(), lag=2), Recorder(train_after=(10,))
    run = simulate(matrix, policy)
    assert run.serving == (7,) * 3 + (10,) * 11
    assert len(run.serving) == matrix.served == 14
    for step, (loss, probe) in enumerate(policy.seen):
        now = matrix.history + step  # two more windows have been served by then
        assert loss.shape == (now + 1, now + 1)
        assert np.isfinite(loss[10 if now >= 10 else 0, 13:]).all()
        assert not np.isfinite(loss[:, now:][now - 2 :]).any(), "no loss of a candidate that did not serve by then"
        assert np.isfinite(probe[10, 11:]).all() if now > 10 else True
    assert len(policy.seen) == 13
    every = simulate(matrix, Timer(1))
    assert every.serving[:3] == (7, 8, 9)
    assert every.mean_loss == pytest.approx(np.mean([matrix.loss[j - 3, j] for j in range(10, 24)]))


def test_lag_without_windows_to_serve_is_refused() -> None:
    with pytest.raises(MatrixError, match="lag is 16, expected at least 0 and below W - H = 16"):
        replace(matrix_of(), lag=16)


def test_policy_cannot_modify_the_record() -> None:
    service = SimulatedService(matrix_of())
    service.loss[:] = 0
    assert np.nanmin(service.loss) > 0.1


def test_untrained_candidate_cannot_serve() -> None:
    service = SimulatedService(matrix_of())
    with pytest.raises(KeyError, match="train it first"):
        service.deploy(service.history)


def test_going_back_costs_only_a_deployment() -> None:
    class Back:
        def act(self, service: SimulatedService) -> None:
            service.deploy(3 if service.now % 2 else 7)

    run = simulate(matrix_of(), Back())
    assert run.trainings == ()
    assert run.deployments == 14  # after window 8 candidate 7 serves already
    assert cost(run, 0.1, 0.2, 16) == pytest.approx(run.mean_loss + 0.1 / 16 * 0.8 * 14)


def test_probes_are_charged_a_tenth_of_a_training() -> None:
    run = simulate(matrix_of("none"), PlainProbe(alpha=99.0))
    assert len(run.probes) == 15
    assert cost(run, 0.1, 0.2, 16) == pytest.approx(run.mean_loss + 0.1 / 16 * 0.1 * 0.2 * 15)


def test_debt_retrains_when_excess_reaches_cost() -> None:
    loss = np.full((6, 6), NAN)
    loss[0, 1:] = [0.1, 0.12, 0.14, 0.13, 0.13]  # excess over window 1: 0.02, 0.04, 0.03: sum 0.06 after window 3
    loss[3, 4:] = 0.1
    run = simulate(PerformanceMatrix(loss, 1), Debt(alpha=0.06))
    assert run.trainings == (3,)
    assert simulate(PerformanceMatrix(loss, 1), Debt(alpha=0.1)).trainings == ()


def test_threshold_needs_k_breaches_including_the_latest() -> None:
    """Windows 1-3 calibrate at 0.1; the last two of three windows breach only after window 6."""
    loss = np.full((9, 9), NAN)
    loss[0, 1:] = [0.1, 0.1, 0.1, 0.9, 0.1, 0.9, 0.9, 0.9]
    loss[6, 7:] = 0.1
    run = simulate(PerformanceMatrix(loss, 1), Threshold(k=2, m=3))
    assert run.trainings == (6,)


def test_gap_in_the_record_is_neither_trained_nor_charged() -> None:
    matrix = matrix_of()
    loss = matrix.loss.copy()
    loss[10] = NAN
    run = simulate(replace(matrix, loss=loss), Timer(1))
    assert 10 not in run.trainings
    assert np.isfinite(run.mean_loss)


def test_window_without_labels_is_ignored() -> None:
    matrix = matrix_of()
    loss = matrix.loss.copy()
    loss[:, 12] = NAN
    outcome = run_backtest(replace(matrix, loss=loss), BASELINES, alphas=(0.02,))
    assert all(
        np.isfinite(score.cost) and score.regret >= -1e-12 for s in outcome.policies.values() for score in s.values()
    )


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"loss": np.ones((5, 5))}, "H is missing, found loss"),
        ({"loss": np.ones((5, 4)), "H": np.array(2)}, r"loss has shape \(5, 4\), expected a square"),
        ({"loss": np.ones((5, 5)), "H": np.array(5)}, "H is 5, expected at least 1 and below W = 5"),
        ({"loss": np.ones((5, 5)), "H": np.array(1.5)}, "expected one whole number"),
        ({"loss": np.ones((5, 5)), "H": np.array(2), "probe": np.ones((4, 4))}, r"probe has shape \(4, 4\)"),
        ({"loss": np.full((5, 5), NAN), "H": np.array(2)}, r"loss\[1\] is empty"),
        ({"loss": np.array([["a"] * 5] * 5), "H": np.array(2)}, "not a number"),
    ],
)
def test_invalid_matrix_is_refused_with_expectation(stored: dict, message: str) -> None:
    with pytest.raises(MatrixError, match=message):
        read_matrix(stored, "history.npz")


def test_cells_before_training_are_never_read() -> None:
    matrix = matrix_of()
    filled = np.where(np.isfinite(matrix.loss), matrix.loss, 0.0)
    assert simulate(replace(matrix, loss=filled), Timer(4)) == simulate(matrix, Timer(4))


def test_costs_out_of_range_are_refused() -> None:
    with pytest.raises(MatrixError, match="expected costs above 0"):
        run_backtest(matrix_of(), BASELINES, alphas=(0.0,))
    with pytest.raises(MatrixError, match="expected 0 to 1"):
        run_backtest(matrix_of(), BASELINES, share=1.5)


def test_summary_has_fixed_layout() -> None:
    outcome = run_backtest(matrix_of(), {"never": BASELINES["never"]})
    content = summary(outcome)
    assert list(content["policies"]["never"]) == ["0.005", "0.01", "0.02", "0.05", "0.1", "0.2"]
    entry = content["policies"]["never"]["0.05"]
    assert list(entry) == [
        "serving", "trainings", "probes", "deployments", "mean_loss", "cost", "regret", "skill", "lift",
    ]  # fmt: skip
    assert list(content["optimum"]) == list(content["policies"]["never"])


def test_interval_of_constant_gain_is_that_gain() -> None:
    loss = np.where(np.tri(12, 12, 0, dtype=bool), NAN, 0.4)
    loss[5, 6:] = 0.1
    outcome = run_backtest(
        PerformanceMatrix(loss, 5), {"never": BASELINES["never"], "timer_16": BASELINES["timer_16"]}, alphas=(0.05,)
    )
    assert gain_interval(PerformanceMatrix(loss, 5), outcome, "never", "timer_16", 0.05) == pytest.approx((0, 0, 0))


class _At:
    """Retrain after the given windows."""

    def __init__(self, *windows: int) -> None:
        self.windows = windows

    def act(self, service: SimulatedService) -> None:
        if service.now in self.windows:
            service.retrain()


def test_lift_has_interval_except_timer_over_itself() -> None:
    matrix = matrix_of(windows=60, history=8)
    even = as_run(matrix, evenly_spaced(matrix, 4)).trainings
    policies = {
        "even": lambda a, s: _At(*even),
        "never": lambda a, s: Timer(None),
        "late": lambda a, s: _At(47, 50, 53, 56),
    }
    outcome = run_backtest(matrix, policies, alphas=(0.05,))
    found = {name: by_alpha[0.05] for name, by_alpha in lifts(matrix, outcome).items()}
    assert found["never"] is None
    assert (found["even"].lift, found["even"].low, found["even"].high) == pytest.approx((0, 0, 0))
    late = found["late"]
    assert late.low < late.lift < late.high < 0, "retraining only at the end is significantly worse than evenly"
    assert (late.retrains, late.lift) == (4, outcome.policies["late"][0.05].lift)
    saved = late.even - outcome.policies["late"][0.05].run.mean_loss
    assert late.lift == pytest.approx(saved / (late.even - best_mean_loss(matrix, 4)))


@pytest.mark.parametrize(("turns", "sure"), [((16, 32, 48), True), ((26,), False)])
def test_best_schedule_beats_timer_significantly_but_one_change_proves_nothing(
    turns: tuple[int, ...], sure: bool
) -> None:
    """After the concept change only later candidates are good. A timer is late for a few consecutive windows: chance."""
    generator = np.random.default_rng(3)
    loss, era = np.full((60, 60), NAN), np.searchsorted(turns, np.arange(60), side="right")
    for candidate in range(60):
        for window in range(candidate + 1, 60):
            loss[candidate, window] = (0.6 if era[candidate] < era[window] else 0.2) + generator.normal(0, 0.01)
    matrix = PerformanceMatrix(loss, 8)
    outcome = run_backtest(matrix, {"turn": lambda a, s: _At(*turns)}, alphas=(0.05,))
    lift = lifts(matrix, outcome)["turn"][0.05]
    assert lift.low < lift.lift <= 1.0 + 1e-9
    assert (lift.low > 0) is sure
    assert np.isfinite(served_losses(matrix, outcome.policies["turn"][0.05].run)).all()
