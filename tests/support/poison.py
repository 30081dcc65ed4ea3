"""Task types that ruin the process that runs them, each in its own way, for the tests of poison tasks and time-outs.

Workers import this module through `tasks = ["tests.support.poison"]`.
"""
from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from tests.support.recording import note
from yadtq.tasks import task


def _segfault() -> None:
    ctypes.string_at(0)


def _exit() -> None:
    os._exit(3)             # the status with which a child of the daemon says that its configuration can't work


def _killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)        # what a kernel out of memory does
    time.sleep(5)


def _abort() -> None:
    os.abort()


def _recursion_in_c() -> None:
    nested: list[Any] = []
    for _ in range(1_000_000):
        nested = [nested]
    sys.setrecursionlimit(2**30)
    repr(nested)


def _close_all() -> None:
    os.closerange(3, 4096)


def _close_and_die() -> None:
    os.closerange(3, 4096)
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(5)


def _kill_parent() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(5)


def _out_of_memory() -> None:
    """A library that does not look at what malloc gave it."""
    resource.setrlimit(resource.RLIMIT_DATA, (1, 1))
    ctypes.memset(ctypes.CDLL(None).malloc(1 << 40), 1, 1 << 20)


def _leave_children() -> None:
    """One in our session, one in a session of its own, both for long; then die."""
    for new_session in (False, True):
        subprocess.Popen(["sleep", "300.25"], start_new_session=new_session)
    os._exit(9)


DEATHS = {"segfault": _segfault, "exit": _exit, "killed": _killed, "abort": _abort, "recursion": _recursion_in_c,
          "close_and_die": _close_and_die, "kill_parent": _kill_parent, "memory": _out_of_memory,
          "children": _leave_children, "close_all": _close_all}


@task("p.die")
def die(path: str, token: int, how: str) -> list[int]:
    """Note the start, then die in this way."""
    note(path, what="start", token=token)
    DEATHS[how]()
    return [token, os.getpid()]


@task("p.isolated_die", isolated=True)
def isolated_die(path: str, token: int, how: str) -> list[int]:
    """The same for a task type that is isolated from the beginning."""
    note(path, what="start", token=token)
    DEATHS[how]()
    return [token, os.getpid()]


@task("p.forked_return")
def forked_return(path: str, token: int) -> int:
    """Fork, and have the child return as well."""
    note(path, what="start", token=token)
    return os.getpid() if os.fork() else -1


@task("p.isolated_leaves", isolated=True)
def isolated_leaves(marker: str) -> int:
    """Leave processes behind, one of them in a session of its own, and end well."""
    for new_session in (False, True):
        subprocess.Popen(["sleep", marker], start_new_session=new_session)
    return os.getpid()


@task("p.isolated_sleep", isolated=True)
def isolated_sleep(path: str, token: int, seconds: float) -> list[int]:
    """As `recorded`, apart."""
    note(path, what="start", token=token)
    time.sleep(seconds)
    note(path, what="end", token=token)
    return [token, os.getpid()]


@task("p.isolated_creep", isolated=True, memory_limit="160M")
def isolated_creep() -> int:
    """Use up its memory by small objects, so that hardly a byte is left when it is over."""
    held: list[Any] = []
    while True:
        held.append([len(held)])


@task("p.isolated_async_hog", isolated=True, memory_limit="160M")
async def isolated_async_hog() -> int:
    return len(bytearray(10**9))


@task("p.isolated_large_result", isolated=True, memory_limit="160M")
def isolated_large_result(size: int) -> bytes:
    """A result that is too large to be encoded within the limit."""
    return bytes(size)


# ---- time-outs ------------------------------------------------------------------------------------------------------
def _stuck_regex() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")


def _stuck_pow() -> None:
    while True:
        pow(3, 1 << 25)


def _stuck_sleep() -> None:
    ctypes.PyDLL(None).sleep(60)        # as an extension that keeps the interpreter's lock


def _stuck_matmul() -> None:
    import numpy as np

    large = np.ones((12_000, 12_000))
    large @ large


def _stuck_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _blocked_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(60)


STUCK = {"regex": _stuck_regex, "pow": _stuck_pow, "sleep": _stuck_sleep, "matmul": _stuck_matmul, "lock": _stuck_lock,
         "blocked": _blocked_signals}


def _stubborn(how: str) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(BaseException):
            STUCK[how]()
    return "ended"


@task("p.stuck")
def stuck(path: str, token: int, how: str) -> str:
    """Nothing but SIGKILL ends it."""
    note(path, what="start", token=token)
    return _stubborn(how)


@task("p.async_stuck")
async def async_stuck(path: str, token: int, how: str) -> str:
    """A coroutine that never gives way."""
    note(path, what="start", token=token)
    return _stubborn(how)


@task("p.isolated_stuck", isolated=True)
def isolated_stuck(path: str, token: int, how: str) -> str:
    """The same, apart."""
    note(path, what="start", token=token)
    return _stubborn(how)


LOCK = threading.Lock()


@task("p.cleans_up")
def cleans_up(path: str, token: int) -> None:
    """Catches its soft time-out, to close and release what it holds."""
    with LOCK, open(path + ".open", "w") as file:
        try:
            note(path, what="start", token=token)
            time.sleep(60)
        except BaseException as error:
            file.write(type(error).__name__)
            raise
        finally:
            note(path, what="cleaned", token=token)


@task("p.isolated_cleans_up", isolated=True)
def isolated_cleans_up(path: str, token: int) -> None:
    cleans_up(path, token)


@task("p.async_cleans_up")
async def async_cleans_up(path: str, token: int) -> None:
    import asyncio

    try:
        note(path, what="start", token=token)
        await asyncio.sleep(60)
    finally:
        note(path, what="cleaned", token=token)


@task("p.block_signals")
def block_signals() -> int:
    """Returns with all signals blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    return os.getpid()


@task("p.deafen")
def deafen(topic: str, partition: int) -> str:
    """Have this worker's Kafka consumer bring nothing more of a partition, for good, by its own library's API."""
    thread: Any = next(thread for thread in threading.enumerate() if thread.name == "consumer")
    transport, done = thread._transport, threading.Event()

    def poll(*arguments: Any) -> Any:
        """In its own thread, as the libraries want it."""
        del transport.poll
        if transport.transport_name == "librdkafka":
            from confluent_kafka import TopicPartition as Confluent

            transport._consumer.pause([Confluent(topic, partition)])
        else:
            from kafka import TopicPartition

            transport._consumer.pause(TopicPartition(topic, partition))
        done.set()
        return transport.poll(*arguments)

    transport.poll = poll
    transport.wake()
    assert done.wait(10)
    return str(transport.transport_name)
