"""Task types of the chaos run: each run of a handler writes down its begin and end, and its result is its own name.

Workers import this module (`tasks = ["tests.support.chaos_tasks"]`); HISTORY_FILE in their environment names the file.
The first argument is always the task's id."""
from __future__ import annotations

import asyncio
import os
import signal
import time
from functools import cache
from pathlib import Path

from tests.support.history import Ended, Journal, Started, now
from yadtq.running import current_task
from yadtq.tasks import task

HISTORY_FILE = "HISTORY_FILE"           # names of environment variables
HOST = "HISTORY_HOST"
_journal = Journal(os.environ.get(HISTORY_FILE, os.devnull))


class ChaosError(Exception):
    """What a failing task raises."""


@cache
def _worker(pid: int) -> str:
    return f"{os.environ.get(HOST, '?')}/{Path('/proc/self/comm').read_text().strip()}"


def attempt() -> int:
    """Which attempt runs here; -1 when nobody knows."""
    current = current_task()
    return current.attempt if current.id else -1


def begin(id_: str) -> str:
    """Write down that a run has begun; its name."""
    pid, run = os.getpid(), f"{os.getpid()}-{time.monotonic_ns()}"
    _journal.write(Started(id=id_, run=run, attempt=attempt(), pid=pid, worker=_worker(pid), at=now(),
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
    if attempt() < fails:
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
