"""The floors: what YADTQ must reach on two cores with Kafka and Redis beside it, each as the median of three.

    .venv/bin/python -m benchmarks.floors [--transport librdkafka|kafka-python|both] [--tasks 60000] [--json]

Starts a Kafka, a Redis and a yadtqd of its own on free ports and in a temporary folder, and ends them. Needs what
`./setup.sh install` installs. Prints a line per figure with its floor; the exit status is 1 when a floor is not
reached. Wall-clock figures on a shared machine vary by some ten per cent: compare ratios within one run.
"""
from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.daemon import Daemon, wait_for
from tests.support.services import KafkaServer, RedisServer
from yadtq import YADTQClient
from yadtq.config import Settings

REPETITIONS = 3


@dataclass(frozen=True)
class Figure:
    """One measured figure, the median of `all`; `floor` is reached from above (`at_least`) or from below."""

    transport: str
    name: str
    value: float
    unit: str
    floor: float
    at_least: bool
    all: tuple[float, ...]

    @property
    def reached(self) -> bool:
        return self.value >= self.floor if self.at_least else self.value <= self.floor

    def line(self) -> str:
        sign = "at least" if self.at_least else "at most"
        spread = ", ".join(f"{v:,.1f}" for v in self.all)
        return (f"{'ok  ' if self.reached else 'MISS'} {self.transport:<13} {self.name:<42} {self.value:>10,.1f} "
                f"{self.unit:<5} floor: {sign} {self.floor:,g}   ({spread})")


class Installation(NamedTuple):
    """A whole YADTQ that runs: daemon, client, servers."""

    daemon: Daemon
    client: YADTQClient
    kafka: KafkaServer
    redis: RedisServer


@contextmanager
def installation(transport: str, folder: Path, workers: int = 2, partitions: int = 4,
                 tasks: Sequence[str] = ()) -> Iterator[Installation]:
    """Start all of it, on free ports; ended when the block is left. `tasks`: modules with task types."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)       # as Ctrl-C: servers and folder go too
    kafka, redis = KafkaServer(folder / "kafka"), RedisServer(folder / "redis")
    try:
        kafka.start()
        redis.start()
        name = f"bench{uuid.uuid4().hex[:6]}"
        settings = Settings(
            kafka_servers=kafka.bootstrap, redis_host=redis.host, redis_port=redis.port, transport=transport,
            kafka_task_topic=f"{name}_tasks", kafka_heartbeat_topic=f"{name}_beats",
            kafka_dead_letter_topic=f"{name}_dead", kafka_group=name, control_socket=str(folder / "yadtqd.sock"),
            pid_file=str(folder / "yadtqd.pid"))
        options: dict[str, Any] = {     # the next worker that is killed is to be a first failure again
            "transport": transport, "max_workers": workers, "num_partitions": partitions, "tasks": list(tasks),
            "retry_window_s": 1}
        with YADTQClient(partitions, settings=settings) as client, Daemon(settings, folder, **options) as daemon:
            daemon.wait_running(workers)
            yield Installation(daemon, client, kafka, redis)
    finally:
        kafka.stop()
        redis.stop()


def end_to_end(client: YADTQClient, count: int) -> float:
    """Additions per second, from the first submission until every result is in hand and right."""
    entries = [{"task": "addition", "args": [n, 1]} for n in range(count)]
    begun = time.perf_counter()
    results = client.get_results(client.submit_tasks(entries), timeout=300)
    rate = count / (time.perf_counter() - begun)
    assert results == [n + 1 for n in range(count)]
    return rate


def latency_ms(client: YADTQClient, count: int = 300) -> float:
    """The p50 of one task, submit to result in hand, one at a time on idle workers."""
    for _ in range(20):
        client.get_result(client.submit_task("addition", args=[1, 2]), timeout=30)
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        client.get_result(client.submit_task("addition", args=[1, 2]), timeout=30)
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1e3


def idle_pss_mb(daemon: Daemon) -> float:
    """Proportional memory of a worker that has done nothing yet, in MB (mean over the workers)."""
    sizes = []
    for worker in daemon.workers():
        rollup = Path(f"/proc/{worker['pid']}/smaps_rollup").read_text()
        sizes.append(int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1]) / 1024)
    return statistics.mean(sizes)


def replaced_ms(daemon: Daemon) -> float:
    """SIGKILL of a worker until its successor consumes."""
    victim = daemon.wait_running(2)[0]
    begun = time.perf_counter()
    os.kill(victim["pid"], signal.SIGKILL)
    wait_for(lambda: any(w["name"] == victim["name"] and w["pid"] != victim["pid"] and w["state"] == "RUNNING"
                         for w in daemon.workers()), 10, "the worker was replaced")
    took_ms = (time.perf_counter() - begun) * 1e3
    time.sleep(1.5)      # longer than retry_window_s
    return took_ms


def started_ms(parts: Installation) -> float:
    """Start of a daemon, as systemd would start it, until the task that waits for it is done."""
    daemon, client = parts.daemon, parts.client
    daemon.end()
    task_id = client.submit_task("addition", args=[1, 2])
    begun = time.perf_counter()
    daemon.start()
    assert client.get_result(task_id, timeout=60) == 3
    took_ms = (time.perf_counter() - begun) * 1e3
    daemon.wait_running(2)
    return took_ms


def measure(transport: str, tasks: int) -> list[Figure]:
    """All floors on one transport."""
    latency_floor = 2.2 if transport == "librdkafka" else 6.0
    with tempfile.TemporaryDirectory(prefix="yadtq-bench-") as folder, \
            installation(transport, Path(folder)) as parts:
        daemon, client, _, _ = parts

        def figure(name: str, unit: str, floor: float, at_least: bool, run: Callable[[], float]) -> Figure:
            values = tuple(run() for _ in range(REPETITIONS))
            done = Figure(transport, name, statistics.median(values), unit, floor, at_least, values)
            print(done.line(), file=sys.stderr, flush=True)
            return done
        return [
            figure("memory of an idle worker (PSS)", "MB", 15, False, lambda: idle_pss_mb(daemon)),
            figure("one task, submit to result, p50", "ms", latency_floor, False, lambda: latency_ms(client)),
            figure(f"{tasks:,} additions end to end", "/s", 20_000, True, lambda: end_to_end(client, tasks)),
            figure("killed worker replaced and consuming", "ms", 100, False, lambda: replaced_ms(daemon)),
            figure("daemon started to first task done", "ms", 1500, False, lambda: started_ms(parts)),
        ]


def main(argv: list[str]) -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floors", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transport", choices=["librdkafka", "kafka-python", "both"], default="both")
    parser.add_argument("--tasks", type=int, default=60_000, help="additions in a run (60000)")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args(argv)
    transports = ["librdkafka", "kafka-python"] if options.transport == "both" else [options.transport]
    figures = [figure for transport in transports for figure in measure(transport, options.tasks)]
    missed = [figure for figure in figures if not figure.reached]
    if options.json:
        rows: list[dict[str, Any]] = [asdict(figure) | {"reached": figure.reached} for figure in figures]
        print(json.dumps(rows, indent=2))
    else:
        print("\n".join(figure.line() for figure in figures))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
