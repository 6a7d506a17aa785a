"""The registry on a real MLflow: one version per decision, lineage, aliases, model files."""

import functools
import json
import os
import subprocess
import sys
import textwrap
import timeit
from dataclasses import replace
from importlib.metadata import version as installed_version
from pathlib import Path

import mlflow
import numpy as np
import pytest
import skops.io
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from xgboost import XGBClassifier

from tasks.adapters import registry
from tasks.adapters.evaluation import challenger as trial
from tasks.adapters.models import estimators, files as model_files
from tasks.adapters.profiling.profile import freeze_reference
from tasks.adapters.registry import lineage, registration, version_files
from tasks.policy.records.errors import ModelFileError, NoChampion, RegistryError
from tests.support.trained_models import TRAINING, make_config, make_rows, make_snapshot, prepare_registry, register

ROOT = Path(__file__).parents[3]
CONFIG = make_config()


@pytest.fixture(autouse=True)
def _registry(workspace: Path) -> None:
    prepare_registry(workspace)


def stored_file(workspace: Path, name: str) -> Path:
    return next((workspace / "artifacts").rglob(name))


def test_version_records_its_lineage():
    version = register(CONFIG)
    tags = dict(version.tags)
    assert (version.model, version.version, version.decision_id) == ("binary_model", "1", "d1")
    assert (version.trained, version.training_rows) == (TRAINING, 1000)
    assert tags["content_hash"] == make_snapshot().content_hash
    assert tags["snapshot"] == "memory://rows@3"
    assert tags["config_fingerprint"] == CONFIG.fingerprint
    assert json.loads(tags["classes"]) == ["0", "1"]
    assert registry.version("binary_model", "1") == version


def test_lineage_without_git_names_image_commit_or_package(monkeypatch):
    monkeypatch.setenv("PATH", "")
    messages = []
    for commit in ("0123abc", ""):
        monkeypatch.setenv("PERENNIAL_COMMIT", commit)
        lineage.code_version.cache_clear()
        messages.append(lineage.code_version())
    lineage.code_version.cache_clear()
    assert messages == ["0123abc", f"perennial {installed_version('perennial')}"]


def test_the_run_links_rows_code_parameters_and_metrics():
    version = register(CONFIG)
    run = registry.client().get_run(version.run_id)
    dataset = run.inputs.dataset_inputs[0].dataset
    assert run.info.status == "FINISHED"
    assert run.data.params["max_depth"] == "3"
    assert run.data.tags["decision_id"] == "d1"
    assert run.data.tags["mlflow.source.git.commit"]
    assert 0 < run.data.metrics["held_back_log_loss"] < 0.5
    assert dataset.digest == make_snapshot().content_hash[:36]
    source = json.loads(dataset.source)
    assert (source["path"], source["delta_table_version"]) == ("memory://rows", 3)


def test_manifest_describes_how_to_reproduce_the_version():
    version = register(CONFIG)
    manifest = json.loads(version_files.manifest(version))
    assert manifest["seed"] == 7
    assert manifest["sha256"] == version.sha256
    assert manifest["snapshot"]["content_hash"] == make_snapshot().content_hash
    assert (manifest["fitted_rows"], manifest["held_back_rows"]) == (1000, 150)
    assert manifest["libraries"]["xgboost"] == __import__("xgboost").__version__


def test_reference_profile_and_importance_round_trip():
    version = register(CONFIG)
    rows, snapshot = make_rows(), make_snapshot()
    assert version_files.reference_profile(version) == freeze_reference(
        rows.to_batches(), CONFIG, snapshot.window, snapshot.content_hash
    )
    assert version_files.feature_importance(version) == estimators.fit(CONFIG, rows).importance


def test_registration_is_idempotent_per_decision():
    first = register(CONFIG)
    again = register(CONFIG)
    other = register(CONFIG, decision_id="d2")
    assert again == first
    assert other.version == "2"
    assert len(registry.client().search_model_versions("name='binary_model'")) == 2


@pytest.mark.slow("two processes register with MLflow")
def test_concurrent_registrations_leave_one_version(workspace):
    """Also if both start without a database, whose tables only one of them may create."""
    (workspace / "mlflow.db").unlink()
    script = textwrap.dedent("""
        from tests.support.trained_models import make_config, register
        print(register(make_config()).version)
    """)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], answers
    versions = registry.client().search_model_versions("name='binary_model'")
    assert len(versions) == 1
    assert {answer[0].strip() for answer in answers} == {str(versions[0].version)}


def test_later_duplicate_version_is_removed():
    """Two processes both found no version and both created one."""
    first = register(CONFIG)
    stored = registry.client().create_model_version(
        "binary_model", registry.client().get_model_version("binary_model", "1").source, tags=dict(first.tags)
    )
    late = registry.as_record(stored)
    assert late.version == "2"
    assert registration._resolve_race(registry.client(), late) == first
    assert registration._resolve_race(registry.client(), first) == first
    assert [found.version for found in registry.client().search_model_versions("name='binary_model'")] == [1]


def test_interrupted_registration_leaves_no_version(workspace):
    registry.client().create_registered_model("binary_model")
    (workspace / "artifacts").write_text("a file where the folder should be")
    with pytest.raises(RegistryError, match="a version cannot be registered"):
        register(CONFIG)
    assert registry.find("binary_model", "d1") is None
    experiment = registry.client().get_experiment_by_name("binary_model")
    assert [run.info.status for run in registry.client().search_runs([experiment.experiment_id])] == ["FAILED"]


def test_aliases_are_empty_before_anything_was_registered():
    assert registry.aliases("binary_model") == {}
    assert registry.find("binary_model", "d1") is None


def test_missing_champion_error_names_the_command():
    with pytest.raises(NoChampion, match=r"train the first one with `perennial run retrain --model binary_model`"):
        registry.version("binary_model", "champion")


def test_unknown_alias_or_version_lists_known_ones():
    register(CONFIG)
    registry.set_aliases("binary_model", {"champion": "1"})
    with pytest.raises(RegistryError, match="the aliases are: champion → 1"):
        registry.version("binary_model", "previous")
    with pytest.raises(RegistryError, match="version 9 is not in the registry"):
        registry.version("binary_model", "9")


def test_aliases_are_set_moved_and_removed():
    for decision_id in ("d1", "d2"):
        register(CONFIG, decision_id)
    registry.set_aliases("binary_model", {"champion": "1", "challenger": "2"})
    registry.set_aliases("binary_model", {"champion": "2", "previous": "1", "challenger": None})
    assert registry.aliases("binary_model") == {"champion": "2", "previous": "1"}


def test_foreign_version_is_refused():
    registry.client().create_registered_model("binary_model")
    registry.client().create_model_version("binary_model", "file:///nowhere")
    with pytest.raises(RegistryError, match="has no tag decision_id, sha256"):
        registry.version("binary_model", "1")


def test_scorer_predicts_like_the_fitted_model_and_is_cached():
    version = register(CONFIG)
    fresh = make_rows(seed=5)
    expected = estimators.fit(CONFIG, make_rows()).scorer.predict(fresh)
    scorer = version_files.load_scorer(version)
    np.testing.assert_array_equal(scorer.predict(fresh), expected)
    assert version_files.load_scorer(version) is scorer
    assert version_files.load_scorer(version, fresh=True) is not scorer


def test_changed_file_is_detected_despite_cache(workspace):
    version = register(CONFIG)
    version_files.load_scorer(version)
    path = stored_file(workspace, "model.ubj")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelFileError, match="changed or cut short"):
        version_files.load_scorer(version, fresh=True)


def test_missing_file_is_reported(workspace):
    version = register(CONFIG)
    stored_file(workspace, "model.ubj").unlink()
    with pytest.raises(ModelFileError):
        version_files.load_scorer(version, fresh=True)


def test_forged_hash_is_refused():
    with pytest.raises(ModelFileError):
        version_files.load_scorer(replace(register(CONFIG), sha256="0" * 64))


def test_pickle_is_neither_stored_nor_loaded(workspace):
    register(make_config(training={"estimator": "sklearn.ensemble:RandomForestClassifier", "min_rows": 10}))
    names = {path.name for path in (workspace / "artifacts").rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_forest_is_served_with_trusted_types():
    config = make_config(training={"estimator": "sklearn.ensemble:RandomForestClassifier", "min_rows": 10})
    version = register(config)
    assert json.loads(dict(version.tags)["trusted_types"]) == ["sklearn.tree._tree.Tree"]
    assert version_files.load_scorer(version, fresh=True).predict(make_rows()).shape == (1000,)


@pytest.mark.parametrize("estimator", [None, "lightgbm:LGBMClassifier", "catboost:CatBoostClassifier"])
def test_mlflow_itself_can_serve_the_model(workspace, monkeypatch, estimator):
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", f"sqlite:///{workspace / 'mlflow.db'}"
    )  # otherwise MLflow creates one here
    training = {"estimator": estimator, "parameters": {"n_estimators": 20}, "min_rows": 200}
    version = register(make_config(training=training))
    rows = make_rows(seed=3)
    location = registry.client().get_model_version("binary_model", "1").source
    served = mlflow.pyfunc.load_model(location)
    np.testing.assert_array_equal(
        served.predict(rows.select(["x", "noise", "colour", "flag"]).to_pandas()),
        version_files.load_scorer(version, fresh=True).predict(rows),
    )
    package = (estimator or "xgboost:").partition(":")[0]
    requirements = Path(mlflow.pyfunc.get_model_dependencies(location)).read_text(encoding="utf-8")
    assert f"{package}=={installed_version(package)}" in requirements


def test_an_unreachable_registry_is_a_clear_error(monkeypatch, tmp_path):
    (tmp_path / "not-a-database").write_text("no")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'not-a-database'}")
    with pytest.raises(RegistryError, match="check MLFLOW_TRACKING_URI"):
        registry.client()


def test_tags_cannot_trust_foreign_types(workspace, tmp_path):
    """Whoever can write to the registry can write file, hash and list of trusted types."""
    register(make_config(training={"estimator": "sklearn.ensemble:RandomForestClassifier", "min_rows": 10}))
    pwned, stored = tmp_path / "pwned", stored_file(workspace, "model.skops")
    code = functools.partial(timeit.timeit, "pass", f"open({str(pwned)!r}, 'w')")
    stored.write_bytes(skops.io.dumps(make_pipeline(FunctionTransformer(code), DummyClassifier())))
    sha256 = model_files.sha256(model_files.read(stored.parent))
    trusted = json.dumps(["functools.partial", "timeit.timeit"])
    registry.tag("binary_model", "1", sha256=sha256, trusted_types=trusted)
    fault = trial.smoke_test(registry.version("binary_model", "1"))
    assert not pwned.exists()
    assert "holds functools.partial, timeit.timeit, expected types from sklearn, numpy, scipy only" in fault


def test_types_of_the_estimators_package_are_loaded():
    content, needed = skops.io.dumps(FunctionTransformer(json.dumps)), ("json.dumps",)
    assert model_files.trusted_packages(["json.models:Model"]) == ("sklearn", "numpy", "scipy", "json")
    loaded = model_files._skops(content, needed, model_files.trusted_packages(["json.models:Model"]))
    assert loaded.func is json.dumps
    with pytest.raises(ModelFileError, match=r"holds json\.dumps, .* or, if it was trained with another estimator"):
        model_files._skops(content, needed, model_files.trusted_packages(["sklearn.linear_model:Ridge"]))


@pytest.mark.parametrize(
    ("error", "is_version_fault"), [(NotFittedError("not fitted yet"), True), (MemoryError(), False)]
)
def test_estimator_errors_differ_from_machine_errors(monkeypatch, error, is_version_fault):
    version = register(CONFIG)

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(XGBClassifier, "predict_proba", refuse)
    if is_version_fault:
        fault = trial.smoke_test(version)
        assert "its XGBClassifier cannot predict these rows (NotFittedError: not fitted yet)" in fault
    else:
        with pytest.raises(MemoryError):
            trial.smoke_test(version)
