"""What the scheduler does on this machine: how exact it is, how many tasks it fires at one moment, what it takes idle.

    python -m benchmarks.scheduler                             # servers of its own, both transports
    python -m benchmarks.scheduler --transport librdkafka --runs 3

*Error* is when a task reached a consumer of the task topic, less when it was due, over 1000 tasks with delays of 0.2 to
5 s. *At one moment* is how many of 10,000 tasks with the same due time arrived a second, counted from that time, and
when the last of them did. Kafka shares the machine. Each figure is the median of the runs.
"""
from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

if str(_root := Path(__file__).resolve().parents[1]) not in sys.path:
    sys.path.insert(0, str(_root))

from tests.support.role_host import RoleHost
from tests.support.services import KafkaServer
from yadtq.config import Settings
from yadtq.delayed import DelayedTask, encode_delayed, level_of
from yadtq.transport import ensure_topics, open_admin, open_consumer, open_producer

RANDOM, SHORTEST_S, LONGEST_S = 1000, 0.2, 5.0
AT_ONCE, AHEAD_S = 10_000, 3.0
IDLE_S = 10.0
VALUE = b"v" * 120
PARTITIONS = 4


def fire(settings: Settings, due_ms: list[int]) -> list[float]:
    """Have tasks with these due times fired; when each was there, less when it was due, in ms, in order of arrival."""
    producer, consumer = open_producer(settings), open_consumer(settings)
    admin = open_admin(settings)
    consumer.assign(settings.kafka_task_topic, admin.end_offsets(settings.kafka_task_topic))
    admin.close()
    consumer.poll(1, 0.2)
    now_ms = time.time_ns() // 1_000_000
    items = [(level_of(due - now_ms), encode_delayed(DelayedTask(
        due_ms=due, partition=n % PARTITIONS, key=b"%d" % due, value=VALUE)), b"") for n, due in enumerate(due_ms)]
    for start in range(0, len(items), 2000):
        producer.send_many(settings.kafka_delayed_topic, items[start:start + 2000])
    producer.flush(20)
    errors: list[float] = []
    deadline = time.monotonic() + 60
    while len(errors) < len(due_ms) and time.monotonic() < deadline:
        records = consumer.poll(10_000, 0.2)
        there_ms = time.time_ns() / 1e6
        errors += [there_ms - int(record.key or b"0") for record in records]
    producer.close(1)
    consumer.close()
    return errors


def exactness(settings: Settings) -> tuple[float, float]:
    """p50 and p99 of the error, ms."""
    now_ms = time.time_ns() // 1_000_000
    chance = random.Random(4)
    errors = sorted(fire(settings, [now_ms + round(chance.uniform(SHORTEST_S, LONGEST_S) * 1000)
                                    for _ in range(RANDOM)]))
    assert len(errors) == RANDOM
    assert errors[0] >= 0
    return errors[RANDOM // 2], errors[RANDOM * 99 // 100]


def at_one_moment(settings: Settings) -> tuple[float, float]:
    """Tasks a second, and when the last one was there, s."""
    due_ms = time.time_ns() // 1_000_000 + round(AHEAD_S * 1000)
    errors = fire(settings, [due_ms] * AT_ONCE)
    assert len(errors) == AT_ONCE
    return AT_ONCE / errors[-1] * 1000, errors[-1] / 1000


def pss_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.split("Pss:")[1].split()[0]) / 1024


def idle_cpu(pid: int) -> float:
    """Percent of one core."""
    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(IDLE_S)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / IDLE_S * 100


def settings_of(transport: str, servers: str) -> Settings:
    name = f"bench{uuid.uuid4().hex[:8]}"
    settings = Settings(transport=transport, kafka_servers=servers, kafka_task_topic=name, num_partitions=PARTITIONS,
                        kafka_heartbeat_topic=f"{name}_beats", kafka_dead_letter_topic=f"{name}_dead",
                        kafka_delayed_topic=f"{name}_delayed", kafka_group=name, host_name="bench",
                        log_level="WARNING")
    ensure_topics(settings)
    return settings


def measure(transport: str, servers: str, runs: int) -> None:
    settings = settings_of(transport, servers)
    with RoleHost(settings) as host:
        pid = host.start("scheduler")
        time.sleep(1.0)
        pss, cpu = pss_mb(pid), idle_cpu(pid)
        exact = [exactness(settings) for _ in range(runs)]
        rates = [at_one_moment(settings) for _ in range(runs)]
        print(f"{transport}: error p50 {statistics.median(e[0] for e in exact):.1f} ms, "
              f"p99 {statistics.median(e[1] for e in exact):.1f} ms; at one moment "
              f"{statistics.median(r[0] for r in rates):,.0f}/s, the last after "
              f"{statistics.median(r[1] for r in rates):.2f} s; idle {pss:.1f} MB PSS and {cpu:.2f} % of a core; "
              f"after it {pss_mb(pid):.1f} MB", flush=True)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduler", description="What the scheduler does")
    parser.add_argument("--transport", choices=["librdkafka", "kafka-python"], action="append")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        kafka = KafkaServer(Path(folder) / "kafka")
        kafka.start()
        try:
            for transport in options.transport or ["librdkafka", "kafka-python"]:
                measure(transport, kafka.bootstrap, options.runs)
        finally:
            kafka.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
