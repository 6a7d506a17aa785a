"""Access MLflow's registry: versions and their aliases champion, challenger and previous.

MLflow has no compare-and-swap for aliases, so moves are serialised by the model's lease, which is checked before each
write. One race remains: a process that is suspended between that check and MLflow's write. Tracking and registry
addresses are always passed explicitly; this module neither uses nor changes MLflow's global state.

The registry can be edited in MLflow's UI. A version is therefore read as the ledger recorded it at registration
(`tasks.policy.rollout.versions`): run, decision and SHA-256 come from the ledger, and a version that is not in the
ledger is refused. If the ledger holds no version of the model yet, the registry is trusted.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache

from mlflow.entities.model_registry import ModelVersion as StoredVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from tasks.adapters import ledger
from tasks.adapters.registry.database import make_database
from tasks.adapters.storage import lease
from tasks.adapters.storage.workspace import workspace
from tasks.policy.evidence.versions import ModelVersion
from tasks.policy.records.base import Window, utc
from tasks.policy.records.errors import NoChampion, RegistryError, VersionGone
from tasks.policy.records.text import reason_of, without_secrets
from tasks.policy.rollout.versions import (
    CHALLENGER as CHALLENGER,
    CHAMPION as CHAMPION,
    FOREIGN as FOREIGN,
    PREVIOUS as PREVIOUS,
    Registry,
    as_recorded,
    registered,
)

REMARKS = "training_remarks"
"""Tag of a version with remarks on its training, as a JSON list of sentences."""
SEARCHED = "search"
"""Tag of a version whose settings were searched: the result in a sentence."""
LOST = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


def client() -> MlflowClient:
    """Return the client of the workspace's registry, cached per address and process."""
    return client_of(workspace().mlflow)


@lru_cache(maxsize=16)
def client_of(uri: str) -> MlflowClient:
    """Return the client of the registry at this address, cached per process. Raises RegistryError."""
    with registry_errors("the registry cannot be opened"):
        make_database(uri)
        connected = MlflowClient(tracking_uri=uri, registry_uri=uri)
        connected.search_registered_models(max_results=1)
        return connected


@contextmanager
def registry_errors(what: str) -> Iterator[None]:
    """Convert exceptions of MLflow, its database and the disk to RegistryError with the address and what to check."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        code = f" ({error.error_code})" if isinstance(error, MlflowException) else ""
        raise RegistryError(
            f"{what}: {reason_of(error)[:200]}{code}, from {without_secrets(workspace().mlflow)}; "
            "check MLFLOW_TRACKING_URI, and that the registry is running, has free space and can be written to"
        ) from None  # MLflow's message includes the address with its password


def aliases(model: str) -> dict[str, str]:
    """Return the model's aliases and their version numbers; empty for a model that was never registered."""
    try:
        stored = client().get_registered_model(model).aliases
        return {alias: str(number) for alias, number in stored.items()}  # SQLite returns ints
    except MlflowException as error:
        if error.error_code == LOST:
            return {}
        raise RegistryError(f"{model}: its aliases cannot be read: {error.error_code}; check the registry") from None


def version(model: str, alias_or_number: str) -> ModelVersion:
    """Return a version by alias or number. Raises NoChampion if there is no champion, else RegistryError."""
    if alias_or_number.isdigit():
        return _recorded(stored_version(model, alias_or_number))
    known = aliases(model)
    number = known.get(alias_or_number)
    if number is None and alias_or_number == CHAMPION:
        raise NoChampion(
            f"{model}: no champion in the registry, expected a version with the alias champion; "
            f"train the first one with `perennial run retrain --model {model}`"
        )
    if number is None:
        found = ", ".join(f"{alias} → {number}" for alias, number in sorted(known.items())) or "none"
        raise RegistryError(f"{model}: no version has the alias {alias_or_number}, the aliases are: {found}")
    return _recorded(stored_version(model, number))


def _recorded(stored: StoredVersion) -> ModelVersion:
    """Return a version as the ledger recorded it. Raises VersionGone if it is not in the ledger or has another run."""
    known = registered(ledger.entries(stored.name))
    if not known:
        return as_record(stored)
    own = known.get(str(stored.version))
    if own is None:
        raise VersionGone(
            f"{stored.name}: version {stored.version} is not in the ledger, expected one that is "
            f"({', '.join(sorted(known, key=int))}); Perennial did not validate it: move its alias in MLflow to one of those, "
            "or remove the alias and train"
        )
    if own.run_id != (stored.run_id or ""):
        raise VersionGone(
            f"{stored.name}: version {stored.version} is not the one that the ledger names: it comes from run "
            f"{stored.run_id or 'none'}, expected run {own.run_id}; the model was deleted and recreated, so no earlier "
            "validation applies to it: remove its alias in MLflow and train again"
        )
    return as_recorded(own, dict(stored.tags))


def state(model: str) -> Registry:
    """Return the model's current aliases and versions."""
    stored = _stored_versions(model)
    return Registry(
        aliases(model),
        {str(found.version): found.run_id or "" for found in stored},
        {str(found.version): found.tags.get("move_by", "") for found in stored},
    )


def find(model: str, decision_id: str) -> ModelVersion | None:
    """Return the version of a decision; the lowest number if two processes raced, None if there is none."""
    # filtered here, not in the query: ids may contain quotes, and tag filters scan all versions anyway
    known = registered(ledger.entries(model))
    tagged = [found for found in _stored_versions(model) if found.tags.get("decision_id") == decision_id]
    for found in sorted(tagged, key=lambda found: int(found.version)):
        own = known.get(str(found.version))
        if own is None or own.run_id != (found.run_id or ""):  # just trained: the ledger records it after validation
            return as_record(found)
        if own.decision_id == decision_id:  # otherwise the tag was copied to another version by hand
            return as_recorded(own, dict(found.tags))
    return None


def all_tags(model: str) -> dict[str, dict[str, str]]:
    """Return the tags of every version, by version number."""
    return {str(found.version): dict(found.tags) for found in _stored_versions(model)}


def _stored_versions(model: str) -> list[StoredVersion]:
    with registry_errors(f"{model}: versions cannot be listed"):
        return list(client().search_model_versions(f"name='{model}'", max_results=10_000))


def stored_version(model: str, number: str) -> StoredVersion:
    """Return a version as MLflow stores it. Raises VersionGone if it does not exist, RegistryError if unreadable."""
    try:
        return client().get_model_version(model, number)
    except MlflowException as error:
        gone = VersionGone if error.error_code == LOST else RegistryError
        raise gone(
            f"{model}: version {number} is not in the registry ({error.error_code}); expected one of its versions"
        ) from None


def as_record(stored: StoredVersion) -> ModelVersion:
    tags = dict(stored.tags)
    lacking = [name for name in ("decision_id", "sha256", "trained_from", "trained_until") if name not in tags]
    if lacking:
        raise RegistryError(
            f"{stored.name} version {stored.version}: has no tag {', '.join(lacking)}, expected a version that "
            "Perennial registered; move the alias to one, or train with `perennial run retrain`"
        )
    try:
        trained, rows = Window(utc(tags["trained_from"]), utc(tags["trained_until"])), int(tags["training_rows"])
    except (KeyError, ValueError):
        raise RegistryError(
            f"{stored.name} version {stored.version}: its tags trained_from, trained_until and training_rows do not say what "
            "it was trained on, expected two times and a number; they were edited: restore them, or train again"
        ) from None
    return ModelVersion(
        model=stored.name,
        version=str(stored.version),
        run_id=stored.run_id or "",
        decision_id=tags["decision_id"],
        trained=trained,
        training_rows=rows,
        sha256=tags["sha256"],
        tags=tuple(sorted(tags.items())),
    )


def set_aliases(model: str, wanted: Mapping[str, str | None]) -> None:
    """Point each alias at its version, in the given order; None deletes the alias. Idempotent."""
    present = aliases(model)
    for alias, number in wanted.items():
        if present.get(alias) == number:
            continue
        lease.check(model)
        with registry_errors(f"{model}: alias {alias} cannot be moved to version {number}"):
            if number is None:
                client().delete_registered_model_alias(model, alias)
            else:
                client().set_registered_model_alias(model, alias, number)


def tag(model: str, number: str, **tags: str) -> None:
    """Set tags of a version."""
    for name, value in tags.items():
        lease.check(model)
        with registry_errors(f"{model} version {number}: tag {name} cannot be set"):
            client().set_model_version_tag(model, number, name, value)


def tags(model: str, number: str) -> dict[str, str]:
    """Return a version's current tags."""
    return dict(stored_version(model, number).tags)


def classes(model: str, number: str) -> tuple[str, ...]:
    """Return a version's class names, in the order of its probabilities; they never change.

    They come from the ledger, which keeps them after the version is deleted, else from the registry's tag.
    """
    own = registered(ledger.entries(model)).get(number)
    noted = dict(own.tags).get("classes") if own else None
    return _classes(workspace().mlflow, model, number) if noted is None else tuple(json.loads(noted))


@lru_cache(maxsize=64)
def _classes(_uri: str, model: str, number: str) -> tuple[str, ...]:
    noted = tags(model, number).get("classes", "")
    try:
        return tuple(json.loads(noted))
    except ValueError:
        raise RegistryError(
            f"{model} version {number}: tag classes is {noted[:60]!r}, expected a JSON list of class names; it was edited: "
            "restore it, or train again"
        ) from None
