"""Run a model that may run code in a child process: without credentials, and with bounded memory, CPU time and time per call.

The child's environment holds only the variables in `PASSED`, and its home is an empty folder. Where Linux user namespaces
work, `confine` also gives it no network, its own process tree, a read-only file system, and nothing in place of this user's
home, of other files that hold credentials, and of Perennial's state. Elsewhere it can reach the network, and read and write
as this user, which the log says. Only Arrow data come back, never pickle.
"""

import json
import logging
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.adapters.foreign import child, confine
from tasks.adapters.models.files import Floats
from tasks.adapters.models.resources import threads
from tasks.adapters.storage.workspace import SQLITE, workspace
from tasks.policy.records.errors import ForeignModelError, ModelRaised

logger = logging.getLogger(__name__)
MEMORY_BYTES = 8 * 2**30
"""Address space of the child. Libraries reserve far more than they use: scikit-learn and MLflow need about 3 GiB."""
CPU_S = 4 * 3600
"""CPU time of one child; a new one is started after that."""
LOAD_S = 180.0
"""Wall-clock time to start the child and load the model."""
CALL_S = 120.0
"""Wall-clock time of one prediction call."""
MAX_ANSWER_BYTES = 2**31
HOME_BYTES = 2**30
"""Size of the child's home, which is in memory, and of any file that it writes."""
PROCESSES = 1024
"""Processes and threads of the child; libraries start some for each core."""
PASSED = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
"""The variables that the child sees. None of them holds a credential."""
CREDENTIALS = (
    ".aws", ".azure", ".boto", ".config", ".databricks", ".databrickscfg", ".docker", ".git-credentials", ".gnupg", ".kube",
    ".mlflow", ".my.cnf", ".netrc", ".npmrc", ".oci", ".pgpass", ".prefect", ".pypirc", ".s3cfg", ".snowflake", ".snowsql",
    ".ssh", ".bash_history", ".python_history", ".zsh_history",
)  # fmt: skip
"""Files and folders in the home folder that hold credentials, or commands with some."""
CREDENTIAL_VARIABLES = (
    "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "GOOGLE_APPLICATION_CREDENTIALS",
    "KUBECONFIG", "NETRC", "PGPASSFILE", "PREFECT_HOME", "SSH_AUTH_SOCK", "DOCKER_CONFIG",
)  # fmt: skip
"""Variables that name such a file or folder elsewhere."""
SERVICES = (
    "/dev/pts", "/run/containerd", "/run/dbus", "/run/docker.sock", "/run/podman", "/run/postgresql", "/run/secrets", "/run/user",
    "/var/run/secrets",
)  # fmt: skip
"""Terminals, sockets of services that trust this user, and secrets that containers are given."""
NAMESPACES = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child")


@cache
def isolation() -> tuple[str, ...]:
    """Return the command that starts a child in namespaces, if a process can be confined in them here; else an empty one."""
    if shutil.which(NAMESPACES[0]) is None:
        return ()
    with tempfile.TemporaryDirectory() as home:
        program = [*NAMESPACES, *_confined([], Path(home)), sys.executable, "-I", "-S", "-c", ""]
        try:
            tried = subprocess.run(program, capture_output=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ()
    return NAMESPACES if tried.returncode == 0 else ()


def _confined(hidden: list[str], home: Path) -> list[str]:
    """Return the command that confines the program whose command follows it."""
    settings = {"hidden": hidden, "home": str(home), "home_bytes": HOME_BYTES, "processes": PROCESSES}
    return [sys.executable, "-I", "-S", "-B", str(confine.__file__), json.dumps(settings)]


def _hidden(place: Path) -> list[str]:
    """Return the paths that the child must not see: this user's home, credentials, and the workspace with its databases.

    Where a folder holds something that the child needs, as a home folder above the interpreter does, all else in it is hidden.
    """
    space = workspace()
    local = [space.lake, space.ledger, space.artifacts]
    database = space.mlflow.removeprefix(SQLITE) if space.mlflow.startswith(SQLITE) else ""
    databases = [f"{database}{part}" for part in ("", "-wal", "-journal") if database]
    state = [str(space.home), str(space.reports), *databases, *(part.removeprefix("file://") for part in local)]
    named = [os.environ[name] for name in CREDENTIAL_VARIABLES if os.environ.get(name)]
    home = Path.home()
    own = [*(str(home / name) for name in CREDENTIALS), *([] if home == home.parent else [str(home)])]
    imported = [path for path in (*sys.path, *os.environ.get("PYTHONPATH", "").split(os.pathsep)) if path]
    programs = [sys.prefix, sys.base_prefix, sys.executable, str(Path(sys.executable).resolve()), str(child.__file__)]
    needed = {Path(path).resolve() for path in (str(place), *programs, *imported)}
    found: set[Path] = set()
    for path in (*own, *named, *state, *SERVICES):
        if "://" not in path:
            found.update(_without(Path(path).expanduser().resolve(), needed))
    return sorted(str(path) for path in found if not found & set(path.parents))


def _without(path: Path, needed: set[Path]) -> list[Path]:
    """Return the path if it exists and holds nothing needed; else what in it does not."""
    try:
        if not path.exists() or path in needed or path.is_char_device():
            return []
        if not any(one.is_relative_to(path) for one in needed):
            return [path]
        return [found for entry in path.iterdir() if not entry.is_symlink() for found in _without(entry, needed)]
    except OSError:  # this user cannot read it, and so neither can the child
        return []


def _most_processes() -> int:
    """Return RLIMIT_NPROC for the child: older kernels count all of this user's processes and threads; 0 for no limit."""
    others = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            others += len(list((process / "task").iterdir())) if process.stat().st_uid == os.getuid() else 0
    return others + PROCESSES if others else 0


class Sandbox:
    """A model in a child process, started at the first call, and restarted once if it died."""

    def __init__(self, model_format: str, files: Mapping[str, bytes], task: str) -> None:
        self.format, self.task = model_format, task
        self._files = files
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def describe(self) -> dict[str, Any]:
        """Load the model and return its estimator, features and classes. Raises ForeignModelError."""
        with self._lock:
            return self._alive().facts

    def predict(self, table: pa.Table) -> Floats:
        """Return the predictions as the model gives them, (n,) or (n, k).

        Raises ModelRaised for an exception of the model, ForeignModelError if its process ended or was ended.
        """
        with self._lock:
            child = self._alive()
            try:
                return child.predict(table)
            except _ChildDied:
                self._child = None
                try:
                    return self._alive().predict(table)
                except _ChildDied as died:
                    self._child = None
                    raise ForeignModelError(
                        f"the model's process {died}, twice; it may need more memory than "
                        f"{MEMORY_BYTES / 2**30:.3g} GiB, or it ends its own process"
                    ) from None

    def close(self) -> None:
        """End the child, if one runs."""
        with self._lock:
            if self._child is not None:
                self._child.close()
                self._child = None

    def _alive(self) -> "_Child":
        if self._child is None or not self._child.is_alive:
            self._child = None
            self._child = _Child(self.format, self._files, self.task)
        return self._child


class _ChildDied(Exception):
    """The child ended before it answered."""


def _failure(facts: Mapping[str, Any]) -> ForeignModelError:
    """Return what the child reported: an exception of the model, or that it reached its limit of memory."""
    reason = str(facts["error"])[:400]
    if facts.get("out_of_memory"):
        return ForeignModelError(
            f"the model needs more memory than the {MEMORY_BYTES / 2**30:.3g} GiB of its process ({reason}); expected less"
        )
    return ModelRaised(f"the model raised {reason}")


class _Child:
    """One process that holds the model. It is killed when this object is collected or the interpreter ends."""

    def __init__(self, model_format: str, files: Mapping[str, bytes], task: str) -> None:
        place = Path(tempfile.mkdtemp(prefix="perennial-model-"))
        for name, content in files.items():
            path = place / "model" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (place / "home").mkdir()
        settings = {
            "folder": str(place / "model"), "format": model_format, "task": task,
            "memory_bytes": MEMORY_BYTES, "cpu_s": CPU_S, "file_bytes": HOME_BYTES, "processes": _most_processes(),
        }  # fmt: skip
        program = [sys.executable, "-P", "-B", str(child.__file__), json.dumps(settings)]
        environment = clean_environment(place / "home")
        namespaces = isolation()
        if namespaces:
            program = [*namespaces, *_confined(_hidden(place), place / "home"), *program]
            logger.info(
                "foreign model: its process has no network, no credentials, no files to write and %.3g GiB",
                MEMORY_BYTES / 2**30,
            )
        else:
            logger.warning(
                "foreign model: its process has no credentials in its environment, but user namespaces do not work here, so it "
                "can reach the network and read this user's files and processes, and write this user's files"
            )
        self._errors = (place / "errors").open("w+b")
        self._process = subprocess.Popen(
            program, env=environment, cwd=place / "home", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, start_new_session=True,
        )  # fmt: skip
        self.close = weakref.finalize(self, _end, self._process, self._errors, place)
        try:
            self.facts, _ = self._receive(LOAD_S, "to load the model")
        except _ChildDied as died:
            raise ForeignModelError(f"the model cannot be loaded: its process {died}{self._last_words()}") from None
        if "error" in self.facts:
            raise _failure(self.facts)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def predict(self, table: pa.Table) -> Floats:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        content = sink.getvalue()
        until = time.monotonic() + CALL_S
        self._send(struct.pack("<Q", content.size) + content.to_pybytes(), until)
        facts, values = self._receive(until - time.monotonic(), "for one call")
        if "error" in facts:
            raise _failure(facts)
        return values

    def _send(self, content: bytes, until: float) -> None:
        assert self._process.stdin is not None  # noqa: S101 a pipe, as Popen was asked for one
        pipe = self._process.stdin.fileno()
        os.set_blocking(pipe, False)
        rest = memoryview(content)
        while rest:
            if not select.select([], [pipe], [], max(0.0, until - time.monotonic()))[1]:
                self._overrun(CALL_S, "for one call")
            try:
                rest = rest[os.write(pipe, rest[: 2**20]) :]
            except BrokenPipeError:
                raise self._died() from None

    def _receive(self, seconds: float, what: str) -> tuple[dict[str, Any], Floats]:
        until = time.monotonic() + seconds
        (size,) = struct.unpack("<Q", self._read(8, until, what))
        if size > MAX_ANSWER_BYTES:
            self.close()
            raise ForeignModelError(f"the model answers with {size:,} bytes, expected predictions; it is not served")
        content = self._read(size, until, what)
        try:
            table = pa.ipc.open_stream(content).read_all()
            table.validate(full=True)
            facts = json.loads((table.schema.metadata or {})[b"facts"])
            columns = [np.asarray(column.cast(pa.float64()).to_numpy(), np.float64) for column in table.columns]
        except (pa.ArrowException, KeyError, ValueError, TypeError) as error:
            self.close()
            raise ForeignModelError(f"the model's answer cannot be read ({type(error).__name__})") from None
        return facts, np.column_stack(columns) if len(columns) > 1 else columns[0] if columns else np.empty(0)

    def _read(self, count: int, until: float, what: str) -> bytes:
        assert self._process.stdout is not None  # noqa: S101 a pipe, as Popen was asked for one
        pipe, parts, missing = self._process.stdout.fileno(), [], count
        while missing:
            if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                self._overrun(LOAD_S if "load" in what else CALL_S, what)
            part = os.read(pipe, min(missing, 2**20))
            if not part:
                raise self._died()
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _overrun(self, seconds: float, what: str) -> None:
        self.close()
        raise ForeignModelError(
            f"the model took longer than {seconds:g} s {what}, so its process was ended; expected an answer within that time"
        )

    def _died(self) -> _ChildDied:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        words = self._last_words()
        self.close()
        return _ChildDied(f"ended with code {code}{words}")

    def _last_words(self) -> str:
        """Return the last line that the child wrote to its standard error."""
        if self._errors.closed:
            return ""
        self._errors.seek(0)
        lines = self._errors.read()[-2000:].decode(errors="replace").strip().splitlines()
        return f" ({lines[-1][:200]})" if lines else ""


def clean_environment(home: Path) -> dict[str, str]:
    """Return the child's environment: what it needs to run, and nothing that lets it log in anywhere."""
    own = {name: os.environ[name] for name in PASSED if name in os.environ}
    limit = str(threads())
    return own | {
        "HOME": str(home), "TMPDIR": str(home), "OMP_NUM_THREADS": limit, "OPENBLAS_NUM_THREADS": limit,
        "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "MPLCONFIGDIR": str(home),
    }  # fmt: skip


def _end(process: "subprocess.Popen[bytes]", errors: Any, place: Path) -> None:
    """Kill the child with its group, and remove its folder."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout, errors):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    shutil.rmtree(place, ignore_errors=True)
