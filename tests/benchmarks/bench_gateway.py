"""Requests per second and latency of the gateway, against FastAPI and MLflow around the same model, and a bare echo.

`python -m tests.benchmarks.bench_gateway` (make bench-gateway) trains one booster (200 trees of depth 5, 15 columns, 4 of
them categories), serves it in six ways, and writes bench/gateway.json in the workspace. Each server is one process on
the first core; the load comes from the last one: one row a request, over kept connections. Requests per second are those
of 8 connections, latency that of one. A second of CPU time answers a number of requests that depends less on what else
the machine does, so the ratios are given for both. The servers take turns, and the best of the rounds counts.

- ours: the gateway with its log on disk.
- no model: the same with a constant in place of the prediction, so what it takes beyond the echo is our code's.
- echo: uvicorn, as the gateway uses it, and an application that only reads the request and answers.
- fastapi: a typed request, encoded as the model needs it, `inplace_predict`, no log.
- mlflow: `mlflow models serve` of the registered version.
- booster, fast path: `inplace_predict` of an encoded row, and the gateway's evaluation of a row, without HTTP.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import uvloop

from tasks.adapters.storage.workspace import workspace

NUMERIC, CATEGORICAL = [f"n{number}" for number in range(11)], [f"c{number}" for number in range(4)]
CATEGORIES = [f"category {number}" for number in range(20)]
PARAMETERS = {"n_estimators": 200, "max_depth": 5, "learning_rate": 0.1}
TRAINING_ROWS, REQUEST_ROWS, SEED = 20_000, 200, 7
ROUNDS, SECONDS, CONNECTIONS = 5, 2.0, 8
SERVERS = ("echo", "ours", "no model", "fastapi", "mlflow")
SERVED_HERE = ("echo", "no model", "fastapi")
BOOT_S, SILENT_S = 300, 60.0
NAME = "bench_gateway"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=SERVED_HERE, help="run this server in this process")
    parser.add_argument("--alone", action="store_true", help="time the model in this process, without HTTP")
    parser.add_argument("--only", nargs="*", choices=SERVERS, default=SERVERS, help="servers to measure")
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.serve)
        return
    if chosen.alone:
        print(json.dumps(time_alone()))
        return
    out = workspace().home / "bench" / "gateway.json"
    with tempfile.TemporaryDirectory() as home:
        os.environ.update({"PERENNIAL_HOME": home, "OMP_NUM_THREADS": "1"})
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        prepare(Path(home))
        figures = measure(Path(home), chosen.only)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    print_table(figures)


def measure(home: Path, names: list[str]) -> dict[str, dict[str, float]]:
    """Return the figures of each server, and of the booster alone."""
    server_core, load_core = sorted(os.sched_getaffinity(0))[0], sorted(os.sched_getaffinity(0))[-1]
    os.sched_setaffinity(0, {load_core})
    figures: dict[str, dict[str, float]] = {}
    bodies = [json.dumps({"dataframe_records": [row]}).encode() for row in rows(REQUEST_ROWS, SEED + 1).to_pylist()]
    with ExitStack() as running:
        addresses = {name: running.enter_context(started(name, home, server_core)) for name in names}
        for _ in range(ROUNDS):
            for name, (port, process) in addresses.items():
                keep_best(figures.setdefault(name, {}), load(port, process, bodies))
    alone = [sys.executable, "-m", "tests.benchmarks.bench_gateway", "--alone"]
    done = pinned(alone, server_core, stdout=subprocess.PIPE)
    return figures | json.loads(done.communicate()[0])


def keep_best(figures: dict[str, float], measured: Mapping[str, float]) -> None:
    for name, value in measured.items():
        best = max if name == "requests_per_s" else min
        figures[name] = best(value, figures.get(name, value))


def rows(count: int, seed: int) -> pa.Table:
    """Return rows whose label depends on four columns; a twentieth of the values is null."""
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(count, len(NUMERIC))).round(4)
    codes = random.integers(0, len(CATEGORIES), (count, len(CATEGORICAL)))
    score = numbers[:, 0] * 2 + numbers[:, 1] * (codes[:, 0] % 3) + (codes[:, 1] % 2) + random.normal(size=count)
    columns: dict[str, Any] = {"id": np.arange(count)}
    for index, name in enumerate(NUMERIC):
        columns[name] = pa.array(numbers[:, index], mask=random.random(count) < 0.05)
    for index, name in enumerate(CATEGORICAL):
        columns[name] = pa.array(np.array(CATEGORIES)[codes[:, index]], mask=random.random(count) < 0.05)
    return pa.table(columns | {"label": (score > 1).astype(int)})


def prepare(home: Path) -> None:
    """Train and register the champion, and write its file, and its booster for FastAPI."""
    # only this process trains
    from deployments.config.loading import load_model_config
    from tasks.adapters import registry
    from tasks.adapters.models import estimators
    from tests.support.gateway import write_config
    from tests.support.trained_models import START, TRAINING, freeze_reference, make_snapshot, registration

    columns = {
        "id": "id",
        "time": "time",
        "label": "label",
        "features": {"numeric": NUMERIC, "categorical": CATEGORICAL},
    }
    training = {"parameters": PARAMETERS, "min_rows": 200, "early_stopping_rounds": None}
    path = write_config(home, name=NAME, columns=columns, training=training, validation={"min_rows": 100})
    config, table = load_model_config(path), rows(TRAINING_ROWS, SEED)
    times = pa.array([START] * len(table), pa.timestamp("us", "UTC"))
    table = table.append_column("time", times)
    profile = freeze_reference(table.to_batches(), config, TRAINING, make_snapshot().content_hash)
    fitted = estimators.fit(config, table)
    version = registration.register(config, registration.TrainedModel(fitted, make_snapshot(), profile), "d1")
    registry.set_aliases(config.name, {registry.CHAMPION: version.version})
    (home / "model.ubj").write_bytes(fitted.scorer.estimator.get_booster().save_raw("ubj"))
    (home / "categories.json").write_text(json.dumps(fitted.scorer.encoding.categories), encoding="utf-8")


@contextmanager
def started(name: str, home: Path, core: int) -> Iterator[tuple[int, psutil.Process]]:
    """Start a server on one core; yield its port and process once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    python = [sys.executable, "-m"]
    uri = f"sqlite:///{home / 'mlflow.db'}"
    command = {
        "ours": [*python, "deployments", "gateway", "--model", str(home / f"{NAME}.yaml"), "--port", str(port)],
        "mlflow": [
            *python, "mlflow", "models", "serve", "--model-uri", f"models:/{NAME}/1", "--port", str(port),
            "--env-manager", "local", "--workers", "1",
        ],
    }.get(name, [*python, "tests.benchmarks.bench_gateway", "--serve", name])  # fmt: skip
    scripts = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow starts uvicorn by name
    process = pinned(command, core, {"MLFLOW_TRACKING_URI": uri, "PORT": str(port), "PATH": scripts})
    try:
        await_port(port, process, name)
        yield port, psutil.Process(process.pid)
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
            child.kill()
        process.kill()
        process.wait()


def pinned(
    command: list[str], core: int, environment: Mapping[str, str] | None = None, stdout: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        env=os.environ | (environment or {}),
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )


def await_port(port: int, process: subprocess.Popen[bytes], name: str) -> None:
    begun = time.monotonic()
    while time.monotonic() - begun < BOOT_S and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{name} does not listen on port {port} after {time.monotonic() - begun:.0f} s")


class Connection(asyncio.Protocol):
    """One kept connection that sends a request as soon as the last one is answered, and notes the seconds of each."""

    def __init__(self, requests: list[bytes], first: int, until: float) -> None:
        self.requests, self.next, self.until = requests, first, until
        self.seconds: list[float] = []
        self.buffer, self.done = b"", asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self.next = (self.next + 1) % len(self.requests)
        self.begun = time.perf_counter()
        self.transport.write(self.requests[self.next])

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, _, body = self.buffer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length is None or len(body) < int(length[1]):
            return
        self.seconds.append(time.perf_counter() - self.begun)
        if not head.startswith(b"HTTP/1.1 200"):
            self._fail(f"the server answered {self.buffer[:300]!r}")
            return
        self.buffer = b""
        if time.perf_counter() < self.until:
            self._send()
        else:
            self.done.set_result(None)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self._fail(f"the connection was lost: {exc}")

    def _fail(self, reason: str) -> None:
        """End the benchmark: an exception raised in a callback would only be logged."""
        if not self.done.done():
            self.done.set_exception(RuntimeError(reason))


def load(port: int, process: psutil.Process, bodies: list[bytes]) -> dict[str, float]:
    """Return requests per second, CPU time per request, and latency of one connection."""
    head = (
        b"POST /invocations HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    )
    requests = [head % (len(body), body) for body in bodies]
    run = asyncio.Runner(loop_factory=uvloop.new_event_loop).run
    run(sent(port, requests, CONNECTIONS, 0.5))
    before, begun = cpu_s(process), time.perf_counter()
    many = run(sent(port, requests, CONNECTIONS, SECONDS))
    took, cpu = time.perf_counter() - begun, cpu_s(process) - before
    one = np.array(run(sent(port, requests, 1, SECONDS / 2))) * 1e6
    return {
        "requests_per_s": len(many) / took,
        "p50_us": float(np.quantile(one, 0.5)),
        "p99_us": float(np.quantile(one, 0.99)),
        "cpu_us": cpu / len(many) * 1e6,
    }


async def sent(port: int, requests: list[bytes], connections: int, seconds: float) -> list[float]:
    loop, until = asyncio.get_running_loop(), time.perf_counter() + seconds
    made = [
        await loop.create_connection(lambda first=number: Connection(requests, first, until), "127.0.0.1", port)
        for number in range(connections)
    ]
    await asyncio.wait_for(asyncio.gather(*(protocol.done for _, protocol in made)), seconds + SILENT_S)
    return [second for _, protocol in made for second in protocol.seconds]


def cpu_s(process: psutil.Process) -> float:
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def serve(name: str) -> None:
    # each server loads only what it needs
    import uvicorn

    if name == "no model":
        serve_without_model()
        return
    application = echo if name == "echo" else fastapi_application()
    uvicorn.run(
        application, port=int(os.environ["PORT"]), http="httptools", loop="uvloop", ws="none", lifespan="off",
        access_log=False, log_level="warning",
    )  # fmt: skip


def serve_without_model() -> None:
    """Run the gateway as `perennial gateway` does, with a constant for each row."""
    # each server loads only what it needs
    from infra.gateway import server, versions

    def constant(version: Any, rows: list[Any], numbers: list[int] | None = None) -> list[float]:
        return [0.1234567] * len(rows)

    versions.ServedVersion.predict = constant
    path = str(Path(os.environ["PERENNIAL_HOME"]) / f"{NAME}.yaml")
    server.run([path], server.GatewayOptions(port=int(os.environ["PORT"])))


async def echo(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    await receive()
    body = b'{"predictions":[0.1234567]}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def fastapi_application() -> Any:
    # each server loads only what it needs
    import xgboost
    from fastapi import FastAPI
    from pydantic import BaseModel, create_model

    home = Path(os.environ["PERENNIAL_HOME"])
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray((home / "model.ubj").read_bytes()))
    codes = {
        name: {text: code for code, text in enumerate(texts)}
        for name, texts in json.loads((home / "categories.json").read_text(encoding="utf-8")).items()
    }
    fields: dict[str, Any] = dict.fromkeys(NUMERIC, (float | None, ...))
    fields |= dict.fromkeys(CATEGORICAL, (str | None, ...))
    row_type: Any = create_model("Row", **fields)
    request_type: Any = create_model("Request", dataframe_records=(list[row_type], ...))
    answer_type: Any = create_model("Answer", predictions=(list[float], ...))
    application = FastAPI()

    @application.post("/invocations", response_model=answer_type)
    async def invocations(request: request_type) -> BaseModel:
        encoded = [
            [getattr(row, name) for name in NUMERIC] + [codes[name].get(getattr(row, name)) for name in CATEGORICAL]
            for row in request.dataframe_records
        ]
        matrix = np.array(encoded, float).astype(np.float32)
        predictions = booster.inplace_predict(matrix, validate_features=False)
        return answer_type(predictions=predictions.tolist())

    return application


def time_alone() -> dict[str, dict[str, float]]:
    """Return the figures of the booster, and of the gateway's fast path, which also encodes the row."""
    # only this process needs both
    from deployments.config.loading import load_model_config
    from infra.gateway.versions import ServedVersion
    from tasks.adapters import registry

    config = load_model_config(Path(os.environ["PERENNIAL_HOME"]) / f"{NAME}.yaml")
    scorer = registry.version_files.load_scorer(registry.version(NAME, "1"), config.training.imported)
    version, booster = ServedVersion.of("1", scorer), scorer.estimator.get_booster()
    given = rows(REQUEST_ROWS, SEED + 1)
    encoded, plain = scorer.encoding.encode(given), given.to_pylist()
    figures: dict[str, dict[str, float]] = {"booster": {}, "fast path": {}}
    for _ in range(ROUNDS):
        one = timed(lambda number: booster.inplace_predict(encoded[number : number + 1], validate_features=False))
        keep_best(figures["booster"], one)
        keep_best(figures["fast path"], timed(lambda number: version.predict([plain[number]])))
    return figures


def timed(predict: Callable[[int], object]) -> dict[str, float]:
    """Return the figures of this call, made for one row after the other."""
    seconds, begun, cpu = [], time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < SECONDS / 2:
        before = time.perf_counter()
        predict(len(seconds) % REQUEST_ROWS)
        seconds.append(time.perf_counter() - before)
    took, cpu = time.perf_counter() - begun, time.process_time() - cpu
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1e6
    return {
        "requests_per_s": len(seconds) / took,
        "p50_us": float(p50),
        "p99_us": float(p99),
        "cpu_us": cpu / len(seconds) * 1e6,
    }


def print_table(figures: Mapping[str, Mapping[str, float]]) -> None:
    print(f"{'':10}{'requests/s':>12}{'p50, µs':>10}{'p99, µs':>10}{'CPU, µs':>10}{'requests/CPU s':>16}")
    for name, own in figures.items():
        values = (own["requests_per_s"], own["p50_us"], own["p99_us"], own["cpu_us"], 1e6 / own["cpu_us"])
        print(f"{name:10}{values[0]:12,.0f}{values[1]:10,.0f}{values[2]:10,.0f}{values[3]:10,.0f}{values[4]:16,.0f}")
    ours, echo = figures.get("ours"), figures.get("echo")
    for name, target in (("fastapi", 3.0), ("mlflow", 20.0)) if ours else ():
        if name in figures:
            by_time = ours["requests_per_s"] / figures[name]["requests_per_s"]
            by_cpu = figures[name]["cpu_us"] / ours["cpu_us"]
            print(f"ours / {name}: {by_time:.1f} times the requests, {by_cpu:.1f} by CPU time (target {target:g})")
    if echo and (own := figures.get("no model")):
        print(f"our code / echo: {own['cpu_us'] / echo['cpu_us'] - 1:.2f} times the CPU time (target 1.5)")
    if echo and ours:
        print(f"ours / echo: {ours['cpu_us'] / echo['cpu_us']:.2f} times the CPU time, with server and model")


if __name__ == "__main__":
    main()
