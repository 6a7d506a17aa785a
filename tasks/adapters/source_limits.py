"""Where sources may lie, on a machine whose model files are not all written by its owner.

With PERENNIAL_SOURCES set (folders, separated as in PATH), files are read from these folders only, links followed, and no
address is asked that means this machine or its link: 169.254.169.254 hands out the credentials of a cloud machine. A redirect
is an address like any other. `serve` and the images set it; without it nothing is refused.
"""

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx

from tasks.adapters.schemas import SourceError

SOURCES = "PERENNIAL_SOURCES"
MOST_REDIRECTS = 5


def check_file(path: str, where: str) -> None:
    """Raises SourceError for a local file outside the folders that the setting names."""
    allowed = os.environ.get(SOURCES)
    if not allowed:
        return
    place = Path(path.removeprefix("file://")).resolve()
    folders = [Path(folder).expanduser().resolve() for folder in allowed.split(os.pathsep) if folder]
    if not any(place.is_relative_to(folder) for folder in folders):
        raise SourceError(
            f"{where}: lies outside the folders that sources may be read from; expected one below those that {SOURCES} names: "
            f"{', '.join(map(str, folders))}"
        )


def check_address(url: str, where: str) -> None:
    """Raises SourceError for a host that is, or resolves to, this machine, its link or no address of anybody's."""
    if not os.environ.get(SOURCES):
        return
    host = urlsplit(url).hostname or ""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return  # it cannot be reached; whoever asks it says so
    for address in found:
        number = ipaddress.ip_address(str(address).partition("%")[0])
        number = getattr(number, "ipv4_mapped", None) or number
        if number.is_loopback or number.is_link_local or number.is_unspecified or number.is_multicast:
            raise SourceError(
                f"{where}: its host is an address of this machine or of its link, which no source may be while {SOURCES} is "
                "set; expected another host, or a file in one of those folders"
            )


@contextmanager
def opened_response(url: str, where: str, timeout: httpx.Timeout) -> Iterator[httpx.Response]:
    """The answer of an address, its redirects followed once each was looked at. Raises SourceError, httpx.HTTPError."""
    with httpx.Client(timeout=timeout, follow_redirects=False) as client:
        for _ in range(MOST_REDIRECTS + 1):
            check_address(url, where)
            with client.stream("GET", url) as response:
                if not response.has_redirect_location:
                    response.raise_for_status()
                    yield response
                    return
                url = urljoin(url, response.headers["location"])
                if not url.startswith(("http://", "https://")):
                    raise SourceError(f"{where}: redirects to an address that is no web address; expected a file")
    raise SourceError(f"{where}: redirects more than {MOST_REDIRECTS} times; expected a file")
