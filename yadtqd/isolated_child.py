"""The two processes of an isolated attempt: the keeper, which the isolator forks, and its child that runs the handler.

The child sends its result over its worker's connection by itself; whatever happens to it after that is no matter. Soft
time-outs are its own timer's, since it has a main thread of its own and nothing that comes after.

The keeper owns everything that the handler starts, sessions of their own included: it is their subreaper, kills what
is left when the handler's process ends, and then ends in the same way. It also stands between: a handler that kills its
parent ends itself, not the isolator with the attempts of all workers. SIGTERM has it kill its child.
"""
from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NoReturn

from yadtq.errors import InvalidMessage, TaskNotRegistered
from yadtq.log import context, settle
from yadtq.running import Cancelled, Interrupted, SoftTimeout, enter
from yadtq.task import TaskMessage, decode_message
from yadtqd import isolated_protocol as protocol
from yadtqd import strays
from yadtqd.async_runner import CancelScope, run_coroutine
from yadtqd.body import CANCELLED, KO, Outcome, refused, run_body, timed_out
from yadtqd.child import become_subreaper

if TYPE_CHECKING:
    from yadtq.tasks import TaskType
    from yadtqd.registry import Registry

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
OOM_SCORE = "500"               # of 1000: a kernel out of memory ends an isolated attempt before a worker or a server


def run_child(registry: Registry, sock: socket.socket, run: protocol.Run, payload: bytes, parent: int,
              inherited: Collection[int], mask: Collection[signal.Signals | int]) -> NoReturn:
    """In the forked process: all of its life."""
    status = protocol.MUTE
    try:
        _die_with(parent)
        os.setsid()
        for fd in inherited:
            with contextlib.suppress(OSError):
                os.close(fd)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, signal.SIG_DFL)
        become_subreaper()
        keeper = os.getpid()
        pid = os.fork()
        if pid:
            sock.close()
            _keep(pid, mask)
        _die_with(keeper)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
            score.write(OOM_SCORE)
        attempt = Attempt()
        signal.signal(signal.SIGUSR1, attempt.on_cancel)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        outcome = attempt.run(registry, run, payload)
        data = outcome.error if outcome.end == KO else outcome.result
        small = len(data) <= protocol.INLINE
        sock.setblocking(True)
        protocol.send(sock, protocol.Result(outcome.end, data if small else b"", outcome.wish), b"" if small else data)
        status = 0
    except BaseException:
        log.critical("an isolated task's process failed", exc_info=True)
    finally:
        with contextlib.suppress(Exception):
            settle()            # the worker has the result already
        os._exit(status)        # through nobody's clean-up: what is inherited belongs to the isolator


def _die_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:          # it died before the line above: no signal will ever come
        os._exit(protocol.MUTE)


def _keep(pid: int, mask: Collection[signal.Signals | int]) -> NoReturn:
    """The keeper's life: wait for the child, kill what it leaves behind, end as it did."""
    # not reaped yet: the pid is its own
    signal.signal(signal.SIGTERM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(pid, signal.SIGUSR1))      # a cancel
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _, status = os.waitpid(pid, 0)
    for signum in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)
    strays.end_all()
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))        # the child has dumped its own, if anybody wants one
        fatal = os.WTERMSIG(status)
        with contextlib.suppress(OSError):                      # SIGKILL can't be set, and needs not
            signal.signal(fatal, signal.SIG_DFL)
        os.kill(os.getpid(), fatal)
        signal.pause()
    os._exit(os.WEXITSTATUS(status))


def _limit_memory(limit: int) -> Callable[[], object]:
    """Limit this process's data; returns what ends that, once the handler has: its end has to be told and encoded
    (msgspec crashes where it gets no memory)."""
    if not limit:
        return lambda: None
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_DATA, before)


class Attempt:
    """The one attempt of this process, and the signals that end it early."""

    def __init__(self) -> None:
        self.message: TaskMessage
        self.cancelled = False
        self._live = False                              # the handler runs, and may be interrupted
        self._told: type[Interrupted] | None = None     # what was raised in it
        self._scope = CancelScope()
        self._loop: asyncio.AbstractEventLoop | None = None

    def on_cancel(self, *_: object) -> None:
        """SIGUSR1: the isolator says that the task was cancelled, perhaps before the handler has begun."""
        self.cancelled = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._scope.cancel)
        elif self._live:
            self._interrupt(Cancelled)

    def _on_alarm(self, *_: object) -> None:
        if self._live:
            self._interrupt(SoftTimeout)

    def _interrupt(self, kind: type[Interrupted]) -> None:
        self._live, self._told = False, kind
        raise kind

    def run(self, registry: Registry, run: protocol.Run, payload: bytes) -> Outcome:
        """How it ended."""
        try:
            self.message = message = decode_message(payload)
            task_type = registry.get(message.task)
        except (InvalidMessage, TaskNotRegistered) as error:
            return refused(error)
        context(task_id=message.id)
        enter(self)
        more_memory = _limit_memory(run.memory_limit)
        if task_type.kind == "async":
            return asyncio.run(self._run_async(task_type, run, more_memory))

        def call(handler: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
            signal.signal(signal.SIGALRM, self._on_alarm)
            try:
                self._live = True
                if self.cancelled:
                    self._interrupt(Cancelled)
                signal.setitimer(signal.ITIMER_REAL, run.soft_s)
                return handler(*args, **kwargs)
            finally:
                self._live = False
                more_memory()

        outcome = run_body(task_type, message, run.limit, call)
        if self._told is None:
            return outcome
        # perhaps swallowed by the handler: its word counts no more
        return CANCELLED if self._told is Cancelled else timed_out(task_type.name, run.soft_s)

    async def _run_async(self, task_type: TaskType, run: protocol.Run, more_memory: Callable[[], object]) -> Outcome:
        self._loop = asyncio.get_running_loop()
        if self.cancelled:
            return CANCELLED
        return await run_coroutine(task_type, self.message, run.limit, run.soft_s, self._scope, more_memory)
