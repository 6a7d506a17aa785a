"""The dashboard page of a judged window."""

from dataclasses import replace

import pytest

from tasks.adapters.reports import judgement as judgement_page
from tasks.policy.evidence.monitoring import Decision, Judgement
from tasks.policy.records.reports import EstimateError, SliceValue
from tests.policy.triggers.judged_windows import drift, evidence, report, valued, window
from tests.support.monitored_model import model

CONFIG = model()
DECISION = Decision("d1", "churn", window(3), False, ("keep",))


@pytest.fixture
def page(monkeypatch):
    """Publish a judgement and return the markdown."""
    written = []
    monkeypatch.setattr(judgement_page, "create_markdown_artifact", lambda text, **_: written.append(text))

    def publish(judgement: Judgement) -> str:
        judgement_page.publish_judgement_page(CONFIG, judgement)
        return written[-1]

    return publish


def test_performance_table_shows_estimate_with_error(page):
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


def test_slices_follow_metrics_and_worst_is_named(page):
    slices = (SliceValue("origin=EWR", valued("accuracy", 0.93)), SliceValue("origin=JFK", valued("accuracy", 0.88)))
    shown = page(Judgement(window(3).end, "1", evidence(3, performance=replace(report(3), slices=slices)), DECISION))
    assert "| accuracy | 0.88 | 0.87 to 0.89 | 1,000 | realised, origin=JFK |" in shown
    assert "Worst of 2 slices is origin=JFK: accuracy 0.88 (0.87 to 0.89) on 1,000 rows." in shown
    assert "slices" not in page(Judgement(window(3).end, "1", evidence(3, performance=report(3)), DECISION))


def test_online_corrector_has_a_line(page):
    judgement = Judgement(window(3).end, "1", evidence(3, performance=report(3)), DECISION)
    corrected = replace(judgement, online="Online corrector: state 14 serves; it lowered mae by 0.012")
    assert "\n\nOnline corrector: state 14 serves; it lowered MAE by 0.012.\n\n" in page(corrected)
    assert "Online" not in page(judgement)


class TestTheOrderOfThePage:
    """The owner's sentence comes first, then what would change it, the evidence, and the policy's figures, folded."""

    decision = replace(
        DECISION,
        reasons=("log_loss is not ahead by enough", "the labels of 3 rows are unknown"),
        would_change=("would retrain once a fresh model's lead pays for a retrain",),
        details=("no sign yet that <b>x</b> changes (evidence 1.1 σ, needed 3.5 σ)",),
    )
    seen = evidence(3, performance=report(3, accuracy=0.91), drift=drift(3, wind=2.0))
    judgement = Judgement(
        window(3).end, "17", seen, decision, diagnosis_reasons=("the labels of 3 rows are unknown", "wind drifted")
    )

    def test_first_sentence_names_version_and_reason(self, page):
        title, first, *_ = page(self.judgement).split("\n\n")
        assert title == "# churn, 2013-05-16..2013-05-21"
        assert first == "**Keep champion v17. Log loss is not ahead by enough.**"

    def test_sections_are_in_order(self, page):
        parts = ("What would change it", "More reasons", "Diagnosis", "Performance", "Drift", "Details of the policy")
        places = [page(self.judgement).index(part) for part in parts]
        assert places == sorted(places)

    def test_policy_figures_are_one_folded_block(self, page):
        (block,) = (part for part in page(self.judgement).split("\n\n") if part.startswith("<details>"))
        assert block == (
            "<details><summary>Details of the policy</summary><ul><li>No sign yet that &lt;b&gt;x&lt;/b&gt; changes "
            "(evidence 1.1 σ, needed 3.5 σ).</li></ul></details>"
        )
        assert "<details>" not in page(replace(self.judgement, decision=replace(self.decision, details=())))

    def test_reason_appears_once(self, page):
        assert page(self.judgement).count("he labels of 3 rows are unknown") == 1

    def test_each_table_has_a_caption(self, page):
        shown = page(self.judgement)
        assert "accuracy decides, and higher is better." in shown
        assert "it has drifted where the effect reaches the limit." in shown
