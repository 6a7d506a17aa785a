"""Manage the processes of `make serve`: each is started with Popen, logs to one stream, and ends with its children.

Each process runs in its own session, which the terminal's Ctrl-C does not reach, so that they are stopped in order. Child
processes (a worker's flow runs, in sessions of their own) are recorded while the parent runs, because orphans cannot
be traced to it afterwards.
"""

import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from time import monotonic

import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

LAST_LINES = 30
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FAMILY_EVERY_S = 2  # reading the process table costs about 5 ms
COLOURS = ("cyan", "magenta", "green", "yellow", "blue")


@dataclass
class Stream:
    """One log for all services; each line is prefixed with the name of its service."""

    console: Console
    width: int
    is_closed: bool = False
    _lock: Lock = field(default_factory=Lock)
    _colours: dict[str, str] = field(default_factory=dict)

    def line(self, name: str, text: str) -> None:
        colour = self._colours.setdefault(name, COLOURS[len(self._colours) % len(COLOURS)])
        self.show(Text(f"{name:<{self.width}} │ ", style=colour) + Text.from_ansi(text.rstrip()))

    def show(self, what: Text | Table) -> None:
        """Print to the console; if output fails (closed pipe, full disk), the services continue without it."""
        with self._lock:
            if self.is_closed:
                return
            try:
                self.console.print(what, soft_wrap=True)
            except (
                OSError,
                UnicodeError,
                ValueError,
                SystemExit,
            ):  # ValueError: a closed file; SystemExit: rich exits on a broken pipe
                self.is_closed = True
                discard_output()


def discard_output() -> None:
    """Redirect stdout and stderr to /dev/null, so that later prints and Python's flush at exit do not fail."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(devnull, number)
    os.close(devnull)


@dataclass
class Service:
    """One process: its command, its address, and its health check."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    url: str
    is_healthy: Callable[[], bool]
    process: subprocess.Popen[str] | None = None
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    family: list[psutil.Process] = field(default_factory=list)
    _reader: Thread | None = None
    _family_noted: float = 0

    def start(self, stream: Stream) -> None:
        self.process = subprocess.Popen(
            self.command,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            bufsize=1,
            start_new_session=True,
        )
        self._reader = Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    @property
    def exit_status(self) -> int | None:
        """Exit status of the process; None while it runs or if it was never started."""
        return self.process.poll() if self.process else None

    def note_family(self, at_once: bool = False) -> None:
        """Record the process's children every FAMILY_EVERY_S seconds, to end them if the process dies before them."""
        due = at_once or monotonic() - self._family_noted > FAMILY_EVERY_S
        if self.process and self.exit_status is None and due:
            self.family = _family(self.process.pid) or self.family
            self._family_noted = monotonic()

    def stop(self, patience_s: float) -> None:
        """End the process and all its children: terminate first, kill after `patience_s` seconds."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.family = _family(self.process.pid)
            self.process.terminate()
            try:
                self.process.wait(timeout=patience_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        end(self.family, patience_s)
        if self._reader:
            self._reader.join(timeout=1)

    def _read(self, stream: Stream) -> None:
        if self.process is None or self.process.stdout is None:
            return
        for line in self.process.stdout:
            if line.strip():
                self.last_lines.append(line.rstrip())
                stream.line(self.name, line)


def _family(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def end(processes: Sequence[psutil.Process], patience_s: float) -> None:
    """Terminate processes, and kill those still running after `patience_s` seconds."""
    for process in processes:
        _signal(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=patience_s)
    for process in alive:
        _signal(process.kill)
    psutil.wait_procs(alive, timeout=5)


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:  # it ended by itself in the meantime
        return


@contextmanager
def asked_to_stop() -> Iterator[Event]:
    """Yield an event that SIGINT, SIGTERM or SIGHUP sets; a second signal does not interrupt the orderly stop."""
    stop = Event()
    before = {each: signal.signal(each, lambda *_: stop.set()) for each in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
