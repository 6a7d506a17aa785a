"""MLflow's registry: versions, and the aliases that say who serves: champion, challenger, previous.

Aliases have no compare-and-swap in MLflow, so moves are serialised by the model's lease, which each write asks first.
What is left open is one request: a process that is frozen between that question and MLflow's answer. Tracking and
registry addresses are always passed explicitly: nothing here depends on MLflow's global state or changes it.
"""

import fcntl
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow.artifacts
from mlflow.entities.model_registry import ModelVersion as StoredVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from tasks.adapters import lease
from tasks.adapters.workspace import workspace
from tasks.policy.attribution import AttributionProfile
from tasks.policy.coded_rows import CodedRows
from tasks.policy.errors import PerennialError
from tasks.policy.evidence import ModelVersion, Window, from_json, utc
from tasks.policy.profile import ReferenceProfile

if TYPE_CHECKING:  # scikit-learn and XGBoost load where a model answers; aliases and tags need neither
    from tasks.adapters.model_files import Scorer

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
PROFILE, MANIFEST, IMPORTANCE = "reference_profile.json", "training_manifest.json", "feature_importance.json"
ATTRIBUTION = "feature_attribution.json"
CODED_ROWS = "coded_rows.parquet"
LOST = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


class RegistryError(PerennialError):
    """The registry cannot be reached, or holds no such version."""


class NoChampion(RegistryError):
    """No version of the model serves yet."""


def client() -> MlflowClient:
    """The client of the workspace's registry; one per address and process."""
    return _client(workspace().mlflow)


@lru_cache(maxsize=16)
def _client(uri: str) -> MlflowClient:
    with answers("the registry cannot be opened"), _alone(uri):
        connected = MlflowClient(tracking_uri=uri, registry_uri=uri)
        connected.search_registered_models(max_results=1)
        return connected


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Two processes that meet an empty SQLite file would both create its tables, and one would fail."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    with Path(uri.removeprefix("sqlite:///") + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def answers(what: str) -> Iterator[None]:
    """Turns what MLflow, its database and the disk raise into an error that says where and what to do."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        kind = error.error_code if isinstance(error, MlflowException) else type(error).__name__
        raise RegistryError(
            f"{what}: {kind} from {_address(workspace().mlflow)}: {str(error).splitlines()[0][:200]}; "
            "check MLFLOW_TRACKING_URI, and that the registry runs and has room and rights to write"
        ) from error


def _address(uri: str) -> str:
    """A registry's address without the password that it may carry."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def aliases(model: str) -> dict[str, str]:
    """Alias → version number; empty for a model that was never registered."""
    try:
        stored = client().get_registered_model(model).aliases
        return {alias: str(number) for alias, number in stored.items()}  # SQLite gives them as int
    except MlflowException as error:
        if error.error_code == LOST:
            return {}
        raise RegistryError(f"{model}: its aliases cannot be read: {error.error_code}; check the registry") from error


def version(model: str, alias_or_number: str) -> ModelVersion:
    """A version by alias or number. Raises NoChampion for a champion that does not exist, RegistryError otherwise."""
    if alias_or_number.isdigit():
        return as_record(_stored(model, alias_or_number))
    known = aliases(model)
    number = known.get(alias_or_number)
    if number is None and alias_or_number == CHAMPION:
        raise NoChampion(
            f"{model}: no champion in the registry, expected a version with the alias champion; "
            f"train the first one with `python -m flows.retrain --model {model}`"
        )
    if number is None:
        found = ", ".join(f"{alias} → {number}" for alias, number in sorted(known.items())) or "none"
        raise RegistryError(f"{model}: no version has the alias {alias_or_number}, the aliases are: {found}")
    return as_record(_stored(model, number))


def find(model: str, decision_id: str) -> ModelVersion | None:
    """The version that a decision led to, the lowest number if two processes raced."""
    with answers(f"{model}: versions cannot be listed"):
        # the decision is compared here, not in the query: ids may hold quotes, and tag filters scan anyway
        stored = client().search_model_versions(f"name='{model}'", max_results=10_000)
    matching = [found for found in stored if found.tags.get("decision_id") == decision_id]
    return as_record(min(matching, key=lambda found: int(found.version))) if matching else None


def _stored(model: str, number: str) -> StoredVersion:
    try:
        return client().get_model_version(model, number)
    except MlflowException as error:
        raise RegistryError(
            f"{model}: version {number} is not in the registry ({error.error_code}); expected one of its versions"
        ) from error


def as_record(stored: StoredVersion) -> ModelVersion:
    tags = dict(stored.tags)
    lacking = [name for name in ("decision_id", "sha256", "trained_from", "trained_until") if name not in tags]
    if lacking:
        raise RegistryError(
            f"{stored.name} version {stored.version}: has no tag {', '.join(lacking)}, expected a version that "
            "Perennial registered; move the alias to one, or train with `python -m flows.retrain`"
        )
    return ModelVersion(
        model=stored.name,
        version=str(stored.version),
        run_id=stored.run_id or "",
        decision_id=tags["decision_id"],
        trained=Window(utc(tags["trained_from"]), utc(tags["trained_until"])),
        training_rows=int(tags["training_rows"]),
        sha256=tags["sha256"],
        tags=tuple(sorted(tags.items())),
    )


def set_aliases(model: str, wanted: Mapping[str, str | None]) -> None:
    """Point each alias at its version, in the order given; None takes it away. Setting what is set changes nothing."""
    present = aliases(model)
    for alias, number in wanted.items():
        if present.get(alias) == number:
            continue
        lease.check(model)
        with answers(f"{model}: alias {alias} cannot be moved to version {number}"):
            if number is None:
                client().delete_registered_model_alias(model, alias)
            else:
                client().set_registered_model_alias(model, alias, number)


def tag(model: str, number: str, **tags: str) -> None:
    """Set tags of a version."""
    for name, value in tags.items():
        lease.check(model)
        with answers(f"{model} version {number}: tag {name} cannot be set"):
            client().set_model_version_tag(model, number, name, value)


def tags(model: str, number: str) -> dict[str, str]:
    """A version's tags as they are now."""
    return dict(_stored(model, number).tags)


def classes(model: str, number: str) -> tuple[str, ...]:
    """The class names of a version, in the order of its probabilities; they never change."""
    return _classes(workspace().mlflow, model, number)


@lru_cache(maxsize=64)
def _classes(_uri: str, model: str, number: str) -> tuple[str, ...]:
    return tuple(json.loads(tags(model, number)["classes"]))


def load_scorer(version: ModelVersion, fresh: bool = False) -> "Scorer":
    """The scorer of a version, checked against its SHA-256; `fresh` reads the files again instead of the cache.

    Raises ModelFileError on missing or altered files.
    """
    load = _scorer.__wrapped__ if fresh else _scorer
    scorer: Scorer = load(workspace().mlflow, version.model, version.version, version.sha256)
    return scorer


@lru_cache(maxsize=8)
def _scorer(uri: str, model: str, number: str, sha256: str) -> "Scorer":
    from tasks.adapters import model_files

    stored = _stored(model, number)
    trusted = tuple(json.loads(stored.tags.get("trusted_types", "[]")))
    with tempfile.TemporaryDirectory() as folder:
        files = _download(f"{stored.source}/data/files", Path(folder), uri)
        return model_files.load(model_files.read(files), sha256, trusted)


def _download(address: str, folder: Path, uri: str) -> Path:
    from tasks.adapters import model_files

    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder), tracking_uri=uri))
    except (MlflowException, OSError) as error:
        raise model_files.ModelFileError(
            f"{address}: cannot be read ({type(error).__name__}); expected the files that were registered; "
            "restore the artifact store, roll back or train again"
        ) from error


@lru_cache(maxsize=32)
def _artifact(uri: str, run_id: str, name: str) -> str:
    return _read_artifact(uri, run_id, name).decode("utf-8")


def _read_artifact(uri: str, run_id: str, name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        address = f"{_client(uri).get_run(run_id).info.artifact_uri}/{name}"
        return _download(address, Path(folder), uri).read_bytes()


def _holds(uri: str, run_id: str, name: str) -> bool:
    return name in {file.path for file in _client(uri).list_artifacts(run_id)}


def reference_profile(version: ModelVersion) -> ReferenceProfile:
    """The profile that was frozen when the version was trained."""
    return _profile(workspace().mlflow, version.run_id)


@lru_cache(maxsize=8)
def _profile(uri: str, run_id: str) -> ReferenceProfile:
    return from_json(ReferenceProfile, _artifact(uri, run_id, PROFILE))


def feature_importance(version: ModelVersion) -> dict[str, float]:
    """Share of each feature in the model's gain, as logged at training; empty where the estimator has none."""
    shares: dict[str, float] = json.loads(_artifact(workspace().mlflow, version.run_id, IMPORTANCE))
    return shares


def attribution(version: ModelVersion) -> AttributionProfile | None:
    """How the features contributed in training; None for estimators without SHAP values and versions before them."""
    return _attribution(workspace().mlflow, version.run_id)


@lru_cache(maxsize=8)
def _attribution(uri: str, run_id: str) -> AttributionProfile | None:
    if not _holds(uri, run_id, ATTRIBUTION):
        return None
    return from_json(AttributionProfile, _artifact(uri, run_id, ATTRIBUTION))


def coded_rows(version: ModelVersion) -> CodedRows | None:
    """Training rows as codes of the profile's bins; None for versions from before they were kept."""
    return _coded_rows(workspace().mlflow, version.run_id)


@lru_cache(maxsize=4)
def _coded_rows(uri: str, run_id: str) -> CodedRows | None:
    from tasks.adapters.coded_rows import from_parquet

    return from_parquet(_read_artifact(uri, run_id, CODED_ROWS)) if _holds(uri, run_id, CODED_ROWS) else None


def manifest(version: ModelVersion) -> str:
    """JSON of the training manifest: all that is needed to train the same version again."""
    return _artifact(workspace().mlflow, version.run_id, MANIFEST)
