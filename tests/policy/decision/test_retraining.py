"""Every trigger on both sides of its limit, what blocks it, and its sentences."""

from dataclasses import replace
from datetime import timedelta

import pytest
import yaml
from pydantic import ValidationError

from tasks.policy.decision.retraining import RetrainingPolicy, decide_retraining, decision_id
from tasks.policy.economics.costs import Budget
from tasks.policy.evidence.monitoring import Decision
from tasks.policy.monitoring.diagnosis import Diagnosis
from tasks.policy.records.base import from_json, to_json, utc
from tests.policy.triggers.judged_windows import drift, evidence, history, quality, report, window

SEED_RULE = """
when:
  trigger: any_of
  conditions:
    - {trigger: mean_shift, sigma: 3}
    - {trigger: metric_breach, metric: accuracy, limit: 0.9, k: 4, m: 4}
"""


def policy(text: str = "", **settings: object) -> RetrainingPolicy:
    """A policy from its YAML: `policy("{trigger: every, days: 30}", cooldown_days=5)`."""
    return RetrainingPolicy.model_validate({"when": yaml.safe_load(text), **settings})


def decide(rule: RetrainingPolicy, seen, past=None, diagnosis=None, **known) -> Decision:
    case = rule.case(seen, past or history(), seen.window.end, **known)
    return decide_retraining("flight_delay", rule, case, diagnosis)


BREACH = "{trigger: metric_breach, metric: accuracy, limit: 0.9, k: 2, m: 3}"
SHIFT = "{trigger: metric_shift, metric: mae, margin: 0.5, alpha: 0.01, always_valid: false}"


class TestTheSeedRule:
    """Retrain whenever a feature's mean shift exceeds 3 σ or accuracy stays below 90 % for more than 3 windows."""

    rule = RetrainingPolicy.model_validate(yaml.safe_load(SEED_RULE))

    def accuracies(self, *values: float) -> Decision:
        *past, last = [report(i, accuracy=value) for i, value in enumerate(values)]
        seen = evidence(len(past), performance=last, drift=drift(len(past), x=0.1))
        return decide(self.rule, seen, history(*past))

    def test_four_windows_below_retrain(self):
        decision = self.accuracies(0.89, 0.88, 0.89, 0.85)
        assert decision.retrain
        assert decision.triggers == ("metric_breach",)
        assert decision.reasons[0].startswith("accuracy 0.85 (95% interval 0.84 to 0.86, 1000 labels)")
        assert "is below the limit 0.9" in decision.reasons[0]

    @pytest.mark.parametrize("values", [(0.89, 0.88, 0.89), (0.89, 0.91, 0.89, 0.88, 0.85), (0.8, 0.8, 0.8, 0.9)])
    def test_three_windows_or_interrupted_run_do_not_retrain(self, values):
        decision = self.accuracies(*values)
        assert not decision.retrain
        assert any("of the last" in reason for reason in decision.reasons)
        assert (
            "would retrain at accuracy < 0.9 in 4 of the last 4 windows, including the latest" in decision.would_change
        )

    @pytest.mark.parametrize(("shift", "retrain"), [(3.0, False), (3.01, True), (-3.01, True)])
    def test_mean_beyond_three_sigma_retrains_in_either_direction(self, shift, retrain):
        decision = decide(self.rule, evidence(0, drift=drift(0, pressure=shift, wind=0.2)))
        assert decision.retrain is retrain
        assert any("the mean of pressure moved by 3.0" in reason for reason in decision.reasons)


@pytest.mark.parametrize(
    ("metric", "good", "bad"),
    [("accuracy", 0.95, 0.85), ("roc_auc", 0.95, 0.85), ("mae", 0.85, 0.95), ("log_loss", 0.85, 0.95)],
)
def test_breach_follows_the_metric_direction(metric, good, bad):
    """Another tool's breach test hard-codes `>`, which is wrong for accuracy."""
    rule = policy(f"{{trigger: metric_breach, metric: {metric}, limit: 0.9}}")
    assert decide(rule, evidence(0, performance=report(0, **{metric: bad}))).retrain
    assert not decide(rule, evidence(0, performance=report(0, **{metric: good}))).retrain
    assert not decide(rule, evidence(0, performance=report(0, **{metric: 0.9}))).retrain


@pytest.mark.parametrize(
    ("past", "latest", "retrain"),
    [((0.8, 0.95), 0.8, True), ((0.8, 0.8), 0.95, False), ((0.95, 0.95), 0.8, False), ((0.8, 0.95, 0.95), 0.8, False)],
)
def test_breach_needs_k_of_last_m_including_the_latest(past, latest, retrain):
    reports = [report(i, accuracy=value) for i, value in enumerate(past)]
    seen = evidence(len(past), performance=report(len(past), accuracy=latest))
    assert decide(policy(BREACH), seen, history(*reports)).retrain is retrain


def test_open_or_sparsely_labelled_windows_never_trigger():
    rule = policy("{trigger: metric_breach, metric: accuracy, limit: 0.9}", min_labelled_rows=200)
    for poor in (report(0, "open", accuracy=0.5), report(0, labels=199, accuracy=0.5)):
        decision = decide(rule, evidence(0, performance=poor))
        assert not decision.retrain
        assert "at least 200 are needed" in decision.reasons[0]
    assert decide(rule, evidence(0, performance=report(0, "maturing", labels=200, accuracy=0.5))).retrain


def test_latest_mature_window_counts_with_late_labels():
    rule = policy("{trigger: metric_breach, metric: accuracy, limit: 0.9}")
    late = report(6, "open", labels=0)
    decision = decide(rule, evidence(6, performance=late), history(report(0, accuracy=0.5)))
    assert decision.retrain
    expected = (
        "in 2013-05-01..2013-05-06, the latest window that counts (this window is open with 0 of 1000 labels), is below"
    )
    assert expected in decision.reasons[0]


def test_only_windows_of_the_current_champion_count():
    reports = [report(i, accuracy=0.8) for i in range(3)]
    seen = evidence(3, performance=report(3, accuracy=0.8))
    before = history(*reports, champion_since=window(0).start)
    after = history(*reports, champion_since=window(3).start)
    assert decide(policy(BREACH), seen, before).retrain
    decision = decide(policy(BREACH), seen, after)
    assert not decision.retrain
    assert "1 of the last 1 windows past it" in decision.reasons[0]


def test_window_before_promotion_is_not_reported_as_unlabelled():
    seen, promoted = evidence(3, performance=report(3, accuracy=0.8)), window(3).start + timedelta(hours=6)
    (reason,) = decide(policy(BREACH), seen, history(champion_since=promoted)).reasons
    assert reason == (
        "accuracy: this window began on 2013-05-16 00:00, before the current champion took over on 2013-05-16 06:00 UTC; "
        "windows that begin later count"
    )
    few = evidence(3, performance=report(3, labels=5, accuracy=0.8))
    (reason,) = decide(policy(BREACH), few, history(champion_since=window(3).start)).reasons
    assert "no window of the current champion has enough labels; this one is closed with 5 of 1000 labels" in reason


def test_shift_is_measured_from_the_best_level():
    """After an abrupt change, the poor windows must not become the new baseline."""
    levels = [5.0, 5.1, 5.0, 8.0, 8.1, 8.0]
    past = [report(i, mae=value) for i, value in enumerate(levels)]
    seen = evidence(6, performance=report(6, mae=8.0))
    decision = decide(
        policy("{trigger: metric_shift, metric: mae, margin: 0.5, alpha: 0.2, always_valid: false}"),
        seen,
        history(*past),
    )
    assert decision.retrain
    assert "worse than its best past level 5.033" in decision.reasons[0]


@pytest.mark.parametrize(("value", "retrain"), [(5.4, False), (5.7, True), (4.0, False)])
def test_shift_needs_margin_and_ignores_improvement(value, retrain):
    """Default tests of another tool are two-sided: an improved model fails."""
    past = [report(i, mae=level) for i, level in enumerate((5.0, 5.1, 5.0, 5.1))]
    decision = decide(policy(SHIFT), evidence(4, performance=report(4, mae=value)), history(*past))
    assert decision.retrain is retrain
    if not retrain:
        assert decision.would_change == ("would retrain at mae ≥ 5.602 (p ≤ 0.01 at this window's precision)",)


def test_shift_within_window_noise_is_not_significant():
    past = [report(i, mae=level) for i, level in enumerate((5.0, 6.0, 5.0, 6.0, 5.0))]
    decision = decide(policy(SHIFT), evidence(5, performance=report(5, mae=6.2)), history(*past))
    assert not decision.retrain


def test_small_window_is_insufficient_unless_the_fall_is_huge():
    past = history(*(report(n, mae=5.0, half=0.02) for n in range(3)))
    for half, value, retrain, expected in (
        (
            0.8,
            5.1,
            False,
            "insufficient: 100 labels can show a worsening of 1.3 or more, but the margin is 0.5; about 670",
        ),
        (0.05, 5.1, False, ""),
        (0.8, 9.0, True, ""),
    ):
        seen = evidence(5, performance=report(5, labels=100, half=half, mae=value))
        decision = decide(policy(SHIFT, min_labelled_rows=50), seen, past)
        assert decision.retrain is retrain
        assert ("insufficient" in decision.reasons[0]) == bool(expected)
        assert expected in decision.reasons[0]


def test_no_label_count_is_requested_if_noise_exceeds_margin():
    """Noise of 0.0145 from five windows, Student's t with 8/3 degrees of freedom: 0.06 with any number of labels."""
    values = (0.9, 0.915, 0.903, 0.914, 0.9)
    rule = policy("{trigger: metric_shift, metric: accuracy, margin: 0.05, alpha: 0.01, always_valid: false}")
    for labels in (1000, 10_000, 1_000_000):
        seen = evidence(5, performance=report(5, labels=labels, half=0.3 / labels**0.5, accuracy=0.87))
        decision = decide(rule, seen, history(*(report(i, accuracy=value) for i, value in enumerate(values))))
        assert (
            "a worsening of 0.063 or more, but the margin is 0.05; no number of labels would be enough"
            in decision.reasons[0]
        )


def test_no_shift_without_a_past_level():
    decision = decide(policy(SHIFT), evidence(1, performance=report(1, mae=9)), history(report(0, mae=5)))
    assert not decision.retrain
    assert "three closed windows are needed" in decision.reasons[0]


@pytest.mark.parametrize("trigger", ["{trigger: mean_shift, sigma: 3}", "{trigger: drifted_share, share: 0.3}"])
def test_insufficient_drift_never_triggers(trigger):
    rule = policy(trigger, min_rows=200)
    assert decide(rule, evidence(0, drift=drift(0, x=9.0))).retrain
    for weak in (drift(0, rows=199, x=9.0), drift(0, verdict="insufficient", x=9.0), None):
        decision = decide(rule, evidence(0, drift=weak))
        assert not decision.retrain
        assert "insufficient" in decision.reasons[0] or "not measured" in decision.reasons[0]


def test_drifted_feature_triggers_although_others_are_insufficient():
    rule, small = policy("{trigger: mean_shift, sigma: 3}"), drift(0, x=9.0, y=0.0)
    seen, unseen = small.features
    blind = replace(unseen, verdict="insufficient", smallest_effect=0.4, rows_needed=2000)
    assert decide(rule, evidence(0, drift=replace(small, verdict="insufficient", features=(seen, blind)))).retrain
    unseen_only = replace(small, verdict="insufficient", features=(blind,), reasons=("no", "2,000 rows would do"))
    decision = decide(rule, evidence(0, drift=unseen_only))
    assert not decision.retrain and "2,000 rows would do" in decision.reasons[0]


@pytest.mark.parametrize(("moved", "retrain"), [(2, False), (3, True)])
def test_drifted_share_is_compared_with_its_limit(moved, retrain):
    shifts = {f"x{i}": 2.0 if i < moved else 0.0 for i in range(10)}
    decision = decide(policy("{trigger: drifted_share, share: 0.3}"), evidence(0, drift=drift(0, **shifts)))
    assert decision.retrain is retrain
    assert f"{moved} of 10 features drifted" in decision.reasons[0]


@pytest.mark.parametrize(("rows", "retrain"), [(499, False), (500, True)])
def test_new_rows_include_the_current_window(rows, retrain):
    past = history(training_rows=10_000, rows_since_training=rows - 100, trained_until=window(0).start)
    decision = decide(policy("{trigger: new_rows, fraction: 0.05}"), evidence(0, rows=100), past)
    assert decision.retrain is retrain
    assert decision.would_change == (() if retrain else ("would retrain from 500 new rows",))


@pytest.mark.parametrize(("days", "retrain"), [(29.4, False), (30, True)])
def test_timer_counts_from_last_training(days, retrain):
    past = history(trained_until=utc("2013-01-01"), retrained_at=(window(0).end - timedelta(days=days),))
    decision = decide(policy("{trigger: every, days: 30}"), evidence(0), past)
    assert decision.retrain is retrain
    if not retrain:
        assert decision.would_change == ("would retrain from 2013-05-06 14:24 UTC",)


@pytest.mark.parametrize(
    ("group", "retrain"),
    [("any_of", True), ("all_of", False), ("at_least, n: 1", True), ("at_least, n: 2", False)],
)
def test_groups_count_conditions_that_hold(group, retrain):
    conditions = "[{trigger: mean_shift, sigma: 3}, {trigger: every, days: 30}]"
    seen, past = evidence(0, drift=drift(0, x=4.0)), history(trained_until=window(0).start)
    decision = decide(policy(f"{{trigger: {group}, conditions: {conditions}}}"), seen, past)
    assert decision.retrain is retrain
    assert decision.triggers == ("mean_shift",)
    assert any("days since the last training" in reason for reason in decision.reasons)


def test_nested_groups_list_their_metrics():
    nested = (
        f"{{trigger: any_of, conditions: [{{trigger: all_of, conditions: [{BREACH}, {SHIFT}]}}, {{trigger: every}}]}}"
    )
    assert policy(nested).metrics() == ("accuracy", "mae")


@pytest.mark.parametrize(
    "text",
    [
        "{trigger: metric_breach, metric: mae, limit: 1, k: 3, m: 2}",
        "{trigger: at_least, n: 2, conditions: [{trigger: every}]}",
    ],
)
def test_impossible_rule_is_refused(text):
    with pytest.raises(ValidationError, match="expected"):
        policy(text)


class TestWhatBlocks:
    rule = "{trigger: mean_shift, sigma: 3}"
    seen = evidence(4, drift=drift(4, x=9.0))

    def test_failed_or_unchecked_window_triggers_nothing(self):
        failed = quality(4, "fail", "wind_speed is 100 % null")
        for gate in (failed, None):
            seen = evidence(4, quality=gate, drift=drift(4, x=9.0))
            timer = decide(policy("{trigger: every, days: 1}"), seen, history(trained_until=window(0).start))
            assert not timer.retrain
            assert timer.blocked_by == "quality"
            assert not decide(policy(self.rule), seen).retrain
        assert "wind_speed is 100 % null" in decide(policy(self.rule), evidence(4, quality=failed)).reasons[0]

    def test_a_warning_does_not_block(self):
        assert decide(policy(self.rule), evidence(4, quality=quality(4, "warn"), drift=drift(4, x=9.0))).retrain

    def test_data_fault_never_leads_to_retraining(self):
        decision = decide(
            policy(self.rule), self.seen, diagnosis=Diagnosis("upstream_data_fault", ("wind: as if stuck",))
        )
        assert not decision.retrain
        assert decision.blocked_by == "diagnosis"
        assert decision.reasons[0].endswith("which retraining cannot repair: wind: as if stuck")
        assert decide(policy(self.rule), self.seen, diagnosis=Diagnosis("concept_drift", ("mae fell",))).retrain

    @pytest.mark.parametrize(("days_ago", "blocked"), [(9, "cooldown"), (10, None)])
    def test_cooldown(self, days_ago, blocked):
        past = history(retrained_at=(window(4).end - timedelta(days=days_ago),))
        decision = decide(policy(self.rule, cooldown_days=10), self.seen, past)
        assert decision.blocked_by == blocked
        assert decision.retrain is (blocked is None)
        if blocked:
            assert decision.would_change == ("would retrain from 2013-05-27, if the condition still holds",)
            assert "cooldown of 10 days is not over" in decision.reasons[0]
            assert any("reference σ" in reason for reason in decision.reasons)

    @pytest.mark.parametrize(("ages", "blocked"), [((1, 12, 29), "max_retrains_per_month"), ((1, 12, 30), None)])
    def test_monthly_cap_covers_thirty_days(self, ages, blocked):
        past = history(retrained_at=tuple(window(4).end - timedelta(days=age) for age in sorted(ages, reverse=True)))
        decision = decide(policy(self.rule, max_retrains_per_month=3), self.seen, past)
        assert decision.blocked_by == blocked
        if blocked:
            assert decision.would_change == ("would retrain from 2013-05-27, if the condition still holds",)

    @pytest.mark.parametrize(("spent", "blocked"), [(60.0, None), (60.01, "budget")])
    def test_budget_refuses_with_numbers(self, spent, blocked):
        budget = Budget(max_usd_per_month=100)
        decision = decide(
            policy(self.rule), self.seen, history(spent_usd_this_month=spent), budget=budget, cost_usd=40.0
        )
        assert decision.blocked_by == blocked
        assert decision.expected_cost_usd == 40.0
        if blocked:
            assert "60.01 USD are spent" in decision.reasons[0]
            later = "or once enough of the spending is 30 days old"
            assert decision.would_change == (f"would retrain with a larger budget, {later}",)

    def test_retrain_above_total_budget_is_not_told_to_wait(self):
        decision = decide(policy(self.rule), self.seen, budget=Budget(max_usd_per_month=30), cost_usd=40.0)
        assert decision.would_change == ("would retrain with a larger budget",)

    def test_later_events_block_nothing(self):
        """A window judged again, in a replay or a dry run, sees neither later retrains nor the one it asked for."""
        past = history(retrained_at=(window(4).end, window(9).end))
        assert decide(policy(self.rule, max_retrains_per_month=1, cooldown_days=30), self.seen, past).retrain


def test_id_depends_on_model_policy_and_window_only():
    one, other = policy("{trigger: every, days: 30}"), policy("{trigger: every, days: 31}")
    ids = {
        decision_id("a_model", one, window(0)),
        decision_id("b_model", one, window(0)),
        decision_id("a_model", other, window(0)),
    }
    assert len(ids | {decision_id("a_model", one, window(1))}) == 4
    first = decide(one, evidence(0), history(trained_until=utc("2013-01-01")))
    again = decide(one, evidence(0, drift=drift(0, x=1.0)))
    assert first.decision_id == again.decision_id


def test_decision_round_trips_as_json_with_reasons():
    for seen in (evidence(0), evidence(0, drift=drift(0, x=9.0)), evidence(0, performance=report(0, accuracy=0.5))):
        decision = decide(RetrainingPolicy.model_validate(yaml.safe_load(SEED_RULE)), seen)
        assert decision.reasons
        assert all(reason.strip() for reason in decision.reasons)
        assert from_json(Decision, to_json(decision)) == decision


def test_advice_starts_nothing():
    """Where somebody else trains the model, a decision is told to people."""
    rule = "{trigger: metric_breach, metric: accuracy, limit: 0.9}"
    seen = evidence(0, performance=report(0, accuracy=0.8))
    assert decide(policy(rule), seen).retrain
    advised = decide(policy(rule, advise_only=True), seen)
    assert (advised.retrain, advised.blocked_by, advised.go_back_to) == (False, "advise_only", None)
    assert advised.reasons[0].startswith("retraining pays")
    assert advised.triggers == ("metric_breach",)
    fine = decide(policy(rule, advise_only=True), evidence(0, performance=report(0, accuracy=0.95)))
    assert (fine.retrain, fine.blocked_by) == (False, None)


def test_the_default_leaves_ids_unchanged():
    assert "advise_only" not in policy(BREACH).model_dump_json()
    assert "advise_only" in policy(BREACH, advise_only=True).model_dump_json()
