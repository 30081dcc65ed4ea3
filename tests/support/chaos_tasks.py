"""Task types of the chaos run: each run of a handler writes down its begin and end, and its result is its own name.

Workers import this module (`tasks = ["tests.support.chaos_tasks"]`); HISTORY_FILE in their environment names the file.
The first argument is always the task's id. Nothing of YADTQ is changed: what runs a handler is only listened to, so
that the handler learns which attempt it is.
"""
from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

from tests.support.history import Ended, Journal, Started, now
from yadtq.tasks import task

HISTORY_FILE = "HISTORY_FILE"           # names of environment variables
HOST = "HISTORY_HOST"
_attempt: contextvars.ContextVar[int] = contextvars.ContextVar("attempt", default=-1)
_journal = Journal(os.environ.get(HISTORY_FILE, os.devnull))


class ChaosError(Exception):
    """What a failing task raises."""


@cache
def _worker(pid: int) -> str:
    return f"{os.environ.get(HOST, '?')}/{Path('/proc/self/comm').read_text().strip()}"


def begin(id_: str) -> str:
    """Write down that a run has begun; its name."""
    pid, run = os.getpid(), f"{os.getpid()}-{time.monotonic_ns()}"
    _journal.write(Started(id=id_, run=run, attempt=_attempt.get(), pid=pid, worker=_worker(pid), at=now(),
                           wall_ms=time.time_ns() // 1_000_000))
    return run


def end(id_: str, run: str, how: str = "returned") -> str:
    """Write down that it has come to its end; its name."""
    _journal.write(Ended(id=id_, run=run, how=how, at=now()))
    return run


@task("chaos.run")
def quick(id_: str, seconds: float = 0.0) -> str:
    run = begin(id_)
    time.sleep(seconds)
    return end(id_, run)


@task("chaos.async")
async def waiting(id_: str, seconds: float = 0.0) -> str:
    run = begin(id_)
    await asyncio.sleep(seconds)
    return end(id_, run)


@task("chaos.isolated", isolated=True)
def isolated(id_: str, seconds: float = 0.0) -> str:
    run = begin(id_)
    time.sleep(seconds)
    return end(id_, run)


@task("chaos.fail")
def failing(id_: str, fails: int) -> str:
    """Its first `fails` attempts fail."""
    run = begin(id_)
    if _attempt.get() < fails:
        end(id_, run, "raised")
        raise ChaosError(run)
    return end(id_, run)


@task("chaos.poison")
def poison(id_: str, how: str) -> None:
    """Takes its process down, without a word."""
    begin(id_)
    if how == "exit":
        os._exit(17)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(30)


@task("chaos.stubborn")
def stubborn(id_: str, seconds: float) -> str:
    """Swallows every exception: only SIGKILL ends it earlier."""
    run, until = begin(id_), time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(0.05)
        except BaseException:       # that is the point
            continue
    return end(id_, run)


def _listen() -> None:
    """Let handlers know their attempt: wraps what calls them, in a worker and in an isolated child."""
    for name in ("processor", "isolated_child", "task_pool"):
        module = sys.modules.get(f"yadtqd.{name}")
        if module is not None and not hasattr(module.run_body, "told"):
            module.run_body = _telling(module.run_body)     # type: ignore[attr-defined]


def _telling(run_body: Any) -> Any:
    def told(task_type: Any, message: Any, limit: int, call: Any) -> Any:
        _attempt.set(message.n)
        return run_body(task_type, message, limit, call)
    told.told = True                                        # type: ignore[attr-defined]
    return told


_listen()
