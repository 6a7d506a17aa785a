"""S3 on a bad day: answers that are lost, a store that asks to slow down, keys that have expired or are in a profile only."""

import http.client
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tasks.adapters import lake, ledger, profile_keys
from tasks.adapters.object_store import LedgerError, store_at
from tasks.adapters.source_files import _file_system
from tasks.policy.errors import PerennialError
from tasks.policy.records import utc
from tests.landed_model import CONFIG
from tests.monitored_model import WINDOW, rows
from tests.object_store import object_store

AT, MODEL = utc("2024-02-01"), "churn"
Trouble = Callable[[str, str], str | None]
SLOW_DOWN = (503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
EXPIRED = (400, b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>")


class Between:
    """A proxy before moto. `trouble` says of each request, by method and path, "lose" its answer, "slow" or "expired"."""

    def __init__(self, address: str) -> None:
        self.trouble: Trouble = lambda *_: None
        self.lost: list[str] = []
        behind = urlsplit(address).netloc
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                kind = outer.trouble(self.command, self.path)
                if kind in ("slow", "expired"):
                    return self._answer(*(SLOW_DOWN if kind == "slow" else EXPIRED), {})
                asked = http.client.HTTPConnection(behind, timeout=30)
                asked.request(self.command, self.path, body, dict(self.headers))
                answer = asked.getresponse()
                content = answer.read()
                asked.close()
                if kind == "lose":
                    outer.lost.append(self.path)
                    self.close_connection = True
                    return self.connection.close()
                return self._answer(
                    answer.status, content, {name.lower(): value for name, value in answer.headers.items()}
                )

            def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                own = ("content-length", "transfer-encoding", "connection", "date", "server")
                for name, value in headers.items():
                    if name not in own:
                        self.send_header(name, value)
                length = headers.get("content-length", "0") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Iterator[Between]:
    with object_store("s3", monkeypatch) as bucket:
        proxy = Between(os.environ["AWS_ENDPOINT_URL"])
        threading.Thread(target=proxy.server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        monkeypatch.setenv("PERENNIAL_LEDGER", f"{bucket}/ledger")
        monkeypatch.setenv("PERENNIAL_LAKE", f"{bucket}/lake")
        yield proxy
        proxy.server.shutdown()
        proxy.server.server_close()


def once(kind: str, method: str, part: str, times: int = 1) -> Trouble:
    left = [times]

    def trouble(asked: str, path: str) -> str | None:
        if asked == method and part in path and left[0]:
            left[0] -= 1
            return kind
        return None

    return trouble


@pytest.mark.parametrize("decision_id", ["d2", None])
def test_an_entry_whose_answer_was_lost_is_told_once(between: Between, decision_id):
    ledger.append(MODEL, "note", "first", AT)
    between.trouble = once("lose", "PUT", "00000002.json")
    told = ledger.append(MODEL, "note", "second", AT, decision_id)
    assert between.lost and told.sequence == 2
    assert [entry.body for entry in ledger.entries(MODEL)] == ["first", "second"]
    assert ledger.verify(MODEL).problems == ()


def test_a_store_that_asks_to_slow_down_is_waited_for(between: Between):
    between.trouble = once("slow", "PUT", "", times=3)
    assert ledger.append(MODEL, "note", "first", AT).sequence == 1


def test_keys_that_have_expired_are_named(between: Between):
    between.trouble = lambda *_: "expired"
    with pytest.raises(LedgerError, match="renew credentials that are wrong or have expired"):
        ledger.append(MODEL, "note", "first", AT)


def write_profile(home: Path, *lines: str) -> None:
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text("\n".join(("[work]", *lines)))
    (home / ".aws" / "config").write_text("[profile work]\nregion = us-east-1\n")


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket whose keys are in the profile `work` only."""
    with object_store("s3", monkeypatch) as bucket:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_PROFILE", "work")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("PERENNIAL_LEDGER", f"{bucket}/ledger")
        monkeypatch.setenv("PERENNIAL_LAKE", f"{bucket}/lake")
        profile_keys._session.cache_clear()
        store_at.cache_clear()
        yield bucket
        profile_keys._session.cache_clear()


def test_keys_of_a_profile_open_ledger_lake_and_sources(profile: str, tmp_path: Path):
    write_profile(tmp_path, "aws_access_key_id = testing", "aws_secret_access_key = testing")
    assert ledger.append(MODEL, "note", "first", AT).sequence == 1
    snapshot = lake.land_rows(CONFIG, WINDOW, rows(20))
    assert lake.read_rows(snapshot).num_rows == 20
    files, path = _file_system(f"{profile}/ledger/{MODEL}/head.json", "here")
    assert files.get_file_info(path).is_file


def test_a_profile_without_usable_keys_is_named(profile: str, tmp_path: Path):
    write_profile(tmp_path)
    for attempt in (
        lambda: ledger.append(MODEL, "note", "first", AT),
        lambda: lake.land_rows(CONFIG, WINDOW, rows(20)),
        lambda: _file_system(f"{profile}/rows", "here"),
    ):
        with pytest.raises(PerennialError, match="AWS profile 'work': its keys cannot be used"):
            attempt()


def test_keys_in_the_environment_come_before_any_profile(profile: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    assert profile_keys.keys("s3://bucket/rows") is None
    assert profile_keys.keys("gs://bucket/rows") is None
