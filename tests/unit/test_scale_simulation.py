"""The simulated cluster keeps its promises whatever is done to it, and shows it when a decision is as bad as it was.

`benchmarks.scale` runs the same simulation at 1,000 hosts. Here: small clusters, any faults, and the invariants.
"""
from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale import costs, scenarios
from benchmarks.scale.cluster import Cluster
from yadtq.config import Settings

SESSION_S = Settings().kafka_session_timeout_ms / 1000
faults = st.lists(st.tuples(
    st.floats(0.0, 12.0), st.sampled_from(("die", "boot", "freeze", "upgrade", "outage", "crash", "hang")),
    st.integers(0, 5), st.floats(0.1, 25.0)), max_size=12)


def hurt(cluster: Cluster, kind: str, number: int, for_s: float) -> None:
    host = list(cluster.hosts.values())[number % len(cluster.hosts)]
    if kind == "outage":
        if cluster.group.up:
            cluster.group.stop()
            cluster.clock.after(for_s, cluster.group.start)
    elif kind == "boot":
        if not host.alive:
            host.boot()
    elif host.alive and not host.frozen and not host.stopping:
        if kind == "die":
            host.die()
        elif kind == "freeze":
            host.freeze(for_s)
        elif kind == "upgrade":
            host.upgrade(for_s)
        elif host.workers:
            (host.crash if kind == "crash" else host.hang)(min(host.workers))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**30), st.integers(1, 6), st.integers(1, 14), st.integers(0, 3), st.floats(0, 40), faults)
def test_whatever_happens_no_partition_has_two_living_owners_and_all_goes_on(
        seed: int, hosts: int, partitions: int, max_workers: int, drain_s: float, hurts: list[Any]) -> None:
    cluster = Cluster(hosts, partitions, seed=seed, drain_s=drain_s, settings=Settings(max_workers=max_workers))
    cluster.boot()
    cluster.run(5)
    for wait_s, kind, number, for_s in hurts:
        cluster.run(wait_s)
        hurt(cluster, kind, number, for_s)
    cluster.run(30)                                     # outages, freezes and drains are over
    for host in cluster.hosts.values():
        if not host.alive:
            host.boot()
    cluster.settle(240)
    assert cluster.broken == []
    owned = sorted(p for host in cluster.hosts.values() for p in host.memory.partitions.owned())
    assert owned == list(range(partitions))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**30), st.integers(3, 12), st.integers(1, 2))
def test_a_dead_hosts_partitions_are_consumed_again_within_ten_seconds_and_nothing_else_moves(
        seed: int, hosts: int, dead: int) -> None:
    cluster = Cluster(hosts, 3 * hosts, seed=seed)
    cluster.boot()
    cluster.settle()
    cluster.run(5)
    cluster.new_count()
    victims = list(cluster.hosts.values())[:dead]
    theirs = {p for host in victims for p in host.memory.partitions.owned()}
    for host in victims:
        host.die()
    cluster.settle()
    assert cluster.broken == []
    assert max(for_s for for_s, _ in cluster.idle_for_s) < 10
    assert set(cluster.moves) == theirs
    assert cluster.lapsed_hosts == []


make = partial(Cluster, 30, 90, seed=7)


@pytest.mark.parametrize("scenario", scenarios.ALL, ids=lambda scenario: scenario.__name__)
def test_every_scenario_keeps_the_invariants(scenario: Any) -> None:
    figures = scenario(make)
    assert figures["broken"] == []
    if scenario not in (scenarios.broker_outage, scenarios.frozen_hosts):
        assert figures["hosts whose lease lapsed"] == 0


def test_the_same_seed_gives_the_same_figures() -> None:
    assert scenarios.rack_dies(make) == scenarios.rack_dies(make)


def test_it_shows_what_a_hand_over_that_everybody_waits_for_did() -> None:
    """One long task on one host, and every lease of the cluster ended while the group waited for that host."""
    assert scenarios.hand_over_with_long_tasks(make)["hosts whose lease lapsed"] == 0
    before = partial(make, blocking=True, beside=False)
    assert scenarios.hand_over_with_long_tasks(before)["hosts whose lease lapsed"] > 15


def test_it_shows_what_a_leader_that_computes_for_seconds_did() -> None:
    slow = partial(make, assign_s=6.0, beside=False)
    assert scenarios.host_dies(slow)["hosts whose lease lapsed"] > 15


def test_it_shows_what_a_join_did_that_waits_for_one_that_has_just_died() -> None:
    def join_beside_a_death(beside: bool) -> int:
        cluster = make(beside=beside)
        *others, late = list(cluster.hosts)
        cluster.boot(others)
        cluster.settle()
        cluster.run(5)
        cluster.new_count()
        cluster.hosts[others[0]].die()
        cluster.hosts[late].boot()                      # the group is arranged anew, and waits for the dead one
        cluster.settle()
        assert cluster.broken == []
        return len(cluster.lapsed_hosts)

    assert join_beside_a_death(beside=True) == 0
    assert join_beside_a_death(beside=False) > 15


def test_restarts_are_spread_out_and_bounded() -> None:
    figures = scenarios.all_workers_crash(make)
    workers = figures["workers"]
    assert figures["starts in all"] < 25 * workers                          # in 300 s, each dying within 0.3 s
    assert figures["starts in the busiest second after the first cool-down"] < workers / 2


def test_the_costs_can_be_measured() -> None:
    group = costs.assignment(20, 80, library=True)
    assert 100 < group["JoinGroup request of a host, bytes"] < 300
    assert group["JoinGroup answer to the leader, KB"] > 1
    assert costs.metadata_bytes(100) > 100 * 30
    beats = costs.heartbeats(40)
    assert beats["the first look reads"] == 7200
    assert costs.supervisor(20)["workers"] == 20
    assert 2.0 < costs.commit_lag_s() < 6.0                                 # settled, looked at, and committed
