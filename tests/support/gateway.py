"""A gateway under test: two registered versions, requests in the process, and the real server as a process of its own."""

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from deployments.config.model import ModelConfig, load_model_config
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


def prepare(home: Path, task: str = "binary", versions: int = 2, **changes: Any) -> ModelConfig:
    """Register versions of the model; the first is the champion."""
    prepare_registry(home)
    config = load_model_config(write_config(home.parent / "models", task, **changes))
    for number in range(1, versions + 1):
        register(config, f"d{number}", seed=number)
    registry.set_aliases(config.name, {registry.CHAMPION: "1"})
    return config


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
