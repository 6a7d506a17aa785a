"""The gateway as an ASGI application: routes, limits, the API key, and MLflow's form of answers and errors.

| route | answers |
|---|---|
| `POST /invocations`, `POST /models/<name>/invocations` | `{"predictions": [...]}` |
| `GET /ping`, `GET /health` | 200 while the process lives |
| `GET /ready` | 200 while requests should be sent here, with the versions that answer, else 503 |
| `GET /metrics` | Prometheus' text format |

It is plain ASGI: a framework's parsing of a request would take longer than the model.
"""

import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from infra.gateway.metrics import Metrics
from infra.gateway.requests import MAX_BODY_BYTES, read_rows
from infra.gateway.service import Exchange, ModelService
from infra.gateway.versions import statuses
from tasks.policy.records.errors import GatewayError, RequestRefused

logger = logging.getLogger(__name__)
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
CLOSE = (b"connection", b"close")
OPEN = ("/ping", "/health", "/ready")
NEEDED = ("follow", "flush")
"""Threads without which answers would be stale or lost; without the others, shadows and landings wait."""
INVOCATIONS = "/invocations"
LONGEST_REQUEST_ID = 200
SHORTEST_KEY = 16
CODES = {
    HTTPStatus.BAD_REQUEST: "INVALID_PARAMETER_VALUE",
    HTTPStatus.UNAUTHORIZED: "UNAUTHENTICATED",
    HTTPStatus.NOT_FOUND: "ENDPOINT_NOT_FOUND",
    HTTPStatus.INTERNAL_SERVER_ERROR: "INTERNAL_ERROR",
    HTTPStatus.SERVICE_UNAVAILABLE: "TEMPORARILY_UNAVAILABLE",
}
"""MLflow's codes of errors; BAD_REQUEST for the others."""


@dataclass
class ApiKey:
    """The key that requests must name, `Authorization: Bearer KEY`, from a file that may be replaced at any time."""

    path: Path
    _key: bytes = field(default=b"", repr=False)
    _fault: str = ""

    def read(self) -> None:
        """Read the file. Raises GatewayError if it is unreadable, too short, or others may read it."""
        try:
            mode, key = self.path.stat().st_mode, self.path.read_bytes().strip()
        except OSError as error:
            raise GatewayError(f"{self.path}: cannot be read ({error.strerror}); expected a file with a key") from None
        if mode & 0o077:
            raise GatewayError(
                f"{self.path}: others may read it, expected only its owner to; run: chmod 600 {self.path}"
            )
        if len(key) < SHORTEST_KEY:
            raise GatewayError(f"{self.path}: the key has {len(key)} characters, expected at least {SHORTEST_KEY}")
        self._key = key

    def refresh(self) -> None:
        """Read the file again; one that cannot be used leaves the last key in force."""
        fault = ""
        try:
            self.read()
        except GatewayError as error:
            fault = str(error)
        if fault and fault != self._fault:
            logger.warning("the key stays as it was: %s", fault)
        self._fault = fault

    def allows(self, header: bytes) -> bool:
        kind, _, given = header.partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._key)


class Gateway:
    """The application for some models.

    `is_draining` makes `/ready` refuse while requests are still answered. `faults` has the unexpected failure of each
    background thread, by the thread's name, until it works again.
    """

    def __init__(self, services: Iterable[ModelService], metrics: Metrics, key: ApiKey | None = None) -> None:
        self.services: Mapping[str, ModelService] = {each.follower.config.name: each for each in services}
        self.metrics, self.key, self.is_draining = metrics, key, False
        self.faults: dict[str, str] = {}
        self._routes = {f"/models/{name}{INVOCATIONS}": service for name, service in self.services.items()}
        if len(self.services) == 1:
            self._routes[INVOCATIONS] = next(iter(self.services.values()))
        self._prefix, self._numbers = uuid4().hex[:12], count(1)

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        headers, path = dict(scope["headers"]), scope["path"]
        service = self._routes.get(path)
        exchange: Exchange | None = None
        status, kind, extra = 200, JSON, []
        try:
            if self.key and path not in OPEN and not self.key.allows(headers.get(b"authorization", b"")):
                raise RequestRefused("expected the header Authorization: Bearer KEY with a valid key", 401)
            if service is None:
                status, kind, body = self._page(scope["method"], path)
            else:
                rows = read_rows(await _read_body(scope["method"], headers, receive))
                exchange = service.answer(rows, self._request_id(headers))
                body = orjson.dumps({"predictions": exchange.predictions})
                extra = [
                    (b"x-request-id", exchange.request_id.encode()),
                    (b"x-model-version", exchange.versions.encode()),
                ]
        except RequestRefused as refusal:
            status, body = int(refusal.status), _error(refusal)
        if self.is_draining:
            extra.append(CLOSE)  # so that a kept connection is not closed under a request
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [kind, (b"content-length", b"%d" % len(body)), *extra],
            }
        )
        await send({"type": "http.response.body", "body": body})
        if service is not None:
            self.metrics.count_request(service.model, status)
        if service is not None and exchange is not None:
            service.shadow(exchange)

    def _page(self, method: str, path: str) -> tuple[int, tuple[bytes, bytes], bytes]:
        """Return status, type and content of every page but the invocations."""
        if path in ("/ping", "/health"):
            return 200, JSON, b"{}\n"
        if path == "/metrics":
            return 200, TEXT, self.metrics.text({name: each.log for name, each in self.services.items()})
        if path == "/ready":
            is_ready = (
                not self.is_draining
                and all(each.follower.serving and each.log.fault is None for each in self.services.values())
                and not any(work in self.faults for work in NEEDED)  # the threads change `faults` meanwhile
            )
            status = 200 if is_ready else 503
            followers = {name: each.follower for name, each in self.services.items()}
            found = {"draining": self.is_draining, "models": statuses(followers), "faults": self.faults}
            return status, JSON, orjson.dumps(found)
        known = ", ".join(f"/models/{name}{INVOCATIONS}" for name in self.services)
        raise RequestRefused(f"{method} {path[:80]}: no such page; expected POST {known}", HTTPStatus.NOT_FOUND)

    def _request_id(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the client's x-request-id if it is plain text, else a new one."""
        given = headers.get(b"x-request-id", b"")
        if given and len(given) <= LONGEST_REQUEST_ID and given.isascii() and given.decode().isprintable():
            return given.decode()
        return f"{self._prefix}-{next(self._numbers)}"


async def _read_body(method: str, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    """Read the body. Raises RequestRefused for another method or type than JSON by POST, and past MAX_BODY_BYTES."""
    if method != "POST":
        raise RequestRefused(f"{method} is not answered here, expected POST", HTTPStatus.METHOD_NOT_ALLOWED)
    kind = headers.get(b"content-type", b"")
    if kind != b"application/json" and kind.partition(b";")[0].strip().lower() != b"application/json":
        raise RequestRefused(  # another type needs no leave from a browser, so any web page could send it
            f"content-type is {kind.decode('latin-1')[:40] or 'missing'!r}, expected application/json",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
    if (encoding := headers.get(b"content-encoding", b"identity")) != b"identity":
        raise RequestRefused(
            f"content-encoding is {encoding.decode('latin-1')[:40]!r}, expected none",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
    length = headers.get(b"content-length", b"0")
    size, body, more = int(length) if length.isdigit() else 0, b"", True
    while more and size <= MAX_BODY_BYTES:
        message = await receive()
        body += message.get("body", b"")
        size, more = max(size, len(body)), message.get("more_body", False)
    if size > MAX_BODY_BYTES:
        raise RequestRefused(
            f"body: has more than {MAX_BODY_BYTES} bytes; send several requests", HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        )
    return body


def _error(refusal: RequestRefused) -> bytes:
    code = CODES.get(HTTPStatus(refusal.status), "BAD_REQUEST")
    return orjson.dumps({"error_code": code, "message": str(refusal)})
