"""ASGI guard for a server on this machine: it checks the Host and the Origin of a request, and the log-in.

A web page in the user's browser can send requests to localhost, and can point a host name of its own at it (DNS
rebinding). So the Host header must name this machine, and the Origin header, which browsers send with every request
that changes something, must match the server's own. `guard_uvicorn` adds this check to Prefect and Evidently.
"""

import base64
import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import uvicorn

LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
ALLOWED = "PERENNIAL_ALLOWED_HOSTS"
"""Environment variable with further host names, comma-separated, for a server that listens beyond this machine."""
MISDIRECTED, FORBIDDEN, UNAUTHORIZED = 421, 403, 401
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def allowed_names() -> frozenset[str]:
    more = (name.strip().lower() for name in os.environ.get(ALLOWED, "").split(","))
    return frozenset({*LOCAL_NAMES, *more} - {""})


class LocalGuard:
    """An ASGI application that guards another one. `log_in` is `user:password`; None requires no log-in."""

    def __init__(self, guarded: Application, log_in: str | None = None) -> None:
        self.guarded, self.names = guarded, allowed_names()
        self.wanted = "Basic " + base64.b64encode(log_in.encode()).decode() if log_in else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.guarded(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(headers)
        if refused is None:
            await self.guarded(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refused[1]})
        else:
            asked = [(b"www-authenticate", b'Basic realm="Perennial"')] if refused[0] == UNAUTHORIZED else []
            content = [(b"content-type", b"text/plain; charset=utf-8"), *asked]
            await send({"type": "http.response.start", "status": refused[0], "headers": content})
            await send({"type": "http.response.body", "body": refused[1].encode()})

    def _refusal(self, headers: dict[str, str]) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if _name(host) not in self.names:
            return MISDIRECTED, f"this host name is not allowed; use 127.0.0.1 or localhost, or add it to {ALLOWED}"
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return FORBIDDEN, "requests from pages of another origin are not allowed"
        if self.wanted and not hmac.compare_digest(self.wanted.encode(), headers.get("authorization", "").encode()):
            return UNAUTHORIZED, "log-in required"
        return None


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def guard_uvicorn(log_in: str | None = None) -> None:
    """Guard every application that this process serves with uvicorn from now on."""
    run = uvicorn.run

    def guarded_run(app: Any, *arguments: Any, **named: Any) -> None:
        run(LocalGuard(app, log_in), *arguments, **named)

    uvicorn.run = guarded_run
