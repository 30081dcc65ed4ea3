"""Sweeps processes that lost their parent and became a subreaper's: what a dead child's children left behind.

Used by the supervisor after each death; it never waits there: what has just been killed is reaped in a later call. The
keeper of an isolated attempt, which has nothing else to do, waits until all are gone.
"""
from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Collection
from pathlib import Path

log = logging.getLogger(__name__)


def children() -> set[int]:
    """The pids of all children of this single-threaded process, zombies too; none where the kernel does not tell."""
    pid = os.getpid()
    with contextlib.suppress(FileNotFoundError):
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()}
    return set()


def sweep(known: Collection[int]) -> int:
    """Reap or kill every child whose pid is not in `known`; how many were killed and wait for the next call."""
    left = 0
    for pid in children() - set(known):
        # It is our child and not reaped, so the pid can't be another's: killing by it is safe here.
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                log.warning("killed pid %d, which a dead child left behind", pid)
                os.kill(pid, signal.SIGKILL)
                left += 1
    return left


def end_all() -> None:
    """Kill and reap all children of this process, and theirs, which become ours when they die."""
    while left := children():
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
