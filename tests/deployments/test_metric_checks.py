"""`check` refuses a metric that its first evaluation would refuse, and accepts the ready-made ones and scikit-learn's."""

from pathlib import Path

import numpy as np
import pytest

from deployments.config.blocks.metrics import CustomMetric
from deployments.config.model import ModelConfig
from tasks.policy.custom_metrics.rules import CustomRule
from tasks.policy.records.errors import MetricError
from tasks.training.readiness import check_training
from tests.support.trained_models import make_config

MODULE = """\
def two(labels, predictions):
    return 1.0

def three(labels, predictions, rows):
    return 1.0

def text(labels, predictions):
    return "high"

def raises(labels, predictions):
    raise KeyError("shop")
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_metrics.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))


def checked(metric: dict[str, object], task: str = "binary") -> ModelConfig:
    config = make_config(task, metrics={"own": metric})
    check_training(config)
    return config


def own(name: str, **settings: object) -> dict[str, object]:
    return {"function": f"own_metrics:{name}", "higher_is_better": True, **settings}


@pytest.mark.parametrize(
    ("task", "metric", "words"),
    [
        ("binary", {"function": "cost_matrix"}, "parameters.costs is missing"),
        ("binary", {"function": "cost_matrix", "parameters": {"costs": [[0, 1]]}}, "costs needs a row for each label"),
        ("multiclass", {"function": "cost_matrix", "parameters": {"costs": [[0, 1], [1, 0]]}}, "costs has 2 rows, expected one for each class"),
        ("binary", {"function": "recall_at_precision", "parameters": {"precision": 60}}, "parameters.precision is 60: .*, such as 0.6 or 60 %"),
        ("binary", {"function": "recall_at_precision", "parameters": {"precision": "high"}}, "parameters.precision is 'high'"),
        ("binary", {"function": "precision_at_k", "parameters": {"k": -5}}, "parameters.k is -5"),
        ("binary", {"function": "precision_at_k", "parameters": {"k": 2.5}}, "k is 2.5, expected a whole number"),
        ("binary", {"function": "precision_at_k", "parameters": {"k": "100 %"}}, "share of them below 100 %"),
        ("binary", {"function": "lift", "parameters": {"share": 10}}, "parameters.share is 10"),
        ("regression", {"function": "quantile_loss", "parameters": {"quantile": 1.5}}, "parameters.quantile is 1.5"),
        ("binary", {"function": "sklearn:fbeta_score", "parameters": {"betta": 3}}, "cannot be called with"),
        ("binary", {"function": "sklearn:fbeta_score"}, "missing a required argument: 'beta'"),
        ("binary", {"function": "sklearn:confusion_matrix"}, "expected a number"),
        ("binary", {"function": "sklearn:precision_recall_curve"}, "metrics.own: the function raised ValueError: "),
        ("binary", {"function": "sklearn:mean_pinball_loss"}, "no metric of scikit-learn for task binary"),
        ("regression", {"function": "sklearn:f1_score"}, "no metric of scikit-learn for task regression"),
        ("binary", {"function": "sklearn:adjusted_rand_score"}, "no metric of scikit-learn for task binary"),
        ("binary", {"function": "sklearn:hinge_loss"}, "no metric of scikit-learn for task binary"),
        ("multiclass", {"function": "sklearn:f1_score"}, "metrics.own: the function raised ValueError: "),
        ("binary", own("three"), "missing a required argument: 'rows'"),
        ("binary", own("two", columns=["x"]), "too many positional arguments"),
        ("binary", own("two", parameters={"rate": 1}), "unexpected keyword argument 'rate'"),
        ("binary", own("text"), "expected a number"),
        ("binary", own("raises"), "KeyError: 'shop'"),
        ("binary", own("two", per="row"), "expected one value a row"),
    ],
)  # fmt: skip
def test_what_must_fail_later_is_refused(task, metric, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        checked(metric, task)


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("binary", {"function": "cost_matrix", "parameters": {"costs": [[0, 5], [100, 0]]}}),
        ("multiclass", {"function": "cost_matrix", "parameters": {"costs": [[0, 1, 2], [3, 0, 4], [5, 6, 0]]}}),
        ("binary", {"function": "ndcg", "parameters": {"k": 10}}),
        ("binary", {"function": "lift"}),
        ("regression", {"function": "wape"}),
        ("regression", {"function": "quantile_loss", "parameters": {"quantile": 0.9}}),
        ("regression", {"function": "sklearn:mean_squared_log_error"}),
        ("regression", {"function": "sklearn:mean_gamma_deviance"}),
        ("binary", {"function": "sklearn:fbeta_score", "parameters": {"beta": 2}}),
        ("binary", {"function": "sklearn:average_precision_score"}),
        ("binary", {"function": "sklearn:cohen_kappa_score", "predictions": "class"}),
        ("multiclass", {"function": "sklearn:f1_score", "parameters": {"average": "macro"}}),
        ("multiclass", {"function": "sklearn:roc_auc_score", "parameters": {"multi_class": "ovr"}}),
        ("binary", own("two")),
        ("binary", own("three", columns=["x"])),
    ],
)  # fmt: skip
def test_what_can_be_computed_is_accepted(task, metric):
    assert checked(metric, task).metric("own").rule is not None


@pytest.mark.parametrize(
    ("function", "name", "written", "read"),
    [
        ("recall_at_precision", "precision", "60 %", 0.6),
        ("lift", "share", "5 %", 0.05),
        ("precision_at_k", "k", "12.5 %", 0.125),
        ("precision_at_k", "k", 50, 50),
    ],
)
def test_a_share_may_be_written_in_percent(function, name, written, read):
    rule = CustomMetric(function=function, parameters={name: written}).rule("own", "binary")
    assert rule.parameters == {name: pytest.approx(read)}


def test_what_a_function_raises_names_the_metric():
    rule = CustomRule("own", lambda labels, predictions: labels["shop"], True)
    with pytest.raises(MetricError, match=r"metrics\.own: the function raised IndexError: .* \(on 3 rows\)"):
        rule.value(np.zeros(3), np.zeros(3))
