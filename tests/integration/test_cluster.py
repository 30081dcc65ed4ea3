"""Three brokers: what was acknowledged survives any one of them, and a party can be cut off from one or from all."""
from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import NODES, REPLICATED, KafkaCluster
from tests.support.daemon import wait_for
from tests.support.proxy import Proxy
from yadtq.config import Settings
from yadtq.errors import YADTQError
from yadtq.transport import open_admin, open_producer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_cluster_loses_a_broker_and_a_party_its_network(tmp_path: Path) -> None:
    with Proxy({f"load-{n}": (0, 1) for n in NODES}) as proxy:
        cluster = KafkaCluster(tmp_path, {"load": {n: proxy.ports[f"load-{n}"] for n in NODES}})
        for n in NODES:
            proxy.target(f"load-{n}", cluster[n].ports["LOAD"])
        try:
            cluster.start()
            assert cluster.alive() == set(NODES)
            settings = Settings(kafka_servers=cluster.bootstrap("load"), kafka_task_topic="tasks", host_name="h",
                                control_socket=str(tmp_path / "s"), pid_file=str(tmp_path / "p"), **REPLICATED)
            admin = open_admin(settings)
            assert admin.ensure_topics() == 4
            admin.close()
            assert cluster.wait_in_sync()
            producer = open_producer(settings)
            acknowledged: list[int] = []

            def send() -> None:
                def report(offset: int, error: YADTQError | None) -> None:
                    if error is None:
                        acknowledged.append(offset)
                producer.send("tasks", 0, b"x", None, report)

            send()
            wait_for(lambda: len(acknowledged) == 1, 30, "the first record")
            cluster[2].kill()
            wait_for(lambda: 2 not in cluster.alive(), 30, "a cluster that knows of the death")
            send()
            wait_for(lambda: len(acknowledged) == 2, 30, "a record with two brokers")
            cluster[2].start()
            assert cluster.wait_in_sync()
            for n in NODES:
                proxy.set(f"load-{n}", "drop")
            send()
            assert len(acknowledged) == 2
            assert cluster.alive() == set(NODES), "the brokers see each other all the same"
            for n in NODES:
                proxy.set(f"load-{n}", "pass")
            wait_for(lambda: len(acknowledged) == 3, 30, "a record after the network is back")
            producer.close(2)
        finally:
            cluster.kill()
