"""The parameters that flows share, as people meet them in a form, in an event or on the command line."""

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

from deployments.config.model import ModelConfig, available_models
from tasks.adapters.orchestration.server import kept_log_in, served_url
from tasks.adapters.storage.workspace import make_folder, workspace
from tasks.policy.records.base import CLOCKS_APART, digest
from tasks.policy.records.errors import PerennialError, TimeAhead
from tasks.policy.records.text import NO_CONTROLS, OneLine


def in_utc(moment: datetime) -> datetime:
    """The moment as a plain one: of Prefect's own, less a timedelta, nothing would be left of the zone."""
    zoned = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return datetime.fromisoformat(zoned.isoformat())


@dataclass(frozen=True)
class OfferedModels:
    """Show a model parameter as a choice of names under deployments/, or any path.

    The choice is made of what lies there when a deployment is applied; what is accepted stays any name or path.
    """

    def __get_pydantic_json_schema__(self, core: Any, handler: Any) -> dict[str, Any]:
        names = list(available_models())
        path = {"title": "path of a YAML file", "type": "string", "minLength": 1, "maxLength": 500}
        offered = {"title": "a model of this project", "type": "string", "enum": names}
        return {"anyOf": [offered, path]} if names else path


# Descriptions stand in the flows' docstrings: Prefect's forms take them from there and drop a Field's own.
Model = Annotated[str, Field(min_length=1, max_length=500), OfferedModels()]
Moment = Annotated[datetime, AfterValidator(in_utc)]
DecisionId = Annotated[str, Field(pattern=r"^[a-z0-9-]{8,64}$")]
Actor = Annotated[str, Field(min_length=1, max_length=200, pattern=NO_CONTROLS)]
EarlierVersion = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]
Reason = Annotated[OneLine, Field(min_length=3, max_length=2000)]


def present(config: ModelConfig, until: datetime | None) -> datetime:
    """The time a flow judges from: `until`, else now, and never past the end of recorded data and of what comes late.

    Recorded data, whose end the model's file sets, is complete wherever it lies, also ahead of the clock. A live model's
    is complete up to now: rows are read once and for good, and labels are not sought again before a time that was searched,
    so a later `until` would leave out for ever what is still to come. Raises TimeAhead for one that is later by more than
    clocks differ.
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


def due(config: ModelConfig, until: datetime | None) -> datetime:
    """As `present`, but a scheduled run judges from when it was due, also where it waited a day for a worker.

    So what was missed is caught up with in order, a window for each run that waited, and not the latest window by all of them.
    """
    run = FlowRunContext.get()
    scheduled = run.flow_run if run and run.flow_run and run.flow_run.auto_scheduled else None
    if until is None and scheduled and scheduled.expected_start_time:
        return present(config, min(in_utc(scheduled.expected_start_time), wall_clock()))
    return present(config, until)


def wall_clock() -> datetime:
    """The time by the clock on the wall, which people's answers are measured by; production time may lie in the past."""
    return datetime.now(UTC)


def manual_decision_id(config: ModelConfig, until: datetime | None, reason: str) -> str:
    """Id of what a person asks for by hand: the same request at the same time of judgement is the same decision.

    Without `until` that time is when the run was first due: a run that Prefect starts again keeps it, and so finishes what
    it was cut off from; the clock has moved on by then.
    """
    asked_at: datetime = until or flow_run.scheduled_start_time or wall_clock()
    return digest(config.name, config.fingerprint, present(config, asked_at).isoformat(), reason)


def run_name(verb: str) -> Callable[[], str]:
    """A flow run's name that search finds by model and by day: `monitor air_time until 2013-06-05`."""

    def name() -> str:
        given = flow_run.parameters
        until = given.get("until") or given.get("end")
        moment = f" until {in_utc(until):%Y-%m-%d}" if isinstance(until, datetime) else ""
        decision = f" for {given['decision_id']}" if given.get("decision_id") else ""
        dry = " (dry run)" if given.get("dry_run") else ""
        return f"{verb} {given['model']}{moment}{decision}{dry}"

    return name


def _without_refusals_traceback(record: logging.LogRecord) -> bool:
    """Leave refusals without a traceback: their one sentence at the end would be pushed out of sight."""
    if record.exc_info and isinstance(record.exc_info[1], PerennialError):
        record.exc_info = None
    return True


for _runs in ("prefect.flow_runs", "prefect.task_runs"):  # here, as all that a worker's process imports first is a flow
    logging.getLogger(_runs).addFilter(_without_refusals_traceback)


def own_server() -> AbstractContextManager[Any]:
    """Where nobody names a server: the one that `make serve` runs on this workspace, else one of our own on its database.

    So what a command did is in the dashboard that shows this workspace. A server of our own may take 120 s to start on a
    busy machine, not 20. As settings, not in the environment, which Prefect reads when it is imported; what the user has set
    stays.
    """
    patience = {PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120}
    if PREFECT_API_URL.value():
        return temporary_settings(set_defaults=patience)
    space = workspace()
    served = served_url(space)
    elsewhere = {PREFECT_API_KEY}  # a key without an address is for the cloud, and not for a server here to see
    if served:
        return temporary_settings(
            {PREFECT_API_URL: served},
            restore_defaults=elsewhere,
            set_defaults={PREFECT_API_AUTH_STRING: kept_log_in(space)},
        )
    database = f"sqlite+aiosqlite:///{make_folder(space.home / 'prefect')}/prefect.db"
    return temporary_settings(
        restore_defaults=elsewhere, set_defaults={**patience, PREFECT_SERVER_DATABASE_CONNECTION_URL: database}
    )
