"""Train by a Prefect deployment: start it once per decision, wait for it, and take in its model.

The deployment is the user's own (`training.flow`), or Perennial's `train` on a work pool of the user's (`training.work_pool`).

The run is created with the decision as idempotency key. A run of ours that was killed and resumed therefore waits for the
run that it had started. A run that ended without success is followed by a new one when the decision is tried again.

The model is the one version of `training.registered_model` with the tag `decision_id`, or else the one in the output place.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError, TerminationSignal
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelling

from deployments.config.model import ModelConfig
from tasks.adapters import registry
from tasks.adapters.orchestration.requeue import client_of
from tasks.adapters.orchestration.server import served_url
from tasks.adapters.own_training import output, pool
from tasks.adapters.own_training.command import LAST_LINES, LONGEST_LINE, TrainedElsewhere
from tasks.adapters.own_training.snapshot_files import ROWS, TrainingJob, snapshot_facts, training_rows
from tasks.adapters.storage.workspace import OWNER_ONLY, make_folder, workspace
from tasks.policy.records.base import utc
from tasks.policy.records.errors import EstimatorError, TrainingFailed
from tasks.policy.records.text import without_secrets

POLL_S = 2.0
MOST_ATTEMPTS = 100
DECISION_ID, TRAINED_UNTIL = "decision_id", "trained_until"
"""Tags of the version that the flow registers: the decision it was given, and the end of what it was trained on."""


def train(config: ModelConfig, job: TrainingJob) -> TrainedElsewhere:
    """Run the deployment, or wait for its run, and take in the model that it left.

    Raises TrainingFailed if the run fails, crashes, is cancelled, takes too long, or leaves no model or several.
    """
    began, folder = time.perf_counter(), output.job_address(config, job.decision_id)
    output.put_rows(training_rows(config, job.rows), f"{folder}/{ROWS}")
    if config.training.work_pool:
        pool.hand_over(config, job, folder)
    run, place = _start(config, job, folder)
    get_run_logger().info("training: waits for the run %s of %s", run.name, _deployment(config))
    try:
        with _cancelled_with_us(run.id):
            run = _wait(config, run)
        _check_state(config, run)
    except TrainingFailed:
        output.remove(folder)
        raise
    waited_s = time.perf_counter() - began
    address = _address(config, job, place)
    fitted = output.take_in_model(config, address, job.rows)
    output.remove(folder)
    seconds = run.total_run_time.total_seconds()
    origin = f"flow run {run.name} ({run.id}) of {_deployment(config)}: {without_secrets(address)}"
    return TrainedElsewhere(fitted, origin, seconds, seconds, waited_s)  # as one busy CPU: its machine is not known


def check(config: ModelConfig) -> str | None:
    """Return what could not be checked or is not ready, None if all is. Raises EstimatorError for what does not exist.

    No server is started for this: the one at PREFECT_API_URL is asked, else that of `perennial serve`.
    """
    api_url = PREFECT_API_URL.value() or served_url(workspace())
    if api_url is None:
        return f"no Prefect server is running here, so {_deployment(config)} was not looked up; set PREFECT_API_URL"
    try:
        with client_of(api_url) as client:
            if config.training.work_pool:
                return pool.what_is_missing(config, client)
            client.read_deployment_by_name(_deployment(config))
    except ObjectNotFound:
        raise _missing(config) from None
    except (httpx.HTTPError, RuntimeError) as error:
        return f"the Prefect server did not answer ({type(error).__name__}), so {_deployment(config)} was not looked up"
    return None


def _start(config: ModelConfig, job: TrainingJob, folder: str) -> tuple[FlowRun, str]:
    """Return the decision's run and its output place: the run that is under way or has succeeded, else a new one."""
    for attempt in range(1, MOST_ATTEMPTS):
        key, place = (job.decision_id if attempt == 1 else f"{job.decision_id}-{attempt}"), f"{folder}/output-{attempt}"
        run = _create(config, job, place, key)
        if not _is_over(config, run) or (run.state and run.state.is_completed()):
            return run, place
    raise TrainingFailed(f"{_at(config)}, which failed {MOST_ATTEMPTS - 1} times for this decision; fix what it runs")


def _create(config: ModelConfig, job: TrainingJob, place: str, key: str) -> FlowRun:
    """Create the run of this idempotency key, or return the one that has it."""
    snapshot = {**snapshot_facts(job.training), "rows": f"{place.rpartition('/')[0]}/{ROWS}"}
    own = {"snapshot": snapshot, "decision_id": job.decision_id, "output": place}
    if config.training.work_pool:
        own |= {"model": pool.file_of(config), "command": list(config.training.command)}
    try:
        run: FlowRun = run_deployment(
            _deployment(config),
            parameters={**own, **config.training.flow_parameters},
            flow_run_name=f"train {config.name} {job.training.window.name}",
            idempotency_key=key,
            timeout=0,
            as_subflow=False,
        )
    except ObjectNotFound:
        raise _missing(config) from None
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in (httpx.codes.CONFLICT, httpx.codes.UNPROCESSABLE_ENTITY):
            raise
        detail = without_secrets(str(error.response.text))[:300]
        raise TrainingFailed(
            f"{_at(config)}, which does not accept the parameters {', '.join((*own, *config.training.flow_parameters))} "
            f"({detail}); expected a flow with snapshot, decision_id and output"
        ) from None
    if "://" not in place:
        make_folder(Path(place), OWNER_ONLY)
    return run


def _wait(config: ModelConfig, run: FlowRun) -> FlowRun:
    """Wait until the run has ended; end it once it takes longer than `training.timeout_hours`, counted from its creation."""
    limit = timedelta(hours=config.training.timeout_hours)
    due = (run.created or datetime.now(UTC)) + limit
    with get_client(sync_client=True) as client:
        while not _is_over(config, run):
            if datetime.now(UTC) > due:
                _cancel(client, run.id, "training.timeout_hours is over")
                raise TrainingFailed(
                    f"{_at(config)}, whose run {run.name} took longer than {config.training.timeout_hours:g} h "
                    "(training.timeout_hours) and was cancelled; expected a model by then; make it faster or allow more"
                )
            if _is_cancelled(client):
                _cancel(client, run.id, "the run that waits for it was cancelled")
            if config.training.work_pool and (reason := pool.why_not_taken(config, client, run)):
                _cancel(client, run.id, reason)
                raise TrainingFailed(reason)
            time.sleep(POLL_S)
            run = client.read_flow_run(run.id)
    return run


def _is_over(config: ModelConfig, run: FlowRun) -> bool:
    """Return whether the run has ended for good. An automation of Perennial takes up its own runs that crashed."""
    state: State | None = run.state
    if state is None or not state.is_final():
        return False
    crashed_now = state.is_crashed() and datetime.now(UTC) - state.timestamp < pool.TAKEN_UP_AGAIN
    return not (config.training.work_pool and crashed_now)


def _check_state(config: ModelConfig, run: FlowRun) -> None:
    state: State | None = run.state
    if state is not None and not state.is_completed():
        said = without_secrets((state.message or "").strip())[: LAST_LINES * LONGEST_LINE]
        raise TrainingFailed(
            f"{_at(config)}, whose run {run.name} ended as {state.name}{': ' + said if said else ''}; expected Completed; its "
            "logs show why; the next retrain starts a new run"
        )


def _address(config: ModelConfig, job: TrainingJob, place: str) -> str:
    """Return where the model is: the version that the flow registered, or the output place."""
    name = config.training.registered_model
    if name is None:
        return output.model_at(place, _at(config))
    with registry.versions.registry_errors(f"versions of {name} cannot be read"):
        found = [
            version
            for version in registry.versions.client().search_model_versions(f"name = '{_quoted(config, name)}'")
            if version.tags.get(DECISION_ID) == job.decision_id
        ]
    if len(found) != 1:
        numbers = ", ".join(str(version.version) for version in found)
        held = f"the versions {numbers}" if found else "no version"
        raise TrainingFailed(
            f"{_at(config)}, which ended well, but {name} has {held} with the tag {DECISION_ID} = {job.decision_id}, expected "
            "one; set the tag when the flow registers its model"
        )
    _check_declaration(config, job, found[0].tags.get(TRAINED_UNTIL), f"{name} version {found[0].version}")
    return f"models:/{name}/{found[0].version}"


def _quoted(config: ModelConfig, name: str) -> str:
    if "'" in name:
        raise EstimatorError(f"{config.name}: training.registered_model is {name}, expected a name without '")
    return name


def _check_declaration(config: ModelConfig, job: TrainingJob, declared: str | None, version: str) -> None:
    """Refuse a model that, by its own tag, has seen rows on which it would be validated."""
    if declared is None:
        return
    end = job.training.window.end
    try:
        until = utc(declared)
    except ValueError:
        raise TrainingFailed(
            f"{_at(config)}: {version} has the tag {TRAINED_UNTIL} = {declared!r}, expected a time such as {end.isoformat()}"
        ) from None
    if until > end:
        raise TrainingFailed(
            f"{_at(config)}: {version} was trained until {until.isoformat()} by its tag {TRAINED_UNTIL}, expected "
            f"{end.isoformat()} at the latest, where the holdout begins; train on the snapshot that was handed over"
        )


@contextmanager
def _cancelled_with_us(run_id: UUID) -> Iterator[None]:
    """Cancel the run if ours is cancelled or interrupted by hand; a run of ours that is only stopped will be resumed."""
    try:
        yield
    except KeyboardInterrupt:
        with get_client(sync_client=True) as client:
            _cancel(client, run_id, "the run that waits for it was interrupted")
        raise
    except TerminationSignal:
        with get_client(sync_client=True) as client:
            if _is_cancelled(client):
                _cancel(client, run_id, "the run that waits for it was cancelled")
        raise


def _is_cancelled(client: SyncPrefectClient) -> bool:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return False
    state = client.read_flow_run(context.flow_run.id).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _cancel(client: SyncPrefectClient, run_id: UUID, why: str) -> None:
    with suppress(ObjectNotFound):
        client.set_flow_run_state(run_id, Cancelling(message=why))


def _missing(config: ModelConfig) -> EstimatorError:
    if config.training.work_pool:
        return EstimatorError(f"{_at(config)}, but {pool.not_deployed(config)}")
    return EstimatorError(
        f"{_at(config)}, which this Prefect server does not have; expected the name flow/deployment of one that it has; deploy "
        "it, or correct the name (prefect deployment ls)"
    )


def _deployment(config: ModelConfig) -> str:
    return config.training.flow or pool.deployment(config)


def _at(config: ModelConfig) -> str:
    return pool.at(config) if config.training.work_pool else f"{config.name}: training.flow is {config.training.flow}"
