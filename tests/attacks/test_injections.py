"""The diagnosis on real flights with injected changes: faults never retrain, and kinds are named correctly."""

import pytest

from tests.support.injections import FAULT, Bed, Verdict, run

pytestmark = pytest.mark.slow("judges real flights under dozens of injected changes")


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    return run(Bed("air_time", rows_at_most=60_000), windows=2)


def test_data_faults_never_retrain(verdicts):
    faults = [verdict for verdict in verdicts if verdict.expected == FAULT]
    assert len(faults) == 20
    assert not [verdict.injection for verdict in faults if verdict.retrain]


def test_other_changes_may_retrain(verdicts):
    assert all(verdict.retrain for verdict in verdicts if verdict.injection.startswith("concept"))


def test_faults_and_concept_drift_are_distinguished(verdicts):
    clear_cases = [verdict for verdict in verdicts if not verdict.injection.startswith("reweighted")]
    wrong = [(verdict.injection, verdict.window, verdict.kind) for verdict in clear_cases if not verdict.right]
    assert len(wrong) <= len(clear_cases) // 10, wrong
