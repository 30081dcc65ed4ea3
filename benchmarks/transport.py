"""What the transports do on this machine: records produced and consumed a second, one record's way, an idle consumer.

    python -m benchmarks.transport                            # a broker of its own, all transports
    python -m benchmarks.transport --servers kafka1:9092 --transport librdkafka --runs 5

Each figure is the median of the runs. Values have 120 bytes and every record's delivery is reported (acks=all), into
four partitions. The broker shares the machine unless --servers names another: where others work too, the CPU time that
producing a record takes in our process says more than the rate.
"""
from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path

if str(_root := Path(__file__).resolve().parents[1]) not in sys.path:
    sys.path.insert(0, str(_root))

from yadtq.config import Settings
from yadtq.errors import BacklogFull, YADTQError
from yadtq.transport import Producer, ensure_topics, open_consumer, open_producer

PARTITIONS = 4
VALUE = b"v" * 120
CHUNK = 2000  # about what a batch submission hands over at once
RECORDS = {"librdkafka": 400_000, "kafka-python": 60_000, "memory": 200_000}
SINGLES = 400
IDLE_S = 4.0


def settings_of(transport: str, servers: str) -> Settings:
    name = f"bench{uuid.uuid4().hex[:8]}"
    settings = Settings(transport=transport, kafka_servers=servers, kafka_task_topic=name, num_partitions=PARTITIONS,
                        kafka_heartbeat_topic=f"{name}_beats", kafka_dead_letter_topic=f"{name}_dead")
    ensure_topics(settings)
    return settings


def produce(producer: Producer, topic: str, count: int) -> float:
    """Records a second through send_many, each one's delivery reported."""
    delivered = [0]

    def done(index: int, offset: int, error: YADTQError | None) -> None:
        if error is None:
            delivered[0] += 1

    items = [(n % PARTITIONS, VALUE, None) for n in range(CHUNK)]
    start_s = time.perf_counter()
    for _ in range(count // CHUNK):
        while True:
            try:
                producer.send_many(topic, items, done)
                break
            except BacklogFull:
                time.sleep(0.001)
    if producer.flush(120) or delivered[0] != count // CHUNK * CHUNK:
        raise SystemExit(f"only {delivered[0]} of {count} records were delivered")
    return count / (time.perf_counter() - start_s)


def consume(settings: Settings, count: int) -> float:
    """Records a second from the first one on, 500 at a time."""
    consumer = open_consumer(settings)
    consumer.assign(settings.kafka_task_topic, dict.fromkeys(range(PARTITIONS), 0))
    first = got = len(consumer.poll(500, 20))
    start_s = time.perf_counter()
    while got < count:
        got += len(consumer.poll(500, 20))
    rate = (count - first) / (time.perf_counter() - start_s)
    consumer.close()
    return rate


def one_by_one(settings: Settings, producer: Producer, end: int) -> tuple[float, float]:
    """Milliseconds from send to poll's return of single records: median and 95th percentile."""
    consumer = open_consumer(settings)
    consumer.assign(settings.kafka_task_topic, {0: end})
    taken_ms = []
    for _ in range(SINGLES):
        start_s = time.perf_counter()
        producer.send(settings.kafka_task_topic, 0, VALUE)
        while not consumer.poll(1, 5):
            pass
        taken_ms.append((time.perf_counter() - start_s) * 1000)
    consumer.close()
    taken_ms.sort()
    return taken_ms[SINGLES // 2], taken_ms[SINGLES * 95 // 100]


def idle(settings: Settings) -> float:
    """Percent of one CPU that a consumer takes, all its threads, while there is nothing to read."""
    consumer = open_consumer(settings)
    consumer.assign(settings.kafka_task_topic, {3: 0})
    while consumer.poll(10_000, 1.0):
        pass
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    while time.perf_counter() - start_s < IDLE_S:
        consumer.poll(500, 0.5)
    share = (time.process_time() - start_cpu_s) / (time.perf_counter() - start_s)
    consumer.close()
    return share * 100


def measure(transport: str, servers: str, runs: int) -> dict[str, list[float]]:
    figures: dict[str, list[float]] = {}
    for _ in range(runs):
        settings = settings_of(transport, servers)
        producer = open_producer(settings)
        count = RECORDS[transport]
        produce(producer, settings.kafka_task_topic, CHUNK)  # connections, metadata, code paths
        before_s = time.process_time()
        found = {"produced/s": produce(producer, settings.kafka_task_topic, count)}
        found["us CPU each"] = (time.process_time() - before_s) / count * 1e6
        found["consumed/s"] = consume(settings, count + CHUNK)
        found["p50 ms"], found["p95 ms"] = one_by_one(settings, producer, (count + CHUNK) // PARTITIONS)
        producer.close(5)
        found["idle CPU %"] = idle(settings)
        for name, figure in found.items():
            figures.setdefault(name, []).append(figure)
    return figures


def report(transports: list[str], servers: str, runs: int) -> None:
    for transport in transports:
        figures = measure(transport, servers, runs)
        medians = {name: statistics.median(values) for name, values in figures.items()}
        print(f"{transport:<13}" + "   ".join(f"{name} {figure:,.0f}" if figure > 1000 else f"{name} {figure:.2f}"
                                              for name, figure in medians.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--servers", default="", help="brokers; without it, one is started for the measurement")
    parser.add_argument("--transport", choices=[*RECORDS, "all"], default="all")
    parser.add_argument("--runs", type=int, default=3, help="of which the median is printed")
    options = parser.parse_args()
    transports = list(RECORDS) if options.transport == "all" else [options.transport]
    if options.servers or transports == ["memory"]:
        report(transports, options.servers, options.runs)
        return
    from tests.support.services import KafkaServer

    with tempfile.TemporaryDirectory(prefix="yadtq-bench-") as folder:
        kafka = KafkaServer(Path(folder))
        kafka.start()
        try:
            report(transports, kafka.bootstrap, options.runs)
        finally:
            kafka.stop()


if __name__ == "__main__":
    main()
