"""Where the processor time of a task goes: microseconds a task in each process, for additions end to end.

    .venv/bin/python -m benchmarks.cpu_per_task [--transport librdkafka|kafka-python|both] [--tasks 40000] [--rounds 5]
                                                [--threads] [--hold]

Starts an installation of its own as benchmarks.floors does. CPU time says what a change is worth even where other work
makes wall-clock times useless; still compare by turns, because a busy cache makes every instruction dearer. The first
round warms up and does not count; figures are the least of the others. `--threads` splits a process by its threads,
`--hold` goes on submitting until Ctrl-C, for a profiler. Linux only (it reads other processes' CPU clocks).
"""
from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.floors import Installation, installation

SHOWN_US = 0.1      # threads that use less are left out


def cpu_s(pid: int) -> float:
    """CPU time that a process has used, in s, to the ns; 0 if it is gone. Its clock's id: clock_getcpuclockid(3)."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def clocks(pids: dict[str, int], by_thread: bool) -> Iterator[tuple[str, float]]:
    """The CPU clocks of the processes by name; with `by_thread`, of their threads too."""
    for name, pid in pids.items():
        yield name, cpu_s(pid)
        if by_thread:
            for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
                try:
                    comm, used = (task / "comm").read_text().strip(), (task / "schedstat").read_text().split()[0]
                except OSError:
                    continue
                yield f"  {name} {task.name} {comm}", int(used) / 1e9


def processes(parts: Installation) -> dict[str, int]:
    """The processes that take part, by name."""
    found = {"client": os.getpid()}
    found |= {str(worker["name"]): int(worker["pid"]) for worker in parts.daemon.workers()}
    return found | {"redis-server": parts.redis.pid, "java": parts.kafka.pid, "supervisor": parts.daemon.pid}


def one_round(parts: Installation, count: int, by_thread: bool) -> dict[str, float]:
    """Microseconds a task of one run, and its rate."""
    pids = processes(parts)
    entries = [{"task": "addition", "args": [n, 1]} for n in range(count)]
    before, begun = dict(clocks(pids, by_thread)), time.perf_counter()
    ids = parts.client.submit_tasks(entries)
    between, submitted = cpu_s(pids["client"]), time.perf_counter()
    results = parts.client.get_results(ids, timeout=300)
    took_s = time.perf_counter() - begun
    after = dict(clocks(pids, by_thread))
    assert results == [n + 1 for n in range(count)]
    used = {name: (after[name] - before.get(name, 0.0)) / count * 1e6 for name in after}
    figures = {"client: submit": (between - before["client"]) / count * 1e6,
               "client: results": (after["client"] - between) / count * 1e6}
    figures |= {name: value for name, value in used.items() if name != "client"}
    figures["sum"] = sum(value for name, value in used.items() if not name.startswith(" "))
    return figures | {"/s submit": count / (submitted - begun), "/s end to end": count / took_s}


def measure(transport: str, options: argparse.Namespace) -> None:
    """Run the rounds on one transport and print."""
    with tempfile.TemporaryDirectory(prefix="yadtq-bench-") as folder, \
            installation(transport, Path(folder)) as parts:
        while options.hold:
            print(processes(parts), one_round(parts, options.tasks, False), flush=True)
        rounds = [one_round(parts, options.tasks, options.threads) for _ in range(options.rounds + 1)][1:]
    print(f"{transport}, {options.tasks:,} additions, us of CPU time a task (least of {len(rounds)}; all)")
    for name in rounds[-1]:
        values = [figures[name] for figures in rounds if name in figures]
        if name.startswith(" ") and max(values) < SHOWN_US:
            continue
        best = max(values) if name.startswith("/s") else min(values)
        print(f"  {name:<34} {best:>10,.1f}   ({', '.join(f'{value:,.1f}' for value in values)})")


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_per_task", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transport", choices=["librdkafka", "kafka-python", "both"], default="both")
    parser.add_argument("--tasks", type=int, default=40_000, help="additions in a round (40000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (5)")
    parser.add_argument("--threads", action="store_true", help="split each process by its threads")
    parser.add_argument("--hold", action="store_true", help="go on until Ctrl-C, for a profiler")
    options = parser.parse_args(argv)
    for transport in ["librdkafka", "kafka-python"] if options.transport == "both" else [options.transport]:
        measure(transport, options)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
