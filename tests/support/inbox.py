"""A web server that receives webhooks."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Inbox(BaseHTTPRequestHandler):
    received: list[Any]

    def do_POST(self) -> None:
        self.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(404 if "refused" in self.path else 202)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def inbox() -> Iterator[tuple[str, list[Any]]]:
    """Keep the messages sent to a local port; refuse paths with `refused`. Yields host:port and the messages."""
    received: list[Any] = []
    with HTTPServer(("127.0.0.1", 0), type("Inbox", (Inbox,), {"received": received})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", received
        server.shutdown()
