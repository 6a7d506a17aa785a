"""Local services answer their user, but no foreign web page and no rebound name."""

import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tests.attacks.browser_page import answers_rebound_name, attack_by_page, stolen
from tests.deployments.test_serve import Serving, csrf
from tests.support.browser import needs_chromium, opened_browser

pytestmark = [
    pytest.mark.attack("a web page in the user's browser"),
    pytest.mark.slow("starts every service of `make serve` and a browser"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, tuple[str, str]]]:
    """A first start with no options but ports, and the log-in that it created."""
    folder = tmp_path_factory.mktemp("served")
    serving = Serving(folder / "home", folder / "serve.log", log_in=True)
    try:
        serving.await_start()
        user, _, password = (folder / "home" / "log-in").read_text().strip().partition(":")
        yield serving, (user, password)
    finally:
        serving.process.terminate()
        try:
            serving.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            serving.process.kill()


@needs_chromium
@pytest.mark.parametrize("knows_log_in", [False, True])
def test_foreign_page_starts_nothing(served, knows_log_in):
    serving, log_in = served
    api = f"{serving.urls['prefect']}/api"
    tries = attack_by_page(api, log_in if knows_log_in else None)
    assert not stolen(api, log_in), tries
    assert not [name for name, status in tries.items() if status.startswith("2")], tries
    assert tries["read"] == "blocked", "responses are not readable by other origins"


def test_rebound_name_is_refused_by_every_service(served):
    serving, log_in = served
    pages = {
        "prefect": "/api/admin/version",
        "reports": "/",
        "evidently": "/",
        "mlflow": "/ajax-api/2.0/mlflow/experiments/get",
    }
    for service, page in pages.items():
        assert answers_rebound_name(serving.urls[service] + page, log_in) in (403, 421), service


def test_foreign_origin_is_refused_with_login(served):
    serving, log_in = served
    tries = {
        "prefect": ("/api/flows/", {"name": "stolen"}),
        "mlflow": ("/api/2.0/mlflow/registered-models/create", {"name": "stolen"}),
        "reports": ("/reports/fleet.html", {"model": "air_time"}),
        "evidently": ("/api/projects", {"name": "stolen"}),
    }
    for service, (page, body) in tries.items():
        for origin in ("http://evil.example", "null"):
            answer = httpx.post(serving.urls[service] + page, json=body, auth=log_in, headers={"Origin": origin})
            assert answer.status_code == 403, (service, origin)


def test_changes_need_the_csrf_token(served):
    serving, log_in = served
    flows = f"{serving.urls['prefect']}/api/flows/"
    assert httpx.post(flows, json={"name": "mine"}, auth=log_in).status_code == 403
    headers = csrf(serving.urls["prefect"], log_in)
    assert httpx.post(flows, json={"name": "mine"}, auth=log_in, headers=headers).status_code == 201


def test_login_is_shown_once_and_private(served):
    serving, (_, password) = served
    assert len(password) >= 20
    assert serving.output().count(password) == 1
    assert not [each for each in serving.family() if password in " ".join(each.cmdline())]


@needs_chromium
def test_the_owner_gets_into_the_dashboard(served):
    serving, (user, password) = served
    with opened_browser() as browser:
        page = browser.new_page()
        page.goto(serving.urls["prefect"])
        page.get_by_role("textbox").first.fill(f"{user}:{password}")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Flow Runs", timeout=60_000)
