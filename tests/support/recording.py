"""Task types for the fault tests: each attempt writes down when it starts and ends, in a file that survives SIGKILL.

Workers import this module through `tasks = ["tests.support.recording"]`. The file is named by the first argument, so
that one daemon can serve many tests. A line is one write with O_APPEND: it is whole or absent.
"""
from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from yadtq.tasks import task


def note(path: str, **what: Any) -> None:
    """Append one line to the history."""
    line = json.dumps({**what, "pid": os.getpid(), "at": time.monotonic()}) + "\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


@task
def recorded(path: str, token: int, seconds: float = 0.0) -> list[int]:
    """Take `seconds`; the result tells the attempts of one token apart."""
    note(path, what="start", token=token)
    time.sleep(seconds)
    note(path, what="end", token=token)
    return [token, os.getpid()]


@task(isolated=True)
def recorded_alone(path: str, token: int, seconds: float = 0.0) -> list[int]:
    """The same in a process of its own."""
    return recorded(path, token, seconds)


@task
async def recorded_async(path: str, token: int, seconds: float = 0.0) -> list[int]:
    """The same on the worker's event loop."""
    note(path, what="start", token=token)
    await asyncio.sleep(seconds)
    note(path, what="end", token=token)
    return [token, os.getpid()]


@task
def stubborn(path: str, token: int, seconds: float) -> list[int]:
    """Swallow every exception until `seconds` are over: only SIGKILL ends it earlier."""
    note(path, what="start", token=token)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(0.05)
        except BaseException:       # that is the point
            continue
    note(path, what="end", token=token)
    return [token, os.getpid()]


@task
def deadly(path: str, token: int) -> None:
    """Take the whole process down, without a word."""
    note(path, what="start", token=token)
    os._exit(17)
