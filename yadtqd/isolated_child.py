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
from yadtq.task import decode_message
from yadtqd import isolated_protocol as protocol
from yadtqd.async_runner import run_coroutine
from yadtqd.body import KO, Outcome, refused, run_body, timed_out
from yadtqd.soft_timeout import SoftTimeout

if TYPE_CHECKING:
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
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(signum, signal.SIG_DFL)
        if run.memory_limit:
            resource.setrlimit(resource.RLIMIT_DATA, (run.memory_limit, run.memory_limit))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        outcome = _attempt(registry, run, payload)
        data = outcome.error if outcome.end == KO else outcome.result
        small = len(data) <= protocol.INLINE
        sock.setblocking(True)
        protocol.send(sock, protocol.Result(outcome.end, data if small else b""), b"" if small else data)
        status = 0
    except BaseException:
        log.critical("an isolated task's process failed", exc_info=True)
    finally:
        os._exit(status)        # through nobody's clean-up: what is inherited belongs to the isolator


def _attempt(registry: Registry, run: protocol.Run, payload: bytes) -> Outcome:
    try:
        message = decode_message(payload)
        task_type = registry.get(message.task)
    except (InvalidMessage, TaskNotRegistered) as error:
        return refused(error)
    context(task_id=message.id)
    if task_type.kind == "async":
        return asyncio.run(run_coroutine(task_type, message, run.limit, run.soft_s))
    fired = False

    def on_alarm(*_: object) -> None:
        nonlocal fired
        fired = True
        raise SoftTimeout

    def call(handler: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
        signal.signal(signal.SIGALRM, on_alarm)
        try:
            signal.setitimer(signal.ITIMER_REAL, run.soft_s)
            return handler(*args, **kwargs)
        finally:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)

    outcome = run_body(task_type, message, run.limit, call)
    return timed_out(task_type.name, run.soft_s) if fired else outcome
