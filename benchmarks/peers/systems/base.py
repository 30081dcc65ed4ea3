"""What the client process asks of a system: `Client`, and `Settings` that the measuring process hands down.

Runs in the client process and, for the settings, in every worker of the system.
"""
from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis

REDIS_PORT = int(os.environ.get("PEERS_REDIS_PORT", "6379"))
KAFKA = os.environ.get("PEERS_KAFKA", "")
TOPIC = os.environ.get("PEERS_TOPIC", "peers")      # a new one for each start: a Kafka topic can't be emptied
IO = os.environ.get("PEERS_IO") == "1"              # workers for I/O tasks
ONE_BY_ONE = os.environ.get("PEERS_ONE_BY_ONE") == "1"   # tasks are submitted singly: nothing to gain by lingering
AT_ONCE = int(os.environ.get("PEERS_AT_ONCE", "64"))
BROKER_URL = f"redis://127.0.0.1:{REDIS_PORT}/0"
RESULT_URL = f"redis://127.0.0.1:{REDIS_PORT}/1"
NAP_S = 0.01
KEPT_S = 3600                                       # how long results are kept
LIMIT_S = 120.0                                     # no run takes longer
POLL_S = 0.005


class Client:
    """A system's client. Handles are the system's own; `read` is asked only for tasks that have ended."""

    def __init__(self) -> None:
        self.broker = redis.Redis(port=REDIS_PORT, db=0)
        self.results = redis.Redis(port=REDIS_PORT, db=1)

    def batch(self, first: int, count: int) -> list[Any]:
        """Submit the additions (n, 1) for n from `first` on, in the fastest way there is."""
        raise NotImplementedError

    def naps(self, count: int) -> list[Any]:
        """Submit tasks that wait for 10 ms and return their number, from 0 on."""
        raise NotImplementedError

    def single(self, n: int) -> Any:
        """Submit the addition (n, 1), and return when the system has acknowledged it."""
        raise NotImplementedError

    def wait(self, handle: Any) -> Any:
        """The result of a task that may still run."""
        raise NotImplementedError

    def ended(self) -> int:
        """How many tasks have a stored result, in one command of constant cost."""
        return int(self.results.dbsize())

    def read(self, handles: Sequence[Any]) -> list[Any]:
        """The results of tasks that have ended, by the system's own interface."""
        raise NotImplementedError

    def close(self) -> None:
        """End what the client runs."""

    # ---- what follows is the same for all but clients that are coroutines -------------------------------------------
    def batch_to_end(self, submit: Callable[[], list[Any]], count: int) -> tuple[list[Any], float, float]:
        """Submit, and wait until all results are stored: the handles, the seconds of submitting and of the whole."""
        before, begun = self.ended(), time.perf_counter()
        handles = submit()
        submitted = time.perf_counter()
        self.until_ended(before + count)
        return handles, submitted - begun, time.perf_counter() - begun

    def until_ended(self, target: int) -> int:
        """Wait until so many have ended; how many that are then."""
        deadline = time.monotonic() + LIMIT_S
        while (there := self.ended()) < target:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{there} of {target} tasks ended within {LIMIT_S:g} s")
            time.sleep(POLL_S)
        return there

    def singles(self, count: int, threads: int) -> tuple[list[tuple[int, Any]], float]:
        """Submit `count` additions one by one from so many threads: (n, handle) of each, and the seconds."""
        found: list[list[tuple[int, Any]]] = [[] for _ in range(threads)]
        go = threading.Event()

        def run(index: int) -> None:
            go.wait()
            mine = found[index]
            for n in range(index, count, threads):
                mine.append((n, self.single(n)))

        workers = [threading.Thread(target=run, args=(index,)) for index in range(threads)]
        for worker in workers:
            worker.start()
        begun = time.perf_counter()
        go.set()
        for worker in workers:
            worker.join()
        took_s = time.perf_counter() - begun
        handles = [pair for mine in found for pair in mine]
        if len(handles) != count:
            raise RuntimeError(f"{count - len(handles)} submissions failed, see the log")
        return handles, took_s

    def latencies(self, count: int) -> list[float]:
        """Seconds from before the submission to the result in hand, one task at a time."""
        found = []
        for n in range(count):
            begun = time.perf_counter()
            result = self.wait(self.single(n))
            found.append(time.perf_counter() - begun)
            if result != n + 1:
                raise RuntimeError(f"{n} + 1 = {result!r}")
        return found
