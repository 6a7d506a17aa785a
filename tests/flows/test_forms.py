"""Forms in the dashboard: descriptions, model choices and safe defaults."""

import os
import subprocess
import sys
from typing import Any

import pytest
import yaml
from prefect import flow
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import (
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    get_current_settings,
    temporary_settings,
)

from deployments.apply.definitions import INDEX
from deployments.cli.running import run_flow
from deployments.config.folders import available_models

FLOWS = {
    item["name"]: load_flow_from_entrypoint(item["entrypoint"]).parameters
    for item in yaml.safe_load(INDEX.read_text(encoding="utf-8"))["deployments"]
}
PARAMETERS = [(flow, name, field) for flow, form in FLOWS.items() for name, field in form.properties.items()]


@pytest.mark.usefixtures("prefect_server")
def test_command_waits_two_minutes_for_its_own_server():
    """Prefect waits 20 s by default, which is not enough on two busy cores."""
    seen = []

    @flow
    def look() -> None:
        seen.append(PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value())

    run_flow(look, {})
    with temporary_settings({PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 300}):
        run_flow(look, {})
    assert seen == [120, 300]


@pytest.mark.slow("starts a deployed run as a process")
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(("raised", "traced"), [("PerennialError", False), ("ValueError", True)])
def test_refusal_is_logged_without_traceback(raised, traced):
    """In a process that has only loaded a flow, like a worker's; the error passes through a task and its flow."""
    code = f"""
import flows.fleet
from prefect import flow, task
from tasks.policy.records.errors import PerennialError
@task
def fail(): raise {raised}("what to do is said here")
@flow
def run(): fail()
try: run()
except {raised}: pass
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert ran.stderr.count("what to do is said here") >= 2
    assert ("Traceback" in ran.stderr) is traced


def environment() -> dict[str, str]:
    return {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True)}


@pytest.mark.parametrize(("flow", "name", "field"), PARAMETERS, ids=[f"{flow}-{name}" for flow, name, _ in PARAMETERS])
def test_every_parameter_has_a_description(flow: str, name: str, field: dict[str, Any]):
    assert len(field.get("description", "")) > 15


@pytest.mark.parametrize(("flow", "name", "field"), PARAMETERS, ids=[f"{flow}-{name}" for flow, name, _ in PARAMETERS])
def test_every_text_and_number_is_bounded(flow: str, name: str, field: dict[str, Any]):
    for kind in field.get("anyOf", [field]):
        if kind.get("type") == "string":
            assert {"maxLength", "format", "pattern", "enum"} & kind.keys()
        if kind.get("type") in ("integer", "number"):
            assert {"minimum", "exclusiveMinimum"} & kind.keys()
            assert {"maximum", "exclusiveMaximum"} & kind.keys()


@pytest.mark.parametrize("flow", [name for name in FLOWS if name != "fleet"])
def test_form_offers_models_and_accepts_a_path(flow: str):
    offered, path = FLOWS[flow].properties["model"]["anyOf"]
    assert offered["enum"] == list(available_models())
    assert path["type"] == "string" and "enum" not in path


@pytest.mark.parametrize("flow", list(FLOWS))
def test_unsafe_parameters_are_required(flow: str):
    required = set(FLOWS[flow].required)
    assert required <= {"model", "reason", "start", "end", "action", "source"}


def test_backfill_form_defaults_to_dry_run():
    assert FLOWS["backfill"].properties["dry_run"]["default"] is True
