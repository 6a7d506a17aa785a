"""Serve the workspace's reports and replay pages to this machine's browser; dashboards may not open file links.

Also accepts notices that rows have landed (`deployments.local.webhook`). `make serve` starts it:
`python -m deployments.local.reports PORT`. It listens on localhost only and answers only requests addressed to localhost by
name, so that no web page elsewhere can read reports through DNS rebinding.
"""

import sys
from datetime import UTC, datetime
from functools import partial
from html import escape
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from os.path import isfile, realpath  # unlike pathlib's, they answer for names that are too long or lead in a circle
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from deployments.local.credentials import may_enter
from deployments.local.webhook import PATH, NotTaken, announced, pass_on, read_notice
from tasks.adapters.storage.workspace import Workspace, workspace
from tasks.policy.records.errors import PerennialError

LOCAL_NAMES = ("127.0.0.1", "localhost")
FLEET = "/reports/fleet.html"
ASSETS = "assets"
INDEXES = ("index.html", "index.htm")  # what SimpleHTTPRequestHandler sends for a folder


class ReportPages(SimpleHTTPRequestHandler):
    """`/` lists what there is, FLEET shows all models as they are now; `/reports/…` and `/replay/…` are folders.

    Nothing else of the workspace can be read.
    """

    timeout = 30  # seconds of silence that end a connection: each has a thread of its own

    def __init__(self, *request: Any, space: Workspace) -> None:
        self.folders = {"reports": space.reports, "replay": space.home / "replay"}
        super().__init__(*request)

    def do_GET(self) -> None:
        if not self._is_welcome():
            return
        if urlsplit(self.path).path == "/":
            self._send_index()
        elif urlsplit(self.path).path == FLEET:
            self._send_fleet()
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if self._is_welcome():
            super().do_HEAD()

    def do_POST(self) -> None:
        """Accept the only request there is: a notice that rows have landed."""
        if not self._is_welcome():
            return
        try:
            if urlsplit(self.path).path != PATH:
                raise NotTaken(HTTPStatus.NOT_FOUND, f"expected {PATH}")
            length = self.headers.get("Content-Length", "")
            sent = self.rfile.read(announced(length))
            pass_on(read_notice(self.headers.get("Content-Type", ""), length, sent))
        except NotTaken as refusal:
            self._answer(refusal.status, str(refusal))
        else:
            self._answer(HTTPStatus.ACCEPTED, "taken")

    def _answer(self, status: int, text: str) -> None:
        self.close_connection = True  # what was not read of a refused body must not be taken for the next request
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def _is_welcome(self) -> bool:
        """Whether the request may be answered; if not, the reason has been sent."""
        if not self._can_be_read():
            self.send_error(HTTPStatus.BAD_REQUEST, "host or address cannot be read")
        elif not self._is_local():
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "only localhost is served")
        elif not self._is_of_our_own_pages():
            self.send_error(HTTPStatus.FORBIDDEN, "pages of another origin may not ask this server")
        elif not may_enter(self.headers.get("Authorization")):
            self.send_response(HTTPStatus.UNAUTHORIZED)
            self.send_header("WWW-Authenticate", 'Basic realm="Perennial reports", charset="UTF-8"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            return True
        return False

    def translate_path(self, path: str) -> str:
        """The file behind an address, or one that does not exist where the address leads out of our folders."""
        address = unquote(urlsplit(path).path)
        first, *rest = Path(address).parts[1:] or ("",)
        folder = self.folders.get(first)
        if folder is None or ".." in rest:
            return str(Path("/nonexistent"))
        file = realpath(folder.joinpath(*rest)) + "/" * address.endswith("/")
        if file.endswith("/"):  # the index that is sent for a folder may itself be a link
            indexes = [realpath(file + name) for name in INDEXES]
            file = next(filter(isfile, indexes), file)
        return file if Path(file).is_relative_to(folder.resolve()) else str(Path("/nonexistent"))

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Only what went wrong is worth a line."""
        if isinstance(code, int) and code >= HTTPStatus.BAD_REQUEST:
            super().log_request(code, size)

    def _can_be_read(self) -> bool:
        """Whether host and address are such at all: where not, urlsplit raises ValueError. No file's name holds a null."""
        try:
            urlsplit(f"//{self.headers.get('Host', '')}")
            return "\0" not in unquote(urlsplit(self.path).path)
        except ValueError:
            return False

    def _is_local(self) -> bool:
        return urlsplit(f"//{self.headers.get('Host', '')}").hostname in LOCAL_NAMES

    def _is_of_our_own_pages(self) -> bool:
        origin = self.headers.get("Origin")
        return origin is None or origin.partition("://")[2] == self.headers.get("Host")

    def _send_index(self) -> None:
        items = [(FLEET, "fleet: every model as it is now, those that require action first")]
        if (self.folders["replay"] / "index.html").is_file():
            items.append(("/replay/", "what the loop did: the replay page"))
        reports = self.folders["reports"]
        models = (
            sorted(path.name for path in reports.iterdir() if path.is_dir() and path.name != ASSETS)
            if reports.is_dir()
            else []
        )
        items += [(f"/reports/{model}/", f"{model}: data checks and drift, window by window") for model in models]
        links = "".join(f'<li><a href="{escape(href)}">{escape(text)}</a></li>' for href, text in items)
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Perennial reports</title>'
            "<style>body{font:16px system-ui;max-width:40rem;margin:3rem auto;padding:0 1rem}</style>"
            f"<h1>Reports</h1><ul>{links}</ul>{'' if models else '<p>No reports yet: make demo, or monitor a model.</p>'}</html>"
        )
        self._send(HTTPStatus.OK, page)

    def _send_fleet(self) -> None:
        # imports Prefect and MLflow's client, which the report pages need not wait for
        from tasks.record.fleet import fleet_html, own_models, survey_files

        try:
            self._send(HTTPStatus.OK, fleet_html(survey_files(own_models(), datetime.now(UTC))))
        except PerennialError as error:  # a ledger or registry that cannot be read must not end the server
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"<pre>{escape(str(error))}</pre>")

    def _send(self, status: HTTPStatus, page: str) -> None:
        content = page.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main(port: int) -> None:
    with ThreadingHTTPServer(("127.0.0.1", port), partial(ReportPages, space=workspace())) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]))
