"""Defaults by risk: policy, approval and evidence, unless the file sets them."""

import pytest
import yaml

from deployments.config.description import describe
from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from tasks.policy.records.errors import ModelConfigError
from tests.support.small_model import YAML, write_model


def config(**changes: object) -> ModelConfig:
    named = {"access": {"approve": ["Ada"]}} if changes.get("risk") == "high" else {}
    content = yaml.safe_load(YAML) | named | changes
    return ModelConfig.model_validate({key: value for key, value in content.items() if value is not None})


@pytest.mark.parametrize(
    ("risk", "mode", "confidence", "rows"),
    [("low", "automatic", 0.95, 300), ("medium", "automatic", 0.95, 500), ("high", "approval", 0.99, 1000)],
)
def test_each_risk_level_has_its_defaults(risk, mode, confidence, rows):
    found = config(risk=risk, retraining=None, validation=None)
    assert found.promotion.mode == mode
    assert (found.validation.confidence, found.validation.min_rows) == (confidence, rows)
    assert found.retraining.when.trigger == "perennial"


def test_file_settings_override_risk_defaults():
    found = config(risk="high", promotion={"mode": "automatic"})
    assert found.promotion.mode == "automatic"
    assert found.validation.min_rows == 100
    assert found.validation.confidence == 0.99
    assert found.retraining.max_retrains_per_month is None


@pytest.mark.parametrize("verdict", ["t_test", {"method": "t_test"}])
def test_a_verdict_may_be_named_by_its_method(verdict):
    found = config(risk="high", rollout={"verdict": verdict}).rollout.verdict
    assert (found.method, found.confidence) == ("t_test", 0.99)


def test_check_describes_risk_requirements():
    described = " ".join(describe(config(risk="high")))
    assert "its risk, high, requires 99% intervals on at least 100 rows and a person's approval" in described


def test_unknown_risk_is_refused(tmp_path):
    with pytest.raises(ModelConfigError, match="risk is 'huge'"):
        load_model_config(write_model(tmp_path / "m", **{"risk: low": "risk: huge"}))
