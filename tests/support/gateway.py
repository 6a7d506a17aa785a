"""A gateway under test: two registered versions, requests in the process, and the real server as a process of its own."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.config.loading import load_model_config
from deployments.config.model import ModelConfig
from infra.gateway.answer_log import AnswerLog
from infra.gateway.application import Gateway
from infra.gateway.metrics import Metrics
from infra.gateway.service import ModelService
from infra.gateway.versions import Follower
from tasks.adapters import registry
from tasks.adapters.storage import lease
from tasks.adapters.traffic.split_store import write_split
from tasks.policy.rollout.traffic import TrafficSplit
from tests.support.trained_models import make_config, prepare_registry, register

NAME = "binary_model"
ROW = {"id": "a1", "x": 0.4, "noise": -1.0, "colour": "red", "flag": True}
READY = re.compile(r"gateway: (http://\S+) serves")


def write_config(folder: Path, task: str = "binary", **changes: Any) -> Path:
    """Write the YAML file of the model of `make_config`, live and with windows of a day."""
    config = make_config(task, **changes).model_dump(mode="json", exclude_unset=True)
    config["window_days"] = 1.0
    config["period"].pop("end")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{config['name']}.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def prepare(home: Path, task: str = "binary", versions: int = 2) -> ModelConfig:
    """Register versions of the model; the first is the champion."""
    path = write_config(home.parent / "models", task)
    shutil.copytree(_registered(task, versions), home)
    return load_model_config(path)


@cache
def _registered(task: str, versions: int) -> Path:
    """Return a workspace with these versions, made once per process."""
    home = Path(tempfile.mkdtemp(prefix="perennial-tests-")) / "home"
    config = load_model_config(write_config(home.parent / "models", task))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PERENNIAL_HOME", str(home))
        prepare_registry(home)
        for number in range(1, versions + 1):
            register(config, f"d{number}", seed=number)
        registry.set_aliases(config.name, {registry.CHAMPION: "1"})
    return home


def split_traffic(config: ModelConfig, **changes: Any) -> TrafficSplit:
    """Write the split between versions 1 and 2."""
    given: dict[str, Any] = {"champion": "1", "challenger": "2", "salt": "s", "step": "canary 50 %"}
    split = TrafficSplit(config.name, **given | changes)
    with lease.hold(config.name, "test"):
        write_split(split)
    return split


def gateway_of(*configs: ModelConfig, key: Any = None) -> Gateway:
    """Build the application in this process, with its versions loaded."""
    metrics = Metrics()
    services = [ModelService(Follower(config), AnswerLog(config), metrics) for config in configs]
    for service in services:
        service.follower.refresh()
    return Gateway(services, metrics, key)


def request(gateway: Gateway, path: str, body: Any = None, **headers: str) -> httpx.Response:
    """Send one request to the application: POST with a body, else GET."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            if body is None:
                return await client.get(path, headers=named)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return await client.post(path, content=content, headers={"content-type": "application/json"} | named)

    return asyncio.run(send())


def ask(gateway: Gateway, *rows: Mapping[str, Any]) -> httpx.Response:
    return request(gateway, "/invocations", {"dataframe_records": rows})


@dataclass
class Running:
    """A gateway in a process of its own."""

    address: str
    process: subprocess.Popen[str]

    @property
    def host(self) -> str:
        return self.address.removeprefix("http://")


@contextmanager
def running(config_path: Path, *options: str) -> Iterator[Running]:
    """Start `perennial gateway` on a free port; kill it at the end if it still runs."""
    command = [sys.executable, "-m", "deployments", "gateway", "--model", str(config_path), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        first = process.stdout.readline() if process.stdout else ""
        found = READY.match(first)
        assert found, f"the gateway said {first!r}"
        yield Running(found[1], process)
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Sent:
    """One request: the row's id, when the answer came, its status, and the version that answered."""

    row: str
    at: float
    status: int
    version: str | None


@dataclass
class Load:
    """Clients that send one row after the other over kept connections, each with an id of its own."""

    host: str
    clients: int = 4
    pause_s: float = 0.002
    answers: list[Sent] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _numbers: Iterator[int] = field(default_factory=count)

    def __enter__(self) -> "Load":
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def since(self, at: float) -> list[Sent]:
        return [each for each in list(self.answers) if each.at >= at]

    def _send(self) -> None:
        connection = HTTPConnection(self.host, timeout=20)
        while not self._stop.is_set():
            row = ROW | {"id": f"r{next(self._numbers)}"}
            try:
                connection.request(
                    "POST", "/invocations", json.dumps({"inputs": [row]}), {"Content-Type": "application/json"}
                )
                answer = connection.getresponse()
                answer.read()
            except ConnectionRefusedError:  # it listens no more
                return
            except OSError as error:
                self.failures.append(repr(error))
                return
            version = answer.getheader("x-model-version")
            self.answers.append(Sent(str(row["id"]), time.monotonic(), answer.status, version))
            time.sleep(self.pause_s)


def wait_for(condition: Any, seconds: float = 30.0) -> float:
    """Wait until the condition holds, and return the seconds it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - begun
