"""`perennial` reads nothing from the future, retrains only when the stream changes, and explains its decisions."""

from dataclasses import replace

import numpy as np
import pytest

from tasks.policy.backtest.baselines import Timer
from tasks.policy.backtest.perennial_policy import PerennialPolicy, history_of
from tasks.policy.backtest.simulation import PerformanceMatrix, Run, SimulatedService, cost, simulate
from tasks.policy.perennial.forecast import OptionForecast
from tasks.policy.perennial.loss_matrix import LossMatrix, Observation
from tasks.policy.perennial.policy import ESTABLISHED, Action, ProbeRule
from tests.policy.backtest.test_backtest import NAN, matrix_of

CHANGE = 24


def changing(seed: int = 0, windows: int = 40, history: int = 12, jump: float = 0.15) -> PerformanceMatrix:
    """Concept A up to window CHANGE, concept B from there; models trained on A lose `jump` more on B and the reverse."""
    generator = np.random.default_rng(seed)
    window = np.arange(windows)
    other = (window[:, None] < CHANGE) != (window[None, :] < CHANGE)
    loss = 0.2 + jump * other + generator.normal(0, 0.01, windows) + generator.normal(0, 0.005, (windows, windows))
    hidden = np.tri(windows, windows, 0, dtype=bool)
    probe = loss + 0.02 + generator.normal(0, 0.004, (windows, windows))
    return PerformanceMatrix(np.where(hidden, NAN, loss), history, np.where(hidden, NAN, probe))


def returning(seed: int = 0) -> PerformanceMatrix:
    """Seasons of 8 windows that alternate between two concepts; history has seen both."""
    generator = np.random.default_rng(seed)
    season = np.arange(56) // 8 % 2
    loss = 0.2 + 0.2 * (season[:, None] != season[None, :]) + generator.normal(0, 0.004, (56, 56))
    hidden = np.tri(56, 56, 0, dtype=bool)
    return PerformanceMatrix(np.where(hidden, NAN, loss), 20, np.where(hidden, NAN, loss + 0.02))


def run(matrix: PerformanceMatrix, alpha: float = 0.05) -> Run:
    return simulate(matrix, PerennialPolicy(alpha, 0.2))


@pytest.mark.parametrize("alpha", [0.005, 0.05, 0.2])
def test_noise_in_unknown_cells_changes_no_decision(alpha: float) -> None:
    matrix = changing()
    reference = run(matrix, alpha)
    generator = np.random.default_rng(1)
    known_rows = np.isin(np.arange(matrix.windows), [*range(matrix.history), *reference.trainings])
    probed = np.isin(np.arange(matrix.windows), [*range(matrix.history), *reference.probes])
    assert matrix.probe is not None
    noise = generator.uniform(0, 2, matrix.loss.shape)
    disturbed = replace(
        matrix,
        loss=np.where(known_rows[:, None], matrix.loss, noise),
        probe=np.where(probed[:, None], matrix.probe, noise),
    )
    again = run(disturbed, alpha)
    assert (again.serving, again.trainings, again.probes) == (reference.serving, reference.trainings, reference.probes)


@pytest.mark.parametrize("fill", [NAN, 0.0, 1.0])
@pytest.mark.parametrize("until", [15, 25, 26, 33])
def test_blank_future_changes_no_earlier_decision(fill: float, until: int) -> None:
    matrix = changing(seed=2)
    assert matrix.probe is not None
    loss, probe = matrix.loss.copy(), matrix.probe.copy()
    loss[:, until:], probe[:, until:] = fill, fill
    served = until - matrix.history + 1  # the choice for window `until` itself was made earlier
    unchanged, blanked = run(matrix), run(replace(matrix, loss=loss, probe=probe))
    assert blanked.serving[:served] == unchanged.serving[:served]
    assert [w for w in blanked.probes if w < until] == [w for w in unchanged.probes if w < until]


def test_record_length_changes_no_decision() -> None:
    matrix = changing(seed=2)
    assert matrix.probe is not None
    short = PerformanceMatrix(matrix.loss[:30, :30], matrix.history, matrix.probe[:30, :30])
    assert run(short).serving == run(matrix).serving[:18]


def test_abrupt_change_leads_to_one_retrain_within_three_windows() -> None:
    outcome = run(changing(), alpha=0.2)
    assert len(outcome.trainings) in (1, 2)
    assert CHANGE <= outcome.trainings[0] <= CHANGE + 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("alpha", [0.005, 0.02, 0.1])
def test_stream_without_change_is_retrained_at_most_once(seed: int, alpha: float) -> None:
    assert len(run(matrix_of("none", windows=60, history=18, seed=seed), alpha).trainings) <= 1


def test_returning_season_leads_to_a_return_without_training() -> None:
    outcome = run(returning(), alpha=0.2)
    assert outcome.deployments >= 3
    assert len(outcome.trainings) <= 1
    assert cost(outcome, 0.2, 0.2, 36) < min(
        cost(simulate(returning(), Timer(n)), 0.2, 0.2, 36) for n in (1, 2, 4, 8, 16)
    )


def test_probes_are_skipped_when_retrains_are_expensive_and_nothing_changes() -> None:
    quiet = matrix_of("none", windows=60, history=18)
    assert len(run(quiet, alpha=0.2).probes) < len(run(quiet, alpha=0.005).probes) / 2


def test_works_from_labels_without_probes() -> None:
    outcome = run(replace(changing(), probe=None), alpha=0.1)
    assert outcome.probes == ()
    assert any(CHANGE <= window <= CHANGE + 4 for window in outcome.trainings)


@pytest.mark.parametrize("history", [1, 2, 3, 5])
def test_short_history_is_enough_to_start(history: int) -> None:
    matrix = changing()
    assert matrix.probe is not None
    for probe in (matrix.probe, None):
        assert len(run(PerformanceMatrix(matrix.loss, history, probe)).serving) == matrix.windows - history


def test_untrained_history_candidates_are_skipped() -> None:
    matrix = changing()
    loss, probe = matrix.loss.copy(), matrix.probe
    assert probe is not None
    loss[: matrix.history - 1], probe = NAN, probe.copy()
    probe[: matrix.history - 1] = NAN
    outcome = run(replace(matrix, loss=loss, probe=probe), alpha=0.1)
    assert any(CHANGE <= window <= CHANGE + 4 for window in outcome.trainings)


def test_rescaled_losses_and_cost_change_no_decision() -> None:
    matrix = changing()
    assert matrix.probe is not None
    minutes = replace(matrix, loss=matrix.loss * 60, probe=matrix.probe * 60)
    assert run(minutes, alpha=0.05 * 60).serving == run(matrix, alpha=0.05).serving


def test_window_without_labels_is_skipped() -> None:
    matrix = changing()
    assert matrix.probe is not None
    loss, probe = matrix.loss.copy(), matrix.probe.copy()
    loss[:, 18], probe[:, 18] = NAN, NAN
    assert len(run(replace(matrix, loss=loss, probe=probe)).serving) == matrix.served


def _live(rule: ProbeRule, matrix: PerformanceMatrix, windows: range, state: dict[str, list[int]]) -> list[Action]:
    actions = []
    assert matrix.probe is not None
    for window in windows:
        losses = {c: float(matrix.loss[c, window]) for c in state["candidates"]}
        action = rule.update(
            state["champion"][-1], losses, {p: float(matrix.probe[p, window]) for p in state["probes"]}
        )
        actions.append(action)
        if action.deploy == window:
            state["candidates"].append(window)
        if action.deploy is not None:
            state["champion"].append(action.deploy)
        if action.probe:
            state["probes"].append(window)
    return actions


def _start(matrix: PerformanceMatrix) -> tuple[ProbeRule, dict[str, list[int]]]:
    begun = matrix.history
    assert matrix.probe is not None
    rule = ProbeRule(0.05, 0.2, history_of(matrix.loss[:begun, :begun], matrix.probe[:begun, :begun]))
    return rule, {"candidates": list(range(begun)), "probes": list(range(begun)), "champion": [begun - 1]}


def test_live_and_simulated_decisions_are_the_same() -> None:
    matrix = changing()
    rule, state = _start(matrix)
    _live(rule, matrix, range(12, 39), state)
    assert state["champion"][-1] == run(matrix).serving[-1]


def test_refused_retrain_is_noticed() -> None:
    matrix = changing()
    rule, state = _start(matrix)
    asked = [a.window for a in _live(rule, matrix, range(12, 27), {**state, "champion": [11] * 2}) if a.retrain]
    assert asked
    assert rule.champion in (11, asked[0])


def test_actions_carry_their_figures() -> None:
    matrix = changing()
    rule, state = _start(matrix)
    actions = _live(rule, matrix, range(12, 39), state)
    retrain = next(action for action in actions if action.retrain)
    assert retrain.weighed.price == 0.05 and retrain.weighed.saved is not None and retrain.weighed.saved > 0.05
    assert retrain.weighed.established and retrain.weighed.change_sigmas >= ESTABLISHED
    assert retrain.weighed.patience >= 1
    first = actions[0].weighed
    assert not actions[0].retrain and (not first.may_train or first.saved is None or first.saved <= first.price)


def test_forecast_learns_persistent_leads() -> None:
    """Candidates with lasting differences: after some windows the forecast is close to those differences."""
    generator = np.random.default_rng(3)
    lasting = generator.normal(0, 0.02, 40)
    losses = np.where(np.tri(40, 40, 0, dtype=bool), NAN, lasting[:, None] + generator.normal(0, 0.002, (40, 40)))
    forecast = OptionForecast(first=0)
    for window in range(1, 40):
        predicted = forecast.update(losses, window, window - 1)
    relative = lasting[:39] - lasting[:39].mean()
    assert np.corrcoef(predicted[:39], relative)[0, 1] > 0.95
    assert np.abs(predicted[:39] - relative).mean() < 0.01


def test_missing_candidates_are_never_requested() -> None:
    service = SimulatedService(changing())
    PerennialPolicy(0.05, 0.2)
    assert service.candidates == tuple(range(12))


def test_fresh_model_estimate_uses_fresh_models_only() -> None:
    """A full model leads its probe by 0.10 in its first windows and by 0.02 past age 4, as measured on drifting streams."""
    ages = np.arange(30)[None, :] - np.arange(30)[:, None]
    probe = np.where(ages > 0, 0.5, NAN)
    loss = probe - np.where(ages <= 4, 0.10, 0.02)
    known = LossMatrix(history_of(loss[:20, :20], probe[:20, :20]))
    for window in range(20, 26):
        seen = Observation(19, ((19, float(loss[19, window])),), tuple((t, 0.5) for t in range(window)))
        known.add_window(window, seen, since=20)
    assert known.filled[24, 25] == pytest.approx(0.40, abs=0.01)
    assert known.filled[19, 25] == loss[19, 25]
    assert known.filled[17, 25] == pytest.approx(0.48, abs=0.025)


def test_probes_count_as_they_are_without_paired_models() -> None:
    known = LossMatrix((Observation(0, ((0, 0.3),), ()), Observation(0, ((0, 0.3),), ())))
    known.add_window(2, Observation(1, (), ((0, 0.4), (1, 0.45))), since=2)
    assert known.filled[:2, 2] == pytest.approx([0.4, 0.45])
