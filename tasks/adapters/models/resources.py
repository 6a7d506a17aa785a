"""Resources of the process that trains or scores: the threads it may use, and its peak memory."""

import os
import resource
import sys


def threads() -> int:
    """Return the threads per fit and prediction: PERENNIAL_THREADS, by default 1, because stages run in parallel."""
    return int(os.environ.get("PERENNIAL_THREADS", "1"))


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process so far, in MB (10⁶ bytes).

    `ru_maxrss` is in KiB on Linux and in bytes on macOS; see getrusage(2) of each.
    """
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes / 1e6
