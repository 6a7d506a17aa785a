"""Parameters that flows share, as they appear in forms, in events and on the command line."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_SERVER_DATABASE_CONNECTION_URL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from pydantic import AfterValidator, Field

from deployments.config.folders import available_models
from deployments.config.model import ModelConfig
from tasks.adapters.orchestration.server import served_url, stored_log_in
from tasks.adapters.storage.workspace import make_folder, workspace
from tasks.policy.records.base import CLOCKS_APART, digest
from tasks.policy.records.errors import PerennialError, TimeAhead
from tasks.policy.records.text import NO_CONTROLS, OneLine


def in_utc(moment: datetime) -> datetime:
    """Return the moment as a standard datetime in UTC. Prefect's own class loses its zone when a timedelta is subtracted."""
    zoned = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return datetime.fromisoformat(zoned.isoformat())


@dataclass(frozen=True)
class OfferedModels:
    """Show a model parameter as a choice of the names under deployments/, or a path.

    The form lists the models that exist when the deployment is applied. Any name or path is accepted.
    """

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        names = list(available_models())
        path = {"title": "path of a YAML file", "type": "string", "minLength": 1, "maxLength": 500}
        offered = {"title": "a model of this project", "type": "string", "enum": names}
        return {"anyOf": [offered, path]} if names else path


# Parameters are described in the flows' docstrings: Prefect's forms read them there and ignore a Field's description.
Model = Annotated[str, Field(min_length=1, max_length=500), OfferedModels()]
Moment = Annotated[datetime, AfterValidator(in_utc)]
DecisionId = Annotated[str, Field(pattern=r"^[a-z0-9-]{8,64}$")]
Actor = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_CONTROLS)]
EarlierVersion = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]
UpdateFile = Annotated[OneLine, Field(min_length=1, max_length=2000)]
Reason = Annotated[OneLine, Field(min_length=3, max_length=2000)]


def resolve_as_of(config: ModelConfig, until: datetime | None) -> datetime:
    """Return the time a flow judges from: `until`, else now, but no later than the settled end of recorded data.

    Recorded data (`period.end` is set) is complete even if its end lies in the future. The data of a live model is complete
    up to now only. A later `until` would lose rows and labels for good, because a window is read once and labels are
    not searched again before a time that was searched already. Raises TimeAhead if `until` is later than now by more than
    clocks may differ.
    """
    moment, now = in_utc(until) if until else wall_clock(), wall_clock()
    if config.period.end:
        return min(moment, config.period.end + config.settling)
    if moment > now + CLOCKS_APART:
        raise TimeAhead(
            f"{config.name}: until is {moment:%Y-%m-%d %H:%M} UTC, expected no later than now, {now:%Y-%m-%d %H:%M} UTC; "
            "leave it empty for now, or set period.end in the model's file where its data is recorded up to then"
        )
    return moment


def scheduled_as_of(config: ModelConfig, until: datetime | None) -> datetime:
    """Return the time as `resolve_as_of` does, but for a scheduled run the time it was due, however long it waited for a worker.

    Runs that waited therefore each judge their own window in order, instead of all judging the latest one.
    """
    run = FlowRunContext.get()
    scheduled = run.flow_run if run and run.flow_run and run.flow_run.auto_scheduled else None
    if until is None and scheduled and scheduled.expected_start_time:
        return resolve_as_of(config, min(in_utc(scheduled.expected_start_time), wall_clock()))
    return resolve_as_of(config, until)


def wall_clock() -> datetime:
    """Return the current time (UTC), which deadlines for people are measured by; production time may lie in the past."""
    return datetime.now(UTC)


def manual_decision_id(config: ModelConfig, until: datetime | None, reason: str) -> str:
    """Derive the id of a decision requested by hand; the same request for the same time gives the same id.

    Without `until`, the time is the run's scheduled start and not the clock. A run that Prefect restarts keeps it, so the
    restarted run completes the same decision.
    """
    asked_at: datetime = until or flow_run.scheduled_start_time or wall_clock()
    return digest(config.name, config.fingerprint, resolve_as_of(config, asked_at).isoformat(), reason)


def run_name(verb: str) -> Callable[[], str]:
    """Return a function that names a flow run by model and day, for search: `monitor air_time until 2013-06-05`."""

    def name() -> str:
        given = flow_run.parameters
        until = given.get("until") or given.get("end")
        moment = f" until {in_utc(until):%Y-%m-%d}" if isinstance(until, datetime) else ""
        decision = f" for {given['decision_id']}" if given.get("decision_id") else ""
        dry = " (dry run)" if given.get("dry_run") else ""
        return f"{verb} {given['model']}{moment}{decision}{dry}"

    return name


def _drop_refusal_traceback(record: logging.LogRecord) -> bool:
    """Log refusals without a traceback, which would push their one sentence out of sight."""
    if record.exc_info and isinstance(record.exc_info[1], PerennialError):
        record.exc_info = None
    return True


for _logger in ("prefect.flow_runs", "prefect.task_runs"):  # here, because a worker's process imports only the flow
    logging.getLogger(_logger).addFilter(_drop_refusal_traceback)


def own_server() -> AbstractContextManager[Any]:
    """Use the server of `make serve` on this workspace if PREFECT_API_URL is not set, else a temporary one on its database.

    The dashboard of this workspace then shows the run in both cases. A temporary server may take 120 s to start on a busy
    machine, instead of Prefect's 20 s. These are temporary settings because Prefect reads the environment on import.
    Settings of the user take precedence.
    """
    patience = {PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120}
    if PREFECT_API_URL.value():
        return temporary_settings(set_defaults=patience)
    space = workspace()
    served = served_url(space)
    elsewhere = {PREFECT_API_KEY}  # a key without an address is for Prefect Cloud; a local server must not see it
    if served:
        return temporary_settings(
            {PREFECT_API_URL: served},
            restore_defaults=elsewhere,
            set_defaults={PREFECT_API_AUTH_STRING: stored_log_in(space)},
        )
    database = f"sqlite+aiosqlite:///{make_folder(space.home / 'prefect')}/prefect.db"
    return temporary_settings(
        restore_defaults=elsewhere, set_defaults={**patience, PREFECT_SERVER_DATABASE_CONNECTION_URL: database}
    )
