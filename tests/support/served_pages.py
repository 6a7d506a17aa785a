"""Serve an ASGI application with a real server on a free port, as a browser would reach it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import sleep

import httpx
import uvicorn

from tasks.adapters.dashboards.local_guard import Application


@contextmanager
def served_pages(application: Application) -> Iterator[httpx.Client]:
    server = uvicorn.Server(uvicorn.Config(application, host="127.0.0.1", port=0, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        yield client
    server.should_exit = True
    thread.join(timeout=10)
