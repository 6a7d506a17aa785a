"""A proxy in front of moto that drops responses or returns an object store's errors when a test requests it."""

import http.client
import multiprocessing
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

SLOW_DOWN = (503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
EXPIRED = (400, b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>")


class Between:
    """A proxy in front of moto, in its own process, because delta-rs holds Python's GIL during a request.

    `trouble` selects requests by method and a part of their path, and how many to disturb: "lose" executes a request
    but drops its response; "slow" and "expired" refuse it.
    """

    def __init__(self, address: str, state: Any) -> None:
        self._state = state
        self.trouble("none")
        spawning = multiprocessing.get_context("spawn")
        self.process = spawning.Process(target=serve, args=(urlsplit(address).netloc, state), daemon=True)
        self.process.start()
        while "port" not in state:
            time.sleep(0.05)
        self.address = f"http://127.0.0.1:{state['port']}"

    def trouble(self, kind: str, method: str = "", part: str = "", times: int = 1) -> None:
        self._state.update(kind=kind, method=method, part=part, left=times, lost=0)

    @property
    def lost(self) -> int:
        return int(self._state["lost"])


def serve(behind: str, state: Any) -> None:
    alone = threading.Lock()

    def kind_of(method: str, path: str) -> str:
        with alone:
            if state["method"] not in ("", method) or state["part"] not in path or not state["left"]:
                return "none"
            state["left"] -= 1
            return str(state["kind"])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = kind_of(self.command, self.path)
            if kind in ("slow", "expired"):
                return self._answer(*(SLOW_DOWN if kind == "slow" else EXPIRED), {})
            asked = http.client.HTTPConnection(behind, timeout=30)
            asked.request(self.command, self.path, body, dict(self.headers))
            answer = asked.getresponse()
            content = answer.read()
            asked.close()
            if kind == "lose":
                state["lost"] += 1
                self.close_connection = True
                return self.connection.shutdown(socket.SHUT_RDWR)
            return self._answer(answer.status, content, {name.lower(): value for name, value in answer.headers.items()})

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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state["port"] = server.server_port
    server.serve_forever()
