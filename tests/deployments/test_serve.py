"""`make serve`: starts all services, resumes, and leaves no process behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import httpx
import psutil
import pytest
from rich.console import Console

from deployments.config.folders import DEPLOYMENTS
from deployments.local.instance_lock import hold_workspace
from deployments.local.reports import report_pages
from deployments.local.services import Service, Stream
from tasks.adapters import ledger
from tasks.adapters.orchestration.server import free_port, served_url
from tasks.adapters.storage.workspace import workspace
from tasks.policy.evidence.ledger import Fact
from tasks.policy.records.base import utc
from tasks.policy.records.errors import WorkspaceError
from tests.support.served_pages import served_pages

START_S = 180
PORTS = ("prefect", "mlflow", "reports", "evidently")


def csrf(prefect: str, auth: tuple[str, str] | None = None) -> dict[str, str]:
    """Return the CSRF headers that Prefect's clients send with every change, and a form on another page cannot."""
    asked = httpx.get(f"{prefect}/api/csrf-token", params={"client": "tests"}, auth=auth)
    return {"Prefect-Csrf-Token": asked.json()["token"], "Prefect-Csrf-Client": "tests"} if asked.is_success else {}


class Serving:
    """A `perennial serve` process on free ports, with its output in a file."""

    def __init__(self, home: Path, log: Path, *more: str, log_in: bool = False) -> None:
        self.urls = {name: f"http://127.0.0.1:{free_port()}" for name in PORTS}
        options = [part for name, url in self.urls.items() for part in (f"--{name}-port", url.rsplit(":", 1)[1])]
        more = more if log_in or more else ("--no-login",)
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deployments", "serve", *options, *more],
                env={**os.environ, "PERENNIAL_HOME": str(home)}, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def await_start(self) -> None:
        deadline = monotonic() + START_S
        while "Ctrl-C stops everything" not in self.output():
            assert self.process.poll() is None and monotonic() < deadline, self.output()[-4000:]
            sleep(0.3)

    def has_scheduled_runs(self) -> bool:
        """Return whether runs are scheduled; the scheduler fails silently with unsupported libraries (SQLAlchemy 2.1)."""
        planned, deadline = {"flow_runs": {"state": {"name": {"any_": ["Scheduled"]}}}}, monotonic() + START_S
        url = f"{self.urls['prefect']}/api/flow_runs/count"
        headers = csrf(self.urls["prefect"])
        while not (count := httpx.post(url, json=planned, headers=headers).json()) and monotonic() < deadline:
            sleep(1)
        return bool(count)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[list[Serving]]:
    """Start `serve` processes, and end them after the test."""
    started: list[Serving] = []
    yield started
    for each in started:
        if each.process.poll() is None:
            each.process.terminate()
            each.process.wait(timeout=60)


@pytest.mark.slow("starts every service of `make serve`, twice")
@pytest.mark.timeout(500)
def test_serve_starts_stops_and_resumes(tmp_path, serving):
    home = tmp_path / "home"
    first = Serving(home, tmp_path / "first.log")
    serving.append(first)
    first.await_start()
    assert "<title>Prefect" in httpx.get(first.urls["prefect"], follow_redirects=True).text
    assert "MLflow" in httpx.get(first.urls["mlflow"]).text
    assert "<h1>Reports</h1>" in httpx.get(first.urls["reports"]).text
    assert "Evidently" in httpx.get(first.urls["evidently"]).text
    fleet = httpx.get(f"{first.urls['reports']}/reports/fleet.html", timeout=60).text
    assert "Action required for 2 models." in fleet and "train and promote the first one" in fleet
    assert re.search(r"│ worker\s+│ healthy │", first.output())
    assert served_url(workspace()) == f"{first.urls['prefect']}/api"
    assert first.has_scheduled_runs(), "no run is scheduled, although the fleet has a schedule"
    assert {listening.laddr.ip for each in first.family() for listening in each.net_connections()
            if listening.status == psutil.CONN_LISTEN} == {"127.0.0.1"}  # fmt: skip

    refused = subprocess.run(
        [sys.executable, "-m", "deployments", "serve"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert f"is served already, by process {first.process.pid}" in refused.stderr

    family = first.family()
    sleep(3)  # children of services are recorded every 2 s
    next(each for each in family if "tasks.adapters.dashboards.mlflow_app" in each.cmdline()).kill()
    assert first.process.wait(timeout=60) == 1
    assert "mlflow ended with status -9, so all services stop; its last lines:" in first.output()
    assert not [each for each in family if each.is_running()]
    assert served_url(workspace()) is None

    second = Serving(home, tmp_path / "second.log")
    serving.append(second)
    second.await_start()
    assert "nothing to change" in second.output(), "the second start did not find what the first one deployed"
    family = second.family()
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(timeout=60) == 0
    assert not [each for each in family if each.is_running()]


def apply_under_serve() -> list[str]:
    """Return the lines that `serve` prints after applying the files to the test server."""
    from prefect.settings import get_current_settings

    from deployments.local import serve

    services, stream = [], Stream(Console(record=True, width=400), len("evidently"))
    environment = {**os.environ, "PREFECT_API_URL": str(get_current_settings().api.url)}
    with hold_workspace(workspace()) as hold:
        serve._apply(serve.ServeRun(services, stream, threading.Event(), hold), environment)
        serve._check_alive(services)
    serve._print_refusal(services, stream)
    return stream.console.export_text().splitlines()


@pytest.mark.slow("starts a server and applies every deployment")
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prefect_server")
def test_broken_file_does_not_stop_serve(tmp_path, monkeypatch):
    from deployments.apply import server_state
    from deployments.local.serve import ServiceEnded

    assert not any("NOTHING NEW IS DEPLOYED" in line for line in apply_under_serve())
    with server_state.PrefectState() as state:
        before = state.found_definitions(("perennial",))
    monkeypatch.setenv("PERENNIAL_MODELS", str(tmp_path))
    (tmp_path / "broken.yaml").write_text("bogus: [")
    *_, headline, named = apply_under_serve()
    assert "NOTHING NEW IS DEPLOYED: the deployments of the last apply stay active" in headline
    assert "broken.yaml: is not YAML" in named
    with server_state.PrefectState() as state:
        assert state.found_definitions(("perennial",)) == before

    monkeypatch.setattr(server_state, "TAG", "of-nobody")  # as on a server to which nothing was ever applied
    with pytest.raises(ServiceEnded):
        apply_under_serve()


def log_in(folder: Path, password: str) -> Path:
    file = folder / "log-in"
    file.write_text(f"keeper:{password}")
    file.chmod(0o600)
    return file


@pytest.mark.slow("starts every service of `make serve`, twice")
@pytest.mark.timeout(900)
def test_services_require_the_current_login(tmp_path, serving):
    passwords = ("correct horse battery", "another staple entirely")
    for password, other in (passwords, passwords[::-1]):
        options = ("--credentials", str(log_in(tmp_path, password)))
        guarded = Serving(tmp_path / "home", tmp_path / "serve.log", *options)
        serving.append(guarded)
        guarded.await_start()  # deployments are applied and a worker is online, so Perennial's own clients got in
        runs, models = (
            f"{guarded.urls['prefect']}/api/admin/version",
            f"{guarded.urls['mlflow']}/ajax-api/2.0/mlflow/registered-models/search",
        )
        for auth, expected in ((None, 401), (("keeper", other), 401), (("keeper", password), 200)):
            assert httpx.get(runs, auth=auth).status_code == expected
            assert httpx.get(models, auth=auth).status_code == expected
            assert httpx.get(guarded.urls["reports"], auth=auth).status_code == expected
            assert httpx.get(guarded.urls["evidently"], auth=auth).status_code == expected
        assert password not in guarded.output()
        assert not [each for each in guarded.family() if password in " ".join(each.cmdline())]
        guarded.process.terminate()
        assert guarded.process.wait(timeout=60) == 0


def test_service_that_refuses_the_login_is_unhealthy(workspace):
    from deployments.local.servers import answers
    from tasks.adapters.storage.workspace import workspace as described

    with served_pages(report_pages(described(), "keeper:correct horse battery")) as pages:
        assert answers(str(pages.base_url), ("keeper", "correct horse battery"))
        assert not answers(str(pages.base_url), ("keeper", "another staple entirely"))
        assert not answers(str(pages.base_url))


STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(99)"
)
PARENT = (
    f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], start_new_session=True).wait()"
)


def test_child_that_ignores_the_signal_is_killed():
    service = Service("worker", [sys.executable, "-c", PARENT], os.environ, "", lambda: True)
    service.start(Stream(Console(quiet=True), 7))
    while "ready" not in service.last_lines:
        sleep(0.02)
    (child,) = psutil.Process(service.process.pid).children()
    service.stop(patience_s=0.3)
    assert not child.is_running()
    assert service.exit_status == -signal.SIGTERM


def leave_running(space_home: Path, started: float | None = None) -> subprocess.Popen[bytes]:
    """Leave a process as a killed `serve` does, recorded with its own start time or another."""
    left = subprocess.Popen(["sleep", "99"])
    moment = started or psutil.Process(left.pid).create_time()
    (space_home / "serve.lock").write_text(f'{{"serve": 1, "started": {{"{left.pid}": {moment}}}}}')
    return left


def test_leftover_processes_are_ended_at_the_next_start():
    left = leave_running(workspace().home)
    with hold_workspace(workspace()):
        assert not psutil.pid_exists(left.pid)
    left.wait()


def test_reused_process_id_is_left_alone():
    reused_pid = leave_running(workspace().home, started=1.0)
    try:
        with hold_workspace(workspace()):
            assert reused_pid.poll() is None
    finally:
        reused_pid.kill()
        reused_pid.wait()


@pytest.mark.parametrize("cut", ['{"serve": 1, "sta', "\0" * 40, b"{\xc3".decode("latin-1")])
def test_truncated_lock_file_is_ignored(cut):
    lock = workspace().home / "serve.lock"
    lock.write_text(cut, encoding="latin-1")
    with hold_workspace(workspace()) as hold:
        assert hold.recall() == {"serve": os.getpid(), "started": {}}
        lock.write_text(cut, encoding="latin-1")
        with pytest.raises(WorkspaceError, match="by process unknown"), hold_workspace(workspace()):
            pass
    assert lock.read_text() == ""


def test_second_serve_keeps_the_accounts_of_the_first(tmp_path):
    from deployments.local.serve import serve

    accounts = workspace().home / "mlflow" / "accounts.db"
    accounts.parent.mkdir()
    accounts.write_text("of the first one")
    with hold_workspace(workspace()), pytest.raises(WorkspaceError, match="is served already"):
        serve({}, log_in(tmp_path, "another staple entirely"))
    assert accounts.read_text() == "of the first one"


def test_workspace_lock_is_exclusive_and_released():
    with (
        hold_workspace(workspace()),
        pytest.raises(WorkspaceError, match=f"by process {os.getpid()}"),
        hold_workspace(workspace()),
    ):
        pass
    with hold_workspace(workspace()):
        pass


def test_new_workspace_is_private(workspace, monkeypatch):
    from tasks.adapters.storage.workspace import workspace as described

    assert described().home == workspace
    assert workspace.stat().st_mode & 0o777 == 0o700
    workspace.chmod(0o750)
    assert described().home.stat().st_mode & 0o777 == 0o750


@pytest.fixture
def pages(workspace: Path) -> Iterator[httpx.Client]:
    from tasks.adapters.storage.workspace import workspace as described

    report = described().report("air_time", "2013-06-01..2013-06-06", "drift.html")
    report.write_text("<p>drift</p>", encoding="utf-8")
    (workspace / "secret.txt").write_text("secret", encoding="utf-8")
    (workspace / "reports" / "way-out").symlink_to(workspace / "secret.txt")
    with served_pages(report_pages(described())) as client:
        yield client


def test_report_link_of_the_artifact_opens(pages, workspace, monkeypatch):
    from tasks.adapters.storage.links import link

    monkeypatch.setenv("PERENNIAL_REPORTS_URL", f"{str(pages.base_url).rstrip('/')}/reports")
    address = link(str(workspace / "reports/air_time/2013-06-01_2013-06-06/drift.html"))
    assert httpx.get(address).text == "<p>drift</p>"
    assert "/reports/air_time/" in pages.get("/").text


def test_report_links_default_to_the_served_address(workspace, monkeypatch):
    from tasks.adapters.storage.links import link

    monkeypatch.delenv("PERENNIAL_REPORTS_URL", raising=False)
    assert link(str(workspace / "reports/a/w/x y.html")) == "http://127.0.0.1:4280/reports/a/w/x%20y.html"
    assert link(str(workspace / "elsewhere.html")) == (workspace / "elsewhere.html").resolve().as_uri()
    assert link("s3://bucket/drift.html") == "s3://bucket/drift.html"


def test_fleet_page_shows_the_current_state(pages):
    assert "train and promote the first one" in pages.get("/reports/fleet.html", timeout=60).text


def test_broken_file_is_shown_on_the_fleet_page(pages, tmp_path, monkeypatch):
    monkeypatch.setenv("PERENNIAL_MODELS", str(tmp_path))
    (tmp_path / "odd.yaml").write_text("name: odd\nowner: [")
    (tmp_path / "air_time.yaml").write_text((DEPLOYMENTS / "air_time.yaml").read_text(encoding="utf-8"))
    ledger.append("air_time", Fact("note", "begun", utc("2024-01-01")))
    answer = pages.get("/reports/fleet.html", timeout=60)
    assert answer.status_code == 200
    assert "odd.yaml: is not YAML" in answer.text and 'data-model="air_time"' in answer.text
    assert "flight_delay" not in answer.text  # the folder replaces the demo's models


def test_damaged_ledger_is_shown_on_the_fleet_page(pages, workspace):
    damaged = workspace / "ledger" / "air_time"
    damaged.mkdir(parents=True)
    (damaged / "00000001.json").write_text("{")
    answer = pages.get("/reports/fleet.html", timeout=60)
    assert answer.status_code == 200
    first, second = answer.text.split('data-model="')[1:]
    assert first.startswith("air_time") and "its ledger does not verify" in first
    assert "action required" in first and "perennial audit verify air_time" in first
    assert second.startswith("flight_delay") and "train and promote the first one" in second


def test_unreachable_ledger_is_shown_on_the_fleet_page(pages, workspace):
    (workspace / "ledger").write_text("no folder")
    answer = pages.get("/reports/fleet.html", timeout=60)
    assert answer.status_code == 503
    assert pages.get("/").status_code == 200


@pytest.mark.parametrize(
    "path", ["/secret.txt", "/reports/../secret.txt", "/reports/%2e%2e/secret.txt", "/reports/way-out"]
)
def test_only_reports_are_served(pages, path):
    raw = httpx.URL(str(pages.base_url)).copy_with(raw_path=path.encode())
    assert httpx.get(raw).status_code == 404


def test_folder_without_index_is_listed(pages):
    assert '<a href="/reports/air_time/2013-06-01_2013-06-06/">' in pages.get("/reports/air_time/").text
    assert pages.get("/reports/unheard_of/").status_code == 404
    assert pages.get("/replay/").status_code == 404


def test_index_link_out_of_reports_is_not_followed(pages, workspace):
    index = workspace / "reports" / "air_time" / "index.html"
    index.symlink_to(workspace / "secret.txt")
    for address in ("/reports/air_time/", "/reports/air_time/?x"):
        assert "secret" not in pages.get(address).text
    index.unlink()
    index.symlink_to(workspace / "reports/air_time/2013-06-01_2013-06-06/drift.html")
    assert pages.get("/reports/air_time/?x").text == "<p>drift</p>"


def ask(pages: httpx.Client, request: str) -> str:
    """Return the first line of the response to a malformed request; empty without a response."""
    with socket.create_connection((pages.base_url.host, pages.base_url.port), timeout=10) as asking:
        asking.sendall(request.encode("latin-1"))
        return asking.makefile("rb").readline().decode().strip()


@pytest.mark.parametrize(
    ("request_line", "header", "status"),
    [
        ("GET /reports/%00", "Host: localhost", 404),
        ("HEAD /reports/air_time/%00/", "Host: localhost", 404),
        ("GET http://[/", "Host: localhost", 400),
        ("GET /", "Host: [", 421),
        (f"GET /reports/{'x' * 300}/", "Host: localhost", 404),
        ("POST /reports/", "Host: localhost\r\nContent-Length: \xb2", 400),
    ],
)
def test_malformed_request_leaves_no_traceback(pages, capfd, request_line, header, status):
    assert ask(pages, f"{request_line} HTTP/1.1\r\n{header}\r\n\r\n").split()[1:2] == [str(status)]
    assert "Traceback" not in capfd.readouterr().err


def test_rebound_name_cannot_read_reports(pages):
    assert pages.get("/", headers={"Host": "evil.example"}).status_code == 421
    assert pages.head("/reports/", headers={"Host": "evil.example"}).status_code == 421
    assert pages.get("/", headers={"Host": "localhost:4280"}).status_code == 200
