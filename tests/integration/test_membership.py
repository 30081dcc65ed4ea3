"""Membership on real Kafka: who owns what, the lease, commits by the live member alone, hand-over without overlap."""
from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.queue_user import QueueUser
from tests.support.role_host import RoleHost, until
from yadtq.config import Settings
from yadtq.names import scheduler_group
from yadtq.transport import open_admin
from yadtq.transport.connection import connect_kafka_python, import_kafka
from yadtqd.exits import Exit
from yadtqd.shared import boottime_ns

pytestmark = pytest.mark.integration


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.replace(tasks=("tests.support.handlers",), auto_commit_interval_ms=100,
                            kafka_session_timeout_ms=6000, host_name="a")


def committed(settings: Settings) -> dict[int, int]:
    admin = open_admin(settings)
    try:
        return admin.committed(settings.kafka_group, settings.kafka_task_topic)
    finally:
        admin.close()


def shares(settings: Settings, group: str, topic: str) -> dict[str, set[int]]:
    """What the group has given to whom, by host name; empty while it is being arranged."""
    admin: Any = connect_kafka_python(import_kafka().KafkaAdminClient, settings)
    try:
        told = admin.describe_groups([group])[group]
    finally:
        admin.close()
    if told["group_state"] != "Stable":
        return {}
    return {member["group_instance_id"]: {p for given in (member["member_assignment"] or {}).get(
        "assigned_partitions", ()) if given["topic"] == topic for p in given["partitions"]}
        for member in told["members"]}


def owned(host: RoleHost) -> tuple[int, ...]:
    return host.shared.partitions.owned()


def test_alone_it_owns_everything_and_commits_watermarks(quick: Settings) -> None:
    with QueueUser(quick) as user, RoleHost(quick) as host:
        begun = time.monotonic()
        host.start("membership")
        until(lambda: owned(host) == (0, 1, 2, 3) and host.shared.joined, "all partitions")
        assert time.monotonic() - begun < 8
        assert host.shared.topic_partitions == 4
        assert 0 < host.shared.lease_left_s() <= 4.5
        host.start("worker", "w0", (0, 1, 2, 3))
        ids = user.send([user.message("addition", n, 1) for n in range(400)])
        user.results(ids)
        until(lambda: [host.shared.partitions[p].committed for p in range(4)] == [100] * 4, "the commits")
        assert committed(quick) == dict.fromkeys(range(4), 100)
        leases = []
        for _ in range(40):
            leases.append(host.shared.lease_left_s())
            time.sleep(0.1)
        assert min(leases) > 1                       # renewed in time, all the time
        # a worker that starts now begins where the commits say
        host.kill("w0")
        host.status("w0")
        host.start("worker", "w0", (0, 1, 2, 3))
        assert user.result(user.submit("addition", 1, 2)) == 3
        # membership may go and come: ownership and its generation stay, no worker notices
        generations = [host.shared.partitions[p].generation for p in range(4)]
        host.kill("membership")
        host.status("membership")
        host.start("membership", "m2")
        until(lambda: host.shared.lease_left_s() > 3.5, "the lease renewed")
        time.sleep(0.5)
        assert owned(host) == (0, 1, 2, 3)
        assert [host.shared.partitions[p].generation for p in range(4)] == generations
        user.results(user.send([user.message("addition", n, 1) for n in range(40)]))
        until(lambda: sum(host.shared.partitions[p].committed for p in range(4)) == 441, "the commits")
        host.kill("m2", signal.SIGTERM)
        assert host.status("m2") == Exit.OK


def test_a_second_host_gets_its_share_once_the_first_has_let_go(quick: Settings, tmp_path: Path) -> None:
    """The revoked partitions change hands only after their worker was reaped and its last watermark committed."""
    with QueueUser(quick) as user, RoleHost(quick) as a, RoleHost(quick.replace(host_name="b")) as b:
        a.start("membership")
        until(lambda: owned(a) == (0, 1, 2, 3), "all partitions")
        for p in range(4):
            a.start("worker", f"w{p}", (p,))
        user.results(user.send([user.message("addition", n, 1) for n in range(400)]))
        b.start("membership", wait=False)
        leaving = until(lambda: len(owned(a)) == 2 and set(range(4)) - set(owned(a)), "two to be given up")
        # while their workers live, nobody has them: b waits, a's lease goes on
        for _ in range(80):
            assert not set(owned(b)) & set(leaving)
            assert a.shared.lease_left_s() > 0
            time.sleep(0.05)
        row = a.shared.partitions
        for p in leaving:
            until(lambda p=p: row[p].watermark == 100, "its watermark")
        for p in leaving:
            a.kill(f"w{p}", signal.SIGTERM)
            assert a.status(f"w{p}") == Exit.OK
        until(lambda: set(owned(b)) == set(leaving), "b's share")
        assert all(b.shared.partitions[p].committed == 100 for p in leaving)
        assert all(row[p].epoch == 0 == row[p].watermark for p in leaving)
        assert not set(owned(a)) & set(owned(b))
        b.start("worker", "w0", tuple(sorted(leaving)))
        user.results(user.send([user.message("addition", n, 1) for n in range(40)]))
        until(lambda: committed(quick) == dict.fromkeys(range(4), 110), "the commits of both")


def test_a_slow_hand_over_keeps_nobody_waiting(quick: Settings) -> None:
    """While a's workers take their time, the group is arranged anew for c, and nobody's lease ends over that."""
    def given() -> dict[str, set[int]]:
        return shares(quick, quick.kafka_group, quick.kafka_task_topic)

    with (RoleHost(quick) as a, RoleHost(quick.replace(host_name="b")) as b,
          RoleHost(quick.replace(host_name="c")) as c):
        a.start("membership")
        until(lambda: owned(a) == (0, 1, 2, 3), "all partitions")
        for p in range(4):
            a.shared.partitions[p].worker = 1                # they live, as far as membership can see
        b.start("membership", wait=False)
        until(lambda: len(owned(a)) == 2 and b.shared.lease_left_s() > 0, "two to be given up")
        leaving = set(range(4)) - set(owned(a))
        c.start("membership", wait=False)
        until(lambda: "c" in given(), "c's place", 20)
        until(lambda: c.shared.lease_left_s() > 0, "c's lease")
        for _ in range(160):                                 # longer than a session
            assert min(host.shared.lease_left_s() for host in (a, b, c)) > 0
            assert not leaving & {*owned(b), *owned(c)}
            time.sleep(0.05)
        for p in range(4):
            a.shared.partitions[p].worker = 0
        until(lambda: sorted([*owned(a), *owned(b), *owned(c)]) == [0, 1, 2, 3], "everything is somebody's", 20)
        assert all(owned(host) for host in (a, b, c))


def test_a_join_that_waits_for_a_dead_host_costs_nobody_its_lease(quick: Settings) -> None:
    """It takes until the dead one's session is over, which is longer than a lease; the library sends no heartbeats."""
    with (RoleHost(quick) as a, RoleHost(quick.replace(host_name="b")) as b,
          RoleHost(quick.replace(host_name="c")) as c):
        a.start("membership")
        until(lambda: owned(a) == (0, 1, 2, 3), "all partitions")
        b.start("membership", wait=False)
        until(lambda: len(owned(b)) == 2, "b's share", 20)
        mine, generations = owned(a), [a.shared.partitions[p].generation for p in owned(a)]
        admin: Any = connect_kafka_python(import_kafka().KafkaAdminClient, quick)
        try:
            c.start("membership", wait=False)
            until(lambda: admin.describe_groups([quick.kafka_group])[quick.kafka_group]["group_state"] != "Stable",
                  "c's join, for which the group waits", 20)
        finally:
            admin.close()
        b.kill("membership")                                # before it can join again, most likely
        begun, least = time.monotonic(), 9.0
        while len(owned(c)) < 2:
            least = min(least, a.shared.lease_left_s())
            assert time.monotonic() - begun < 30
            time.sleep(0.02)
        assert least > 0
        assert owned(a) == mine
        assert [a.shared.partitions[p].generation for p in mine] == generations


@pytest.mark.parametrize("role", ["membership", "scheduler"])
def test_who_dies_in_a_hand_over_and_is_back_at_once(quick: Settings, role: str) -> None:
    """It finds its old place in the group, which does not know that it let go: nobody had what it gave up, for ever."""
    topic, group = ((quick.kafka_task_topic, quick.kafka_group) if role == "membership" else
                    (quick.kafka_delayed_topic, scheduler_group(quick.kafka_group)))

    def given() -> dict[str, set[int]]:
        return shares(quick, group, topic)

    with RoleHost(quick) as a, RoleHost(quick.replace(host_name="b")) as b:
        a.start(role)
        until(lambda: len(given().get("a", ())) >= 4, "everything is a's", 20)
        everything = given()["a"]
        for p in everything if role == "membership" else ():
            a.shared.partitions[p].worker = 1                 # it lives, as far as membership can see
        b.start(role, wait=False)
        until(lambda: 0 < len(given().get("a", everything)) < len(everything), "a is told to let go", 20)
        a.kill(role)
        a.status(role)
        for p in everything if role == "membership" else ():
            a.shared.partitions[p].worker = 0
        a.start(role, "again", wait=False)
        until(lambda: (now := given()).get("b") and set().union(*now.values()) == everything,
              "everything is somebody's, and some of it b's", 30)


def test_a_frozen_hosts_partitions_move_and_its_commits_are_refused(quick: Settings) -> None:
    with QueueUser(quick) as user, RoleHost(quick) as a, RoleHost(quick.replace(host_name="b")) as b:
        a.start("membership")
        until(lambda: owned(a) == (0, 1, 2, 3), "all partitions")
        a.start("worker", "w0", (0, 1, 2, 3))
        user.results(user.send([user.message("addition", n, 1) for n in range(40)]))
        until(lambda: committed(quick) == dict.fromkeys(range(4), 10), "the first commits")
        a.kill("membership", signal.SIGSTOP)
        lease_ns = a.shared.lease_ns
        b.start("membership", wait=False)
        until(lambda: owned(b) == (0, 1, 2, 3), "b takes over", 30)
        assert boottime_ns() > lease_ns              # the lease was over before
        b.start("worker", "w0", (0, 1, 2, 3))        # its fence stops a's worker at its next word
        user.results(user.send([user.message("addition", n, 1) for n in range(40)]))
        until(lambda: committed(quick) == dict.fromkeys(range(4), 20), "b's commits")
        for p in range(4):                           # what a frozen worker of a might still say
            a.shared.partitions[p].watermark = 11
        a.kill("membership", signal.SIGCONT)
        until(lambda: owned(a) == (), "a notices that it has lost them")
        time.sleep(1)
        assert committed(quick) == dict.fromkeys(range(4), 20)
        assert a.shared.partitions[0].committed == 10


def test_two_hosts_of_one_name(quick: Settings) -> None:
    """The later one wins, as a restart must; the earlier one says what is wrong and gives up."""
    with QueueUser(quick), RoleHost(quick) as a, RoleHost(quick) as b:
        a.start("membership")
        until(lambda: owned(a) == (0, 1, 2, 3), "all partitions")
        b.start("membership", wait=False)
        assert a.status("membership", 20) == Exit.STOP_FATAL_CONFIG


def test_static_assignment_commits_by_fenced_transactions(quick: Settings) -> None:
    static = quick.replace(assignment="static", partitions=(0, 1))
    with QueueUser(static) as user, RoleHost(static, own=(0, 1)) as a, RoleHost(static, own=(0, 1)) as b:
        a.start("worker", "w0", (0, 1), wait=False)      # it waits for membership to say where to begin
        a.start("membership")
        for p in (0, 1):
            user.results(user.send([user.message("addition", n, 1) for n in range(100)], partition=p))
        until(lambda: committed(static) == {0: 100, 1: 100}, "the commits", 20)
        b.start("membership")                        # somebody configured the same partitions elsewhere
        b.shared.partitions[0].watermark = 101       # (and its worker has done one more)
        until(lambda: committed(static)[0] == 101, "the later one's commit")
        user.results(user.send([user.message("addition", n, 1) for n in range(10)], partition=0))
        assert a.status("membership", 20) == Exit.STOP_FATAL_CONFIG
        assert committed(static) == {0: 101, 1: 100}


def test_the_janitor_deletes_what_is_committed(quick: Settings) -> None:
    settings = quick.replace(result_ttl_s=1)
    with QueueUser(settings) as user, RoleHost(settings) as host:
        host.start("membership")
        until(lambda: owned(host) == (0, 1, 2, 3), "all partitions")
        host.start("worker", "w0", (0, 1, 2, 3))
        ids = user.send([user.message("addition", n, 1) for n in range(40)])
        user.results(ids)
        until(lambda: committed(settings) == dict.fromkeys(range(4), 10), "the commits")
        host.start("janitor")
        admin = open_admin(settings)
        try:
            until(lambda: admin.begin_offsets(settings.kafka_task_topic) == dict.fromkeys(range(4), 10), "deletion")
        finally:
            admin.close()
        until(lambda: all(r is None or r.expired for r in user.backend.read(ids)), "the results gone", 30)
        assert user.result(user.submit("addition", 1, 2)) == 3
        host.kill("janitor", signal.SIGTERM)
        assert host.status("janitor") == Exit.OK
