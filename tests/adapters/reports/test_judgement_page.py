"""What people read of a judged window in the dashboard."""

from dataclasses import replace

import pytest

from tasks.adapters.reports import judgement as judgement_page
from tasks.policy.records.evidence import Decision, Judgement
from tasks.policy.records.reports import EstimateError, SliceValue
from tests.policy.triggers.judged_windows import evidence, report, valued, window
from tests.support.monitored_model import model

CONFIG = model()
DECISION = Decision("d1", "churn", window(3), False, ("keep",))


@pytest.fixture
def page(monkeypatch):
    """Publishes a judgement and gives the markdown."""
    written = []
    monkeypatch.setattr(judgement_page, "create_markdown_artifact", lambda text, **_: written.append(text))

    def publish(judgement: Judgement) -> str:
        judgement_page.publish_judgement_page(CONFIG, judgement)
        return written[-1]

    return publish


def test_an_estimate_stands_in_the_performance_table_with_its_measured_error(page):
    seen = evidence(3, performance=report(3, accuracy=0.91))
    estimate = replace(valued("accuracy", 0.95), estimated=True)
    judgement = Judgement(window(3).end, "1", seen, DECISION, estimate=estimate)
    assert "| accuracy | 0.91 | 0.9 to 0.92 | 1,000 | realised |" in page(judgement)
    assert "| accuracy | 0.95 | 0.94 to 0.96 | 1,000 | estimated without labels; error not measured yet" in page(
        judgement
    )
    known = replace(judgement, estimate_error=EstimateError(7, 0.04, -0.04, 1))
    assert "mean absolute error 0.04 over 7 closed windows, 1 within the interval: wrong more often" in page(known)
    assert "estimated" not in page(replace(judgement, estimate=None))


def test_slices_stand_below_the_metrics_and_the_worst_is_told(page):
    slices = (SliceValue("origin=EWR", valued("accuracy", 0.93)), SliceValue("origin=JFK", valued("accuracy", 0.88)))
    shown = page(Judgement(window(3).end, "1", evidence(3, performance=replace(report(3), slices=slices)), DECISION))
    assert "| accuracy | 0.88 | 0.87 to 0.89 | 1,000 | realised, origin=JFK |" in shown
    assert "Worst of 2 slices is origin=JFK: accuracy 0.88 (0.87 to 0.89) on 1,000 rows." in shown
    assert "slices" not in page(Judgement(window(3).end, "1", evidence(3, performance=report(3)), DECISION))
