"""Signals of the supervisor: the handlers only note them, a pipe wakes the loop, which does what they ask.

Used by the supervisor's one thread. The pipe carries no meaning: it fills after some hundred signals and then drops
them, the notes don't.
"""
from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
from types import FrameType

NOTED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
TWICE_MATTERS = (signal.SIGTERM, signal.SIGINT)     # the second one stops at once


class Wakeup:
    """Installs the handlers; `fd` becomes readable when a signal came, `take` tells which."""

    def __init__(self) -> None:
        self._noted: list[int] = []
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._before = {signum: signal.signal(signum, self._note) for signum in NOTED}
        faulthandler.register(signal.SIGUSR2, all_threads=True)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum in TWICE_MATTERS or signum not in self._noted:    # a storm must not grow the list
            self._noted.append(signum)

    def take(self) -> list[int]:
        """The signals noted since the last call, in their order; empties the pipe."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass
        noted, self._noted = self._noted, []
        return noted

    def filenos(self) -> list[int]:
        """Both ends of the pipe, for children to close."""
        return [self.fd, self._write_fd]

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        signal.set_wakeup_fd(-1)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        faulthandler.unregister(signal.SIGUSR2)
        for fd in self.filenos():
            os.close(fd)
