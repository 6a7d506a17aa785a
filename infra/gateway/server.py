"""Run the gateway: uvicorn with httptools and uvloop, one process, one core. Start several for several cores.

Four threads work beside the requests: one follows the registry and the split, one predicts with shadows, one writes the
log, one lands it. On SIGTERM `/ready` refuses first, requests are answered for a while, then the rest finishes and the log lands.
"""

import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread, Timer
from types import FrameType

import uvicorn

from deployments.config.loading import load_model_config
from infra.gateway.answer_log import FLUSH_S, AnswerLog
from infra.gateway.application import ApiKey, Gateway
from infra.gateway.metrics import Metrics
from infra.gateway.service import ModelService
from infra.gateway.versions import Follower
from tasks.policy.records.errors import GatewayError

logger = logging.getLogger(__name__)
POLL_S = 1.0
FINISH_S = 30
"""Seconds for requests in flight to finish after the server stops to listen."""
LOCAL = ("127.0.0.1", "::1", "localhost")
SHADOW_S = 0.02
"""Seconds between two looks at what waits for a shadow."""
SWITCH_S = 0.0005
"""Seconds after which a background thread yields to the requests; Python's default is 0.005."""


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """Where the gateway listens, and who may ask. Seconds: how long `/ready` refuses before it stops, and between landings."""

    host: str = "127.0.0.1"
    port: int = 8080
    key_file: Path | None = None
    no_key: bool = False
    drain_s: float = 5.0
    land_s: float = 300.0


class _Server(uvicorn.Server):
    """A server that drains on the first signal: it refuses readiness, then stops. A second signal stops it at once."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, drain_s: float) -> None:
        super().__init__(config)
        self._gateway, self._drain_s = gateway, drain_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if sig == signal.SIGTERM and not self._gateway.is_draining:
            stop = Timer(self._drain_s, self._stop)
            stop.daemon = True
            stop.start()
        else:
            self.force_exit = self.should_exit
            self._stop()
        self._gateway.is_draining = True

    def _stop(self) -> None:
        self.should_exit = True  # uvicorn's own handler would raise the signal again, before the log has landed


def run(models: Sequence[str], options: GatewayOptions) -> int:
    """Serve the models until a signal; return the exit code. Raises GatewayError if the address or the key is unusable."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    metrics = Metrics()
    configs = [load_model_config(model) for model in models]
    services = [ModelService(Follower(config), AnswerLog(config), metrics) for config in configs]
    gateway = Gateway(services, metrics, _read_key(options))
    sys.setswitchinterval(SWITCH_S)
    with _listen(options) as opened:
        follow(gateway)
        gc.collect()
        gc.freeze()  # a collection would walk through all loaded libraries, for tens of milliseconds
        host, port = opened.getsockname()[:2]
        print(f"gateway: http://{host}:{port} serves {', '.join(gateway.services)}", flush=True)
        config = uvicorn.Config(
            gateway, http="httptools", loop="uvloop", lifespan="off", ws="none", access_log=False, log_config=None,
            server_header=False, date_header=False, timeout_graceful_shutdown=FINISH_S,
        )  # fmt: skip
        with ExitStack() as background:
            for work, every_s in (
                (follow, POLL_S), (shadow, SHADOW_S), (flush, FLUSH_S), (land, options.land_s),
            ):  # fmt: skip
                background.enter_context(_repeated(work, gateway, every_s))
            _Server(config, gateway, options.drain_s).run(sockets=[opened])
        for service in services:
            service.predict_shadows()
            service.shadows.clear()
        land(gateway)
    return 0


def follow(gateway: Gateway) -> None:
    """Follow the registry, the split and the key once."""
    for service in gateway.services.values():
        service.follower.refresh()
    if gateway.key:
        gateway.key.refresh()


def shadow(gateway: Gateway) -> None:
    """Let shadows predict what was answered since the last call."""
    for service in gateway.services.values():
        service.predict_shadows()


def flush(gateway: Gateway) -> None:
    """Write what was answered since the last call."""
    for service in gateway.services.values():
        service.log.flush()


def land(gateway: Gateway) -> None:
    """Land what was answered since the last call, and segments that a killed process left."""
    for service in gateway.services.values():
        service.log.close_segment()
        service.log.land()


@contextmanager
def _repeated(work: Callable[[Gateway], None], gateway: Gateway, every_s: float) -> Iterator[None]:
    """Repeat this work in a thread until the block ends."""
    stop = Event()

    def repeat() -> None:
        while True:
            try:
                work(gateway)
                gateway.faults.pop(work.__name__, None)
            except Exception as error:  # whatever it is, the thread must go on: the log and the versions depend on it
                kind = type(error).__name__
                if gateway.faults.get(work.__name__) != kind:  # some threads work 50 times a second
                    logger.exception("%s failed, and is tried again", work.__name__)
                gateway.faults[work.__name__] = kind  # `/ready` is open to all, so without the message
            if stop.wait(every_s):
                return

    thread = Thread(target=repeat, name=work.__name__, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _read_key(options: GatewayOptions) -> ApiKey | None:
    """Return the key that requests must name. Raises GatewayError without one where other machines may ask."""
    if options.key_file:
        key = ApiKey(options.key_file)
        key.read()
        return key
    if options.host not in LOCAL and not options.no_key:
        raise GatewayError(
            f"--host is {options.host}, which other machines reach, and there is no key; expected --api-key-file FILE, "
            "or --no-api-key where something before the gateway checks who asks"
        )
    return None


def _listen(options: GatewayOptions) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        return socket.create_server((options.host, options.port), family=family, backlog=2048)
    except OSError as error:
        raise GatewayError(
            f"{options.host}:{options.port}: cannot listen ({os.strerror(error.errno or 0)}), expected a free address; "
            "choose another --port"
        ) from None
