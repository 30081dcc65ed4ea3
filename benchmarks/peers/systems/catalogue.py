"""What is measured: the systems by name, and how each is set. Plain data, read by the measuring process.

Every setting follows the system's own documentation on throughput with stored results; where several are advised, the
fastest on these workloads. `first_rates` are guesses of tasks a second that only size the first run.
"""
from __future__ import annotations

from dataclasses import dataclass, field

WORKERS = 2             # worker processes of every system
AT_ONCE = 64            # I/O tasks that one worker runs at a time


@dataclass(frozen=True)
class System:
    """One row of the comparison."""

    name: str
    title: str
    module: str                         # in benchmarks.peers.systems
    packages: tuple[str, ...]           # whose versions are reported
    setting: str                        # what a reader has to know to repeat it
    io_setting: str
    environment: str = "peers"          # requirements/<environment>.txt; "" is the project's own
    settle_s: float = 0.5               # until all workers have their share: longer where a group has to form
    env: dict[str, str] = field(default_factory=dict)
    first_rates: dict[str, float] = field(default_factory=dict)
    workloads: frozenset[str] = frozenset({"additions", "memory", "latency", "singles", "drain", "io"})


def _rates(additions: float, drain: float, singles: float, latency: float, io: float) -> dict[str, float]:
    return {"additions": additions, "drain": drain, "singles": singles, "latency": latency, "io": io}


_OURS = ("yadtq", "confluent-kafka", "kafka-python", "redis", "hiredis", "msgspec")

SYSTEMS = (
    System("yadtq", "YADTQ", "yadtq_app", _OURS,
           "default settings: acks=all, claims, one guarded result a task; librdkafka; submit_tasks, get_results",
           "worker_threads = 64, plain functions", environment="",
           first_rates=_rates(20_000, 20_000, 2_000, 500, 4_000)),
    System("yadtq_kafka_python", "YADTQ, kafka-python", "yadtq_app", _OURS,
           'as YADTQ, with transport = "kafka-python" (no compiled Kafka library)', "as YADTQ",
           environment="", env={"PEERS_TRANSPORT": "kafka-python"},
           first_rates=_rates(15_000, 15_000, 1_500, 200, 4_000)),
    System("celery", "Celery", "celery_app", ("celery", "kombu", "redis", "hiredis"),
           "Redis broker and results, prefork -c 2, acknowledged early (the default), prefetch multiplier 64, one "
           "producer for a batch",
           "2 workers with -P threads -c 64", first_rates=_rates(700, 650, 1_500, 300, 700)),
    System("dramatiq", "Dramatiq", "dramatiq_app", ("dramatiq", "redis", "hiredis"),
           "Redis broker and results, 2 processes of 8 threads", "2 processes of 64 threads",
           first_rates=_rates(2_800, 3_000, 3_600, 150, 2_500)),
    System("rq", "RQ", "rq_app", ("rq", "redis", "hiredis"),
           "worker-pool of 2 SimpleWorkers (no fork a job), enqueue_many of 500", "one task a process at a time",
           first_rates=_rates(500, 500, 3_000, 300, 180)),
    System("taskiq_redis", "taskiq, Redis", "taskiq_redis_app", ("taskiq", "taskiq-redis", "redis", "uvloop", "orjson"),
           "RedisStreamBroker (acknowledged), Redis results, 2 processes of 100 coroutines, uvloop, orjson",
           "2 processes of 64 coroutines", first_rates=_rates(2_000, 3_000, 2_500, 300, 2_000)),
    System("taskiq_kafka", "taskiq, Kafka", "taskiq_kafka_app",
           ("taskiq", "taskiq-aio-kafka", "aiokafka", "taskiq-redis", "uvloop", "orjson"),
           "AioKafkaBroker with acks=all and linger 5 ms (0 for latency and single submissions), 4 partitions, Redis "
           "results, 2 processes of 100 coroutines, uvloop, orjson; it acknowledges no task",
           "2 processes of 64 coroutines", settle_s=5.0, first_rates=_rates(4_000, 4_500, 3_000, 200, 3_000)),
    System("streaq", "streaQ", "streaq_app", ("streaq", "coredis", "uvloop"),
           "2 processes of 100 coroutines, enqueue_many of 500, uvloop", "2 processes of 64 coroutines",
           first_rates=_rates(1_500, 1_600, 3_000, 10, 1_400)),
    System("arq", "arq", "arq_app", ("arq", "redis", "hiredis"),
           "2 processes, max_jobs 100, poll_delay 10 ms; results awaited with poll_delay 1 ms",
           "2 processes, max_jobs 64", environment="peers-arq", first_rates=_rates(1_000, 1_300, 2_500, 120, 1_000)),
    System("huey", "Huey", "huey_app", ("huey", "redis", "hiredis"),
           "Redis with notify_result, consumer of 2 processes; a task is taken off before it runs (no acknowledgement)",
           "2 consumers of 64 threads", first_rates=_rates(2_800, 3_000, 6_000, 800, 2_500)),
)
BY_NAME = {system.name: system for system in SYSTEMS}
OURS = frozenset({"yadtq", "yadtq_kafka_python"})
