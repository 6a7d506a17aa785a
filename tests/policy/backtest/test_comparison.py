"""The first look at a new model: what the three policies would have gained, also where a policy loses."""

import numpy as np
import pytest

from tasks.adapters.reports.backtest import policy_rows
from tasks.policy.backtest import comparison
from tasks.policy.backtest.comparison import HistoryTerms, PolicyComparison, compare_policies
from tasks.policy.backtest.simulation import PerformanceMatrix, SimulatedService
from tasks.policy.economics.costs import Budget
from tasks.policy.statistics.metrics import Metric

NAN = float("nan")
WINDOWS, HISTORY = 16, 4


class SwitchesBack:
    """Deploy candidate 0, which the history has trained, once; never train."""

    def __init__(self, alpha: float, share: float) -> None:
        pass

    def act(self, service: SimulatedService) -> None:
        service.deploy(0)


class Waits(SwitchesBack):
    def act(self, service: SimulatedService) -> None:
        pass


def compared(policy: type, oldest_excess: float, monkeypatch: pytest.MonkeyPatch) -> PolicyComparison:
    """Every candidate loses 0.3 on every window, the oldest `oldest_excess` more."""
    loss = np.full((WINDOWS, WINDOWS), 0.3)
    loss[0] += oldest_excess
    loss = np.where(np.tri(WINDOWS, dtype=bool), NAN, loss)
    monkeypatch.setattr(comparison, "PerennialPolicy", policy)
    return compare_policies(PerformanceMatrix(loss, HISTORY), HistoryTerms(Metric("accuracy"), 1.0, 7.0, Budget()))


@pytest.mark.parametrize(
    ("excess", "gain", "standing"), [(0.12, "-0.11 (", "behind never"), (-0.12, "+0.11 (", "ahead of never")]
)
def test_a_switch_to_an_older_model_counts_without_a_retrain(
    excess: float, gain: str, standing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """11 of 12 served windows lose 0.12 more or less: 0.11."""
    found = compared(SwitchesBack, excess, monkeypatch)
    _, _, ours = found.results
    assert (ours.retrains, ours.switches_back, ours.serves_as_never) == (0, 1, False)
    assert ours.gain == pytest.approx(-excess * 11 / 12)
    assert "retrained 0 times, switched back to an earlier model once and reached" in found.headline
    assert f"{standing} (0.7);" in found.headline
    row = policy_rows(found)[-1]
    assert row[1] == "0, switched back once"
    assert row[3].startswith(gain)


def test_a_policy_that_does_nothing_has_no_gain_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compared(Waits, 0.12, monkeypatch)
    assert [each.serves_as_never for each in found.results] == [True, False, True]
    assert found.headline.startswith("Nothing was gained by retraining in this history: accuracy stays at 0.7")
    assert policy_rows(found)[0][3] == policy_rows(found)[-1][3] == "–"
    assert policy_rows(found)[-1][1] == "0"
