"""What docs/deploy.md tells to type, typed as it stands."""
from __future__ import annotations

import pytest

from tests.deploy import docs_commands, stage
from tests.deploy.cluster import Cluster
from tests.deploy.docs_commands import WELL, Block

PAGE = list(docs_commands.blocks(docs_commands.PAGE.read_text()))


def name(block: Block) -> str:
    """For people."""
    return f"line {block.line}, {block.section}"


@pytest.mark.parametrize("block", [block for block in PAGE if block.situation == WELL], ids=name)
def test_commands_for_a_cluster_that_is_well(cluster: Cluster, block: Block) -> None:
    if block.place == "controller":
        played = cluster.controller(block)
        assert played.status == 0
    else:
        user = "root" if block.place == "host" else stage.OPERATOR
        cluster.first.run("bash -s", given=block.script, user=user, timeout_s=120)
    cluster.settle()


def test_uninstalling_and_deploying_again_brings_everything_back(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    with cluster.client() as client:
        task_id = client.submit_task("addition", args=[20, 22])
        assert client.get_result(task_id, timeout=30) == 42
    cluster.controller(*docs_commands.of("uninstall", "controller"))
    assert cluster.first.attempt("command -v yadtqd").returncode != 0
    cluster.controller(*docs_commands.of("deploy", "controller"))
    cluster.settle(120)
    with cluster.client() as client:
        assert client.get_result(task_id, timeout=30) == 42


@pytest.mark.full
@pytest.mark.parametrize("situation", ["lost-redis", "lost-kafka"])
def test_a_queue_begins_anew_after_a_disaster(fresh_cluster: Cluster, situation: str) -> None:
    fresh_cluster.controller(*docs_commands.of(situation, "controller"))
    fresh_cluster.settle(180)
    fresh_cluster.works()


@pytest.mark.three_hosts
def test_a_host_that_is_gone_for_good_is_replaced_by_a_bare_one(fresh_cluster: Cluster) -> None:
    cluster = fresh_cluster
    lost = cluster.hosts["host3"]
    lost.replace()
    lost.run(f"useradd --create-home {stage.OPERATOR}")
    cluster.controller(*docs_commands.of("lost-host", "controller"))
    cluster.settle(180)
    cluster.works()


@pytest.mark.full
def test_more_partitions(fresh_cluster: Cluster) -> None:
    block, = docs_commands.of("grow", "host")
    fresh_cluster.first.run("bash -s", given=block.script, timeout_s=60)
    fresh_cluster.partitions = 16
    fresh_cluster.settle(120)
