"""Approval in the browser: the run's page in Prefect's dashboard, its Resume button and the form."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from playwright.sync_api import Page
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from tasks.adapters import ledger, registry
from tasks.adapters.orchestration.server import prefect_server, wait_until_healthy
from tasks.adapters.storage.workspace import workspace
from tests.support.browser import needs_chromium, opened_browser
from tests.support.waiting_promotion import FIRST, Waiting, answers, write_risky_model

pytestmark = [
    needs_chromium,
    pytest.mark.timeout(900),
    pytest.mark.slow("starts a server with its dashboard, runs and a browser"),
]
PATIENCE_MS = 120_000


@pytest.fixture
def dashboard() -> Iterator[Mapping[str, str]]:
    """Run a server with its dashboard; return the environment for processes that talk to it."""
    with prefect_server(workspace()) as environment:
        wait_until_healthy(environment["PREFECT_API_URL"])
        log_in = environment["PREFECT_API_AUTH_STRING"]
        with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: log_in}):
            yield environment


def run_process(environment: Mapping[str, str], *arguments: str) -> str:
    """Run a Python process to its end; return its output."""
    ended = subprocess.run(
        [sys.executable, "-m", *arguments], env={**environment, "PERENNIAL_HOME": os.environ["PERENNIAL_HOME"]},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return ended.stdout + ended.stderr


def fill_in(page: Page, decision: str, name: str, comment: str) -> None:
    """Press Resume and answer: choose from the list, type into the fields."""
    page.get_by_role("button", name="Resume").click()
    fields = page.locator(".p-modal .schema-form-property")
    fields.filter(has_text="Decision").locator("fieldset button").focus()  # the list opens by keyboard only
    page.keyboard.press("ArrowDown")
    page.get_by_role("option", name=decision).click()
    fields.filter(has_text="Name").locator("textarea").fill(name)
    fields.filter(has_text="Comment").locator("textarea").fill(comment)


def test_person_approves_on_the_dashboard_form(dashboard, tmp_path: Path):
    model = write_risky_model(tmp_path)
    output = run_process(
        dashboard,
        "deployments",
        "run",
        "retrain",
        "--model",
        model,
        "--until",
        FIRST.isoformat(),
        "--requested-by",
        "Ada",
    )
    assert ledger.entries("small", kind="challenger.validated"), output
    waiting = Waiting(model)
    output = run_process(dashboard, "prefect", "flow-run", "execute", str(waiting.id))
    assert waiting.seen().state.name == "Suspended", output
    assert registry.CHAMPION not in registry.aliases("small")

    with opened_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.set_default_timeout(PATIENCE_MS)
        home = dashboard["PREFECT_API_URL"].removesuffix("/api")
        page.goto(home)
        page.get_by_role("textbox").first.fill(dashboard["PREFECT_API_AUTH_STRING"])
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Flow Runs")
        page.goto(f"{home}/runs/flow-run/{waiting.id}")
        fill_in(page, "approve", "Grace", "read the report")
        page.screenshot(path=tmp_path / "form.png")
        assert "May version 1 of small serve?" in page.locator(".p-modal").inner_text()
        page.locator(".p-modal").get_by_role("button", name="Submit").click()
        page.locator(".p-modal").wait_for(state="detached")
    output = run_process(dashboard, "prefect", "flow-run", "execute", str(waiting.id))
    assert waiting.seen().state.is_completed(), output

    ((actor, approval),) = answers()
    assert (actor, approval.verdict, approval.comment) == ("Grace", "approved", "read the report")
    promoted = ledger.entries("small")[-1]
    assert (promoted.kind, promoted.actor) == ("champion.promoted", "Grace")
    assert registry.aliases("small")[registry.CHAMPION] == "1"
    assert not ledger.verify("small").problems
