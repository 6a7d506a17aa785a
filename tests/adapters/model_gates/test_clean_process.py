"""The infrastructure blessing: registered versions in a real clean process, one planted challenger for each gate."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.config.model import ModelConfig
from tasks.adapters.model_gates.clean_process import PackagedModel, try_models
from tasks.adapters.model_gates.packaged import service_measures
from tasks.adapters.models import estimators, files
from tasks.adapters.models.encoding import Encoding
from tasks.adapters.profiling.profile import freeze_reference
from tasks.adapters.registry import known_answers, registration, version_files
from tasks.policy.evidence.validation import GateMeasure
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.model_gates.judgement import failed_measures
from tests.support.trained_models import (
    HOLDOUT,
    TRAINING,
    make_config,
    make_rows,
    make_snapshot,
    prepare_registry,
    register,
)


@pytest.fixture(autouse=True)
def _registry(workspace: Path) -> None:
    prepare_registry(workspace)


def register_scorer(config: ModelConfig, decision_id: str, fitted: estimators.Fitted) -> ModelVersion:
    rows = make_rows(config.task)
    profile = freeze_reference(rows.to_batches(), config, TRAINING, "0" * 64)
    return registration.register(config, registration.TrainedModel(fitted, make_snapshot(), profile), decision_id)


def measured(config: ModelConfig, challenger: ModelVersion, champion: ModelVersion | None) -> tuple[GateMeasure, ...]:
    return service_measures(config, challenger, champion, make_rows(config.task, 200, HOLDOUT, seed=9))


def failed(config: ModelConfig, measures: tuple[GateMeasure, ...]) -> list[str]:
    return [reason.partition(":")[0] for reason in failed_measures(config.validation, measures)]


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_good_challenger_passes_every_gate(task):
    config = make_config(task)
    old, new = register(config, "old"), register(config, "new", seed=1)
    measures = measured(config, new, old)
    assert failed(config, measures) == []
    assert [measure.gate for measure in measures] == [
        "no code", "loading", "answers", "malformed input", "latency", "memory"
    ]  # fmt: skip
    answers = next(measure for measure in measures if measure.gate == "answers")
    assert (answers.value, answers.rows) == (0.0, known_answers.ROWS)
    assert answers.subject == "largest relative difference from its answers at training"
    assert all(measure.value > 0 and measure.champion > 0 for measure in measures[-2:])


@pytest.mark.parametrize(
    ("estimator", "gate"), [("SlowClassifier", "latency"), ("HungryClassifier", "memory")], ids=["slow", "too big"]
)
def test_challenger_that_serves_badly_is_stopped_by_one_gate_alone(estimator, gate):
    config = make_config()
    own = config.training.model_copy(
        update={"estimator": f"tests.support.planted_estimators:{estimator}", "parameters": {}}
    )
    badly = config.model_copy(update={"training": own})
    assert failed(badly, measured(badly, register(badly, "new"), register(config, "old"))) == [gate]


def test_challenger_that_answers_malformed_rows_is_stopped_by_that_alone():
    """Its own schema lists a boolean as a category, so that it answers text."""
    config = make_config()
    fitted = estimators.fit(config, make_rows())
    kinds = tuple((name, "categorical" if name == "flag" else kind) for name, kind in fitted.scorer.encoding.features)
    encoding = Encoding(kinds, {**fitted.scorer.encoding.categories, "flag": ("false", "true")})
    wrong = replace(fitted, scorer=replace(fitted.scorer, encoding=encoding))
    measures = measured(config, register_scorer(config, "new", wrong), register(config, "old"))
    assert failed(config, measures) == ["malformed input"]
    assert (
        "answers malformed rows (flag as string), expected a refusal" in failed_measures(config.validation, measures)[0]
    )


def test_challenger_that_answers_otherwise_than_at_training_is_stopped_by_that_alone(workspace):
    config = make_config()
    old, new = register(config, "old"), register(config, "new", seed=1)
    (stored,) = (workspace / "artifacts").rglob(f"{new.run_id}/**/{version_files.ANSWERS}")
    rows = known_answers.from_ipc(stored.read_bytes())
    other = known_answers.with_answers(known_answers.without_answers(rows), known_answers.answers_in(rows) + 0.01)
    stored.write_bytes(known_answers.to_ipc(other))
    measures = measured(config, new, old)
    assert failed(config, measures) == ["answers"]
    assert "relative difference 0.01 on 64 rows" in failed_measures(config.validation, measures)[0]


@pytest.mark.parametrize("name", ["model.pkl", "notes.bin"])
def test_pickle_among_the_files_is_refused_before_loading(workspace, name):
    """The registered hash covers the pickle, so that it alone is no reason against it."""
    config = make_config()
    version = register(config, "new")
    (folder,) = {path.parent for path in (workspace / "artifacts").rglob("data/files/model.ubj")}
    (folder / name).write_bytes(pickle.dumps({"a": 1}))
    changed = replace(version, sha256=files.sha256(files.read(folder)))
    measures = measured(config, changed, None)
    assert measures[0].gate == "no code"
    assert f"holds pickled objects ({name}), which may run code when they are loaded" in measures[0].fault
    assert all(measure.fault == "not measured, because the files may run code" for measure in measures[1:])


def test_loading_refuses_to_unpickle_and_to_start_programs():
    """In a process of its own, because an audit hook stays."""
    import subprocess
    import sys

    program = (
        "import pickle, os; from tasks.adapters.model_gates.program import CodeOnLoad, refuse_code\n"
        "data = pickle.dumps(os.getcwd); allow = refuse_code()\n"
        "for attempt in (lambda: pickle.loads(data), lambda: os.system('true')):\n"
        "    try: attempt(); print('ran')\n"
        "    except CodeOnLoad: print('refused')\n"
        "allow(); pickle.loads(data); print('allowed')"
    )
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": ""}
    shown = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["refused", "refused", "allowed"]


def test_version_whose_files_were_changed_fails_closed():
    config = make_config()
    version = register(config, "new")
    content = version_files.model_content(version)
    known = known_answers.answer_rows(version_files.load_scorer(version), None)
    cut = {**content, "model.ubj": content["model.ubj"][:-20]}
    rows = make_rows(rows=50, window=HOLDOUT)
    broken, good = (PackagedModel(version, each, known, "its answers") for each in (cut, content))
    first, second = try_models((broken, good), rows)
    assert "does not load and answer in a clean process: ModelFileError" in first.fault
    assert (second.fault, second.deviation) == (None, 0.0)


def test_measurement_that_takes_too_long_fails_closed(monkeypatch):
    monkeypatch.setattr("tasks.adapters.model_gates.clean_process.TIME_LIMIT_S", 0.05)
    config = make_config()
    measures = measured(config, register(config, "new"), None)
    assert failed(config, measures) == ["loading", "answers", "malformed input", "latency", "memory"]
    assert "took longer than 0.05 s" in measures[1].fault
