"""Features of the user's own: what the function is given, and what its failures say."""

import sys
from pathlib import Path

import pytest

from deployments.config.model import ModelConfig
from tasks.adapters.orchestration.retry_conditions import is_transient
from tasks.adapters.own_training import pipeline, trainer
from tasks.policy.records.errors import EstimatorError
from tests.support.trained_models import make_config, make_rows

MODULE = """
from sklearn.compose import make_column_transformer
from sklearn.preprocessing import FunctionTransformer

given = []


def build(max_features=200):
    given.append(max_features)
    return make_column_transformer(("passthrough", ["x", "noise"]))


def keywords(**settings):
    given.append(settings)
    return build()


def named(max_features=200, config=None):
    given.append(config)
    return build()


def keyword_only(*, config):
    given.append(config)
    return build()


def positional(model):
    given.append(model)
    return build()


def two(rows, labels):
    return build()


def bug():
    raise KeyError("of mine")


def bug_in_a_step():
    return make_column_transformer((FunctionTransformer(_fails), ["x"]))


def _fails(frame):
    raise ZeroDivisionError("in a step")
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_features.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shop_features", raising=False)


def model(name: str, **training: object) -> ModelConfig:
    return make_config(training={"pipeline": f"shop_features:{name}", "min_rows": 200, "parameters": {}, **training})


@pytest.mark.parametrize("name", ["named", "keyword_only", "positional"])
def test_config_is_passed_where_it_is_asked_for(name):
    config = model(name)
    pipeline.build(config)
    assert sys.modules["shop_features"].given[0] is config


@pytest.mark.parametrize(("name", "given"), [("build", 200), ("keywords", {})])
def test_config_is_not_passed_to_a_parameter_with_a_default(name, given):
    pipeline.build(model(name))
    assert sys.modules["shop_features"].given[0] == given


def test_function_that_needs_more_is_refused():
    with pytest.raises(
        EstimatorError, match=r"cannot be called with \(config\): missing a required argument: 'labels'"
    ):
        pipeline.build(model("two"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bug", "training.pipeline is shop_features:bug, which raised KeyError: 'of mine'"),
        (
            "bug_in_a_step",
            "training.pipeline is shop_features:bug_in_a_step, which raised ZeroDivisionError: in a step",
        ),
    ],
)
def test_failure_names_the_setting_and_is_not_retried(name, message):
    with pytest.raises(EstimatorError, match=message) as raised:
        trainer.fit(model(name), make_rows())
    assert raised.value.__cause__ is not None
    assert not is_transient(None, None, _Failed(raised.value))


def test_failure_of_an_estimator_names_it():
    config = make_config(training={"parameters": {"base_score": 2.0}, "min_rows": 200})
    with pytest.raises(
        EstimatorError,
        match="training by XGBClassifier, which raised XGBoostError: Check failed: is_valid: base_score must be",
    ):
        trainer.fit(config, make_rows())


class _Failed:
    """A state of Prefect that holds an error."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def result(self, raise_on_failure: bool) -> Exception:
        return self._error
