"""The only fork of the daemon: makes a child of the supervisor, and what a child sees of its host (`ChildContext`).

Called by the supervisor, in its one thread; `_child` then runs in the new process and never returns. Never opens a
connection, never blocks. The order of the steps in the child matters, each line says why.
"""
from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from yadtq import log as logs
from yadtqd.exits import Exit

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtqd.shared import Shared
    from yadtqd.slot import Slot

Role = Callable[["ChildContext"], int]

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
_HANDLED = (signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM)
_IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
# Ctrl-C and a closed terminal go to the whole process group, but only the supervisor decides what its children do then;
# SIGUSR1 waits for the worker to install its soft time-out.


class HardTimedOut(NamedTuple):
    """A task that ran past its hard deadline and was killed with its worker: it ends as FAILED, it does not run again.

    The successor gets it again and again until the watermark of its partition is beyond `offset`.
    """

    task_id: str        # as in the slot: at most 40 bytes; (partition, offset) names the record
    attempt: int
    partition: int
    offset: int


@dataclass(frozen=True)
class ChildContext:
    """All that a role gets when it starts in its own process."""

    settings: Settings
    role: str                                       # "worker", or one of yadtqd.roles
    name: str                                       # "w3", "membership", ...; "host/w3" is the worker id
    slot: Slot
    shared: Shared
    partitions: tuple[int, ...] = ()                # workers: those to consume; fixed for the life of the process
    parent_pidfd: int = -1                          # becomes readable when the supervisor is gone
    control_fd: int = -1                            # the isolator's listening SEQPACKET socket: only it may accept()
    isolator_address: str = ""                      # its name: workers connect a socket to it ("\0..." is abstract)
    suspects: tuple[str, ...] = ()                  # ids in the slots of dead workers of these partitions, not done yet
    hard_timed_out: tuple[HardTimedOut, ...] = ()   # workers: end these as FAILED with TASK_HARD_TIMEOUT


class Child(NamedTuple):
    """A forked process: signal and wait for it by `pidfd`, never by a pid that may be another's by now."""

    pid: int
    pidfd: int


def become_subreaper() -> None:
    """Let orphans of our children become our children, so that they can be swept."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def fork(ctx: ChildContext, run: Role, close_fds: Collection[int]) -> Child:
    """Fork a process that runs `run(ctx)` and ends with its exit status; `close_fds` are not the child's business.

    OSError when there is no memory, process or descriptor left; then there is no child.
    """
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"the supervisor has {threads} threads: a child forked now could hang in their locks"
    supervisor = os.getpid()
    # A signal that reached the young child would land in the parent's wake-up fd: none does before it has its own.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _child(ctx, run, close_fds, supervisor, mask)
        try:
            return Child(pid, os.pidfd_open(pid))
        except OSError:                 # no descriptor left: a child that can't be watched must not live
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _child(ctx: ChildContext, run: Role, close_fds: Collection[int], supervisor: int,
           mask: Collection[signal.Signals | int]) -> NoReturn:
    status: int = Exit.CRASHED
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:      # it died before the line above: no signal will ever come
            os._exit(Exit.CRASHED)
        signal.set_wakeup_fd(-1)
        for signum in _HANDLED:
            signal.signal(signum, signal.SIG_DFL)
        for signum in _IGNORED:
            signal.signal(signum, signal.SIG_IGN)
        for fd in close_fds:                # closed, never unregistered: an inherited epoll is the parent's own
            with contextlib.suppress(OSError):
                os.close(fd)
        faulthandler.register(signal.SIGUSR2, file=sys.__stderr__ or 2, all_threads=True)
        # No space in it: Python 3.12's own look for threads before a fork counts the fields of /proc/self/stat by them
        _libc.prctl(_PR_SET_NAME, f"yadtqd:{ctx.name}".encode()[:15], 0, 0, 0)
        _share_the_lot_of_others()
        gc.enable()                         # off in the supervisor, whose objects are frozen
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = int(run(ctx))
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else Exit.CRASHED
    except BaseException:
        logging.getLogger("yadtqd.child").critical("%s ended by an exception", ctx.name, exc_info=True)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        with contextlib.suppress(Exception):
            logs.settle()
        os._exit(status & 0xFF)             # never through the interpreter's end: inherited clients would hang in it


def _share_the_lot_of_others() -> None:
    """A kernel out of memory spares the supervisor where the unit says so (OOMScoreAdjust=); not its children."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+", encoding="ascii") as score:
        if int(score.read()) < 0:
            score.write("0")


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")
