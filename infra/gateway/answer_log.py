"""Log every answer in segment files, and land closed segments in the lake.

Requests append to a list; a thread writes and syncs it every FLUSH_S, so a killed process loses at most what it answered
since. A segment is `<workspace>/gateway/<model>/<writer>-<number>.jsonl`, one JSON object a row. Its writer holds a lock on
it. When the lock is free, the segment is closed, or its process was killed: whoever takes the lock lands the segment and
deletes it. The lake takes each segment once.
"""

import fcntl
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Lock
from uuid import uuid4

import orjson
import pyarrow as pa
import pyarrow.json as pa_json

from deployments.config.model import ModelConfig
from infra.gateway.trees import Prediction
from tasks.adapters import lake
from tasks.adapters.storage.workspace import make_folder, workspace
from tasks.policy.records.errors import PerennialError
from tasks.policy.rollout.traffic import Role

logger = logging.getLogger(__name__)
FLUSH_S = 0.25
MOST_PENDING = 1_000_000
"""Rows that wait for a disk that cannot be written; beyond it, the oldest are dropped."""
BLOCK_BYTES = 2**20
SUFFIX, DAMAGED = ".jsonl", ".damaged"


@dataclass  # neither frozen nor with slots: this form takes orjson a third of the time
class Answer:
    """One row of the log. A row that was refused or failed has an error and no prediction."""

    id: str | None
    time: datetime
    prediction: Prediction | None
    model_version: str
    role: Role
    step: str
    request_id: str
    unit: str | None
    latency_s: float | None
    error: str | None


@dataclass
class CorrectedAnswer(Answer):
    """A row that the champion answered with an online state."""

    online_state: int


@dataclass
class AnswerLog:
    """The log of one model in this process."""

    config: ModelConfig
    writer: str = field(default_factory=lambda: uuid4().hex[:12])
    fault: str | None = None
    """Why the log cannot be written; None if it can."""
    _pending: deque[Answer] = field(default_factory=lambda: deque(maxlen=MOST_PENDING))
    _lock: Lock = field(default_factory=Lock)
    _number: int = 0
    _file: int | None = None

    def extend(self, answers: Iterable[Answer]) -> None:
        self._pending.extend(answers)

    @property
    def pending(self) -> int:
        """Rows that are not on disk yet."""
        return len(self._pending)

    def flush(self) -> None:
        """Write the rows that wait and sync the file. On failure the rows wait for the next call."""
        with self._lock:
            rows = [self._pending.popleft() for _ in range(len(self._pending))]
            if not rows:
                return
            try:
                self._file = self._file or self._open()
                place = os.lseek(self._file, 0, os.SEEK_END)
                try:
                    _write_all(self._file, b"".join(_line(row) for row in rows))
                    os.fsync(self._file)
                except OSError:
                    os.ftruncate(self._file, place)  # otherwise the rows would be in it twice
                    raise
                self.fault = None
            except (OSError, PerennialError) as error:
                self._pending.extendleft(reversed(rows))
                if self.fault is None:
                    logger.error("%s: the log cannot be written: %s", self.config.name, error)
                self.fault = str(error)

    def close_segment(self) -> None:
        """End the current segment, so that it can land; the next row begins another."""
        self.flush()
        with self._lock:
            if self._file is not None:
                os.close(self._file)  # releases the lock
                self._file = None

    def land(self) -> int:
        """Land every segment without a living writer and return their number. Failures are logged; the segment stays."""
        landed = 0
        stuck: set[str] = set()
        for path in sorted(self._folder().glob(f"*{SUFFIX}")):
            writer, _, number = path.stem.rpartition("-")
            if writer in stuck:
                continue
            with _locked(path) as is_ours:
                if not is_ours:
                    continue
                try:
                    lake.land_prediction_segment(self.config, writer, int(number), _read(path, self.config.task))
                    path.unlink()
                    landed += 1
                except (pa.ArrowInvalid, ValueError) as error:
                    logger.error("%s: is damaged (%s); kept as %s", path, error, path.with_suffix(DAMAGED).name)
                    path.rename(path.with_suffix(DAMAGED))
                except (OSError, PerennialError) as error:
                    stuck.add(writer)  # its later segments wait, because numbers land in order
                    logger.warning("%s: cannot be landed, and waits: %s", path.name, error)
        return landed

    def _open(self) -> int:
        """Create the next segment; it gets its final name once it is locked."""
        self._number += 1
        path = self._folder() / f"{self.writer}-{self._number:06d}{SUFFIX}"
        hidden = path.with_suffix(".new")
        file = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND, 0o600)
        _take_lock(file)
        hidden.rename(path)
        return file

    def _folder(self) -> Path:
        return make_folder(workspace().home / "gateway" / self.config.name)


def _line(answer: Answer) -> bytes:
    """Encode one row; one that JSON cannot hold is left out, so that it does not cost the rows beside it."""
    try:
        return orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError as error:
        logger.error("request %a, version %s: cannot be logged: %s", answer.request_id, answer.model_version, error)
        return b""


def _write_all(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a segment; False if its writer holds it, or another process has landed it."""
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _take_lock(file) and path.exists()
    finally:
        os.close(file)


def _take_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path, task: str) -> pa.Table:
    """Read a segment's complete lines; a killed writer may have left half a line.

    The column `online_state` is left out where no row has one.
    """
    content = path.read_bytes()
    prediction = pa.list_(pa.float64()) if task == "multiclass" else pa.float64()
    kinds: Sequence[tuple[str, pa.DataType]] = [
        ("id", pa.string()), ("time", pa.timestamp("us", "UTC")), ("prediction", prediction),
        ("model_version", pa.string()), ("role", pa.string()), ("step", pa.string()), ("request_id", pa.string()),
        ("unit", pa.string()), ("latency_s", pa.float64()), ("error", pa.string()),
        ("online_state", pa.int64()),
    ]  # fmt: skip
    schema = pa.schema(kinds)
    complete = content[: content.rfind(b"\n") + 1]
    if not complete:
        return schema.empty_table().select(schema.names[:-1])
    parsing = pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    longest = max(map(len, complete.splitlines()))
    reading = pa_json.ReadOptions(block_size=max(BLOCK_BYTES, 2 * longest))  # Arrow refuses a line of two blocks
    table: pa.Table = pa_json.read_json(pa.BufferReader(complete), read_options=reading, parse_options=parsing)
    corrected = table["online_state"].null_count < len(table)
    return table.select(schema.names if corrected else schema.names[:-1])
