"""The child that the isolator forks: runs one attempt, says how it ended, and is gone.

Sends its result over its worker's connection by itself; whatever happens to it after that is no matter. Soft time-outs
are its own timer's, since it has a main thread of its own and nothing that comes after.
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
from yadtq.log import context
from yadtq.running import Cancelled, Interrupted, SoftTimeout, enter
from yadtq.task import TaskMessage, decode_message
from yadtqd import isolated_protocol as protocol
from yadtqd.async_runner import CancelScope, run_coroutine
from yadtqd.body import CANCELLED, KO, Outcome, refused, run_body, timed_out

if TYPE_CHECKING:
    from yadtq.tasks import TaskType
    from yadtqd.registry import Registry

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
COULD_NOT_START = 70            # exit status of a child that failed before its handler began


def run_child(registry: Registry, sock: socket.socket, run: protocol.Run, payload: bytes, parent: int,
              inherited: Collection[int], mask: Collection[signal.Signals | int]) -> NoReturn:
    """In the forked process: all of its life."""
    status = COULD_NOT_START
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:      # it died before the line above: no signal will ever come
            os._exit(status)
        os.setsid()
        for fd in inherited:
            with contextlib.suppress(OSError):
                os.close(fd)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, signal.SIG_DFL)
        attempt = Attempt()
        signal.signal(signal.SIGUSR1, attempt.on_cancel)
        if run.memory_limit:
            resource.setrlimit(resource.RLIMIT_DATA, (run.memory_limit, run.memory_limit))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        outcome = attempt.run(registry, run, payload)
        data = outcome.error if outcome.end == KO else outcome.result
        small = len(data) <= protocol.INLINE
        sock.setblocking(True)
        protocol.send(sock, protocol.Result(outcome.end, data if small else b""), b"" if small else data)
        status = 0
    except BaseException:
        log.critical("an isolated task's process failed", exc_info=True)
    finally:
        os._exit(status)        # through nobody's clean-up: what is inherited belongs to the isolator


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
        if task_type.kind == "async":
            return asyncio.run(self._run_async(task_type, run))

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

        outcome = run_body(task_type, message, run.limit, call)
        if self._told is None:
            return outcome
        # perhaps swallowed by the handler: its word counts no more
        return CANCELLED if self._told is Cancelled else timed_out(task_type.name, run.soft_s)

    async def _run_async(self, task_type: TaskType, run: protocol.Run) -> Outcome:
        self._loop = asyncio.get_running_loop()
        if self.cancelled:
            return CANCELLED
        return await run_coroutine(task_type, self.message, run.limit, run.soft_s, self._scope)
