"""Atomic writes: write to a temporary file or folder beside the target, then rename.

Readers see either the old or the new content, never a partial file, even when several processes write the same file.
"""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; it replaces `path` if the block succeeds and is deleted if it fails. Raises OSError."""
    own = _temporary_path(path)
    try:
        yield own
        own.replace(path)
    except BaseException:
        with suppress(OSError):
            own.unlink()
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `path` at the end of the block. Raises OSError.

    The folder is written once: if another process creates `path` first, its folder is used and this one is deleted.
    """
    own = _temporary_path(path)
    own.mkdir(parents=True)
    try:
        yield own
        try:
            own.replace(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(own, ignore_errors=True)


def write_atomically(path: Path, text: str) -> Path:
    """Write a text file atomically and return its path. Raises OSError."""
    with atomic_file(path) as own:
        own.write_text(text, encoding="utf-8")
    return path


@contextmanager
def file_lock(lock: Path) -> Iterator[None]:
    """Wait for an exclusive lock on a file among the processes of this machine and hold it. Raises OSError."""
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex}.unfinished")
