"""The notice before a machine is taken away: SIGTERM, as an exception in the main thread.

Prefect raises TerminationSignal in a run's process; its handler stays in place, because its control channel looks for it.
Without Prefect, SIGTERM would end the process between two lines. Then a handler of ours raises, and the process ends by
the signal afterwards, as it would have done.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(BaseException):
    """SIGTERM arrived, and no other handler was there."""


@contextmanager
def as_exception() -> Iterator[None]:
    """Let SIGTERM raise within the block, where it would end the process; end the process by it after the block."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    except Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise(*_: object) -> None:
    raise Terminated
