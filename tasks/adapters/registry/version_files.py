"""Load a registered version's files: the model, checked against its hash, and what was frozen at training.

Versions are immutable, so results are cached.
"""

import json
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow.artifacts
from mlflow.exceptions import MlflowException

from tasks.adapters import foreign, models, profiling
from tasks.adapters.registry import versions as registry
from tasks.adapters.storage import relocation
from tasks.adapters.storage.workspace import workspace
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.monitoring.attribution import AttributionProfile
from tasks.policy.records.base import from_json
from tasks.policy.records.binned_rows import CodedRows
from tasks.policy.records.errors import ModelFileError, NoModelFile
from tasks.policy.records.profile import ReferenceProfile
from tasks.policy.records.text import without_secrets
from tasks.policy.training.search import SearchReport

if TYPE_CHECKING:  # scikit-learn and XGBoost are loaded only for prediction; the other files need neither
    import pyarrow as pa

    from tasks.adapters.models.files import Scorer
    from tasks.adapters.profiling.reference_sample import ReferenceSample

PROFILE, MANIFEST, IMPORTANCE = "reference_profile.json", "training_manifest.json", "feature_importance.json"
ATTRIBUTION = "feature_attribution.json"
CODED_ROWS, REFERENCE_SAMPLE = "coded_rows.parquet", "reference_sample.parquet"
VALIDATED = "validated"
"""Folder with the files of the model that was validated, where another one was refitted to serve."""
SUITE, ANSWERS = "expectation_suite.json", "sample_answers.arrow"
SEARCH = "search_report.json"


def load_scorer(version: ModelVersion, imported: tuple[str, ...] = (), fresh: bool = False) -> "Scorer":
    """Load a version's scorer and check its SHA-256; `fresh` bypasses the cache.

    The hash and the trusted types are the ledger's, as `registry.version` returns them. `imported` are the import
    paths in the model's file; types of their packages are allowed. Boosters need none. Raises ModelFileError on missing or
    altered files and on types of other packages, NoModelFile for a version of somebody else's service.
    """
    if version.observed_as is not None:
        raise NoModelFile(
            f"{version.model} version {version.version} is {version.observed_as!r} of your own service, whose predictions are "
            "only read; expected a version with a model file: train one (perennial run retrain), or change it in your service"
        )
    load = _scorer.__wrapped__ if fresh else _scorer
    run_id = version.run_id if version.part == "validated" else None
    trusted_types = tuple(json.loads(dict(version.tags).get("trusted_types", "[]")))
    scorer: Scorer = load(
        _ModelFiles(workspace().mlflow, version.model, version.version, version.sha256, trusted_types, run_id), imported
    )
    return scorer


@dataclass(frozen=True, slots=True)
class _ModelFiles:
    """The files of a version and what loading them depends on; unlike a `ModelVersion`, it does not change with tags."""

    uri: str
    model: str
    version: str
    sha256: str
    trusted_types: tuple[str, ...]
    validated_run: str | None = None
    """The run whose artifacts hold them, for the model that was validated before the refit."""


def serving_files(version: ModelVersion) -> dict[str, bytes]:
    """Return the files of the model that serves, by name. Raises ModelFileError if they are not those registered."""
    content = _content(_ModelFiles(workspace().mlflow, version.model, version.version, version.sha256, ()))
    models.files.check_unchanged(content, version.sha256)
    return content


@lru_cache(maxsize=8)
def _scorer(stored: _ModelFiles, imported: tuple[str, ...]) -> "Scorer":
    content = _content(stored)
    if foreign.scorer.is_foreign(content):
        return foreign.scorer.load(content, stored.sha256)
    packages = models.files.trusted_packages(imported)
    return models.files.load(content, stored.sha256, stored.trusted_types, packages)


def _content(stored: _ModelFiles) -> dict[str, bytes]:
    if stored.validated_run is not None:
        address = f"{_place(stored.uri, stored.validated_run)}/{VALIDATED}"
    else:
        source = registry.stored_version(stored.model, stored.version).source
        address = f"{relocation.current_location(source)}/data/files"
    with tempfile.TemporaryDirectory() as folder:
        return models.files.read(_download(address, Path(folder), stored.uri))


def model_content(version: ModelVersion) -> dict[str, bytes]:
    """Return the files of a version's model by name, neither checked nor loaded. Raises ModelFileError."""
    return _content(_ModelFiles(workspace().mlflow, version.model, version.version, version.sha256, ()))


def sample_answers(version: ModelVersion) -> "pa.Table | None":
    """Return rows with the answers that the model gave when it was trained; None for versions that predate them."""
    uri = workspace().mlflow
    if not _holds(uri, version.run_id, ANSWERS):
        return None
    from tasks.adapters.registry import known_answers  # Arrow, which reading a version's other files does not need

    return known_answers.from_ipc(_read_artifact(uri, version.run_id, ANSWERS))


def _download(address: str, folder: Path, uri: str) -> Path:
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder), tracking_uri=uri))
    except (MlflowException, OSError) as error:
        raise ModelFileError(
            f"{without_secrets(address)}: cannot be read ({type(error).__name__}); expected the files that were "
            "registered; restore the artifact store, set PERENNIAL_ARTIFACTS to where it was moved, or roll back to another "
            "version"
        ) from None  # MLflow's message includes the address with its password


@lru_cache(maxsize=32)
def _artifact(uri: str, run_id: str, name: str) -> str:
    return _read_artifact(uri, run_id, name).decode("utf-8")


def _read_artifact(uri: str, run_id: str, name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return _download(f"{_place(uri, run_id)}/{name}", Path(folder), uri).read_bytes()


def _holds(uri: str, run_id: str, name: str) -> bool:
    with registry.registry_errors(f"artifacts of run {run_id} cannot be listed"):
        listed = mlflow.artifacts.list_artifacts(artifact_uri=_place(uri, run_id), tracking_uri=uri)
    return name in {Path(file.path).name for file in listed}


def _place(uri: str, run_id: str) -> str:
    with registry.registry_errors(f"run {run_id} cannot be read"):
        return relocation.current_location(registry.client_of(uri).get_run(run_id).info.artifact_uri)


def reference_profile(version: ModelVersion) -> ReferenceProfile:
    """Return the profile that was frozen when the version was trained."""
    return _profile(workspace().mlflow, version.run_id)


@lru_cache(maxsize=8)
def _profile(uri: str, run_id: str) -> ReferenceProfile:
    return from_json(ReferenceProfile, _artifact(uri, run_id, PROFILE))


def feature_importance(version: ModelVersion) -> dict[str, float]:
    """Return each feature's share of the model's gain, as logged at training; empty if the estimator has none."""
    shares: dict[str, float] = json.loads(_artifact(workspace().mlflow, version.run_id, IMPORTANCE))
    return shares


def attribution(version: ModelVersion) -> AttributionProfile | None:
    """Return the feature attribution in training; None for estimators without SHAP values and for older versions."""
    return _attribution(workspace().mlflow, version.run_id)


@lru_cache(maxsize=8)
def _attribution(uri: str, run_id: str) -> AttributionProfile | None:
    if not _holds(uri, run_id, ATTRIBUTION):
        return None
    return from_json(AttributionProfile, _artifact(uri, run_id, ATTRIBUTION))


def coded_rows(version: ModelVersion) -> CodedRows | None:
    """Return training rows as codes of the profile's bins; None for versions that predate them."""
    return _coded_rows(workspace().mlflow, version.run_id)


@lru_cache(maxsize=4)
def _coded_rows(uri: str, run_id: str) -> CodedRows | None:
    return (
        profiling.binned_rows.from_parquet(_read_artifact(uri, run_id, CODED_ROWS))
        if _holds(uri, run_id, CODED_ROWS)
        else None
    )


def reference_sample(version: ModelVersion) -> "ReferenceSample | None":
    """Return training rows with their values; None for versions that predate them."""
    return _reference_sample(workspace().mlflow, version.run_id)


@lru_cache(maxsize=2)
def _reference_sample(uri: str, run_id: str) -> "ReferenceSample | None":
    if not _holds(uri, run_id, REFERENCE_SAMPLE):
        return None
    return profiling.reference_sample.from_parquet(_read_artifact(uri, run_id, REFERENCE_SAMPLE))


def expectation_suite(version: ModelVersion) -> str | None:
    """Return the JSON of the suite learned with the version; None for versions that predate suites."""
    uri = workspace().mlflow
    return _artifact(uri, version.run_id, SUITE) if _holds_suite(uri, version.run_id) else None


@lru_cache(maxsize=32)
def _holds_suite(uri: str, run_id: str) -> bool:
    return _holds(uri, run_id, SUITE)


def manifest(version: ModelVersion) -> str:
    """Return the JSON of the training manifest, which holds everything needed to train the same version again."""
    return _artifact(workspace().mlflow, version.run_id, MANIFEST)


def search_report(version: ModelVersion) -> SearchReport | None:
    """Return what was searched before the version was trained; None if nothing was."""
    if registry.SEARCHED not in dict(version.tags):
        return None
    return from_json(SearchReport, _artifact(workspace().mlflow, version.run_id, SEARCH))
