"""The physical floor of a drain: what Kafka and Redis alone take for a task, without a worker around them.

    .venv/bin/python -m benchmarks.bare [--tasks 100000] [--rounds 5] [--json]

Owns a Kafka and a Redis of its own. A queue of additions is submitted, and then drained four times in turn, by two
processes each, so that every step shows what it adds:

- *consume*: the records are read;
- *decode*: and decoded, their arguments too;
- *redis*: and claimed and recorded by the calls that a worker makes, a fixed result in place of a run;
- *yadtqd*: the real daemon with two workers.

Rates depend on the machine and on what else runs there; CPU time a task says more, and ratios within a run say most.
"""
from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.cpu_per_task import cpu_s
from tests.support.daemon import Daemon
from tests.support.services import KafkaServer, RedisServer, reap_with_us
from yadtq import TaskStatus, YADTQClient
from yadtq.codec import decode, encode
from yadtq.config import Settings
from yadtq.result_backend import ClaimEntry, FinishEntry, ResultBackend
from yadtq.task import decode_message
from yadtq.transport import open_consumer

STEPS = ("consume", "decode", "redis", "yadtqd")
PROCESSES, PARTITIONS = 2, 4
BATCH = 1000            # as a worker's fetch_batch
LIMIT_S = 120.0
OUR_EPOCH = 1


# ---- the processes that drain ---------------------------------------------------------------------------------------
def drain(settings: Settings, step: str, offsets: dict[int, int], count: int) -> None:
    """Read so many records, and do with them what the step says; prints when the first and the last were done."""
    consumer, backend = open_consumer(settings), ResultBackend(settings)
    consumer.assign(settings.kafka_task_topic, offsets)
    result, done, first_s, first_cpu_s = encode(1, limit=100), 0, 0.0, 0.0
    while done < count:
        records = consumer.poll(BATCH, 5)
        if records and not done:
            first_s, first_cpu_s = time.monotonic(), time.process_time()
        if step != "consume":
            messages = [decode_message(record.value) for record in records]
            for message in messages:
                decode(message.args)
        if step == "redis":
            by_partition: dict[int, list[tuple[int, Any]]] = {}
            for record, message in zip(records, messages, strict=True):
                by_partition.setdefault(record.partition, []).append((record.offset, message))
            for partition, group in by_partition.items():
                record_ends(backend, partition, group, result)
        done += len(records)
    print(json.dumps({"first": first_s, "last": time.monotonic(), "cpu": time.process_time() - first_cpu_s}),
          flush=True)
    backend.close()
    consumer.close()


def record_ends(backend: ResultBackend, partition: int, group: list[tuple[int, Any]], result: bytes) -> None:
    """Claim tasks and record that they ended, as a worker does."""
    now_ms = time.time_ns() // 1_000_000
    claims = backend.claim(partition, OUR_EPOCH, [
        ClaimEntry(m.id, m.n, m.g, m.task, m.submitted_ms, m.expires_ms, m.replay, offset, m.group)
        for offset, m in group], now_ms)
    ends = [FinishEntry(m.id, m.n, m.g, m.task, m.submitted_ms, "OK", offset, now_ms, now_ms, result, b"", m.replay)
            for (offset, m), claim in zip(group, claims, strict=True) if claim.answer == "RUN"]
    if len(ends) != len(group) or set(backend.finish(partition, OUR_EPOCH, ends, "bare/w0")) != {"DONE"}:
        raise SystemExit("a task was not ours to run")


# ---- measuring ------------------------------------------------------------------------------------------------------
class Stand:
    """Servers, and a client that fills a queue."""

    def __init__(self, folder: Path, tasks: int) -> None:
        self.folder, self.tasks = folder, tasks
        self.kafka, self.redis = KafkaServer(folder / "kafka", heap_mb=512), RedisServer(folder / "redis")
        self.kafka.small = False

    def one(self, step: str) -> dict[str, float]:
        """Fill a queue and drain it; tasks a second, and us of CPU time a task."""
        name = f"bare{uuid.uuid4().hex[:6]}"
        settings = Settings(
            kafka_servers=self.kafka.bootstrap, redis_port=self.redis.port, num_partitions=PARTITIONS,
            transport="librdkafka", kafka_task_topic=name, kafka_heartbeat_topic=f"{name}_beats",
            kafka_dead_letter_topic=f"{name}_dead", kafka_delayed_topic=f"{name}_delayed", kafka_group=name,
            control_socket=str(self.folder / "yadtqd.sock"), pid_file=str(self.folder / "yadtqd.pid"))
        self.redis.wipe()
        self.redis.start()
        with YADTQClient(settings=settings) as client:
            client.submit_tasks([{"task": "addition", "args": [n, 1]} for n in range(self.tasks)])
            servers = {"Redis": cpu_s(self.redis.pid), "Kafka": cpu_s(self.kafka.pid)}
            found = self._daemon(settings, client) if step == "yadtqd" else self._bare(settings, step)
            found |= {f"us {one}": (cpu_s(pid) - servers[one]) / self.tasks * 1e6
                      for one, pid in (("Redis", self.redis.pid), ("Kafka", self.kafka.pid))}
        return found | {"us in all": sum(value for one, value in found.items() if one.startswith("us "))}

    def _bare(self, settings: Settings, step: str) -> dict[str, float]:
        share = PARTITIONS // PROCESSES
        asked = [json.dumps({"settings": settings.kafka_task_topic, "kafka": self.kafka.bootstrap, "step": step,
                             "redis": self.redis.port, "partitions": list(range(n * share, (n + 1) * share)),
                             "count": self.tasks // PROCESSES}) for n in range(PROCESSES)]
        processes = [subprocess.Popen([sys.executable, "-m", "benchmarks.bare", "--drain", one], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True) for one in asked]
        try:
            told = []
            for process in processes:
                reap_with_us(process.pid)
                assert process.stdout is not None
                told.append(json.loads(process.stdout.readline()))
            took_s = max(one["last"] for one in told) - min(one["first"] for one in told)
            return {"per_s": self.tasks / took_s, "us workers": sum(one["cpu"] for one in told) / self.tasks * 1e6}
        finally:
            for process in processes:
                process.communicate(timeout=30)

    def _daemon(self, settings: Settings, client: YADTQClient) -> dict[str, float]:
        with Daemon(settings, self.folder, transport="librdkafka", max_workers=PROCESSES, num_partitions=PARTITIONS,
                    tasks=[]) as daemon:
            def ended() -> int:
                return client.count_tasks()[TaskStatus.SUCCESS]

            deadline = time.monotonic() + LIMIT_S
            while not (there := ended()):
                time.sleep(0.005)
            first_s, family = time.monotonic(), [daemon.pid, *daemon.family()]
            first_cpu_s = sum(map(cpu_s, family))
            while ended() < self.tasks:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{ended()} of {self.tasks} tasks ended within {LIMIT_S:g} s")
                time.sleep(0.005)
            took_s = time.monotonic() - first_s
            used_s = sum(map(cpu_s, family)) - first_cpu_s
        return {"per_s": (self.tasks - there) / took_s, "us workers": used_s / self.tasks * 1e6}


def measure(tasks: int, rounds: int) -> dict[str, dict[str, float]]:
    """By step, the median of each figure; the steps take turns. The first round warms up."""
    samples: dict[str, list[dict[str, float]]] = {step: [] for step in STEPS}
    with tempfile.TemporaryDirectory(prefix="yadtq-bare-") as folder:
        stand = Stand(Path(folder), tasks)
        try:
            stand.kafka.start()
            stand.redis.start()
            for _ in range(rounds + 1):
                for step in STEPS:
                    samples[step].append(stand.one(step))
        finally:
            stand.redis.stop()
            stand.kafka.stop()
    return {step: {name: statistics.median(one[name] for one in each[1:]) for name in each[0]}
            for step, each in samples.items()}


def main(argv: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=100_000, help="tasks in the queue (100000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (5)")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    parser.add_argument("--drain", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.drain:
        asked = json.loads(options.drain)
        settings = Settings(kafka_servers=asked["kafka"], redis_port=asked["redis"], transport="librdkafka",
                            kafka_task_topic=asked["settings"])
        drain(settings, asked["step"], dict.fromkeys(asked["partitions"], 0), asked["count"])
        return 0
    found = measure(options.tasks // (PROCESSES * PARTITIONS) * PROCESSES * PARTITIONS, options.rounds)
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    for step, figures in found.items():
        print(f"{step:<9}" + "".join(f"{figures[name]:>12,.0f}/s" if name == "per_s" else
                                     f"   {name[3:]} {figures[name]:6.1f} us" for name in figures))
    share = found["yadtqd"]["per_s"] / found["redis"]["per_s"]
    print(f"yadtqd drains at {share:.0%} of the rate that reading, claiming and recording alone reach")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
