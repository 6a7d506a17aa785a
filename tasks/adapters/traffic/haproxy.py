"""Traffic of a haproxy backend: weights at runtime over haproxy's socket, and probes through its frontend.

The backend hashes the unit's header (`balance hash req.hdr(x-unit)`, `hash-type consistent`). The larger weight of the two
roles stays at haproxy's maximum while the challenger's share grows: up to one half only the challenger's weight rises,
above it only the champion's falls. A consistent hash adds and removes points on its ring accordingly, so no unit leaves
the challenger while its share grows. A haproxy that restarts has the weights of its configuration again, which is
why the challenger's servers are configured with `weight 0`.

Commands: management guide of haproxy 2.6, section 9.3 (https://docs.haproxy.org/2.6/management.html).
"""

import csv
import re
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from tasks.adapters.traffic.answers import check_share, count_challenger
from tasks.policy.records.errors import TrafficError
from tasks.policy.rollout.traffic import HaproxyControl, Role, TrafficSplit

LARGEST_WEIGHT = 256
POINTS_PER_WEIGHT = 16  # BE_WEIGHT_SCALE of haproxy: points on the ring per unit of weight
LONGEST_REPLY = 10_000_000  # bytes
AT_ONCE = 8  # probes that wait for an answer at a time
PROBING_S = 120.0
QUEUED_S = 0.2  # requests that were assigned before the last change have been counted by then
_COMMAND = re.compile(r"[a-z]+( [A-Za-z0-9_.:/-]+)+")


@dataclass(frozen=True, slots=True)
class ServerState:
    """One server of the backend as haproxy reports it.

    `weight` is the one that was set, also during maintenance; `requests` counts all requests since haproxy started.
    """

    name: str
    weight: int
    status: str
    requests: int

    @property
    def is_usable(self) -> bool:
        """Whether haproxy sends it requests, if its weight is above 0."""
        return self.status.startswith(("UP", "no check"))


class HaproxyTraffic:
    """A haproxy backend with one server or several per role."""

    def __init__(self, settings: HaproxyControl) -> None:
        self.settings = settings
        self.where = f"haproxy backend {settings.backend}"

    def set(self, split: TrafficSplit) -> None:
        """Set the weight of every server, the challenger's first."""
        weights = self._weights(split)
        for address in self.settings.sockets:
            for name in (*self.settings.challenger, *self.settings.champion):
                command = f"set server {self.settings.backend}/{name} weight {weights[name]}"
                reply = self._ask(address, command).strip()
                if reply:
                    raise TrafficError(
                        f"{address}: haproxy replied {reply[:200]!r} to {command!r}, expected no reply; the socket needs "
                        "`level admin`, the backend `hash-type consistent` and a server of this name"
                    )

    def observe(self) -> Mapping[Role, float]:
        """Return each role's share of the weights of the servers that are up. Every haproxy must have the same."""
        found = {address: self._shares(self._servers(address)) for address in self.settings.sockets}
        first, *others = self.settings.sockets
        for address in others:
            if found[address] != found[first]:
                raise TrafficError(
                    f"{self.where}: the challenger's share is {found[first]['challenger']:.4g} at {first} and "
                    f"{found[address]['challenger']:.4g} at {address}, expected the same; check the servers' states there"
                )
        return found[first]

    def verify(self, split: TrafficSplit) -> None:
        """Check the weights, then probe: right version, right share, and one version per unit.

        While the challenger has no share, its servers must not receive any request either, of probes or of others.
        """
        weights = self._weights(split)
        for address in self.settings.sockets:
            self._check_weights(address, weights)
        share = self.observe()["challenger"]
        time.sleep(QUEUED_S)
        before = self._challenger_requests()
        answers = self._probe()
        moved = next((unit for unit, versions in answers.items() if len(set(versions)) > 1), None)
        if moved is not None:
            raise TrafficError(
                f"{self.where}: unit {moved} was answered by versions {' and '.join(answers[moved])}, expected one version "
                f"per unit; set `balance hash req.hdr({self.settings.unit_header})` and `hash-type consistent`"
            )
        versions = [first for first, _ in answers.values()]
        points = POINTS_PER_WEIGHT * sum(weights.values())
        check_share(self.where, count_challenger(self.where, versions, split), len(versions), share, points)
        received = self._challenger_requests() - before
        if share == 0 and received:
            raise TrafficError(
                f"{self.where}: the challenger's servers received {received} requests at weight 0, expected none; remove "
                "`cookie`, `stick on` and `use-server` from the backend"
            )

    def _weights(self, split: TrafficSplit) -> dict[str, int]:
        """Return the weight of each server. Raises TrafficError for a share that whole weights cannot express."""
        champions, challengers = self.settings.champion, self.settings.challenger
        if not split.serves_challenger:
            return {**dict.fromkeys(challengers, 0), **dict.fromkeys(champions, LARGEST_WEIGHT)}
        ratio = split.share / (1 - split.share) * len(champions) / len(challengers)
        challenger = round(LARGEST_WEIGHT * min(1.0, ratio))
        champion = round(LARGEST_WEIGHT * min(1.0, 1 / ratio))
        if not challenger or not champion:
            raise TrafficError(
                f"{self.where}: the challenger's share is {split.share:g}, expected one that weights from 1 to "
                f"{LARGEST_WEIGHT} express with {len(champions)} and {len(challengers)} servers; raise rollout.shares"
            )
        return {**dict.fromkeys(challengers, challenger), **dict.fromkeys(champions, champion)}

    def _check_weights(self, address: str, weights: Mapping[str, int]) -> None:
        servers = self._servers(address)
        for name, weight in weights.items():
            if servers[name].weight != weight:
                raise TrafficError(
                    f"{address}: server {name} of {self.where} has weight {servers[name].weight}, expected {weight}; look "
                    "for another process that changes it"
                )
        for names in (self.settings.champion, self.settings.challenger):
            if any(weights[name] for name in names) and not any(servers[name].is_usable for name in names):
                found = ", ".join(f"{name} is {servers[name].status}" for name in names)
                raise TrafficError(
                    f"{address}: {found} in {self.where}, expected a server that is UP; start it, or end its maintenance "
                    "with `set server … state ready`"
                )

    def _shares(self, servers: Mapping[str, ServerState]) -> dict[Role, float]:
        def weight(names: Sequence[str]) -> int:
            return sum(servers[name].weight for name in names if servers[name].is_usable)

        champion, challenger = weight(self.settings.champion), weight(self.settings.challenger)
        if champion + challenger == 0:
            raise TrafficError(
                f"{self.where}: no server is up with a weight above 0, expected one that answers; start the champion's servers"
            )
        return {
            "champion": champion / (champion + challenger),
            "challenger": challenger / (champion + challenger),
        }

    def _challenger_requests(self) -> int:
        found = [self._servers(address) for address in self.settings.sockets]
        return sum(servers[name].requests for servers in found for name in self.settings.challenger)

    def _servers(self, address: str) -> dict[str, ServerState]:
        """Return the backend's servers by name. Raises TrafficError if they are not those of the settings."""
        reply = self._ask(address, f"show stat {self.settings.backend} 4 -1")
        rows = list(csv.DictReader(reply.removeprefix("# ").splitlines()))
        try:
            states = [ServerState(r["svname"], int(r["uweight"]), r["status"], int(r["stot"])) for r in rows]
        except (KeyError, TypeError, ValueError):
            raise TrafficError(
                f"{address}: haproxy replied {reply.strip()[:200]!r}, expected the statistics of {self.where}; check "
                "rollout.control.backend"
            ) from None
        servers = {state.name: state for state in states}
        listed = {*self.settings.champion, *self.settings.challenger}
        for name in sorted(listed - set(servers)):
            raise TrafficError(
                f"{address}: {self.where} has no server {name!r}, expected it; check rollout.control.backend and the names of "
                "the servers"
            )
        for name in sorted(set(servers) - listed):
            raise TrafficError(
                f"{address}: {self.where} has a server {name!r}, expected no other than {', '.join(sorted(listed))}; list it in "
                "rollout.control, as champion or challenger"
            )
        return servers

    def _ask(self, address: str, command: str) -> str:
        """Send one command to a runtime socket and return the reply. Raises TrafficError."""
        if not _COMMAND.fullmatch(command):
            raise TrafficError(f"{address}: {command!r} is not a command for haproxy, expected names without spaces")
        try:
            return _exchange(address, command, self.settings.timeout_s)
        except (OSError, OverflowError, UnicodeDecodeError) as error:
            raise TrafficError(
                f"{address}: haproxy does not answer ({type(error).__name__}: {error}), expected its runtime socket within "
                f"{self.settings.timeout_s:g} s; start haproxy, and let this user connect to the socket"
            ) from None

    def _probe(self) -> dict[str, tuple[str, str]]:
        """Return the versions that answered each probed unit's two requests."""
        units = [f"probe-{number:05d}" for number in range(self.settings.probes)]
        deadline = time.monotonic() + PROBING_S
        with (
            httpx.Client(timeout=self.settings.timeout_s, headers={"user-agent": "perennial-probe"}) as client,
            ThreadPoolExecutor(AT_ONCE) as pool,
        ):

            def ask_twice(unit: str) -> tuple[str, str]:
                return self._answered_by(client, unit, deadline), self._answered_by(client, unit, deadline)

            try:
                return dict(zip(units, pool.map(ask_twice, units), strict=True))
            finally:
                pool.shutdown(cancel_futures=True)  # after a failure, the other probes would fail as well

    def _answered_by(self, client: httpx.Client, unit: str, deadline: float) -> str:
        url, body = self.settings.url, self.settings.body
        if time.monotonic() > deadline:
            raise TrafficError(
                f"{url}: {2 * self.settings.probes} probes took more than {PROBING_S:g} s, expected fewer; lower "
                "rollout.control.probes"
            )
        headers = {self.settings.unit_header: unit}
        try:
            response = client.post(url, json=body, headers=headers) if body else client.get(url, headers=headers)
        except httpx.HTTPError as error:
            raise TrafficError(
                f"{url}: a probe was not answered ({type(error).__name__}), expected an answer within "
                f"{self.settings.timeout_s:g} s; check haproxy and the servers behind it"
            ) from None
        version = response.headers.get(self.settings.version_header)
        if not response.is_success or not version:
            raise TrafficError(
                f"{url}: a probe was answered with status {response.status_code} and version {version!r}, expected success and "
                f"the version in the header {self.settings.version_header}; check rollout.control.body and the servers"
            )
        return str(version)


def _exchange(address: str, command: str, timeout_s: float) -> str:
    """Send a command and read until haproxy closes the connection. Raises OSError, at the latest after 2 × `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    with _connect(address, timeout_s) as connection:
        connection.sendall(f"{command}\n".encode())
        reply = bytearray()
        while part := connection.recv(65536):
            reply += part
            if time.monotonic() > deadline or len(reply) > LONGEST_REPLY:
                raise TimeoutError("the reply does not end")
    return reply.decode()


def _connect(address: str, timeout_s: float) -> socket.socket:
    if not address.startswith("/"):
        host, _, port = address.rpartition(":")
        return socket.create_connection((host, int(port)), timeout_s)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection
