"""The first sentence of a decision names versions and plain metrics, and nothing is repeated."""

from dataclasses import replace

import pytest

from tasks.policy.evidence.monitoring import Decision
from tasks.policy.records.base import Window, utc
from tasks.policy.reporting.decision import action_words, as_sentence, headline

KEPT = Decision("d1", "churn", Window(utc("2024-01-01"), utc("2024-01-06")), False, ("mae 5.1 is below the limit 5",))


def test_first_sentence_states_decision_and_reason() -> None:
    assert headline(KEPT, "17") == "Keep champion v17. MAE 5.1 is below the limit 5."


@pytest.mark.parametrize(
    ("decision", "words"),
    [
        (KEPT, "Keep champion v17"),
        (replace(KEPT, retrain=True), "Retrain champion v17"),
        (replace(KEPT, go_back_to="12"), "Return to v12 from champion v17"),
    ],
)
def test_each_decision_names_its_versions(decision: Decision, words: str) -> None:
    assert action_words(decision, "17") == words


def test_reason_becomes_sentence_without_renaming_columns() -> None:
    assert as_sentence("log_loss rose to 0.4") == "Log loss rose to 0.4."
    assert as_sentence("column log_loss_before is new.") == "Column log_loss_before is new."
