"""Nobody gets in without the log-in, and a notice of landed rows is taken only when it is exactly that."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.local.credentials import REPORTS_LOG_IN, read_credentials
from deployments.local.reports import ReportPages
from deployments.local.webhook import MOST_BYTES, PATH
from tasks.adapters.storage.workspace import workspace as described
from tasks.policy.records.errors import LogInError

PAIR = "keeper:correct horse battery"


def log_in(folder: Path, text: str = PAIR, mode: int = 0o600) -> Path:
    path = folder / "log-in"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_log_in_reaches_every_service_and_no_file_of_the_workspace(tmp_path, workspace):
    found = read_credentials(log_in(tmp_path))
    environment = found.environment(described())
    assert environment["PREFECT_SERVER_API_AUTH_STRING"] == environment["PREFECT_API_AUTH_STRING"] == PAIR
    settings = Path(environment["MLFLOW_AUTH_CONFIG_PATH"]).read_text()
    assert "default_permission = NO_PERMISSIONS" in settings
    assert not [
        path for path in workspace.rglob("*") if path.is_file() and "correct horse" in path.read_text(errors="replace")
    ]
    assert "correct horse" not in repr(found)


def test_a_changed_log_in_is_the_only_account_that_mlflow_starts_with(tmp_path, workspace):
    for name in ("accounts.db", "accounts.db-wal", "accounts.db-shm"):
        read_credentials(log_in(tmp_path)).environment(described())
        (workspace / "mlflow" / name).write_text("a password of the last start")
        read_credentials(log_in(tmp_path, "keeper:another staple entirely")).environment(described())
        assert [path.name for path in (workspace / "mlflow").iterdir()] == ["basic_auth.ini"]


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (PAIR, 0o644, "others may read it"),
        ("keeper", 0o600, "expected one line, user:password"),
        ("keeper:short", 0o600, "at least 12"),
        (PAIR + "\nsecond:correct horse battery", 0o600, "expected one line"),
    ],
)
def test_a_log_in_that_others_can_read_or_guess_is_refused(tmp_path, text, mode, words):
    with pytest.raises(LogInError, match=words):
        read_credentials(log_in(tmp_path, text, mode))
    with pytest.raises(LogInError, match="cannot be read"):
        read_credentials(tmp_path / "nowhere")


class Events(BaseHTTPRequestHandler):
    received: list[tuple[str, Any, str | None]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.received.append((self.path, body, self.headers.get("Authorization")))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def received(monkeypatch) -> Iterator[list[Any]]:
    """Events as an API server receives them."""
    found: list[Any] = []
    with HTTPServer(("127.0.0.1", 0), type("Events", (Events,), {"received": found})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
        yield found
        server.shutdown()


@pytest.fixture
def pages() -> Iterator[httpx.Client]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(ReportPages, space=described())) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client:
            yield client
        server.shutdown()


def test_a_notice_becomes_one_event_however_often_it_is_sent(pages, received):
    notice = {"model": "air_time", "until": "2013-06-05T02:00:00+02:00"}
    assert [pages.post(PATH, json=notice).status_code for _ in range(2)] == [202, 202]
    (path, (first,), _), (_, (second,), _) = received
    assert path == "/api/events"
    assert first["id"] == second["id"], "Prefect drops an event whose id it has seen"
    assert first["event"] == "perennial.data.landed"
    assert first["resource"]["prefect.resource.id"] == "perennial.model.air_time"
    assert first["payload"] == {"model": "air_time", "until": "2013-06-05T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"json": {"model": "unheard_of"}}, 404),
        ({"json": {"model": "../air_time"}}, 422),
        ({"json": {"model": "/tmp/mine.yaml"}}, 422),
        ({"json": {"model": "air_time", "until": "soon"}}, 422),
        ({"json": {"model": "air_time", "until": "2013-06-05T00:00:00"}}, 422),
        ({"json": {"model": "air_time", "until": "0001-01-01T00:00:00+14:00"}}, 422),
        ({"json": {"model": "air_time", "policy": "mine"}}, 422),
        ({"json": ["air_time"]}, 422),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 422),
        ({"content": b'{"model": "air_time"}', "headers": {"Content-Type": "text/plain"}}, 415),
        ({"json": {"model": "air_time", "until": " " * MOST_BYTES}}, 413),
    ],
)
def test_anything_else_is_refused_and_becomes_no_event(pages, received, sent, status):
    assert pages.post(PATH, **sent).status_code == status
    assert pages.post("/hooks/other", json={"model": "air_time"}).status_code == 404
    assert pages.post(PATH, json={"model": "air_time"}, headers={"Host": "evil.example"}).status_code == 421
    assert received == []


def test_rows_cannot_have_landed_of_a_time_that_has_not_come(pages, received):
    now = datetime.now(UTC)
    for ahead, status in ((timedelta(minutes=6), 422), (timedelta(hours=14), 422), (timedelta(minutes=4), 202)):
        answer = pages.post(PATH, json={"model": "air_time", "until": (now + ahead).isoformat()})
        assert answer.status_code == status
        assert status == 202 or answer.text.startswith("until: lies in the future, expected no later than 20")
    assert len(received) == 1


def test_without_a_server_the_sender_is_asked_to_send_again(pages, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert pages.post(PATH, json={"model": "air_time"}).status_code == 503


def test_with_a_log_in_pages_and_hooks_answer_only_who_has_it(pages, received, monkeypatch):
    monkeypatch.setenv(REPORTS_LOG_IN, PAIR)
    for auth in (None, ("keeper", "wrong"), ("other", "correct horse battery")):
        assert pages.get("/", auth=auth).status_code == 401
        assert pages.head("/reports/", auth=auth).status_code == 401
        assert pages.post(PATH, json={"model": "air_time"}, auth=auth).status_code == 401
    assert received == []
    assert pages.get("/", auth=("keeper", "correct horse battery")).status_code == 200
    assert pages.post(PATH, json={"model": "air_time"}, auth=("keeper", "correct horse battery")).status_code == 202
    assert len(received) == 1
