"""A real haproxy in front of two small model servers, on ports that the system assigns.

haproxy inherits its listening sockets (`bind fd@N`), so no other process can take the ports in between.
"""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.policy.rollout.traffic import HaproxyControl

HAPROXY = shutil.which("haproxy") or "/usr/sbin/haproxy"
needs_haproxy = pytest.mark.skipif(  # .ci/run allows no skips: a missing haproxy fails the test there
    not Path(HAPROXY).exists() and not os.environ.get("PERENNIAL_REQUIRE_SYSTEM_TOOLS"),
    reason="no haproxy to set weights in; apt-get install haproxy",
)
EXAMPLE = Path(__file__).parents[2] / "infra" / "haproxy" / "haproxy.cfg"
BACKEND = "\n".join(
    line for line in EXAMPLE.read_text().partition("backend churn\n")[2].splitlines() if not line.startswith("  server")
)
"""What the example's backend says, without its servers."""


class ModelServer(ThreadingHTTPServer):
    """Answers every request with its version in `x-model-version`, and counts the requests by unit."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, version: str) -> None:
        self.version = version
        self.requests: Counter[str] = Counter()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing for a connection that haproxy closed when it ended."""

    def answer(self, path: str, unit: str, content: dict[str, object]) -> dict[str, object]:
        """Answer a POST. Raises Refused for an answer with status 500."""
        return {"predictions": [0.0]}


class Refused(Exception):
    """The model cannot answer."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # headers and body in one packet; two would wait for a delayed acknowledgement
    disable_nagle_algorithm = True
    server: ModelServer

    def do_GET(self) -> None:
        self._reply(200, {"version": self.server.version})

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["content-length"])))
        try:
            self._reply(200, self.server.answer(self.path, self.headers.get("x-unit", ""), content))
        except Refused as refused:
            self._reply(500, {"error": str(refused)})

    def _reply(self, status: int, content: dict[str, object]) -> None:
        self.server.requests[self.headers.get("x-unit", "")] += 1
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("x-model-version", self.server.version)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@dataclass(slots=True)
class Haproxy:
    """A running haproxy; `control` has the settings that reach it."""

    control: HaproxyControl
    process: subprocess.Popen[bytes]
    tcp_socket: str
    servers: dict[str, ModelServer] = field(default_factory=dict)

    @property
    def champion(self) -> ModelServer:
        return self.servers["champion"]

    @property
    def challenger(self) -> ModelServer:
        return self.servers["challenger"]

    def ask(self, command: str) -> str:
        """Send a command as an operator would."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(self.control.sockets[0])
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


@contextmanager
def running_haproxy(
    folder: Path, *servers: ModelServer, backend: str = BACKEND, level: str = "admin"
) -> Iterator[Haproxy]:
    """Run haproxy and the servers, the first as champion and the others as challengers of weight 0."""
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.server_close)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            stack.callback(server.shutdown)
        up = stack.enter_context(haproxy_before(folder, [server.address for server in servers], backend, level))
        names = (*up.control.champion, *up.control.challenger)
        up.servers.update(zip(names, servers, strict=True))
        yield up


@contextmanager
def haproxy_before(
    folder: Path, addresses: Sequence[str], backend: str = BACKEND, level: str = "admin"
) -> Iterator[Haproxy]:
    """Run haproxy in front of servers that run elsewhere."""
    names = ["champion", *(f"challenger{number or ''}" for number in range(len(addresses) - 1))]
    path = folder / "haproxy.sock"
    with ExitStack() as stack:
        frontend, runtime = stack.enter_context(_listening()), stack.enter_context(_listening())
        lines = "\n".join(
            f"  server {name} {address} weight {0 if number else 100}"
            for number, (name, address) in enumerate(zip(names, addresses, strict=True))
        )
        configuration = folder / "haproxy.cfg"
        configuration.write_text(
            f"""global
  stats socket {path} mode 600 level {level}
  stats socket fd@{runtime.fileno()} level {level}
defaults
  mode http
  timeout connect 2s
  timeout client 10s
  timeout server 10s
frontend models_in
  bind fd@{frontend.fileno()}
  default_backend models
backend models
  {backend}
{lines}
"""
        )
        process = subprocess.Popen(
            [HAPROXY, "-db", "-q", "-f", str(configuration)],
            pass_fds=(frontend.fileno(), runtime.fileno()),
            stderr=subprocess.PIPE,
        )
        stack.callback(_end, process)
        bound = [f"127.0.0.1:{each.getsockname()[1]}" for each in (frontend, runtime)]
        frontend.close()  # haproxy has its own copies: after its death, a connection is refused instead of queued
        runtime.close()
        control = HaproxyControl(
            kind="haproxy",
            sockets=(str(path),),
            backend="models",
            champion=("champion",),
            challenger=tuple(names[1:]),
            url=f"http://{bound[0]}/models",
            probes=200,
            timeout_s=2,
            settle_s=0,
        )
        _wait_for(path, process)
        yield Haproxy(control, process, bound[1])


@contextmanager
def _listening() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(256)
        yield listening


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"haproxy ended: {process.stderr.read().decode() if process.stderr else ''}")
        with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
            connection.connect(str(path))
            return
        time.sleep(0.02)
    raise AssertionError("haproxy did not open its socket")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stderr:
        process.stderr.close()
