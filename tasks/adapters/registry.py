"""MLflow's registry: versions, and the aliases that say who serves: champion, challenger, previous.

Aliases have no compare-and-swap in MLflow, so moves are serialised by the model's lease, which each write asks first.
What is left open is one request: a process that is frozen between that question and MLflow's answer. Tracking and
registry addresses are always passed explicitly: nothing here depends on MLflow's global state or changes it.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion as StoredVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from tasks.adapters import lease
from tasks.adapters.redaction import told, without_secrets
from tasks.adapters.whole import one_at_a_time
from tasks.adapters.workspace import workspace
from tasks.policy.errors import PerennialError
from tasks.policy.evidence import ModelVersion
from tasks.policy.records import Window, utc

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
REMARKS = "training_remarks"
"""Tag of a version with sentences on what was odd about its training, as JSON."""
LOST = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


class RegistryError(PerennialError):
    """The registry cannot be reached, or holds no such version."""


class NoChampion(RegistryError):
    """No version of the model serves yet."""


def client() -> MlflowClient:
    """The client of the workspace's registry; one per address and process."""
    return client_of(workspace().mlflow)


@lru_cache(maxsize=16)
def client_of(uri: str) -> MlflowClient:
    """The client of the registry at this address."""
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
    with one_at_a_time(Path(uri.removeprefix("sqlite:///") + ".lock")):
        yield


@contextmanager
def answers(what: str) -> Iterator[None]:
    """Turns what MLflow, its database and the disk raise into an error that says where and what to do."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        code = f" ({error.error_code})" if isinstance(error, MlflowException) else ""
        raise RegistryError(
            f"{what}: {told(error)[:200]}{code}, from {without_secrets(workspace().mlflow)}; "
            "check MLFLOW_TRACKING_URI, and that the registry runs and has room and rights to write"
        ) from None  # MLflow's own words name the address with its password


def aliases(model: str) -> dict[str, str]:
    """Alias → version number; empty for a model that was never registered."""
    try:
        stored = client().get_registered_model(model).aliases
        return {alias: str(number) for alias, number in stored.items()}  # SQLite gives them as int
    except MlflowException as error:
        if error.error_code == LOST:
            return {}
        raise RegistryError(f"{model}: its aliases cannot be read: {error.error_code}; check the registry") from None


def version(model: str, alias_or_number: str) -> ModelVersion:
    """A version by alias or number. Raises NoChampion for a champion that does not exist, RegistryError otherwise."""
    if alias_or_number.isdigit():
        return as_record(stored_version(model, alias_or_number))
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
    return as_record(stored_version(model, number))


def find(model: str, decision_id: str) -> ModelVersion | None:
    """The version that a decision led to, the lowest number if two processes raced."""
    # the decision is compared here, not in the query: ids may hold quotes, and tag filters scan anyway
    matching = [found for found in _stored_versions(model) if found.tags.get("decision_id") == decision_id]
    return as_record(min(matching, key=lambda found: int(found.version))) if matching else None


def all_tags(model: str) -> dict[str, dict[str, str]]:
    """Version number → its tags, of every version."""
    return {str(found.version): dict(found.tags) for found in _stored_versions(model)}


def _stored_versions(model: str) -> list[StoredVersion]:
    with answers(f"{model}: versions cannot be listed"):
        return list(client().search_model_versions(f"name='{model}'", max_results=10_000))


def stored_version(model: str, number: str) -> StoredVersion:
    """A version as MLflow has it. Raises RegistryError where there is none."""
    try:
        return client().get_model_version(model, number)
    except MlflowException as error:
        raise RegistryError(
            f"{model}: version {number} is not in the registry ({error.error_code}); expected one of its versions"
        ) from None


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
    return dict(stored_version(model, number).tags)


def classes(model: str, number: str) -> tuple[str, ...]:
    """The class names of a version, in the order of its probabilities; they never change."""
    return _classes(workspace().mlflow, model, number)


@lru_cache(maxsize=64)
def _classes(_uri: str, model: str, number: str) -> tuple[str, ...]:
    return tuple(json.loads(tags(model, number)["classes"]))
