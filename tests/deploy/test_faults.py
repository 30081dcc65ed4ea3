"""Hosts, brokers, Redis and the network fail under load, and every promise of docs/guarantees.md holds.

Each test has a load of its own, breaks one thing, mends it, and has the whole history checked (tests/deploy/trial.py).
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from tests.deploy.cluster import Cluster, unit, wait_until
from tests.deploy.lab.hosts import Host
from tests.deploy.report import Report
from tests.deploy.trial import Trial
from tests.support.history import now
from yadtq.transport.connection import librdkafka_config

pytestmark = pytest.mark.three_hosts
FAILOVER_S = 10.0
WITH_COORDINATOR_S = 15.0       # sessions begin anew at another broker, which a new controller may have to find first


@pytest.fixture
def trial(fresh_cluster: Cluster, tmp_path: Path) -> Iterator[Trial]:
    fresh_cluster.settle()
    with Trial(fresh_cluster, tmp_path) as under_load:
        yield under_load
    fresh_cluster.hosts.heal()
    fresh_cluster.hosts.boot_all()


def survivors_have_all(cluster: Cluster, gone: Host) -> bool:
    """Do the other hosts consume every partition?"""
    others = [cluster.owned(host) for host in cluster.hosts if host is not gone]
    return len(set().union(*others)) == cluster.partitions


def redis_primary(cluster: Cluster) -> Host:
    """The host whose Redis is the primary, as Sentinel sees it."""
    address = cluster.primary_address()
    return next(host for host in cluster.hosts if host.address == address)


def group_coordinator(cluster: Cluster) -> Host:
    """The host whose broker keeps the daemons' group: with it go the sessions of all members."""
    settings = cluster.settings()
    admin = AdminClient(librdkafka_config(settings))        # its answers end with it
    address = admin.describe_consumer_groups([settings.kafka_group])[settings.kafka_group].result(30).coordinator.host
    return next(host for host in cluster.hosts if address in (host.address, host.name))


def await_another_primary(cluster: Cluster, victim: Host, report: Report, what: str, begun: float) -> None:
    """Until Sentinel names another Redis than the victim's; how long that took."""
    wait_until(lambda: cluster.primary_address() not in ("", victim.address), 60, "another primary", 0.2)
    report.figure(f"{what}: Sentinel names another", time.monotonic() - begun)


def tell(report: Report, what: str, trial: Trial) -> None:
    figures = trial.finish()
    report.figure(f"{what}: tasks accepted under load", figures["accepted"], "tasks")
    report.figure(f"{what}: tasks lost", figures["lost"], "tasks", limit=0)
    report.figure(f"{what}: tasks that ran again", figures["run_again"], "tasks")


def test_a_whole_host_dies_and_its_partitions_are_worked_on_within_ten_seconds(
        fresh_cluster: Cluster, trial: Trial, report: Report) -> None:
    cluster = fresh_cluster
    primary = redis_primary(cluster)
    victim = next(host for host in cluster.hosts if host is not primary)
    with trial.fault("host_power_cut", victim.name):
        begun = time.monotonic()
        victim.power_cut()
        wait_until(lambda: survivors_have_all(cluster, victim), 60, "the others to have its partitions")
        report.figure("a dead host's partitions are consumed by others (its broker died with it)",
                      time.monotonic() - begun, limit=FAILOVER_S)
        trial.goes_on()
        victim.boot()
        cluster.settle(120)
    trial.goes_on()
    tell(report, "power cut of a host", trial)


def test_the_host_with_the_groups_coordinator_dies(
        fresh_cluster: Cluster, trial: Trial, report: Report) -> None:
    """Its sessions begin anew at another broker, when that has noticed."""
    cluster = fresh_cluster
    victim = group_coordinator(cluster)
    with trial.fault("host_power_cut" if victim is not redis_primary(cluster) else "redis_primary_kill", victim.name):
        begun = time.monotonic()
        victim.power_cut()
        wait_until(lambda: survivors_have_all(cluster, victim), 60, "the others to have its partitions")
        report.figure("power cut of the coordinator's host: its partitions are consumed by others",
                      time.monotonic() - begun, limit=WITH_COORDINATOR_S)
        trial.goes_on(90)
        victim.boot()
        cluster.settle(120)
    trial.goes_on()
    tell(report, "power cut of the coordinator's host", trial)


def test_the_host_with_the_redis_primary_dies(fresh_cluster: Cluster, trial: Trial, report: Report) -> None:
    cluster = fresh_cluster
    victim = redis_primary(cluster)
    with trial.fault("redis_primary_kill", victim.name):
        begun = time.monotonic()
        victim.power_cut()
        await_another_primary(cluster, victim, report, "power cut of the primary's host", begun)
        wait_until(lambda: survivors_have_all(cluster, victim), 60, "the others to have its partitions")
        report.figure("power cut of the primary's host: its partitions are consumed by others",
                      time.monotonic() - begun, limit=WITH_COORDINATOR_S)      # it may be that one as well
        trial.goes_on(90)
        report.figure("power cut of the primary's host: 200 more tasks accepted", time.monotonic() - begun)
        victim.boot()
        cluster.settle(120)
    trial.goes_on()
    tell(report, "power cut of the primary's host", trial)


def test_a_host_is_cut_off_and_its_zombies_change_nothing_when_it_is_back(
        fresh_cluster: Cluster, trial: Trial, report: Report) -> None:
    """Its daemon lives on, sees nobody, and must have stopped its workers before the others have its partitions."""
    cluster = fresh_cluster
    primary = redis_primary(cluster)
    victim = next(host for host in cluster.hosts if host is not primary)
    with trial.fault("host_cut_off", victim.name):
        begun = time.monotonic()
        victim.cut()
        wait_until(lambda: survivors_have_all(cluster, victim), 60, "the others to have its partitions")
        report.figure("a cut-off host's partitions are consumed by others", time.monotonic() - begun,
                      limit=FAILOVER_S + 5)
        assert not cluster.owned(victim), "it has not let go of what others own"
        assert cluster.state(victim) == "DEGRADED"
        trial.goes_on()
        begun = time.monotonic()
        victim.heal()
        cluster.settle(120)
        report.figure("it is healed and has its share again", time.monotonic() - begun)
    trial.goes_on()
    tell(report, "a host cut off from the others", trial)


def test_a_broker_is_killed_and_comes_back(fresh_cluster: Cluster, trial: Trial, report: Report) -> None:
    cluster = fresh_cluster
    victim = cluster.first
    with trial.fault("kafka_kill", victim.name):
        since = now()
        pid = unit(victim, "kafka", "MainPID")
        victim.run("systemctl kill --signal=KILL kafka")
        trial.goes_on()
        wait_until(lambda: unit(victim, "kafka", "MainPID", "ActiveState") != pid | {"ActiveState": "active"}
                   and unit(victim, "kafka", "ActiveState")["ActiveState"] == "active", 120, "the broker to be back")
        cluster.settle(120)
    trial.goes_on()
    tell(report, "a broker killed", trial)
    report.figure("a broker killed: the longest time in which no handler began anywhere", trial.longest_gap_s(since))


def test_a_broker_stays_away_and_two_are_enough(fresh_cluster: Cluster, trial: Trial, report: Report) -> None:
    cluster = fresh_cluster
    victim = next(reversed(list(cluster.hosts)))
    with trial.fault("kafka_stop", victim.name):
        victim.run("systemctl stop kafka", timeout_s=150)
        trial.goes_on(count=600)
        victim.run("systemctl start kafka", timeout_s=150)
        cluster.settle(120)
    trial.goes_on()
    tell(report, "a broker away", trial)


def test_the_redis_primary_is_killed_and_sentinel_finds_another(
        fresh_cluster: Cluster, trial: Trial, report: Report) -> None:
    cluster = fresh_cluster
    victim = redis_primary(cluster)
    with trial.fault("redis_primary_kill", victim.name):
        begun, since = time.monotonic(), now()
        # it stays away: systemd would have it back before anybody has noticed
        victim.run("systemctl mask --runtime --now redis-server || true; systemctl kill --signal=KILL redis-server "
                   "|| true", timeout_s=60)
        await_another_primary(cluster, victim, report, "the Redis primary killed", begun)
        trial.goes_on(90)
        report.figure("the Redis primary killed: 200 more tasks accepted", time.monotonic() - begun)
        victim.run("systemctl unmask --runtime redis-server; systemctl start redis-server", timeout_s=60)
        cluster.settle(120)
    trial.goes_on()
    tell(report, "the Redis primary killed", trial)
    report.figure("the Redis primary killed: the longest time in which no handler began", trial.longest_gap_s(since))


def test_the_redis_primary_is_cut_off_and_its_old_self_changes_nothing(
        fresh_cluster: Cluster, trial: Trial, report: Report) -> None:
    cluster = fresh_cluster
    victim = redis_primary(cluster)
    with trial.fault("redis_primary_cut_off", victim.name):
        begun = time.monotonic()
        victim.cut()
        await_another_primary(cluster, victim, report, "the primary's host cut off", begun)
        trial.goes_on(90)
        victim.heal()
        cluster.settle(120)
        wait_until(lambda: cluster.follows(victim), 60, "the old primary to follow the new one", 0.5)
    trial.goes_on()
    tell(report, "the primary's host cut off", trial)


def test_two_hosts_see_each_other_no_more_and_the_third_sees_both(
        fresh_cluster: Cluster, trial: Trial, report: Report) -> None:
    cluster = fresh_cluster
    one, two, _ = cluster.hosts
    with trial.fault("redis_primary_cut_off", f"{one.name}-{two.name}"):     # one of them may have the primary
        one.cut(two)
        trial.goes_on(120, count=400)
        one.heal()
        cluster.settle(120)
    trial.goes_on()
    tell(report, "two hosts cut from each other", trial)


def test_every_host_loses_its_power_at_once(fresh_cluster: Cluster, trial: Trial, report: Report) -> None:
    cluster = fresh_cluster
    with trial.fault("redis_primary_kill", "all"):
        for host in cluster.hosts:
            host.power_cut()
        begun = time.monotonic()
        cluster.hosts.boot_all()
        cluster.settle(180)
        report.figure("all hosts lose their power at once: all partitions consumed again", time.monotonic() - begun)
    trial.goes_on(90)
    tell(report, "power cut of all hosts", trial)
