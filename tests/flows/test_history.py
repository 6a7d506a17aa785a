"""How earlier judgements count."""

from tasks.adapters import ledger
from tasks.policy.decision.retraining import decide_retraining
from tasks.policy.evidence.ledger import Fact
from tasks.policy.evidence.monitoring import Judgement, WindowEvidence
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import Window, utc
from tasks.policy.records.reports import QualityReport
from tasks.record import history
from tests.support.trained_models import make_config

CHAMPION = ModelVersion(
    "binary_model", "1", "run", "d" * 16, Window(utc("2024-01-01"), utc("2024-03-01")), 1000, "0" * 64
)
WINDOW = Window(utc("2024-03-01"), utc("2024-03-06"))


def test_window_judged_again_under_another_policy_counts_once():
    """400 rows are stored; the window was judged by the policies before and after the edit."""
    for cooldown_days in (0, 3):
        when = {"trigger": "new_rows", "fraction": 1.0}
        config = make_config(retraining={"when": when, "cooldown_days": cooldown_days})
        evidence = WindowEvidence(WINDOW, 400, QualityReport(WINDOW, "pass", 400, (), 0, ()))
        before = history.load_history(config, history.load_past(config), CHAMPION, WINDOW)
        case = config.retraining.case(evidence, before, WINDOW.end)
        decision = decide_retraining(config.name, config.retraining, case)
        judgement = Judgement(WINDOW.end, "1", evidence, decision)
        ledger.append(config.name, Fact("window.judged", judgement, WINDOW.end, decision.decision_id))
    assert len(ledger.entries(config.name)) == 2
    found = history.load_history(config, history.load_past(config), CHAMPION, WINDOW.next())
    assert (len(found.evidence), found.rows_since_training) == (1, 400)
