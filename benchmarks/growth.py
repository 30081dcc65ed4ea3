"""How the cost of a task changes as an installation grows: what should stay flat, and does.

    .venv/bin/python -m benchmarks.growth                           # all, about ten minutes
    .venv/bin/python -m benchmarks.growth retained --most 10000000  # ten million records take 3 GB of Redis
    .venv/bin/python -m benchmarks.growth partitions clients --rounds 5 --json

Along each axis an installation of its own (benchmarks.floors) works on the same tasks while one thing grows:

- *partitions*: 1, 10 and 100 of the task topic, two workers;
- *retained*: finished tasks that Redis keeps, 1 thousand to `--most`;
- *payload*: bytes of the argument and again of the result, 10 to 800,000 (the brokers' limit is 1 MB);
- *clients*: 1, 8 and 64 at once, each waiting for its own tasks, all in batches of the same size.

The figures are microseconds of CPU time a task, process by process, and the median time of a single task. CPU time
varies by a tenth on a busy machine; each point is the least of its rounds. *Growth* is the sum beside that of the first
point; for payloads beside what the first point and the bytes would take, at the price a byte of the largest.
"""
from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cpu_per_task import cpu_s, processes
from benchmarks.floors import Installation, installation, latency_ms
from benchmarks.redis_index import Meter, fill
from yadtq import YADTQClient
from yadtq.result_backend import ResultBackend

TASKS = 20_000                  # additions of a round
BATCH = 500                     # that one client submits together
SINGLES = 200
PAYLOAD_BYTES = (10, 100, 1_000, 10_000, 100_000, 800_000)
VOLUME = 50_000_000             # bytes that a round of payloads moves at most, each way
ELSEWHERE = 999                 # a partition that no worker has, for records that are only kept
LIMIT_S = 300.0


@dataclass(frozen=True)
class Point:
    """One measured point of an axis; times in us of CPU a task, `single_ms` the p50 of one task alone."""

    axis: str
    at: int
    client_us: float
    workers_us: float
    redis_us: float
    kafka_us: float
    single_ms: float

    @property
    def sum_us(self) -> float:
        """All processes."""
        return self.client_us + self.workers_us + self.redis_us + self.kafka_us


def point(axis: str, at: int, parts: Installation, rounds: int, count: int, work: Callable[[], None]) -> Point:
    """The least of the rounds, each of them `count` tasks done by `work`; one round before them warms up."""
    names = processes(parts)
    kinds = {"client": [names["client"]], "redis": [names["redis-server"]], "kafka": [names["java"]],
             "workers": [pid for name, pid in names.items() if name not in ("client", "redis-server", "java")]}
    work()
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        before = {kind: sum(map(cpu_s, pids)) for kind, pids in kinds.items()}
        work()
        found.append({f"{kind}_us": (sum(map(cpu_s, pids)) - before[kind]) / count * 1e6
                      for kind, pids in kinds.items()})
    best = min(found, key=lambda figures: sum(figures.values()))
    made = Point(axis, at, single_ms=latency_ms(parts.client, SINGLES), **best)
    print(f"{axis} {at:,}: {made.sum_us:.1f} us, a single task {made.single_ms:.2f} ms", file=sys.stderr, flush=True)
    return made


def additions(client: YADTQClient, count: int, batch: int = 0) -> None:
    """Submit them, wait for all, look at the results."""
    size = batch or count
    for first in range(0, count, size):
        numbers = range(first, min(first + size, count))
        ids = client.submit_tasks([{"task": "addition", "args": [n, 1]} for n in numbers])
        assert client.get_results(ids, timeout=LIMIT_S) == [n + 1 for n in numbers]


def echoes(client: YADTQClient, data: bytes, count: int) -> None:
    """The same bytes so many times, there and back."""
    ids = client.submit_tasks([{"task": "echo", "args": [data]}] * count)
    assert all(result == data for result in client.get_results(ids, timeout=LIMIT_S))


def together(pool: ThreadPoolExecutor, everybody: Sequence[YADTQClient], each: int) -> None:
    """So many additions by each client, at the same time."""
    list(pool.map(partial(additions, count=each, batch=BATCH), everybody, timeout=LIMIT_S))


def partitions(transport: str, rounds: int, _: int) -> Iterator[Point]:
    """The same tasks spread over more partitions."""
    for many in (1, 10, 100):
        with tempfile.TemporaryDirectory(prefix="yadtq-bench-") as folder, \
                installation(transport, Path(folder), workers=min(2, many), partitions=many) as parts:
            yield point("partitions", many, parts, rounds, TASKS, partial(additions, parts.client, TASKS))


def retained(transport: str, rounds: int, most: int) -> Iterator[Point]:
    """The same tasks, with more that Redis keeps."""
    with tempfile.TemporaryDirectory(prefix="yadtq-bench-") as folder, \
            installation(transport, Path(folder)) as parts:
        backend, kept, wanted = ResultBackend(parts.client.settings), 0, 1_000
        try:
            while wanted <= most:
                fill(backend, wanted - kept, Meter(backend), ELSEWHERE)
                kept = wanted
                yield point("retained", wanted, parts, rounds, TASKS, partial(additions, parts.client, TASKS))
                kept += (rounds + 1) * TASKS
                wanted *= 10 if wanted >= 100_000 else 100
        finally:
            backend.close()


def payload(transport: str, rounds: int, _: int) -> Iterator[Point]:
    """The same number of bytes at most, in fewer and larger tasks."""
    with tempfile.TemporaryDirectory(prefix="yadtq-bench-") as folder, \
            installation(transport, Path(folder), tasks=["benchmarks.growth_tasks"]) as parts:
        for size in PAYLOAD_BYTES:
            count = min(TASKS, VOLUME // size)
            yield point("payload", size, parts, rounds, count, partial(echoes, parts.client, bytes(size), count))


def clients(transport: str, rounds: int, _: int) -> Iterator[Point]:
    """The same tasks, from more clients (each a thread of one process, with connections of its own)."""
    for many in (1, 8, 64):
        with tempfile.TemporaryDirectory(prefix="yadtq-bench-") as folder, \
                installation(transport, Path(folder)) as parts:
            more = [YADTQClient(settings=parts.client.settings) for _ in range(many - 1)]
            everybody = [parts.client, *more]
            each = max(BATCH, TASKS // many // BATCH * BATCH)
            with ThreadPoolExecutor(many) as pool:
                yield point("clients", many, parts, rounds, each * many, partial(together, pool, everybody, each))
            for client in more:
                client.close()


AXES: dict[str, Callable[[str, int, int], Iterator[Point]]] = {
    "partitions": partitions, "retained": retained, "payload": payload, "clients": clients}


def growth(points: list[Point]) -> list[float]:
    """Each point's sum beside what it should be, by the first point; payloads may cost what their bytes cost."""
    first, last = points[0], points[-1]
    a_byte = (last.sum_us - first.sum_us) / (last.at - first.at) if first.axis == "payload" else 0.0
    return [one.sum_us / (first.sum_us + a_byte * (one.at - first.at)) for one in points]


def table(points: list[Point]) -> str:
    """For docs/performance.md."""
    lines = [f"| {points[0].axis} | client | workers | Redis | Kafka | sum | growth | one task, p50 |",
             "|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for one, ratio in zip(points, growth(points), strict=True):
        lines.append(f"| {one.at:,} | {one.client_us:.1f} | {one.workers_us:.1f} | {one.redis_us:.1f} | "
                     f"{one.kafka_us:.1f} | {one.sum_us:.1f} | {ratio:.2f} | {one.single_ms:.2f} ms |")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("axes", nargs="*", metavar="AXIS", help=f"of {', '.join(AXES)}; default: all")
    parser.add_argument("--transport", choices=["librdkafka", "kafka-python"], default="librdkafka")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count, of each point (3)")
    parser.add_argument("--most", type=int, default=1_000_000, help="records that Redis keeps at most (1,000,000)")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.axes) - set(AXES))
    if unknown or options.rounds < 1 or options.most < 1_000:
        parser.error(f"no such axis: {', '.join(unknown)}" if unknown else "--rounds >= 1, --most >= 1000")
    begun = time.monotonic()
    measured = {axis: list(AXES[axis](options.transport, options.rounds, options.most))
                for axis in options.axes or AXES}
    if options.json:
        rows: list[dict[str, Any]] = [asdict(one) | {"sum_us": one.sum_us, "growth": ratio}
                                      for points in measured.values()
                                      for one, ratio in zip(points, growth(points), strict=True)]
        print(json.dumps(rows, indent=2))
    else:
        print("\n\n".join(map(table, measured.values())))
    print(f"took {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
