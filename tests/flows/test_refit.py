"""Refit: the validated model is fitted again with the holdout, checked against the one that was validated, and serves."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from deployments.config.model import ModelConfig
from tasks.adapters import lake, models, registry
from tasks.adapters.profiling.profile import freeze_reference
from tasks.adapters.registry import registration
from tasks.policy.evidence.validation import ValidationReport
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import from_json, to_json
from tasks.policy.records.reports import Snapshot
from tasks.policy.rollout.validation import why_not_promote
from tasks.training.train import train_challenger
from tasks.training.validation import validate_challenger
from tests.support.trained_models import HOLDOUT, TRAINING, land, make_config, make_rows, prepare_registry

NEXT = replace(HOLDOUT, start=HOLDOUT.start + timedelta(days=2), end=HOLDOUT.end + timedelta(days=2))


@pytest.fixture(autouse=True)
def _registry(workspace: Path) -> None:
    prepare_registry(workspace)


def landed(config: ModelConfig, turn: float = 1.0) -> tuple[Snapshot, Snapshot]:
    training = land(config, TRAINING, make_rows(config.task))
    return training, land(config, HOLDOUT, make_rows(config.task, rows=400, window=HOLDOUT, seed=9, turn=turn))


def train(config: ModelConfig, parts: tuple[Snapshot, Snapshot], decision_id: str = "d1") -> ModelVersion:
    with disable_run_logger():
        return train_challenger.fn(config, parts[0], decision_id, parts[1])


def validate(config: ModelConfig, new: ModelVersion, old: ModelVersion | None, holdout: Snapshot) -> ValidationReport:
    with disable_run_logger():
        return validate_challenger.fn(config, new, old, holdout)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_serving_model_learned_the_holdout(task):
    """The version that serves is the plain fit to all rows with as many rounds; the one that is judged, to the older rows."""
    config = make_config(task)
    training, holdout = landed(config)
    version = train(config, (training, holdout))
    validated = version.before(HOLDOUT.start)
    assert (version.trained.end, validated.trained.end) == (HOLDOUT.end, TRAINING.end)
    older = models.estimators.fit(config, lake.read_labelled(training))
    fresh = make_rows(task, rows=50, window=NEXT, seed=3)
    load = registry.version_files.load_scorer
    assert (load(validated).predict(fresh) == older.scorer.predict(fresh)).all()
    assert (load(version).predict(fresh) != older.scorer.predict(fresh)).any()
    assert load(version).estimator.get_booster().num_boosted_rounds() == older.rounds
    manifest = json.loads(registry.version_files.manifest(version))
    assert (manifest["training_rows"], manifest["holdout"]["rows"]) == (1400, 400)
    assert (manifest["sha256"], manifest["validated_sha256"]) == (version.sha256, validated.sha256)
    assert from_json(ModelVersion, to_json(validated)) == validated


def test_off_by_setting():
    config = make_config(training={"parameters": {"n_estimators": 30}, "min_rows": 200, "refit": False})
    parts = landed(config)
    version = train(config, parts)
    assert not version.is_refitted and version.trained == TRAINING
    assert validate(config, version, None, parts[1]).refit is None


def test_next_holdout_overlaps_what_the_champion_was_refitted_on():
    """The champion has seen half of the next holdout; its validated model has not, and is the one that is compared."""
    config = make_config()
    training, holdout = landed(config)
    champion = train(config, (training, holdout))
    challenger = train(config, (training, holdout), "d2")
    report = validate(config, challenger, champion, holdout)
    assert report.verdict == "pass"
    assert report.differences[0].gain == pytest.approx(0), "the same rows and settings"
    refused = validate(config, replace(challenger, tags=()), champion, holdout)
    assert refused.verdict == "fail"
    assert "was trained until 2024-03-06 00:00, after the first validation row" in " ".join(refused.reasons)


def test_refit_that_went_wrong_fails_the_challenger():
    """What was validated is sound, but the model that would serve learned another concept."""
    config = make_config()
    training, holdout = landed(config)
    good = train(config, (training, holdout))
    passed = validate(config, good, None, holdout)
    assert (passed.verdict, passed.refit.verdict) == ("pass", "pass")
    assert why_not_promote(config.validation, config.promotion, good, None, passed) is None

    rows = lake.read_labelled(training)
    profile = freeze_reference(rows.to_batches(), config, TRAINING, training.content_hash)
    wrong = models.estimators.fit(config, make_rows(turn=-1.0))
    trained = registration.TrainedModel(
        models.estimators.fit(config, rows), training, profile, refit=registration.Refit(wrong, holdout)
    )
    failed = validate(config, registration.register(config, trained, "d2"), None, holdout)
    assert failed.verdict == "fail"
    assert failed.reasons[0].startswith("the refitted model is worse than the validated one: log_loss: gain -")
    assert from_json(ValidationReport, to_json(failed)) == failed


def test_promotion_checks_the_refit_again():
    """A report that says pass beside numbers that fail is not believed."""
    config = make_config()
    parts = landed(config)
    version = train(config, parts)
    report = validate(config, version, None, parts[1])
    worse = replace(report.refit.difference, gain=-1.0, low=-1.1, high=-0.9)
    forged = replace(report, refit=replace(report.refit, difference=worse))
    refusal = why_not_promote(config.validation, config.promotion, version, None, forged)
    assert refusal.startswith("validation says pass, but the refitted model is worse than the validated one")
