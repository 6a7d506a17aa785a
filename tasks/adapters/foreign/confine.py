"""Confine this process before it runs a model's code, then replace it by that program: run by `sandbox` in new namespaces.

It makes every file system read-only except an empty home and /dev/shm in memory, hides what holds credentials or Perennial's
state, and gives up all rights over the mounts (mount_setattr(2), Linux 5.12; user_namespaces(7)). Any failure ends it, so that
the model does not run less confined than the log says. It imports nothing of Perennial.
"""

import ctypes
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

READ_ONLY, NO_SUID, NO_DEVICES, BIND = 1, 2, 4, 4096
CLONE_NEWUSER, NO_NEW_PRIVILEGES = 0x10000000, 38
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_READ_ONLY = 442, -100, 0x8000, 1
FAILED = 97
"""Exit status of a process that could not be confined."""
OWN_PROCESS_LIMIT = (6, 14)
"""The first Linux with a pid_max for each PID namespace; before it, writing that file would change the whole machine."""

libc = ctypes.CDLL(None, use_errno=True)


def checked(status: int, what: str) -> None:
    if status != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source: str, place: str, kind: str, flags: int, options: str = "") -> None:
    """Mount a file system. Raises OSError."""
    status = libc.mount(os.fsencode(source), os.fsencode(place), kind.encode(), flags, options.encode())
    checked(status, f"mount {kind or source} at {place}")


def hide(path: str) -> None:
    """Put an empty folder, or /dev/null, in place of a path."""
    if Path(path).is_dir():
        mount("none", path, "tmpfs", READ_ONLY | NO_SUID | NO_DEVICES, "size=4k")
    else:
        mount(os.devnull, path, "", BIND)


def make_read_only() -> None:
    """Make all mounts read-only, also those below others."""
    attributes = (ctypes.c_uint64 * 4)(ATTR_READ_ONLY, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    status = libc.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(attributes), size)
    checked(status, "make all file systems read-only")


def limit_processes(count: int) -> None:
    """Limit the processes and threads of this PID namespace, which holds for root too, unlike RLIMIT_NPROC."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2] if part.isdigit())
    if release >= OWN_PROCESS_LIMIT:
        Path("/proc/sys/kernel/pid_max").write_text(str(count), encoding="ascii")


def confine(settings: dict[str, Any]) -> None:
    """Confine this process. Raises OSError."""
    for path in settings["hidden"]:
        with suppress(FileNotFoundError):  # removed meanwhile
            hide(path)
    with suppress(OSError):  # containers may forbid it; other processes are then seen, but not read
        mount("proc", "/proc", "proc", NO_SUID | NO_DEVICES)
        limit_processes(settings["processes"])
    make_read_only()
    for place in (settings["home"], "/dev/shm"):  # noqa: S108 shared memory of its own
        mount("none", place, "tmpfs", NO_SUID | NO_DEVICES, f"size={settings['home_bytes']},mode=700")
    os.chdir(settings["home"])
    checked(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "give up new privileges")
    # the second user namespace has no rights over the mounts of the first, so that the model cannot remove them
    checked(libc.unshare(CLONE_NEWUSER), "leave the user namespace")


def main(settings: dict[str, Any], program: list[str]) -> None:
    try:
        confine(settings)
        os.execv(program[0], program)  # noqa: S606 the program is ours
    except OSError as error:
        print(f"not confined: {error}", file=sys.stderr)
        sys.exit(FAILED)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
