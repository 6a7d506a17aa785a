"""Sources that somebody else names: no file outside the allowed folders, no address of this machine, nothing quoted."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.adapters.source_limits import SOURCES
from tasks.adapters.sources import SourceError, SourceUnreachable, read_window
from tests.monitored_model import WINDOW, model
from tests.source_tables import parquet

pytestmark = pytest.mark.attack("whoever writes a model's file")
SECRET = "root:x:0:0:secret-of-root:/root:/bin/bash\n"


@pytest.fixture
def allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "allowed"
    folder.mkdir()
    monkeypatch.setenv(SOURCES, os.pathsep.join([str(folder), str(tmp_path / "other")]))
    return folder


def test_files_in_the_named_folders_are_read_and_others_are_not(tmp_path, allowed):
    assert read_window(parquet(allowed), WINDOW).num_rows == 50
    with pytest.raises(SourceError, match=f"outside the folders .*{SOURCES}"):
        read_window(parquet(tmp_path), WINDOW)
    (allowed / "link.parquet").symlink_to(tmp_path / "rows.parquet")
    for path in (str(allowed / "link.parquet"), f"{allowed}/../rows.parquet", f"file://{tmp_path}/rows.parquet"):
        with pytest.raises(SourceError, match="outside the folders"):
            read_window(model(source={"kind": "parquet", "path": path}), WINDOW)


def test_without_the_setting_nothing_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv(SOURCES, raising=False)
    assert read_window(parquet(tmp_path), WINDOW).num_rows == 50


def test_a_database_file_and_a_table_are_files_too(tmp_path, allowed, monkeypatch):
    monkeypatch.setenv("ROWS_URL", f"sqlite:///{tmp_path / 'rows.db'}")
    query = "select * from rows where at >= :start and at < :end"
    for source in ({"kind": "sql", "url_env": "ROWS_URL", "query": query}, {"kind": "delta", "path": str(tmp_path)}):
        with pytest.raises(SourceError, match="outside the folders"):
            read_window(model(source=source), WINDOW)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "0.0.0.0",  # noqa: S104
        "169.254.169.254",
        "2130706433",
        "0x7f000001",
        "[::ffff:127.0.0.1]",
    ],
)
def test_addresses_of_this_machine_and_of_its_link_are_refused_however_they_are_written(allowed, host):
    with pytest.raises(SourceError, match="an address of this machine or of its link") as caught:
        read_window(model(source={"kind": "csv", "path": f"http://{host}:9/latest/meta-data"}), WINDOW)
    assert not isinstance(caught.value, SourceUnreachable)


@pytest.fixture
def redirecting() -> Iterator[str]:
    """A server elsewhere, as far as this test can have one, that sends on to the cloud's own address."""

    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header(
                "Location", "http://169.254.169.254/latest/meta-data" if self.path == "/there" else "file:///etc/passwd"
            )
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_redirect_is_an_address_like_any_other(allowed, redirecting, monkeypatch):
    from tasks.adapters import source_limits

    real = source_limits.check_address
    monkeypatch.setattr(
        source_limits, "check_address", lambda url, where: None if url.startswith(redirecting) else real(url, where)
    )
    with pytest.raises(SourceError, match="an address of this machine or of its link"):
        read_window(model(source={"kind": "csv", "path": f"{redirecting}/there"}), WINDOW)
    with pytest.raises(SourceError, match="no web address"):
        read_window(model(source={"kind": "csv", "path": f"{redirecting}/file"}), WINDOW)


def test_an_error_quotes_nothing_of_a_file_that_is_no_table_of_ours(tmp_path):
    (tmp_path / "passwd").write_text(SECRET * 3)
    for kind in ("csv", "parquet"):
        with pytest.raises(SourceError) as caught:
            read_window(model(source={"kind": kind, "path": str(tmp_path / "passwd")}), WINDOW)
        assert "secret-of-root" not in str(caught.value)
