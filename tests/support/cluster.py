"""Three Kafka brokers on the loopback interface, as a real installation has them, each to be broken alone.

KRaft in combined mode, replication 3, min.insync.replicas 2, small heaps. Each broker has one listener per *party* (a
host, a load) whose advertised address may be that of a proxy (tests/support/proxy.py): so a party can be cut off from
one broker or from all of them, while the brokers go on talking to each other.

    cluster = KafkaCluster(folder, parties={"host1": {1: 21001, 2: 21002, 3: 21003}})     # broker -> advertised port
    cluster.start()
    cluster.bootstrap("host1")      # what `kafka_servers` wants
    cluster[2].kill(); cluster[2].start(); cluster.wait_in_sync()

The brokers end with the process that made them (see tests/support/services.py).
"""
from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.support.services import LOOPBACK, Breakable, ServerError, local_servers, random_free_port, reap_with_us

NODES = (1, 2, 3)
REPLICATED = {"kafka_replication_factor": 3, "kafka_min_insync_replicas": 2}      # settings that go with it
# What a broker alone on its machine is not told: replicas, and a quorum that is quick to notice a dead one.
OF_A_CLUSTER = {
    "default.replication.factor": 3,
    "offsets.topic.replication.factor": 3,
    "transaction.state.log.replication.factor": 3,
    "transaction.state.log.min.isr": 2,
    "share.coordinator.state.topic.replication.factor": 3,
    "share.coordinator.state.topic.min.isr": 2,
    "min.insync.replicas": 2,
    "broker.session.timeout.ms": 4000,
    "broker.heartbeat.interval.ms": 500,
    "replica.lag.time.max.ms": 5000,
    "num.network.threads": 1,
    "num.io.threads": 2,
    "auto.leader.rebalance.enable": "true",
    "leader.imbalance.check.interval.seconds": 10,
}


class KafkaNode(Breakable, local_servers.Kafka):
    """One broker and controller of a cluster."""

    def __init__(self, folder: Path, number: int, ports: Mapping[str, int], controllers: Mapping[int, int],
                 cluster_id: str, heap_mb: int) -> None:
        super().__init__(folder, ports["INTERNAL"], controllers[number], heap_mb=heap_mb, small=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.number, self.ports, self.cluster_id = number, dict(ports), cluster_id
        self.advertised = dict(ports)
        self._controllers = dict(controllers)
        self.name = f"kafka{number}"

    def properties(self) -> str:
        """server.properties of a single node, with what a cluster wants in its place."""
        text = super().properties()
        voters = ",".join(f"{n}@{LOOPBACK}:{port}" for n, port in self._controllers.items())
        listeners = [f"{name}://{LOOPBACK}:{port}" for name, port in self.ports.items()]
        values = {
            "node.id": self.number,
            "controller.quorum.voters": voters,
            "inter.broker.listener.name": "INTERNAL",
            "listeners": ",".join([*listeners, f"CONTROLLER://{LOOPBACK}:{self.controller_port}"]),
            "advertised.listeners": ",".join(f"{n}://{LOOPBACK}:{port}" for n, port in self.advertised.items()),
            "listener.security.protocol.map": ",".join(f"{n}:PLAINTEXT" for n in [*self.ports, "CONTROLLER"]),
        } | OF_A_CLUSTER
        left_out = set(values) | {"controller.quorum.bootstrap.servers"}
        kept = [line for line in text.splitlines() if line.partition("=")[0] not in left_out]
        return "\n".join([*kept, *(f"{name}={value}" for name, value in values.items())]) + "\n"

    def prepare(self) -> None:
        """Write server.properties and format the data folder once, as a node of this cluster."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        self.config.write_text(self.properties(), "utf-8")
        if not (self.data / "meta.properties").exists():
            shutil.rmtree(self.data, ignore_errors=True)
            self.format(self.cluster_id)


class KafkaCluster:
    """The three; `parties` maps a party to the port that each broker advertises to it (0: the broker's own)."""

    def __init__(self, folder: Path, parties: Mapping[str, Mapping[int, int]] | None = None, *,
                 heap_mb: int = 192) -> None:
        cluster_id = "yadtq-" + "".join(random.choices("abcdefghijkmnpqrstuvwxyz23456789", k=16))
        self.parties = {name: dict(ports) for name, ports in (parties or {}).items()}
        taken: set[int] = set()
        controllers = {n: _fresh_port(taken) for n in NODES}
        self.nodes: dict[int, KafkaNode] = {}
        for n in NODES:
            ports = {"INTERNAL": _fresh_port(taken)} | {party.upper(): _fresh_port(taken) for party in self.parties}
            self.nodes[n] = KafkaNode(folder / f"kafka{n}", n, ports, controllers, cluster_id, heap_mb)
        for party, advertised in self.parties.items():
            self.advertise(party, advertised)
        self._admin: Any = None

    def advertise(self, party: str, ports: Mapping[int, int]) -> None:
        """Before the start: what each broker tells a party of its address."""
        for n, port in ports.items():
            if port:
                self.nodes[n].advertised[party.upper()] = port

    def __getitem__(self, number: int) -> KafkaNode:
        return self.nodes[number]

    def __iter__(self) -> Iterator[KafkaNode]:
        return iter(self.nodes.values())

    def bootstrap(self, party: str = "internal") -> str:
        """What `kafka_servers` wants for a party."""
        return ",".join(f"{LOOPBACK}:{node.advertised[party.upper()]}" for node in self)

    def start(self, limit_s: float = 120) -> None:
        """Start those that are down; returns when all three know each other."""
        down = [node for node in self if not node.running]
        with ThreadPoolExecutor(len(NODES)) as pool:        # a JVM each to format
            list(pool.map(KafkaNode.prepare, down))
        for node in down:
            node.spawn()
            reap_with_us(node.pid)
        for node in down:
            node.wait_ready(limit_s)
        deadline = time.monotonic() + limit_s
        while len(self.alive()) < len(NODES):
            if time.monotonic() > deadline:
                raise ServerError(f"after {limit_s:g} s only the brokers {sorted(self.alive())} are there")
            time.sleep(0.1)

    def alive(self) -> set[int]:
        """The brokers that the cluster counts as alive; none when nobody answers."""
        described = self._described()
        return set() if described is None else set(described.brokers)

    def out_of_sync(self) -> list[tuple[str, int]]:
        """Partitions with a replica that lags or is down, of all topics."""
        described = self._described()
        if described is None:
            return [("nobody answers", -1)]
        return [(name, number) for name, topic in described.topics.items()
                for number, partition in topic.partitions.items() if len(partition.isrs) < len(partition.replicas)]

    def wait_in_sync(self, limit_s: float = 60) -> bool:
        """Wait until every replica is in sync again; False when it takes longer."""
        deadline = time.monotonic() + limit_s
        while self.out_of_sync() or len(self.alive()) < len(NODES):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def kill(self) -> None:
        """SIGKILL of all."""
        for node in self:
            node.kill()

    def _described(self) -> Any:
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        if self._admin is None:
            self._admin = AdminClient({"bootstrap.servers": self.bootstrap(), "reconnect.backoff.max.ms": 500,
                                       "log_level": 0})
        try:
            return self._admin.list_topics(timeout=3)
        except KafkaException:
            return None


def _fresh_port(taken: set[int]) -> int:
    port = random_free_port()
    while port in taken:
        port = random_free_port()
    taken.add(port)
    return port
