"""What is done to a simulated cluster, and what came of it: each scenario a function that returns its figures."""
from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.scale.cluster import Cluster
from yadtq.health import Beat, WorkersHealth
from yadtq.monitor import ChangeKind, changes

Figures = dict[str, Any]
Make = Callable[..., Cluster]


def _started(make: Make, **options: Any) -> Cluster:
    cluster = make(**options)
    cluster.boot()
    cluster.settle()
    cluster.run(5)
    cluster.new_count()
    return cluster


def _figures(cluster: Cluster, **more: Any) -> Figures:
    idle = sorted(for_s for for_s, _ in cluster.idle_for_s)
    group = cluster.group
    return more | {
        "partitions idle": len({p for _, p in cluster.idle_for_s}),
        "idle for, s (median)": round(statistics.median(idle), 2) if idle else 0.0,
        "idle for, s (longest)": round(idle[-1], 2) if idle else 0.0,
        "partitions moved": sum(cluster.moves.values()),
        "rebalances": group.rebalances,
        "longest rebalance, s": round(group.longest_rebalance_s, 2),
        "hosts whose lease lapsed": len({name for _, name in cluster.lapsed_hosts}),
        "worker starts in the busiest second": cluster.most_starts(),
        "broken": cluster.broken,
    }


def cold_start(make: Make) -> Figures:
    """Every host of the cluster is switched on within a second."""
    cluster = make()
    cluster.boot()
    took_s = cluster.settle()
    cluster.run(5)
    return {"until all is consumed, s": round(took_s - 1.0, 1)} | _figures(cluster)


def host_dies(make: Make) -> Figures:
    """One host loses its power, and comes back a minute later."""
    cluster = _started(make)
    host = next(iter(cluster.hosts.values()))
    owned = len(host.memory.partitions.owned())
    host.die()
    cluster.settle()
    figures = _figures(cluster, **{"partitions it had": owned})
    cluster.new_count()
    host.boot()
    cluster.settle()
    cluster.run(15)
    back = _figures(cluster)
    return figures | {"when it comes back: partitions moved": back["partitions moved"],
                      "when it comes back: rebalances": back["rebalances"],
                      "when it comes back: idle for, s (longest)": back["idle for, s (longest)"]}


def rack_dies(make: Make, share_of_hosts: float = 0.05) -> Figures:
    """One host in twenty dies in one moment; what a client sees of it."""
    cluster = _started(make)
    heard: dict[str, Beat] = {}
    _look(cluster, heard, 6)
    names = list(cluster.hosts)[:max(1, round(len(cluster.hosts) * share_of_hosts))]
    for name in names:
        cluster.hosts[name].die()
    died_s = cluster.clock.now_s
    told, outage = _watch(cluster, heard, 25)
    figures = _figures(cluster, hosts=len(names))
    expired = [at - died_s for at, kind in told if kind is ChangeKind.EXPIRED]
    return figures | {"workers told as expired": len(expired), "the last after, s": max(expired, default=0.0),
                      "told as an outage": outage}


def hand_over_with_long_tasks(make: Make, drain_s: float = 10.0) -> Figures:
    """Hosts are added one after the other while the tasks of the partitions that move take up to 10 s."""
    cluster = make(drain_s=drain_s)
    names = list(cluster.hosts)
    late = names[:max(min(3, len(names) // 2), len(names) // 100)]
    cluster.boot([name for name in names if name not in late])
    cluster.settle()
    cluster.run(5)
    cluster.new_count()
    for name in late:
        cluster.hosts[name].boot()
        cluster.run(2.0)
    cluster.run(2 * drain_s)
    cluster.settle()
    return _figures(cluster, **{"hosts added": len(late)})


def rolling_upgrade(make: Make, down_s: float = 3.0, at_once: int = 10) -> Figures:
    """Hosts are drained and started again, ten at a time, a hundred in all: the daemon, not the machine."""
    cluster = _started(make, drain_s=2.0)
    names = list(cluster.hosts)[:100]
    began = cluster.clock.now_s
    at_once = max(1, min(at_once, len(names) // 10))
    for at in range(0, len(names), at_once):
        for name in names[at:at + at_once]:
            cluster.hosts[name].upgrade(down_s)
        cluster.run(down_s + 4.0)
    cluster.settle()
    return _figures(cluster, **{"down for, s": down_s, "hosts at once": at_once,
                                "took, s": round(cluster.clock.now_s - began)})


def rolling_reboot(make: Make) -> Figures:
    """The same with the machine: each is away for half a minute, longer than a session."""
    return rolling_upgrade(make, down_s=30.0)


def broker_outage(make: Make, for_s: float = 20.0) -> Figures:
    """The coordinator's broker is away: all leases end, and all come back. What a client sees of it."""
    cluster = _started(make)
    heard: dict[str, Beat] = {}
    _look(cluster, heard, 6)
    cluster.group.stop()
    told, outage = _watch(cluster, heard, for_s)
    cluster.group.start()
    back_s = cluster.settle()
    return _figures(cluster, **{"away for, s": for_s, "until all is consumed again, s": back_s,
                                "workers told as expired": sum(k is ChangeKind.EXPIRED for _, k in told),
                                "told as an outage": outage})


def short_outage(make: Make) -> Figures:
    """Another broker becomes the coordinator within 3 s."""
    return broker_outage(make, for_s=3.0)


def frozen_hosts(make: Make) -> Figures:
    """One host in a hundred stands still for 20 s and goes on as if nothing had happened."""
    cluster = _started(make)
    for name in list(cluster.hosts)[:max(1, len(cluster.hosts) // 100)]:
        cluster.hosts[name].freeze(20.0)
    cluster.run(30)
    cluster.settle()
    return _figures(cluster)


def workers_hang(make: Make) -> Figures:
    """One worker in a hundred beats no more; its supervisor finds it."""
    cluster = _started(make)
    for host in list(cluster.hosts.values())[:max(1, cluster.partitions // 100)]:
        host.hang(min(host.workers))
    cluster.run(20)
    cluster.settle()
    return {"hung": len(cluster.hung_for_s), "found after, s": max(cluster.hung_for_s, default=0)} | _figures(cluster)


def all_workers_crash(make: Make, for_s: float = 300.0) -> Figures:
    """A bad release: every worker of the cluster dies, and dies again a moment after each start."""
    cluster = _started(make)
    end_s = cluster.clock.now_s + for_s
    total = len(cluster.consumed_at_s)

    def kill(host: Any, number: int) -> None:
        if cluster.clock.now_s < end_s:
            host.crash(number)

    while cluster.clock.now_s < end_s:
        for host in cluster.hosts.values():
            for worker in list(host.running()):
                cluster.clock.after(0.1, kill, host, worker.number)
        cluster.run(0.2)
    starts = cluster.starts
    after_cool_down = {bucket: n for bucket, n in starts.items()
                       if bucket * 0.1 > end_s - for_s + cluster.settings.cool_down_s}
    peak = max((sum(after_cool_down.get(b, 0) for b in range(at, at + 10)) for at in after_cool_down), default=0)
    cluster.settle(2 * cluster.settings.cool_down_s)
    return _figures(cluster, **{"workers": total, "starts in all": sum(starts.values()),
                                "starts in the busiest second after the first cool-down": peak})


ALL = (cold_start, host_dies, rack_dies, hand_over_with_long_tasks, rolling_upgrade, rolling_reboot, short_outage,
       broker_outage, frozen_hosts, workers_hang, all_workers_crash)


def _look(cluster: Cluster, heard: dict[str, Beat], for_s: float) -> WorkersHealth:
    seen = cluster.health(heard)
    for _ in range(int(for_s)):
        cluster.run(1)
        seen = cluster.health(heard)
    return seen


def _watch(cluster: Cluster, heard: dict[str, Beat], for_s: float) -> tuple[list[tuple[float, ChangeKind]], bool]:
    """A monitor that looks each second: what it tells, and whether of an outage."""
    told: list[tuple[float, ChangeKind]] = []
    before = cluster.health(heard)
    for _ in range(int(for_s)):
        cluster.run(1)
        after = cluster.health(heard)
        told += [(cluster.clock.now_s, change.kind) for change in changes(before, after)]
        before = after
    return told, any(kind is ChangeKind.OUTAGE for _, kind in told)


def run(make: Make, chosen: Iterable[Callable[[Make], Figures]] = ALL) -> dict[str, Figures]:
    return {scenario.__name__: scenario(make) for scenario in chosen}
