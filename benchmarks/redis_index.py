"""How fast pages of tasks are with many records in Redis, what a record takes of memory, what an operation costs.

    python benchmarks/redis_index.py [--records 1000000] [--folder DIR]

Starts a Redis of its own on a free port, fills it with finished tasks through the result backend itself (so the figures
of submit, claim and finish are those of a large store), and prints medians. A million records take about 500 MB.
"""
from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from yadtq.config import Settings
from yadtq.result_backend import ClaimEntry, FinishEntry, ResultBackend, SubmitEntry
from yadtq.task import new_task_id

BATCH = 2000
TYPES = ("addition", "subtraction", "multiplication", "matrix_multiplication")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Meter:
    """Sums up what an operation cost: CPU of Redis, CPU here, time."""

    def __init__(self, backend: ResultBackend) -> None:
        self._backend = backend
        self._sums: dict[str, list[float]] = {}

    def _cpu(self) -> float:
        info = self._backend.info("cpu")
        return float(info["used_cpu_sys_main_thread"]) + float(info["used_cpu_user_main_thread"])

    def measure(self, name: str, tasks: int, action: Callable[[], object]) -> None:
        cpu, here, wall = self._cpu(), time.thread_time(), time.perf_counter()
        action()
        sums = self._sums.setdefault(name, [0.0, 0.0, 0.0, 0.0])
        spent = (tasks, self._cpu() - cpu, time.thread_time() - here, time.perf_counter() - wall)
        for place, value in enumerate(spent):
            sums[place] += value

    def report(self) -> None:
        print(f"{'us a task':12}{'Redis CPU':>12}{'Python CPU':>12}{'elapsed':>12}")
        for name, (tasks, redis_s, here_s, wall_s) in self._sums.items():
            print(f"{name:12}{redis_s / tasks * 1e6:12.2f}{here_s / tasks * 1e6:12.2f}{wall_s / tasks * 1e6:12.2f}")


def fill(backend: ResultBackend, records: int, meter: Meter, partition: int = 0) -> None:
    """Submit, claim and finish: of a hundred tasks 90 succeed, 1 fails, 9 stay queued."""
    start_ms = int(time.time() * 1000) - 1_800_000
    for first in range(0, records, BATCH):
        count = min(BATCH, records - first)
        ids = [new_task_id() for _ in range(count)]
        at = [start_ms + (first + n) * 1_800_000 // records for n in range(count)]
        kinds = [TYPES[(first + n) % len(TYPES)] for n in range(count)]
        submits = [SubmitEntry(i, k, 0, t, 0) for i, k, t in zip(ids, kinds, at, strict=True)]
        ran = [n for n in range(count) if n % 100 < 91]
        claims = [ClaimEntry(ids[n], 0, 0, kinds[n], at[n], None, 0, first + n) for n in ran]
        ends = [FinishEntry(ids[n], 0, 0, kinds[n], at[n], "KO" if n % 100 == 90 else "OK", first + n, at[n] + 5,
                            at[n] + 6, b"\x2a", b"e" * 300 if n % 100 == 90 else b"") for n in ran]
        meter.measure("submit", count, partial(backend.submit, submits))
        meter.measure("claim", len(claims), partial(backend.claim, partition, 1, claims, start_ms))
        meter.measure("finish", len(ends), partial(backend.finish, partition, 1, ends, "host/w0"))


def time_pages(backend: ResultBackend) -> None:
    everything = ["Q", "S", "P", "R", "OK", "KO", "CX"]
    cases: list[tuple[str, list[str], list[str] | None, bool, int]] = [
        ("all tasks, newest first", everything, None, True, 100), ("all tasks", everything, None, False, 100),
        ("FAILED", ["KO"], None, False, 100), ("SUCCESS of one type", ["OK"], ["addition"], False, 100),
        ("all tasks, pages of 1000", everything, None, False, 1000)]
    for name, states, types, newest, limit in cases:
        times, tasks, cursor = [], 0, None
        for _ in range(200):
            began = time.perf_counter()
            page, cursor = backend.page(states, types, cursor, limit, newest_first=newest)
            times.append(time.perf_counter() - began)
            tasks += len(page)
            if cursor is None:
                break
        times.sort()
        print(f"page: {name:28} p50 {statistics.median(times) * 1e3:6.2f} ms  max {times[-1] * 1e3:7.2f} ms  "
              f"{tasks / len(times):6.0f} tasks a page")
    began = time.perf_counter()
    counts = backend.counts()
    print(f"counts: {(time.perf_counter() - began) * 1e3:.2f} ms  {counts}")


def time_expiry(backend: ResultBackend, records: int) -> None:
    now = int(time.time() * 1000)
    began, done, longest, calls = time.perf_counter(), 0, 0.0, 0
    while calls < 100:
        each = time.perf_counter()
        done += backend.expire(now, 1, {0: records}, 3200)
        longest = max(longest, time.perf_counter() - each)
        calls += 1
    took = time.perf_counter() - began
    print(f"expire: {done / took:,.0f} records/s, longest call {longest * 1e3:.1f} ms")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    server = shutil.which("redis-server")
    if server is None:
        print("redis-server is not installed", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        port = free_port()
        process = subprocess.Popen([server, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder,
                                    "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
                                    "--auto-aof-rewrite-percentage", "0", "--logfile", os.path.join(folder, "log")])
        try:
            backend = ResultBackend(Settings(redis_port=port, redis_host="127.0.0.1"))
            empty = int(backend.info("memory", timeout_s=10)["used_memory"])
            meter = Meter(backend)
            fill(backend, options.records, meter)
            used = int(backend.info("memory")["used_memory"]) - empty
            print(f"{options.records:,} records, {used / options.records:.0f} bytes of Redis each")
            meter.report()
            time_pages(backend)
            time_expiry(backend, options.records)
            backend.close()
        finally:
            process.terminate()
            process.wait(10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
