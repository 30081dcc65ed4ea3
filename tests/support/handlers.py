"""Task types for the tests: what handlers do to a worker. Each leaves a line in the file that it is given, if any."""
from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from typing import Any

from yadtq.errors import Retry
from yadtq.tasks import task


def _note(path: str, word: str) -> None:
    with open(path, "a") as journal:
        journal.write(word + "\n")


@task("t.note")
def note(path: str, word: str, for_s: float = 0.0) -> str:
    _note(path, word)
    time.sleep(for_s)
    return word


@task("t.sleep")
def sleep(for_s: float) -> str:
    time.sleep(for_s)
    return "slept"


@task("t.swallow")
def swallow() -> str:
    """Catches everything, its soft time-out too."""
    try:
        time.sleep(30)
    except BaseException:
        return "swallowed"
    return "slept"


@task("t.async_sleep")
async def async_sleep(for_s: float) -> str:
    await asyncio.sleep(for_s)
    return "slept"


@task("t.exit")
def leave(how: str) -> None:
    if how == "sys":
        sys.exit(3)
    if how == "interrupt":
        raise KeyboardInterrupt
    os._exit(7)


@task("t.crash")
def crash(path: str) -> None:
    _note(path, f"crash {os.getpid()}")
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(5)


@task("t.crash_while")
def crash_while(path: str, journal: str) -> str:
    """Deadly as long as the file `path` is there."""
    _note(journal, "run")
    if os.path.exists(path):
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(5)
    return "mended"


@task("t.isolated_pid", isolated=True)
def isolated_pid(payload: bytes = b"") -> dict[str, Any]:
    return {"pid": os.getpid(), "threads": threading.active_count(), "payload": payload, "session": os.getsid(0),
            "parent": os.getppid()}


@task("t.isolated_sleep", isolated=True)
def isolated_sleep(for_s: float) -> str:
    time.sleep(for_s)
    return "slept"


@task("t.isolated_crash", isolated=True)
def isolated_crash(path: str) -> None:
    _note(path, "crash")
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(5)


@task("t.isolated_hog", isolated=True, memory_limit=200_000_000)
def isolated_hog() -> int:
    return len(bytearray(10**9))


@task("t.isolated_stuck", isolated=True, timeout_s=0.3, grace_s=0.3)
def isolated_stuck() -> None:
    while True:
        try:
            time.sleep(30)
        except BaseException:
            continue


@task("t.unencodable")
def unencodable() -> object:
    return object()


@task("t.large")
def large(size: int) -> bytes:
    return bytes(size)


@task("t.raise")
def fail(text: str) -> None:
    raise ValueError(text)


@task("t.clock")
def clock(ahead_s: float) -> float:
    """Set the wall clock of the process that runs this, as an operator or a time server does (0: right again)."""
    if not hasattr(time, "real_time"):
        time.real_time, time.real_time_ns = time.time, time.time_ns     # type: ignore[attr-defined]
    real_s, real_ns = time.real_time, time.real_time_ns                 # type: ignore[attr-defined]
    time.time = lambda: real_s() + ahead_s
    time.time_ns = lambda: real_ns() + int(ahead_s * 1e9)
    return time.time()


@task("t.flaky", max_retries=3, retry_backoff_s=0.2, retry_jitter=0.0)
def flaky(path: str, failures: int, word: str = "x") -> str:
    """Fails so many times, then succeeds; the journal counts."""
    with open(path, "a+") as journal:
        journal.seek(0)
        before = sum(line.split()[0] == word for line in journal)
    _note(path, f"{word} {before}")
    if before < failures:
        raise ConnectionError(f"attempt {before}")
    return word


@task("t.never", max_retries=2, retry_backoff_s=0.1, give_up_on=[PermissionError])
def never(path: str, kind: str = "ValueError") -> None:
    _note(path, kind)
    raise {"ValueError": ValueError, "PermissionError": PermissionError}[kind]("no")


@task("t.ask")
def ask(path: str, delay_s: float | None = None) -> None:
    _note(path, "asked")
    raise Retry("not yet", delay_s=delay_s)


@task("t.isolated_flaky", isolated=True, max_retries=2, retry_on=[KeyError], retry_backoff_s=0.1)
def isolated_flaky(kind: str) -> None:
    raise {"KeyError": KeyError, "ValueError": ValueError}[kind]("no")


@task("t.slow_retry", max_retries=1, retry_backoff_s=0.1, timeout_s=0.3, grace_s=0.3)
def slow_retry() -> None:
    time.sleep(30)


@task("t.sleep_and_fail")
def sleep_and_fail(for_s: float) -> None:
    time.sleep(for_s)
    raise ValueError("after a while")


@task("t.keyed", max_retries=4, retry_backoff_s=0.2, retry_jitter=0.0)
def keyed(path: str, word: str, failures: int = 0, for_s: float = 0.0) -> str:
    """Notes its beginning and its end; fails so many times."""
    with open(path, "a+") as journal:
        journal.seek(0)
        before = sum(line.split() == ["end", word] for line in journal)
    _note(path, f"begin {word}")
    time.sleep(for_s)
    _note(path, f"end {word}")
    if before < failures:
        raise ConnectionError(f"attempt {before}")
    return word


@task("t.keyed_async", max_retries=4, retry_backoff_s=0.1, retry_jitter=0.0)
async def keyed_async(path: str, word: str, failures: int = 0, for_s: float = 0.0) -> str:
    await asyncio.sleep(0)
    return keyed(path, word, failures, for_s)


@task("t.keyed_isolated", isolated=True, max_retries=4, retry_backoff_s=0.1, retry_jitter=0.0)
def keyed_isolated(path: str, word: str, failures: int = 0, for_s: float = 0.0) -> str:
    return keyed(path, word, failures, for_s)
