"""Task types for the tests of cancelling: each leaves a line in the file that it is given when it begins, cleans up and
so on, which survives the death of its process."""
from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from yadtq import Cancelled, current_task
from yadtq.tasks import task


def words(journal: Path) -> list[str]:
    """What the handlers have noted, in order."""
    return journal.read_text().split("\n")[:-1]


def _note(path: str, word: str) -> None:
    with open(path, "a") as journal:
        journal.write(word + "\n")


@task("c.begin")
def begin(path: str, for_s: float = 0.0) -> str:
    """Notes its own id: what began, whatever became of it."""
    _note(path, current_task().id)
    time.sleep(for_s)
    return "done"


@task("c.clean")
def clean(path: str) -> str:
    """Cleans up when it is cancelled, and lets the exception go on."""
    _note(path, f"begin {os.getpid()}")
    try:
        time.sleep(60)
    except Cancelled:
        _note(path, "cleaned")
        raise
    return "done"


@task("c.swallow")
def swallow(path: str) -> str:
    """Makes little of its cancel."""
    _note(path, "begin")
    try:
        time.sleep(60)
    except BaseException as error:
        _note(path, type(error).__name__)
    return "swallowed"


@task("c.stubborn", grace_s=1.0)
def stubborn(path: str) -> str:
    """Does not end at all."""
    _note(path, "begin")
    while True:
        try:
            time.sleep(60)
        except BaseException:
            _note(path, "went on")


@task("c.quick")
def quick(for_s: float) -> str:
    time.sleep(for_s)
    return "done"


@task("c.failing", max_retries=5)
def failing(path: str, for_s: float) -> None:
    """Fails, again and again."""
    _note(path, "begin")
    time.sleep(for_s)
    raise ValueError("again")


@task("c.flagged")
def flagged(path: str) -> str:
    """Looks at the flag, as a handler in a pool of threads has to."""
    _note(path, "begin")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.02)
        current_task().raise_if_cancelled()
    return "done"


@task("c.deaf", grace_s=1.0)
def deaf(path: str, for_s: float) -> str:
    """Never looks at it."""
    _note(path, "begin")
    time.sleep(for_s)
    return "done"


@task("c.async")
async def async_clean(path: str) -> str:
    _note(path, "begin")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        _note(path, "cleaned")
        raise
    return "done"


@task("c.async_swallow")
async def async_swallow(path: str) -> str:
    _note(path, "begin")
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        _note(path, "cleaned")
    return "swallowed"


@task("c.async_blocking", grace_s=1.0)
async def async_blocking(path: str) -> str:
    """Keeps the whole loop from running."""
    _note(path, "begin")
    time.sleep(60)
    return "done"


@task("c.isolated", isolated=True)
def isolated(path: str) -> str:
    _note(path, f"begin {os.getpid()}")
    try:
        time.sleep(60)
    except Cancelled:
        _note(path, "cleaned" if current_task().cancel_requested else "not asked?")
        raise
    return "done"


@task("c.isolated_async", isolated=True)
async def isolated_async(path: str) -> str:
    _note(path, "begin")
    try:
        await asyncio.sleep(60)
    finally:
        _note(path, "cleaned")
    return "done"


@task("c.isolated_stubborn", isolated=True, grace_s=0.5)
def isolated_stubborn(path: str) -> str:
    _note(path, f"begin {os.getpid()}")
    while True:
        try:
            time.sleep(60)
        except BaseException:
            _note(path, "went on")


@task("c.about")
def about() -> list[object]:
    now = current_task()
    return [now.id, now.name, now.attempt, now.group, now.cancel_requested]


@task("c.hold")
def hold(path: str) -> int:
    """Keeps the interpreter from every other thread of its process."""
    _note(path, "begin")
    return sum(range(10**11))
