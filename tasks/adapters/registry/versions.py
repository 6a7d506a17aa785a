"""MLflow's registry: versions, and the aliases that say who serves: champion, challenger, previous.

Aliases have no compare-and-swap in MLflow, so moves are serialised by the model's lease, which each write asks first.
What is left open is one request: a process that is frozen between that question and MLflow's answer. Tracking and
registry addresses are always passed explicitly: nothing here depends on MLflow's global state or changes it.

People edit the registry on MLflow's page. A version is therefore read as the ledger recorded it when it was registered
(`tasks.policy.rollout.versions`): run, decision and SHA-256 are the ledger's; one that the ledger does not know is refused.
Where the ledger holds no version of the model yet, the registry's word counts.
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
from tasks.adapters.storage.redaction import reason_of, without_secrets
from tasks.adapters.storage.workspace import workspace
from tasks.policy.records.base import Window, utc
from tasks.policy.records.errors import NoChampion, RegistryError, VersionGone
from tasks.policy.records.evidence import ModelVersion
from tasks.policy.rollout.versions import (
    CHALLENGER as CHALLENGER,
    CHAMPION as CHAMPION,
    PREVIOUS as PREVIOUS,
    Registry,
    as_recorded,
    registered,
)

REMARKS = "training_remarks"
"""Tag of a version with sentences on what was odd about its training, as JSON."""
LOST = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


def client() -> MlflowClient:
    """The client of the workspace's registry; one per address and process."""
    return client_of(workspace().mlflow)


@lru_cache(maxsize=16)
def client_of(uri: str) -> MlflowClient:
    """The client of the registry at this address."""
    with answers("the registry cannot be opened"):
        make_database(uri)
        connected = MlflowClient(tracking_uri=uri, registry_uri=uri)
        connected.search_registered_models(max_results=1)
        return connected


@contextmanager
def answers(what: str) -> Iterator[None]:
    """Turns what MLflow, its database and the disk raise into an error that says where and what to do."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        code = f" ({error.error_code})" if isinstance(error, MlflowException) else ""
        raise RegistryError(
            f"{what}: {reason_of(error)[:200]}{code}, from {without_secrets(workspace().mlflow)}; "
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
    """A version as the ledger recorded it. Raises VersionGone for another one under its number and for a stranger's."""
    known = registered(ledger.entries(stored.name))
    if not known:
        return as_record(stored)
    own = known.get(str(stored.version))
    if own is None:
        raise VersionGone(
            f"{stored.name}: version {stored.version} is not in the ledger, expected one that was tried there "
            f"({', '.join(sorted(known, key=int))}); nothing vouches for it: move its alias in MLflow to one of those, or "
            "remove the alias and train"
        )
    if own.run_id != (stored.run_id or ""):
        raise VersionGone(
            f"{stored.name}: version {stored.version} is not the one that the ledger names: it comes from run "
            f"{stored.run_id or 'none'}, expected run {own.run_id}; the model was deleted and made again, so no earlier "
            "verdict holds for it: remove its alias in MLflow and train again"
        )
    return as_recorded(own, dict(stored.tags))


def state(model: str) -> Registry:
    """The model's aliases and versions as they are now."""
    stored = _stored_versions(model)
    return Registry(
        aliases(model),
        {str(found.version): found.run_id or "" for found in stored},
        {str(found.version): found.tags.get("move_by", "") for found in stored},
    )


def find(model: str, decision_id: str) -> ModelVersion | None:
    """The version that a decision led to, the lowest number if two processes raced."""
    # the decision is compared here, not in the query: ids may hold quotes, and tag filters scan anyway
    known = registered(ledger.entries(model))
    tagged = [found for found in _stored_versions(model) if found.tags.get("decision_id") == decision_id]
    for found in sorted(tagged, key=lambda found: int(found.version)):
        own = known.get(str(found.version))
        if own is None or own.run_id != (
            found.run_id or ""
        ):  # fresh from training, the ledger holds it after its trial
            return as_record(found)
        if own.decision_id == decision_id:  # else somebody gave the tag to another version
            return as_recorded(own, dict(found.tags))
    return None


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
            "it was trained on, expected two times and a number; they were edited: set them back, or train again"
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
    """The class names of a version, in the order of its probabilities; they never change.

    The ledger's record of them, which is there also when the version was deleted; else the registry's tag.
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
            f"{model} version {number}: tag classes is {noted[:60]!r}, expected a JSON list of class names; it was edited: set "
            "it back, or train again"
        ) from None
