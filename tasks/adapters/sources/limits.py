"""Allowed locations of sources, for machines that run model files from other people.

If PERENNIAL_SOURCES is set (folders, separated as in PATH), files are read only from these folders, after resolving
links. Hosts that are loopback or link-local addresses are rejected: 169.254.169.254 returns the credentials of a cloud
machine. Redirects are checked too. `serve` and the container images set the variable; without it nothing is rejected.
"""

import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from tasks.policy.records.errors import SourceError

SOURCES = "PERENNIAL_SOURCES"
MOST_REDIRECTS = 5
REMOTE = ("http", "https", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl")


def local_path(path: str, where: str) -> str | None:
    """Return the path of a local file or folder without `file://`, or None for a remote URL.

    Raises SourceError for a URL scheme that sources do not support.
    """
    parts = urlsplit(path) if "://" in path else None
    if parts is None:
        return path
    if parts.scheme in REMOTE:
        return None
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and not (parts.query or parts.fragment):
        return unquote(parts.path)
    raise SourceError(
        f"{where}: is not a source address; expected a path, or an address that begins with file:///, {'://, '.join(REMOTE)}://"
    )


def check_file(path: str, where: str) -> None:
    """Raise SourceError for a file or folder outside the allowed folders, or with a link that leads out of them."""
    folders = _folders()
    if not folders:
        return
    place = Path(path)
    reached = (place, *_links(place)) if place.is_dir() else (place,)
    for each in reached:
        found = Path(os.path.realpath(each))  # the reader reports a loop
        if not any(found.is_relative_to(folder) for folder in folders):
            link = f"{each.relative_to(place)} in it " if each != place else ""
            raise SourceError(
                f"{where}: {link}lies outside the folders that sources may be read from; expected a path below those "
                f"in {SOURCES}: {', '.join(map(str, folders))}"
            )


def _folders() -> list[Path]:
    allowed = os.environ.get(SOURCES, "")
    return [Path(folder).expanduser().resolve() for folder in allowed.split(os.pathsep) if folder]


def _links(folder: Path) -> Iterator[Path]:
    """Yield every link below a folder, and below linked folders, before it is followed; each folder is visited once."""
    waiting, walked = [folder], set()
    while waiting:
        start = waiting.pop()
        real = os.path.realpath(start)
        if real in walked:
            continue
        walked.add(real)
        for place, folders, files in os.walk(start):
            for found in (Path(place) / name for name in (*folders, *files)):
                if found.is_symlink():
                    yield found
                    waiting += [found] if found.is_dir() else []


def check_address(url: str, where: str) -> None:
    """Raise SourceError for a host that resolves to a loopback, link-local, unspecified or multicast address."""
    if not os.environ.get(SOURCES):
        return
    host = urlsplit(url).hostname or ""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return  # the host cannot be resolved; the request reports it
    for address in found:
        number = ipaddress.ip_address(str(address).partition("%")[0])
        number = getattr(number, "ipv4_mapped", None) or number
        if number.is_loopback or number.is_link_local or number.is_unspecified or number.is_multicast:
            raise SourceError(
                f"{where}: its host is a loopback, link-local, unspecified or multicast address, which sources may not use "
                f"while {SOURCES} is set; expected another host, or a file in one of those folders"
            )


@contextmanager
def opened_response(url: str, where: str, timeout: httpx.Timeout) -> Iterator[httpx.Response]:
    """Yield the streamed response of a URL; each redirect is checked before it is followed, at most `MOST_REDIRECTS`.

    Raises SourceError, httpx.HTTPError.
    """
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
                    raise SourceError(f"{where}: redirects to an address that is not http(s); expected a file")
    raise SourceError(f"{where}: redirects more than {MOST_REDIRECTS} times; expected a file")
