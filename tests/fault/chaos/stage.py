"""What a chaos run is played on: three brokers, one Redis, two hosts, and the proxies between all of them.

Owns every server and daemon of the run and the folder that they write to. A host is a yadtqd of its own name, socket
and pid file; each party (two hosts and the load) reaches Redis and every broker through links of its own, so that it
can be cut off alone. Everything ends with the process that made it, even with its SIGKILL (tests/support/services.py).
"""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.fault.chaos.plan import BROKERS, HOSTS
from tests.support.chaos_tasks import HISTORY_FILE, HOST
from tests.support.cluster import REPLICATED, KafkaCluster
from tests.support.daemon import Daemon, wait_for
from tests.support.proxy import Proxy
from tests.support.services import RedisServer
from yadtq.config import Settings

PARTIES = (*HOSTS, "load")
NAMES = {"kafka_task_topic": "tasks", "kafka_heartbeat_topic": "heartbeats", "kafka_dead_letter_topic": "letters",
         "kafka_delayed_topic": "delayed", "kafka_group": "chaos", "num_partitions": 4} | REPLICATED
# A host whose workers are killed on purpose is not to give them up for a minute; all else is as it is by default.
OF_A_HOST = {"max_worker_retries": 100, "tasks": ["tests.support.chaos_tasks"], "log_level": "INFO"}


_ROLES = {role[:4]: role for role in ("membership", "isolator", "janitor", "scheduler")}     # a name is cut at 15


class Stage:
    """Use it in a `with`: it starts everything, and ends it."""

    def __init__(self, folder: Path, transport: str, **options: Any) -> None:
        self.folder, self.transport = folder, transport
        self._options = OF_A_HOST | options
        self.history = folder / "history"
        self.history.mkdir(parents=True, exist_ok=True)
        self._exits = contextlib.ExitStack()
        self.daemons: dict[str, Daemon] = {}

    def __enter__(self) -> Stage:
        with contextlib.ExitStack() as exits:
            self._start(exits)
            self._exits = exits.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    def _start(self, exits: contextlib.ExitStack) -> None:
        brokers = [int(n) for n in BROKERS]
        links = {f"{party}-kafka{n}": (0, 1) for party in PARTIES for n in brokers}
        links |= {f"{party}-redis": (0, 1) for party in PARTIES}
        self.proxy = exits.enter_context(Proxy(links))
        self.redis = RedisServer(self.folder / "redis")
        exits.callback(self.redis.kill)
        self.redis.start()
        self.kafka = KafkaCluster(self.folder, {party: {n: self.proxy.ports[f"{party}-kafka{n}"] for n in brokers}
                                                for party in PARTIES})
        exits.callback(self.kafka.kill)
        self.kafka.start()
        for party in PARTIES:
            self.proxy.target(f"{party}-redis", self.redis.port)
            for n in brokers:
                self.proxy.target(f"{party}-kafka{n}", self.kafka[n].ports[party.upper()])
        for host in HOSTS:
            daemon = Daemon(self.settings(host), self.folder, host, transport=self.transport,
                            env={HISTORY_FILE: str(self.history / "handlers.events"), HOST: host},
                            **NAMES | self._options)
            exits.callback(_end, daemon)
            self.daemons[host] = daemon
            daemon.start()
        wait_for(lambda: sum(len(self.owned(host)) for host in HOSTS) == NAMES["num_partitions"], 60,
                 "all partitions to be consumed")

    def settings(self, party: str) -> Settings:
        """The settings of a party."""
        return Settings(kafka_servers=self.kafka.bootstrap(party), redis_host=self.redis.host,
                        redis_port=self.proxy.ports[f"{party}-redis"], transport=self.transport, host_name=party,
                        control_socket=str(self.folder / f"{party}.sock"), pid_file=str(self.folder / f"{party}.pid"),
                        **NAMES)

    def links(self, target: str) -> list[str]:
        """The links of a target of the plan: "host1-redis", "load-kafka", "all-redis"..."""
        party, _, server = target.partition("-")
        return [link for link in self.proxy.ports
                if link.partition("-")[2].startswith(server) and (party == "all" or link.startswith(f"{party}-"))]

    def owned(self, host: str) -> list[int]:
        """The partitions that a running worker of a host consumes now; none while it can't be asked."""
        try:
            status = self.daemons[host].status()
        except Exception:
            return []
        running = {worker["name"] for worker in status["workers"] if worker["state"] == "RUNNING"}
        return [row["partition"] for row in status["partitions"] if row["owned"] and row["worker"] in running]

    def processes(self) -> Iterator[tuple[str, int]]:
        """The kind and pid of every process of the stage."""
        yield "proxy", self.proxy.pid
        yield "redis", self.redis.pid
        for broker in self.kafka:
            yield "kafka", broker.pid
        for daemon in self.daemons.values():
            yield "supervisor", daemon.pid
            for pid in daemon.family():
                with contextlib.suppress(OSError):
                    name = Path(f"/proc/{pid}/comm").read_text().strip().partition(":")[2]
                    yield _ROLES.get(name[:4], "worker"), pid


def _end(daemon: Daemon) -> None:
    with contextlib.suppress(Exception):
        daemon.end(20)
