"""Every kind of condition is one class that is discovered, documented and described."""

import subprocess
import sys

import pytest
import yaml

from tasks.policy.decision.escalation import PERFORMANCE_TRIGGERS
from tasks.policy.decision.retraining import RetrainingPolicy
from tasks.policy.triggers.base import Trigger
from tasks.policy.triggers.combinators import kinds
from tasks.policy.triggers.metric import MetricBreach

DESCRIBED = [
    ("{trigger: metric_breach, metric: accuracy, limit: 0.85}", "accuracy is past 0.85 in the latest window"),
    (
        "{trigger: metric_breach, metric: log_loss, limit: 0.4, k: 2, m: 3}",
        "log_loss is past 0.4 in 2 of the last 3 windows, including the latest",
    ),
    (
        "{trigger: metric_shift, metric: mae, margin: 0.5, k: 2, m: 2}",
        "mae is worse than its best level by 0.5 or more (anytime-valid, alpha 0.01) in the last 2 windows",
    ),
    (
        "{trigger: metric_shift, metric: mae, alpha: 0.05, always_valid: false}",
        "mae is worse than its best level by 0 or more (p ≤ 0.05) in the latest window",
    ),
    (
        "{trigger: metric_decay, metric: rmse, margin: 0.1}",
        "the mean rmse of its windows is significantly worse than its best level, by more than 0.1",
    ),
    ("{trigger: adaptive, metric: roc_auc}", "an adaptive window detects that roc_auc has changed for the worse"),
    ("{trigger: regret_exceeds_cost, factor: 2}", "the regret of not retraining reaches 2 times its cost"),
    (
        "{trigger: probe}",
        "small fresh models are ahead of one of the champion's age by the cost of a retrain",
    ),
    (
        "{trigger: perennial, alpha: 0.05}",
        "the perennial policy finds that a fresh model is worth a retrain's cost of 0.05 window losses",
    ),
    ("{trigger: mean_shift, sigma: 2}", "the mean of a feature shifts by more than 2 σ"),
    ("{trigger: drifted_share}", "30% of the features drift"),
    ("{trigger: new_rows, fraction: 0.1}", "new rows reach 10% of the training rows"),
    (
        "{trigger: arrival, labelled_rows: 50000}",
        "50,000 new rows with labels have arrived since the last training",
    ),
    ("{trigger: arrival, share: 0.2}", "new rows with labels reach 20% of the training rows"),
    ("{trigger: calendar, cron: 0 3 1 * *}", "a date of cron 0 3 1 * * has passed since the last training"),
    ("{trigger: any_of, conditions: [{trigger: every}, {trigger: probe, alpha: 0.1}]}", None),
    (
        "{trigger: all_of, conditions: [{trigger: every, days: 7}, {trigger: drifted_share}]}",
        "(7 days have passed and 30% of the features drift)",
    ),
    (
        "{trigger: at_least, n: 1, conditions: [{trigger: every, days: 7}, {trigger: drifted_share}]}",
        "at least 1 of: 7 days have passed; 30% of the features drift",
    ),
]


def condition(text: str) -> Trigger:
    return RetrainingPolicy.model_validate({"when": yaml.safe_load(text)}).when


@pytest.mark.parametrize(("text", "clause"), DESCRIBED)
def test_a_condition_is_described_as_a_clause(text: str, clause: str | None) -> None:
    expected = clause or (
        "30 days have passed or small fresh models are ahead of one of the champion's age by a retrain's cost of 0.1 "
        "window losses"
    )
    assert condition(text).describe() == expected


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.kind())
def test_every_kind_has_an_example_that_loads(kind: type[Trigger]) -> None:
    name, meaning, example = kind.documentation()
    assert meaning.endswith(".")
    assert "\n" not in meaning
    found = condition(example)
    assert type(found) is kind
    assert found.trigger == name
    assert found.describe()


def test_group_lists_leaves_and_metrics_of_its_tree() -> None:
    inner = "{trigger: any_of, conditions: [{trigger: adaptive, metric: mae}, {trigger: every}]}"
    group = condition(f"{{trigger: all_of, conditions: [{inner}, {{trigger: metric_decay, metric: rmse}}]}}")
    assert [leaf.trigger for leaf in group.leaves()] == ["adaptive", "every", "metric_decay"]
    assert group.metrics() == ("mae", "rmse")


def test_ineffective_retrains_count_for_performance_conditions() -> None:
    assert set(PERFORMANCE_TRIGGERS) == {
        "metric_breach",
        "metric_shift",
        "metric_decay",
        "adaptive",
        "regret_exceeds_cost",
    }


def test_probes_are_trained_for_conditions_that_need_them() -> None:
    assert {kind.kind() for kind in kinds() if kind.needs_probes} == {"probe", "perennial"}


def test_base_class_adds_no_field_to_the_json() -> None:
    assert not Trigger.model_fields
    assert next(iter(MetricBreach.model_fields)) == "k"


def test_kinds_do_not_depend_on_import_order() -> None:
    code = """
from tasks.policy.triggers.base import Trigger

class Own(Trigger):
    trigger: str = "a_condition_of_the_user"

import tasks.policy.triggers.series
from tasks.policy.triggers.combinators import BUILT_IN, kinds

assert Own not in BUILT_IN
print([kind.kind() for kind in kinds()])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str([kind.kind() for kind in kinds()])


def test_kind_without_judge_is_rejected() -> None:
    class Idle(Trigger):
        """A condition without a judgement."""

    with pytest.raises(TypeError, match="abstract"):
        Idle()
