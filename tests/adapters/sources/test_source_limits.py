"""Limits of sources: only allowed folders, no addresses of this machine, nothing quoted."""

import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from deltalake import write_deltalake

from tasks.adapters.sources.limits import SOURCES
from tasks.adapters.sources.read import read_window
from tasks.policy.records.errors import SourceError, SourceUnreachable
from tests.support.monitored_model import WINDOW, model
from tests.support.source_tables import TABLE, parquet

pytestmark = pytest.mark.attack("whoever writes a model's file")
SECRET = "root:x:0:0:secret-of-root:/root:/bin/bash\n"


@pytest.fixture
def allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "allowed"
    folder.mkdir()
    monkeypatch.setenv(SOURCES, os.pathsep.join([str(folder), str(tmp_path / "other")]))
    return folder


def test_only_files_in_allowed_folders_are_read(tmp_path, allowed):
    assert read_window(parquet(allowed), WINDOW).num_rows == 50
    with pytest.raises(SourceError, match=f"outside the folders .*{SOURCES}"):
        read_window(parquet(tmp_path), WINDOW)
    (allowed / "link.parquet").symlink_to(tmp_path / "rows.parquet")
    for path in (str(allowed / "link.parquet"), f"{allowed}/../rows.parquet", f"file://{tmp_path}/rows.parquet"):
        with pytest.raises(SourceError, match="outside the folders"):
            read_window(model(source={"kind": "parquet", "path": path}), WINDOW)


def test_links_out_of_allowed_folders_are_refused(tmp_path, allowed):
    secret, shared, rows = tmp_path / "secret", allowed / "shared", allowed / "rows"
    for folder in (secret, shared, rows):
        folder.mkdir()
    parquet(secret)
    parquet(shared)
    (rows / "month").symlink_to(shared)
    found = model(source={"kind": "parquet", "path": str(rows)})
    assert read_window(found, WINDOW).num_rows == 50
    for name, leads_to in (("shared/file.parquet", secret / "rows.parquet"), ("rows/year", secret)):
        (allowed / name).symlink_to(leads_to)
        with pytest.raises(SourceError, match=r"(file.parquet|year) in it lies outside the folders"):
            read_window(found, WINDOW)
        (allowed / name).unlink()
    (rows / "loop").symlink_to(rows)
    with pytest.raises(SourceError, match="so its rows"):
        read_window(found, WINDOW)


def test_file_urls_are_checked_as_paths(tmp_path, allowed):
    parquet(allowed)
    write_deltalake(allowed / "table", TABLE)
    write_deltalake(tmp_path / "table", TABLE)
    for scheme in ("file://", "FILE://", "file://localhost"):
        for kind, name in (("parquet", "rows.parquet"), ("delta", "table")):
            path = f"{scheme}{allowed}/{name}"
            assert read_window(model(source={"kind": kind, "path": path}), WINDOW).num_rows == 50
        for inside in ("", "/allowed/..", "/allowed/%2e%2e"):
            with pytest.raises(SourceError, match="outside the folders"):
                read_window(model(source={"kind": "delta", "path": f"{scheme}{tmp_path}{inside}/table"}), WINDOW)
    for path in (f"file://elsewhere{allowed}/table", f"memory://{tmp_path}", f"file+x://{tmp_path}/table"):
        with pytest.raises(SourceError, match="not a source address"):
            read_window(model(source={"kind": "delta", "path": path}), WINDOW)


def test_table_files_must_be_in_allowed_folders(tmp_path, allowed):
    write_deltalake(tmp_path / "table", TABLE)
    table = allowed / "table"
    shutil.copytree(tmp_path / "table", table)
    config = model(source={"kind": "delta", "path": str(table)})
    assert read_window(config, WINDOW).num_rows == 50
    (stored,) = table.glob("*.parquet")
    stored.unlink()
    stored.symlink_to(tmp_path / "table" / stored.name)
    with pytest.raises(SourceError, match="in it lies outside the folders"):
        read_window(config, WINDOW)
    stored.unlink()
    log = table / "_delta_log" / f"{0:020d}.json"
    log.write_text(log.read_text().replace(stored.name, f"file://{tmp_path}/table/{stored.name}"))
    with pytest.raises(SourceError, match="not found"):  # deltalake treats no path as absolute
        read_window(config, WINDOW)


def test_nothing_is_refused_without_the_setting(tmp_path, monkeypatch):
    monkeypatch.delenv(SOURCES, raising=False)
    assert read_window(parquet(tmp_path), WINDOW).num_rows == 50


def test_database_files_and_tables_are_checked(tmp_path, allowed, monkeypatch):
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
def test_loopback_and_link_local_addresses_are_refused(allowed, host):
    with pytest.raises(SourceError, match="a loopback, link-local, unspecified or multicast address") as caught:
        read_window(model(source={"kind": "csv", "path": f"http://{host}:9/latest/meta-data"}), WINDOW)
    assert not isinstance(caught.value, SourceUnreachable)


@pytest.fixture
def redirecting() -> Iterator[str]:
    """Run a server that redirects to the cloud's metadata address."""

    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header(
                "Location", "http://169.254.169.254/latest/meta-data" if self.path == "/there" else "file:///etc/passwd"
            )
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_redirects_are_checked(allowed, redirecting, monkeypatch):
    from tasks.adapters.sources import limits as source_limits

    real = source_limits.check_address
    monkeypatch.setattr(
        source_limits, "check_address", lambda url, where: None if url.startswith(redirecting) else real(url, where)
    )
    with pytest.raises(SourceError, match="a loopback, link-local, unspecified or multicast address"):
        read_window(model(source={"kind": "csv", "path": f"{redirecting}/there"}), WINDOW)
    with pytest.raises(SourceError, match=r"not http\(s\)"):
        read_window(model(source={"kind": "csv", "path": f"{redirecting}/file"}), WINDOW)


def test_errors_do_not_quote_foreign_files(tmp_path):
    (tmp_path / "passwd").write_text(SECRET * 3)
    for kind in ("csv", "parquet"):
        with pytest.raises(SourceError) as caught:
            read_window(model(source={"kind": kind, "path": str(tmp_path / "passwd")}), WINDOW)
        assert "secret-of-root" not in str(caught.value)
