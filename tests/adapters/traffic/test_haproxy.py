"""A real haproxy: weights follow the split, units stay, and a split that is not followed is an error without a hang."""

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from tasks.adapters.traffic.apply import apply_split
from tasks.adapters.traffic.haproxy import HaproxyTraffic
from tasks.policy.records.errors import TrafficError
from tasks.policy.rollout.traffic import HaproxyControl, TrafficSplit
from tests.support.haproxy import (
    BACKEND,
    EXAMPLE,
    HAPROXY,
    Haproxy,
    ModelServer,
    Refused,
    needs_haproxy,
    running_haproxy,
)

pytestmark = needs_haproxy
SHADOW = TrafficSplit("churn", "7", "8", "shadow")
CANARY = TrafficSplit("churn", "7", "8", "canary", 0.1, salt="d1")
CHAMPION = TrafficSplit("churn", "7")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: that of a UNIX socket has at most 107 characters."""
    with TemporaryDirectory(prefix="haproxy-") as short:
        yield Path(short)


@pytest.fixture
def up(folder: Path) -> Iterator[Haproxy]:
    with running_haproxy(folder, ModelServer("7"), ModelServer("8")) as running:
        yield running


def answered(up: Haproxy, units: range, method: str = "GET", **headers: str) -> dict[int, str]:
    """Send one request per unit over one connection; return the version that answered it. Every request must succeed."""
    connection = HTTPConnection(urlsplit(up.control.url).netloc, timeout=10)
    versions = {}
    for unit in units:
        body = b"{}" if method == "POST" else None
        connection.request(method, "/models", body, {"x-unit": str(unit), **headers})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        response.read()
        versions[unit] = response.headers["x-model-version"]
    connection.close()
    return versions


@pytest.mark.parametrize("split", [SHADOW, CHAMPION, TrafficSplit("churn", None)], ids=["shadow", "none", "no rollout"])
def test_weight_0_means_no_request(up: Haproxy, split: TrafficSplit) -> None:
    HaproxyTraffic(up.control).set(CANARY)
    assert apply_split(up.control, split) == {"champion": 1.0, "challenger": 0.0}
    up.challenger.requests.clear()
    answered(up, range(1000))
    assert up.challenger.requests.total() == 0


def test_share_follows_the_split(up: Haproxy) -> None:
    """Weights 28 of 284 give the challenger 9.9 %; 4544 points on the ring and 2000 units give a standard deviation of
    0.8 %, so five of them are 4 %."""
    observed = apply_split(up.control, CANARY)
    assert observed["challenger"] == pytest.approx(28 / 284)
    versions = answered(up, range(2000))
    assert 0.06 < list(versions.values()).count("8") / 2000 < 0.14


def test_units_stay_while_the_share_grows(up: Haproxy) -> None:
    before: set[int] = set()
    for share in (0.02, 0.1, 0.3, 0.5, 0.8):
        HaproxyTraffic(up.control).set(replace(CANARY, share=share))
        now = {unit for unit, version in answered(up, range(600)).items() if version == "8"}
        assert before <= now
        before = now
    assert 400 < len(before) < 540


def test_no_request_fails_while_weights_change(up: Haproxy) -> None:
    control = HaproxyTraffic(up.control)
    with ThreadPoolExecutor(1) as asking:
        asked = asking.submit(answered, up, range(2000))
        changes = 0
        while not asked.done():
            for share in (0.1, 0.5, 0.9):
                control.set(replace(CANARY, share=share))
            control.set(CHAMPION)
            changes += 4
    assert len(asked.result()) == 2000
    assert set(asked.result().values()) == {"7", "8"}
    assert changes > 20


def test_setting_twice_changes_nothing(up: Haproxy) -> None:
    assert apply_split(up.control, CANARY) == apply_split(up.control, CANARY)


def test_the_champion_answers_what_the_challenger_cannot(folder: Path) -> None:
    """With the options of infra/haproxy/haproxy.cfg."""

    class Faulty(ModelServer):
        def answer(self, path: str, unit: str, content: dict[str, object]) -> dict[str, object]:
            raise Refused("cannot read this row")

    with running_haproxy(folder, ModelServer("7"), Faulty("8")) as up:
        HaproxyTraffic(up.control).set(replace(CANARY, share=0.5))
        assert set(answered(up, range(200), method="POST").values()) == {"7"}
        assert up.challenger.requests.total() > 50


def test_example_is_valid() -> None:
    subprocess.run([HAPROXY, "-c", "-f", str(EXAMPLE)], check=True, capture_output=True)


def test_weights_over_tcp_and_at_every_haproxy(up: Haproxy) -> None:
    both = up.control.model_copy(update={"sockets": (*up.control.sockets, up.tcp_socket)})
    assert apply_split(both, CANARY)["challenger"] == pytest.approx(28 / 284)


def test_several_servers_per_role(folder: Path) -> None:
    """Two challengers share 10 %: weights 14 and 14 beside 256."""
    with running_haproxy(folder, ModelServer("7"), ModelServer("8"), ModelServer("8")) as up:
        assert apply_split(up.control, CANARY)["challenger"] == pytest.approx(28 / 284)
        assert up.ask("get weight models/challenger1").startswith("14 ")


def test_killed_haproxy_is_an_error(up: Haproxy) -> None:
    up.process.send_signal(signal.SIGKILL)
    up.process.wait()
    began = time.monotonic()
    with pytest.raises(TrafficError, match=r"does not answer .* Returning all traffic to the champion failed as well"):
        apply_split(up.control, CANARY)
    assert time.monotonic() - began < 10


def test_suspended_haproxy_is_an_error(up: Haproxy) -> None:
    impatient = up.control.model_copy(update={"timeout_s": 0.3})
    up.process.send_signal(signal.SIGSTOP)
    with pytest.raises(TrafficError, match="does not answer"):
        apply_split(impatient, CANARY)
    up.process.send_signal(signal.SIGCONT)


def test_haproxy_killed_between_set_and_verify(up: Haproxy) -> None:
    control = HaproxyTraffic(up.control)
    control.set(CANARY)
    up.process.send_signal(signal.SIGKILL)
    up.process.wait()
    with pytest.raises(TrafficError, match="does not answer"):
        control.verify(CANARY)
    with pytest.raises(TrafficError, match="a probe was not answered"):
        control._probe()


def test_challenger_in_maintenance_returns_the_traffic(up: Haproxy) -> None:
    up.ask("set server models/challenger state maint")
    with pytest.raises(TrafficError, match=r"challenger is MAINT .* all traffic to the champion again"):
        apply_split(up.control, CANARY)
    up.ask("set server models/challenger state ready")
    assert HaproxyTraffic(up.control).observe() == {"champion": 1.0, "challenger": 0.0}


def test_champion_in_maintenance(up: Haproxy) -> None:
    """haproxy would send everything to the challenger."""
    up.ask("set server models/champion state maint")
    with pytest.raises(TrafficError, match="champion is MAINT"):
        apply_split(up.control, CANARY)
    with pytest.raises(TrafficError, match="no server is up with a weight above 0"):
        HaproxyTraffic(up.control).observe()


def test_weight_changed_by_someone_else(up: Haproxy) -> None:
    control = HaproxyTraffic(up.control)
    control.set(CHAMPION)
    up.ask("set server models/challenger weight 1")
    with pytest.raises(TrafficError, match=r"server challenger .* has weight 1, expected 0"):
        control.verify(CHAMPION)


def test_out_of_date_server(up: Haproxy) -> None:
    """The server of the champion still answers with an older version."""
    up.champion.version = "6"
    with pytest.raises(TrafficError, match="version '6' answered a probe, expected 7 or 8"):
        apply_split(up.control, CANARY)


def test_server_that_reloads_in_time(up: Haproxy) -> None:
    up.champion.version = "6"
    threading.Timer(0.5, setattr, (up.champion, "version", "7")).start()
    patient = up.control.model_copy(update={"settle_s": 30.0})
    assert apply_split(patient, CHAMPION)["challenger"] == 0


def test_swapped_servers(up: Haproxy) -> None:
    """The weights are right, but the champion's server answers as the challenger."""
    up.champion.version, up.challenger.version = "8", "7"
    with pytest.raises(TrafficError, match=r"the challenger answered 200 of 200 probes, expected none"):
        apply_split(up.control, SHADOW)
    with pytest.raises(TrafficError, match=r"the challenger answered 1\d\d of 200 probes, expected between"):
        apply_split(up.control, CANARY)


def test_answer_without_a_version(up: Haproxy) -> None:
    blind = up.control.model_copy(update={"version_header": "x-other"})
    with pytest.raises(TrafficError, match="version None, expected success and the version in the header x-other"):
        apply_split(blind, CANARY)


@pytest.mark.parametrize("balance", ["balance roundrobin", "balance leastconn"])
def test_backend_that_does_not_keep_units(folder: Path, balance: str) -> None:
    with (
        running_haproxy(folder, ModelServer("7"), ModelServer("8"), backend=balance) as up,
        pytest.raises(TrafficError, match=r"expected one version per unit|the challenger answered"),
    ):
        apply_split(up.control, CANARY)


def test_static_hash_refuses_weights(folder: Path) -> None:
    """haproxy's default, `hash-type map-based`, changes no weight at runtime."""
    with (
        running_haproxy(folder, ModelServer("7"), ModelServer("8"), backend="balance hash req.hdr(x-unit)") as up,
        pytest.raises(TrafficError, match="Backend is using a static LB algorithm"),
    ):
        apply_split(up.control, CANARY)


def test_socket_without_permission(folder: Path) -> None:
    with (
        running_haproxy(folder, ModelServer("7"), ModelServer("8"), level="operator") as up,
        pytest.raises(TrafficError, match="haproxy replied 'Permission denied"),
    ):
        apply_split(up.control, CANARY)


def test_route_around_the_weights(folder: Path) -> None:
    """A rule sends some requests to the challenger at weight 0. No probe matches it, the server's counter shows it."""
    rule = f"{BACKEND}\n  use-server challenger if {{ req.hdr(vip) -m found }}"
    with running_haproxy(folder, ModelServer("7"), ModelServer("8"), backend=rule) as up:
        ended = threading.Event()

        def ask_until_ended() -> None:
            while not ended.wait(0.01):
                answered(up, range(5), vip="yes")

        asking = threading.Thread(target=ask_until_ended)
        asking.start()
        try:
            with pytest.raises(TrafficError, match=r"received \d+ requests at weight 0, expected none"):
                apply_split(up.control, SHADOW)
        finally:
            ended.set()
            asking.join()


def test_unlisted_and_missing_servers(folder: Path) -> None:
    with running_haproxy(folder, ModelServer("7"), ModelServer("8"), ModelServer("9")) as up:
        fewer = up.control.model_copy(update={"challenger": ("challenger",)})
        with pytest.raises(TrafficError, match="has a server 'challenger1', expected no other"):
            apply_split(fewer, CANARY)
        missing = up.control.model_copy(update={"challenger": ("challenger", "challenger1", "challenger9")})
        with pytest.raises(TrafficError, match="No such server"):
            apply_split(missing, CANARY)
        with pytest.raises(TrafficError, match="has no server 'challenger9'"):
            HaproxyTraffic(missing).observe()
        other = up.control.model_copy(update={"backend": "other"})
        with pytest.raises(TrafficError, match="haproxy backend other has no server 'challenger'"):
            HaproxyTraffic(other).observe()


@pytest.mark.parametrize("share", [0.001, 0.9995])
def test_share_that_weights_cannot_express(up: Haproxy, share: float) -> None:
    with pytest.raises(TrafficError, match=f"share is {share}, expected one that weights from 1 to 256 express"):
        apply_split(up.control, replace(CANARY, share=share))
    assert up.challenger.requests.total() == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backend", "models/champion weight 0; shutdown sessions"),
        ("backend", "models\nshow info"),
        ("challenger", ["a;b"]),
        ("challenger", ["champion"]),
        ("sockets", ["/run/haproxy.sock;rm"]),
        ("sockets", ["exec:haproxy"]),
        ("url", "http://user:secret@models.example.com/"),
        ("url", "file:///etc/passwd"),
        ("unit_header", "x-unit\r\nx-admin"),
    ],
)
@pytest.mark.attack("an author of model files")
def test_names_cannot_carry_commands(field: str, value: object) -> None:
    settings = {
        "kind": "haproxy",
        "sockets": ["/run/haproxy.sock"],
        "backend": "models",
        "url": "http://a.example.com/",
    }
    names = {"champion": ["champion"], "challenger": ["challenger"]}
    HaproxyControl.model_validate({**settings, **names})
    with pytest.raises(ValidationError):
        HaproxyControl.model_validate({**settings, **names, field: value})


def test_unchecked_names_are_not_sent(up: Haproxy) -> None:
    """`model_copy` does not validate."""
    forged = up.control.model_copy(update={"challenger": ("challenger weight 256; set server models/champion",)})
    with pytest.raises(TrafficError, match="is not a command for haproxy"):
        HaproxyTraffic(forged).set(CHAMPION)
    assert up.ask("get weight models/challenger").startswith("0 ")
