# ruff: noqa: F403, F405 - the defaults have a file of their own, and this is where they are documented to be found
"""Every option of YADTQ: the defaults under their documented names, and `Settings`, a frozen object that has them.

`Settings` is the one declarative table of options (type, default, unit, range, who uses it, why the default is what it
is); docs/configuration.md is generated from it. Used in every process; imports the standard library only, so that the
supervisor can use it. Never reads a file or the environment on import: `Settings.load` does, through `config_load`.
"""
from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from yadtq import config_check, config_places
from yadtq.config_defaults import *
from yadtq.errors import ConfigurationError
from yadtq.options import Option, option, options_of, servers, split_server, topic_name

CONFIG_FILE = "/etc/yadtq/yadtq.toml"       # read when it is there and no other file was named

SENTINEL_PORT = 26_379
_DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The effective configuration, one attribute per option; frozen, checked when made, and safe to hand to a fork.

    Example:
        >>> settings = Settings(kafka_host="kafka1", task_timeout=60)
        >>> settings.bootstrap
        ['kafka1:9092']

    Raises ConfigurationError that lists every mistake. `Settings.load()` adds the file and the environment.
    """

    # ---- Kafka
    kafka_host: str = option(
        KAFKA_HOST, "Broker to ask first; one machine is where everybody starts.", used_by="all")
    kafka_port: int = option(
        KAFKA_PORT, "Its port; Kafka's own default.", used_by="all", low=1, high=65535)
    kafka_servers: str = option(
        KAFKA_SERVERS, "Comma list of host:port; wins over kafka_host and kafka_port. Name several brokers, so that "
        "one that is down does not keep a process from starting.", used_by="all", check=servers)
    kafka_task_topic: str = option(
        KAFKA_TASK_TOPIC, "Topic of the tasks; two installations on one Kafka differ in it.", used_by="all",
        check=topic_name)
    kafka_heartbeat_topic: str = option(
        KAFKA_HEARTBEAT_TOPIC, "Topic of the workers' heartbeats and epochs (one partition, kept for an hour).",
        used_by="all", check=topic_name)
    kafka_dead_letter_topic: str = option(
        KAFKA_DEAD_LETTER_TOPIC, "Topic of tasks that were given up, with their errors.", used_by="all",
        check=topic_name)
    kafka_delayed_topic: str = option(
        KAFKA_DELAYED_TOPIC, "Topic of tasks that wait for their time, retries among them (one partition per level of "
        "the timing wheel).", used_by="all", check=topic_name)
    kafka_group: str = option(
        KAFKA_GROUP, "Consumer group whose committed offsets say what is done. Another group would run everything "
        "again.", used_by="membership, worker, client", check=topic_name)
    kafka_security_protocol: str = option(
        KAFKA_SECURITY_PROTOCOL, "How to talk to the brokers; plain, as a broker out of the box.", used_by="all",
        choices=("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"))
    kafka_sasl_mechanism: str = option(
        KAFKA_SASL_MECHANISM, "Needed with SASL_PLAINTEXT and SASL_SSL.", used_by="all",
        choices=("", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"))
    kafka_sasl_username: str = option(
        KAFKA_SASL_USERNAME, "User of the brokers.", used_by="all")
    kafka_sasl_password: str = option(
        KAFKA_SASL_PASSWORD, "Its password; rather give kafka_sasl_password_file or a systemd credential.",
        used_by="all", secret=True)
    kafka_sasl_password_file: str = option(
        KAFKA_SASL_PASSWORD_FILE, "File that holds the password, so that it stands in no configuration or environment.",
        used_by="all")
    kafka_ssl_ca_file: str = option(
        KAFKA_SSL_CA_FILE, "PEM file of the authority that signed the brokers' certificates; empty: the system's.",
        used_by="all")
    kafka_ssl_cert_file: str = option(
        KAFKA_SSL_CERT_FILE, "PEM file of our own certificate, when the brokers ask for one.", used_by="all")
    kafka_ssl_key_file: str = option(
        KAFKA_SSL_KEY_FILE, "PEM file of its key.", used_by="all")
    kafka_replication_factor: int = option(
        KAFKA_REPLICATION_FACTOR, "For topics that are created; -1 takes the broker's default, which is 1 on one "
        "broker. Set 3 where there are three brokers.", used_by="client, setup", low=-1, high=32767)
    kafka_min_insync_replicas: int = option(
        KAFKA_MIN_INSYNC_REPLICAS, "For topics that are created; 0 takes the broker's default. Set 2 with replication "
        "factor 3, else an acknowledged task can be lost with one broker.", used_by="client, setup", low=0, high=32767)
    num_partitions: int = option(
        NUM_PARTITIONS, "Partitions of the task topic when it is created: the most workers that can share the work.",
        used_by="client, setup", low=1, high=10_000)
    transport: str = option(
        TRANSPORT, "What moves records; auto takes librdkafka where it is installed (1.7 times the rate, a quarter of "
        "the latency).", used_by="client, worker", choices=("auto", "kafka-python", "librdkafka", "memory"))
    kafka_request_timeout_ms: int = option(
        KAFKA_REQUEST_TIMEOUT_MS, "How long one request to a broker may take; long enough for a broker that collects "
        "garbage, short enough to notice a dead one.", used_by="all", unit="ms", low=100, high=600_000)
    kafka_session_timeout_ms: int = option(
        KAFKA_SESSION_TIMEOUT_MS, "How long a host may be silent before its partitions move to others, which takes 1 "
        "to 2 s more, and up to 7 s more where Kafka's controller and the group's coordinator die with it. Brokers "
        "refuse less than 6000 unless told otherwise.", used_by="membership", unit="ms", low=1000, high=1_800_000)
    kafka_max_message_bytes: int = option(
        KAFKA_MAX_MESSAGE_BYTES, "The brokers' message.max.bytes; theirs out of the box. Raise it there first.",
        used_by="client, worker, setup", unit="bytes", low=65_536, high=100_000_000)
    linger_ms: int = option(
        LINGER_MS, "How long a producer waits to fill a batch; 0 since batches fill by themselves under load and a "
        "single task should not wait.", used_by="client, worker", unit="ms", low=0, high=1000)

    # ---- Redis
    redis_host: str = option(
        REDIS_HOST, "Host of the Redis that keeps status and results.", used_by="client, worker")
    redis_port: int = option(
        REDIS_PORT, "Its port; Redis's own default.", used_by="client, worker", low=1, high=65535)
    redis_db: int = option(
        REDIS_DB, "Database number.", used_by="client, worker", low=0, high=65_535)
    redis_username: str = option(
        REDIS_USERNAME, "User, where Redis has ACLs.", used_by="client, worker")
    redis_password: str = option(
        REDIS_PASSWORD, "Password; rather give redis_password_file or a systemd credential.",
        used_by="client, worker", secret=True)
    redis_password_file: str = option(
        REDIS_PASSWORD_FILE, "File that holds the password, so that it stands in no configuration or environment.",
        used_by="client, worker")
    redis_ssl: bool = option(
        REDIS_SSL, "Whether to talk TLS, with the Sentinels too; not on one machine or a private network.",
        used_by="client, worker")
    redis_ssl_ca_file: str = option(
        REDIS_SSL_CA_FILE, "PEM file of the authority that signed the certificates of Redis and of the Sentinels; "
        "empty: the system's.", used_by="client, worker")
    redis_ssl_cert_file: str = option(
        REDIS_SSL_CERT_FILE, "PEM file of our own certificate, when they ask for one (tls-auth-clients).",
        used_by="client, worker")
    redis_ssl_key_file: str = option(
        REDIS_SSL_KEY_FILE, "PEM file of its key.", used_by="client, worker")
    redis_sentinels: str = option(
        REDIS_SENTINELS, "Comma list of host:port of the Sentinels (port 26379 if none is given). With them the "
        "primary is asked for and followed when it changes; redis_host and redis_port are not used.",
        used_by="client, worker", check=servers)
    redis_sentinel_master: str = option(
        REDIS_SENTINEL_MASTER, "The name by which the Sentinels know the primary (sentinel monitor NAME ...).",
        used_by="client, worker")
    redis_sentinel_username: str = option(
        REDIS_SENTINEL_USERNAME, "User of the Sentinels, where they have ACLs.", used_by="client, worker")
    redis_sentinel_password: str = option(
        REDIS_SENTINEL_PASSWORD, "Password of the Sentinels; rather give redis_sentinel_password_file or a systemd "
        "credential. Theirs is another than Redis's, and is not tried there.", used_by="client, worker", secret=True)
    redis_sentinel_password_file: str = option(
        REDIS_SENTINEL_PASSWORD_FILE, "File that holds the password, so that it stands in no configuration or "
        "environment.", used_by="client, worker")
    redis_timeout_s: float = option(
        REDIS_TIMEOUT_S, "How long one call may take; a script runs for milliseconds, so seconds mean that Redis is "
        "away.", used_by="client, worker", unit="s", low=0.05, high=600)
    result_ttl_s: int = option(
        RESULT_TTL_S, "How long results are kept after the task has ended and its offset is committed; a day, so that "
        "a nightly job can still read them.", used_by="worker", unit="s", low=1, high=3650 * _DAY)
    durability: str = option(
        DURABILITY, "When a result counts as safe, so that its offset may be committed: on Redis's disk (aof), on a "
        "replica, or at once (off: a Redis crash may lose the last second). auto takes what the server can: its disk, "
        "and with Sentinels a replica as well.", used_by="worker", choices=("auto", "aof", "replica", "off"))

    # ---- submitting
    submit_timeout_s: float = option(
        SUBMIT_TIMEOUT_S, "How long a submission may take until TASK_SUBMISSION_TIMEOUT; survives the election of a "
        "new leader.", used_by="client", unit="s", low=0.1, high=3600)
    max_in_flight: int = option(
        MAX_IN_FLIGHT, "Submissions under way in one client until BACKLOG_FULL; bounds its memory (about 100 MB of "
        "small tasks).", used_by="client", unit="records", low=1, high=10_000_000)
    max_payload_bytes: int = option(
        MAX_PAYLOAD_BYTES, "Largest encoded arguments or result; below the brokers' limit with room for the rest of "
        "the message.", used_by="client, worker", unit="bytes", low=64, high=16_777_216)

    max_backlog: int = option(
        MAX_BACKLOG, "Tasks that may be QUEUED, 0: any number (Kafka keeps them on disk). Set it where a queue that "
        "falls behind is worth nothing, or where what submits can wait.", used_by="client", unit="tasks", low=0,
        high=1_000_000_000)
    on_backlog: str = option(
        ON_BACKLOG, "What becomes of a submission beyond max_backlog: QUEUE_FULL at once, or it waits for room, up to "
        "submit_timeout_s.", used_by="client", choices=("refuse", "wait"))

    # ---- running tasks
    tasks: tuple[str, ...] = option(
        TASKS, "Modules with your own tasks, such as \"shop.tasks\"; the shipped ones are always there.",
        used_by="worker")
    task_timeout: float = option(
        TASK_TIMEOUT, "Soft time-out of an attempt, unless its type or submission has its own; it raises an exception "
        "in the handler.", used_by="supervisor, worker", unit="s", low=0.01, high=30 * _DAY)
    task_timeout_grace_s: float = option(
        TASK_TIMEOUT_GRACE_S, "How long after the soft time-out, or a cancel, the worker is killed (hard = soft + "
        "grace); enough to close what was open.", used_by="supervisor, worker", unit="s", low=0, high=_DAY)
    worker_threads: int = option(
        WORKER_THREADS, "Tasks that one worker runs at a time; more than 1 helps handlers that wait. Soft time-outs "
        "reach the main thread only.", used_by="worker", low=1, high=1024)
    isolated_concurrency: int = option(
        ISOLATED_CONCURRENCY, "Isolated attempts that one worker may have under way, each in a process of its own; 0: "
        "its share of the host's processors, so that all workers together fill the host and time-outs stay honest.",
        used_by="worker", low=0, high=1024)
    fetch_batch: int = option(
        FETCH_BATCH, "Records claimed in one round trip; larger ones gain little and hold Redis longer.",
        used_by="worker", unit="records", low=1, high=10_000)
    prefetch: int = option(
        PREFETCH, "Tasks that a worker holds claimed and waiting; four batches keep it busy during a round trip and "
        "bound what a crash has to claim again.", used_by="worker", unit="records", low=1, high=1_000_000)
    processing_after_ms: int = option(
        PROCESSING_AFTER_MS, "From when on a running task is shown as PROCESSING; shorter ones save the write.",
        used_by="worker", unit="ms", low=0, high=60_000)
    auto_commit_interval_ms: int = option(
        AUTO_COMMIT_INTERVAL_MS, "How often finished offsets are committed; a second more to claim again after a "
        "crash, which is cheap.", used_by="membership, worker", unit="ms", low=10, high=600_000)
    max_crashes: int = option(
        MAX_CRASHES, "How often a task may kill the process that it runs in alone before it ends as a dead letter.",
        used_by="worker", low=1, high=1000)
    max_lone: int = option(
        MAX_LONE, "How often a task may have been started alone without an end that was seen, before it is given up.",
        used_by="worker", low=1, high=1000)

    task_max_retries: int = option(
        TASK_MAX_RETRIES, "How often a failed attempt is repeated, unless its type or submission says so; none, since "
        "not every handler may run twice.", used_by="worker", low=0, high=1_000_000)
    retry_backoff_s: float = option(
        RETRY_BACKOFF_S, "Wait before the first retry, doubled for each later one, unless type or submission have "
        "their own.", used_by="worker", unit="s", low=0, high=30 * _DAY)
    retry_backoff_max_s: float = option(
        RETRY_BACKOFF_MAX_S, "The longest wait between two attempts; what is down for hours is asked six times an "
        "hour.", used_by="worker", unit="s", low=0, high=30 * _DAY)
    retry_jitter: float = option(
        RETRY_JITTER, "The part of such a wait that is random, so that tasks that failed together do not come back "
        "together.", used_by="worker", low=0, high=1)
    keyed_retry_max_s: float = option(
        KEYED_RETRY_MAX_S, "The longest wait between two attempts of a task with a key: its partition is not committed "
        "meanwhile, and the tasks of its key wait. Keep it below progress_timeout_s.", used_by="worker", unit="s",
        low=0, high=3600)

    # ---- supervising
    assignment: str = option(
        ASSIGNMENT, "How partitions come to hosts: shared out by a consumer group, or listed in `partitions`.",
        used_by="supervisor", choices=("group", "static"))
    partitions: tuple[int, ...] = option(
        PARTITIONS, "This host's partitions when assignment is static.", used_by="supervisor", low=0, high=9_999)
    max_workers: int = option(
        MAX_WORKERS, "Most workers of this host; 0: one per partition that it owns.", used_by="supervisor",
        low=0, high=4096)
    host_name: str = option(
        HOST_NAME, "Name of this host in worker ids and in the group; empty: the machine's. Must differ between hosts.",
        used_by="supervisor, worker")
    heartbeat_interval: float = option(
        HEARTBEAT_INTERVAL, "How often a worker sends a heartbeat.", used_by="worker, supervisor", unit="s",
        low=0.05, high=3600)
    missed_heartbeats_threshold: int = option(
        MISSED_HEARTBEATS_THRESHOLD, "Heartbeats that may be missing until a worker counts as expired and is replaced; "
        "fewer would take a busy machine for a dead worker.", used_by="supervisor, client", low=1, high=1000)
    max_worker_retries: int = option(
        MAX_WORKER_RETRIES, "Restarts of one worker within retry_window_s until it is FATAL.", used_by="supervisor",
        low=0, high=1000)
    retry_window_s: float = option(
        RETRY_WINDOW_S, "The window in which restarts count: a worker that lives longer is well.", used_by="supervisor",
        unit="s", low=1, high=_DAY)
    cool_down_s: float = option(
        COOL_DOWN_S, "How long a FATAL worker is left alone until it is tried again.", used_by="supervisor",
        unit="s", low=0.1, high=_DAY)
    worker_max_tasks: int = option(
        WORKER_MAX_TASKS, "A worker that has ended so many tasks is replaced, when what it runs has ended; 0: never.",
        used_by="worker", low=0, high=10**12)
    worker_max_memory_mb: int = option(
        WORKER_MAX_MEMORY_MB, "The same at so much resident memory, against handlers that leak; 0: never.",
        used_by="worker", unit="MB", low=0, high=10**7)
    worker_max_age_s: float = option(
        WORKER_MAX_AGE_S, "The same at this age; 0: never.", used_by="worker", unit="s", low=0, high=3650 * _DAY)
    recycle_jitter: float = option(
        RECYCLE_JITTER, "How far below these three limits each worker may draw its own, as a part of them, so that not "
        "all are due at once.", used_by="worker", low=0, high=0.9)
    progress_timeout_s: float = option(
        PROGRESS_TIMEOUT_S, "A worker that has work and takes none for so long is restarted; after half of it, it "
        "makes its Kafka consumer anew.", used_by="supervisor, worker",
        unit="s", low=1, high=_DAY)
    drain_timeout_s: float = option(
        DRAIN_TIMEOUT_S, "How long running tasks may go on after SIGTERM; the rest runs elsewhere or later.",
        used_by="supervisor, worker", unit="s", low=0, high=_DAY)
    control_socket: str = option(
        CONTROL_SOCKET, "Unix socket of yadtqctl; empty: /run/yadtq/yadtqd.sock for root or where /run/yadtq is, else "
        "below $XDG_RUNTIME_DIR or /tmp/yadtq-UID.", used_by="supervisor, yadtqctl")
    pid_file: str = option(
        PID_FILE, "Locked by the running daemon; empty: yadtqd.pid beside the control socket.", used_by="supervisor")

    # ---- logging
    log_level: str = option(
        LOG_LEVEL, "Least level that is logged.", used_by="yadtqd, yadtq",
        choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))
    log_format: str = option(
        LOG_FORMAT, "auto: colours on a terminal, journal priorities under systemd, else plain.",
        used_by="yadtqd, yadtq", choices=("auto", "color", "plain", "json", "journal"))
    log_file: str = option(
        LOG_FILE, "File to log to instead of standard error; opened again after logrotate moved it.", used_by="yadtqd")

    origins: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        mistakes = []
        for name, opt in OPTIONS.items():
            try:
                object.__setattr__(self, name, opt.read(getattr(self, name)))
            except ValueError as wrong:
                mistakes.append(f"{name}: {wrong}")
        mistakes = mistakes or [f"{name}: {text}" for name, text in config_check.mistakes(self)]
        if mistakes:
            raise ConfigurationError("\n".join(mistakes))
        for name, value in config_places.of_this_machine(self):     # so that every user of Settings sees the same
            object.__setattr__(self, name, value)

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None, env: Mapping[str, str] | None = None,
             **overrides: Any) -> Settings:
        """Defaults, then the TOML file, then environment variables `YADTQ_*`, then `overrides`; later ones win.

        `path` names the file (else `YADTQ_CONFIG`, else /etc/yadtq/yadtq.toml where that exists). `env` is os.environ
        unless given. An override of None counts as not given. Raises ConfigurationError with *all* mistakes, each with
        its file and line (or variable) and, for an unknown name, a suggestion.
        """
        from yadtq import config_load
        return config_load.load(path, os.environ if env is None else env, overrides)

    def replace(self, **changes: Any) -> Settings:
        """A copy with some options changed; their origin is then "argument"."""
        unknown = [config_check.unknown(name, OPTIONS) for name in changes if name not in OPTIONS]
        if unknown:
            raise ConfigurationError("\n".join(unknown))
        return replace(self, **changes, origins={**self.origins, **dict.fromkeys(changes, "argument")})

    def origin(self, name: str) -> str:
        """Where a value comes from: "default", "/etc/yadtq/yadtq.toml:12", "YADTQ_KAFKA_HOST" or "argument"."""
        option_ = OPTIONS[name]
        return self.origins.get(name) or ("default" if getattr(self, name) == option_.default or not option_.default
                                          else "argument")

    @property
    def bootstrap(self) -> list[str]:
        """The brokers to ask first, each as host:port."""
        given = [part.strip() for part in self.kafka_servers.split(",") if part.strip()]
        if not given:
            return [f"{self.kafka_host}:{self.kafka_port}"]
        return [f"{host}:{port or self.kafka_port}" for host, port in map(split_server, given)]

    @property
    def sentinels(self) -> list[tuple[str, int]]:
        """The Sentinels as (host, port); empty when Redis is reached by redis_host and redis_port."""
        given = [split_server(part.strip()) for part in self.redis_sentinels.split(",") if part.strip()]
        return [(host.strip("[]"), int(port or SENTINEL_PORT)) for host, port in given]

    @property
    def redis_where(self) -> str:
        """Where Redis is, for people."""
        if self.redis_sentinels:
            return f"{self.redis_sentinel_master} of the Sentinels {self.redis_sentinels}"
        return f"{self.redis_host}:{self.redis_port}"

    @property
    def hard_timeout_s(self) -> float:
        """When a task without a time-out of its own is killed: soft time-out plus grace."""
        return self.task_timeout + self.task_timeout_grace_s

    @property
    def hard_timeout_ms(self) -> int:
        """The same in milliseconds."""
        return int(self.hard_timeout_s * 1000)

    @property
    def expires_after_s(self) -> float:
        """Age of the last heartbeat from which on a worker counts as expired."""
        return self.heartbeat_interval * self.missed_heartbeats_threshold


OPTIONS: dict[str, Option] = options_of(Settings)
