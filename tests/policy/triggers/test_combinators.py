"""Sentences of condition groups about what would change the decision, each put to the test."""

import pytest

from tasks.policy.decision.retraining import decide_retraining
from tasks.policy.evidence.monitoring import Decision
from tests.policy.triggers.judged_windows import drift, evidence, history, report, window
from tests.policy.triggers.test_series_triggers import policy

BREACH = "{trigger: metric_breach, metric: accuracy, limit: 0.8}"
SHIFT = "{trigger: mean_shift, sigma: 3}"
ROWS = "{trigger: new_rows, fraction: 0.05}"
TIMER = "{trigger: every, days: 30}"
GOOD, BAD = 0.9, 0.7


def group(kind: str, *conditions: str) -> str:
    return f"{{trigger: {kind}, conditions: [{', '.join(conditions)}]}}"


def decided(rule: str, accuracy: float = GOOD, shift: float = 0.0, rows: int = 100) -> Decision:
    """Return the decision on the first window, after training on 10,000 rows that end at its start."""
    seen = evidence(0, performance=report(0, accuracy=accuracy), drift=drift(0, x=shift), rows=rows)
    past = history(training_rows=10_000, trained_until=window(0).start)
    return decide_retraining("a_model", policy(rule), policy(rule).case(seen, past, seen.window.end))


def test_all_of_is_one_sentence():
    rule = group("all_of", BREACH, SHIFT)
    decision = decided(rule)
    wish = "would retrain at accuracy < 0.8 and at a mean shift > 3 σ in any feature, both at once"
    assert (decision.retrain, decision.would_change) == (False, (wish,))
    assert not decided(rule, BAD).retrain
    assert not decided(rule, GOOD, 4.0).retrain
    assert decided(rule, BAD, 4.0).retrain


def test_met_conditions_are_not_listed():
    rule = group("all_of", BREACH, SHIFT)
    for seen, wish in (
        ({"accuracy": BAD}, "would retrain at a mean shift > 3 σ in any feature"),
        ({"shift": 4.0}, "would retrain at accuracy < 0.8"),
    ):
        decision = decided(rule, **seen)
        assert (decision.retrain, decision.would_change) == (False, (wish,))


def test_releasing_any_of_is_one_sentence():
    rule = group("any_of", BREACH, SHIFT, ROWS)
    decision = decided(rule, BAD, 4.0)
    keep = "would not retrain at accuracy ≥ 0.8 and at a mean shift ≤ 3 σ in every feature, both at once"
    assert (decision.retrain, decision.would_change) == (True, (keep,))
    assert decided(rule, 0.8, 4.0).retrain
    assert decided(rule, BAD, 3.0).retrain
    assert not decided(rule, 0.8, 3.0).retrain
    assert decided(rule, BAD).would_change == ("would not retrain at accuracy ≥ 0.8",)


def test_any_of_has_one_sentence_each():
    assert decided(group("any_of", BREACH, SHIFT)).would_change == (
        "would retrain at accuracy < 0.8",
        "would retrain at a mean shift > 3 σ in any feature",
    )
    rule = group("all_of", BREACH, SHIFT)
    assert decided(rule, BAD, 4.0).would_change == (
        "would not retrain at accuracy ≥ 0.8",
        "would not retrain at a mean shift ≤ 3 σ in every feature",
    )
    assert not decided(rule, 0.8, 4.0).retrain and not decided(rule, BAD, 3.0).retrain


def test_at_least_states_the_missing_count():
    rule = group("at_least, n: 2", BREACH, SHIFT, ROWS)
    none, one, three = decided(rule), decided(rule, BAD), decided(rule, BAD, 4.0, 500)
    assert none.would_change == (
        "would retrain with 2 of these 3: at accuracy < 0.8; at a mean shift > 3 σ in any feature; from 500 new rows",
    )
    assert one.would_change == (
        "would retrain at a mean shift > 3 σ in any feature",
        "would retrain from 500 new rows",
    )
    assert decided(rule, BAD, 0.0, 500).retrain and decided(rule, BAD, 4.0).retrain
    assert three.retrain
    assert three.would_change == (
        "would not retrain with 2 of these 3: at accuracy ≥ 0.8; at a mean shift ≤ 3 σ in every feature; "
        "once new_rows no longer holds",
    )
    assert decided(rule, 0.8, 4.0, 500).retrain and not decided(rule, 0.8, 3.0, 500).retrain


def test_condition_without_release_level_is_named():
    """New rows never go away, so the condition has no release level."""
    decision = decided(group("any_of", BREACH, ROWS), BAD, rows=500)
    assert decision.would_change == (
        "would not retrain at accuracy ≥ 0.8 and once new_rows no longer holds, both at once",
    )
    unknown = "{trigger: metric_shift, metric: mae}"
    assert decided(group("all_of", BREACH, group("all_of", unknown, unknown))).would_change == (
        "would retrain at accuracy < 0.8 and (once metric_shift of mae holds and once metric_shift of mae holds, both at once)"
        ", both at once",
    )


def test_groups_in_groups_keep_their_own_counts():
    either = group("all_of", BREACH, group("any_of", SHIFT, ROWS))
    assert decided(either).would_change == (
        "would retrain at accuracy < 0.8 and (at a mean shift > 3 σ in any feature or from 500 new rows), both at once",
    )
    assert decided(either, BAD, 4.0).retrain and decided(either, BAD, 0.0, 500).retrain
    assert decided(either, BAD).would_change == (
        "would retrain at a mean shift > 3 σ in any feature",
        "would retrain from 500 new rows",
    )
    both = group("any_of", BREACH, group("all_of", SHIFT, ROWS))
    assert decided(both).would_change == (
        "would retrain at accuracy < 0.8",
        "would retrain at a mean shift > 3 σ in any feature and from 500 new rows, both at once",
    )
    assert decided(both, BAD, 4.0, 500).would_change == (
        "would not retrain at accuracy ≥ 0.8 and at a mean shift ≤ 3 σ in every feature, both at once",
    )
    assert not decided(both, 0.8, 3.0, 500).retrain


def test_group_without_sentences_is_named_by_its_conditions():
    rows = group("any_of", ROWS, "{trigger: new_rows, fraction: 0.01}")
    decision = decided(group("any_of", BREACH, group("all_of", ROWS, ROWS)), BAD, rows=500)
    assert decision.would_change == (
        "would not retrain at accuracy ≥ 0.8 and once all_of (new_rows, new_rows) no longer holds, both at once",
    )
    assert decided(rows, rows=500).retrain


@pytest.mark.parametrize("kind", ["any_of", "all_of"])
def test_group_of_one_reads_like_its_condition(kind):
    for accuracy in (GOOD, BAD):
        assert decided(group(kind, BREACH), accuracy).would_change == decided(BREACH, accuracy).would_change


def test_timer_without_training_is_waiting():
    decision = decided(group("all_of", BREACH, TIMER))
    assert decision.would_change == ("would retrain at accuracy < 0.8 and from 2013-05-31, both at once",)
