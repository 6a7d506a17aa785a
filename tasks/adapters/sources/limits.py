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
from urllib.parse import unquote, urljoin, urlsplit

import httpx

from tasks.policy.records.errors import SourceError

SOURCES = "PERENNIAL_SOURCES"
MOST_REDIRECTS = 5
REMOTE = ("http", "https", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl")


def local_path(path: str, where: str) -> str | None:
    """The path of a file or folder of this machine, `file://` taken off; None for an address elsewhere.

    Raises SourceError for an address of no kind that sources have.
    """
    parts = urlsplit(path) if "://" in path else None
    if parts is None:
        return path
    if parts.scheme in REMOTE:
        return None
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and not (parts.query or parts.fragment):
        return unquote(parts.path)
    raise SourceError(
        f"{where}: is no address of a source; expected a path, or one that begins with file:///, {'://, '.join(REMOTE)}://"
    )


def check_file(path: str, where: str) -> None:
    """Raises SourceError for a file or folder outside the folders that the setting names, or one that links out of them."""
    folders = _folders()
    if not folders:
        return
    place = Path(path)
    reached = (place, *_links(place)) if place.is_dir() else (place,)
    for each in reached:
        found = Path(os.path.realpath(each))  # a loop is said by whoever reads it
        if not any(found.is_relative_to(folder) for folder in folders):
            link = f"{each.relative_to(place)} in it " if each != place else ""
            raise SourceError(
                f"{where}: {link}lies outside the folders that sources may be read from; expected one below those that "
                f"{SOURCES} names: {', '.join(map(str, folders))}"
            )


def _folders() -> list[Path]:
    allowed = os.environ.get(SOURCES, "")
    return [Path(folder).expanduser().resolve() for folder in allowed.split(os.pathsep) if folder]


def _links(folder: Path) -> Iterator[Path]:
    """Every link below a folder and below what those lead to, each before it is followed and none twice."""
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
