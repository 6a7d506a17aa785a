"""The gateway serves an adopted model as its maker's own code predicts, and refuses what that model cannot read."""

import pandas as pd
import pytest

from deployments.config.model import ModelConfig
from tasks.adapters import foreign, registry
from tasks.adapters.profiling.profile import freeze_reference
from tasks.adapters.registry import registration
from tests.support.foreign_models import FEATURES, pipeline, stored
from tests.support.gateway import NAME, ROW, ask, gateway_of, prepare
from tests.support.trained_models import TRAINING, make_rows, make_snapshot


@pytest.fixture(params=["model.skops", "model.joblib"])
def adopted(request, workspace, tmp_path) -> ModelConfig:
    """Version 3 is adopted and champion."""
    config = prepare(workspace)
    if request.param == "model.joblib":
        config = config.model_copy(update={"training": config.training.model_copy(update={"trust": True})})
    rows = make_rows()
    fitted = foreign.take_in(config, stored(tmp_path, pipeline(), request.param), rows)
    profile = freeze_reference(rows.to_batches(), config, TRAINING, "hash")
    made = registration.register(
        config, registration.TrainedModel(fitted, make_snapshot(TRAINING, len(rows)), profile), "adopted"
    )
    registry.set_aliases(NAME, {registry.CHAMPION: made.version})
    return config


def test_adopted_version_answers(adopted):
    gateway = gateway_of(adopted)
    rows = [
        {**ROW, "id": f"a{number}", "x": number / 7, "colour": colour}
        for number, colour in enumerate(["red", "blue", "mauve"])
    ]
    answer = ask(gateway, *rows)
    assert answer.status_code == 200, answer.text
    own = pipeline().predict_proba(pd.DataFrame(rows)[FEATURES])[:, 1]
    assert answer.json()["predictions"] == pytest.approx(own)


def test_null_that_it_cannot_read_is_the_requests_fault(adopted):
    answer = ask(gateway_of(adopted), {**ROW, "x": None})
    assert answer.status_code == 400
    assert "holds nulls, which the adopted LogisticRegression cannot read" in answer.text


def test_withdrawn_trust_is_said_and_nothing_answers(adopted):
    if not adopted.training.trust:
        pytest.skip("this format needs no trust")
    training = adopted.training.model_copy(update={"trust": False})
    distrusting = adopted.model_copy(update={"training": training})
    answer = ask(gateway_of(distrusting), ROW)
    assert answer.status_code == 503 and "training.trust: true" in answer.text
