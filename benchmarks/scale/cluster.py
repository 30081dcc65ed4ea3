"""A simulated cluster: its hosts and their group, and the invariants that are looked at all the time.

Broken invariants are collected (`broken`), so that a scenario tells all of them: no two living workers of one partition
on two hosts; no lease that is certain at two hosts for it.
"""
from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable

from benchmarks.scale.clock import Clock
from benchmarks.scale.coordinator import Coordinator, State
from benchmarks.scale.host import Host, Worker
from yadtq.config import Settings
from yadtq.health import Beat, WorkersHealth
from yadtq.health import judge as judge_health
from yadtq.heartbeat import Heartbeat
from yadtqd.group_member import LONGEST_TURN_S

BUCKET_S = 0.1                  # starts are counted in pieces of this


class Cluster:
    """`assign_s`: what the leader's computation takes. `blocking`: as it was when a hand-over kept the group waiting;
    `beside=False`: when no lease was renewed while the group was arranged anew.

    `drain_s`: the longest that a task takes which is running when its partition moves (evenly from 0).
    """

    def __init__(self, hosts: int, partitions: int, *, seed: int, settings: Settings | None = None,
                 assign_s: float = 0.02, drain_s: float = 0.1, start_s: float = 0.07, blocking: bool = False,
                 beside: bool = True) -> None:
        self.settings = settings or Settings()
        self.clock, self.chance = Clock(), random.Random(seed)
        self.partitions, self.assign_s, self.drain_s, self.start_s = partitions, assign_s, drain_s, start_s
        self.blocking, self.beside = blocking, beside
        self.group = Coordinator(self.clock, self.settings.kafka_session_timeout_ms / 1000,
                                 LONGEST_TURN_S)
        self.hosts = {name: Host(self, name, self.settings, self.chance.randrange(1 << 30))
                      for name in (f"host{n:04}" for n in range(hosts))}
        self.workers_of: dict[int, dict[tuple[str, int], Host]] = {p: {} for p in range(partitions)}
        self.consumed_at_s: dict[int, float] = {}       # when a worker of it last began to consume
        self.idle_since_s: dict[int, float] = dict.fromkeys(range(partitions), 0.0)
        self.idle_for_s: list[tuple[float, int]] = []   # each time nobody consumed a partition: for so long, which
        self.starts: Counter[int] = Counter()           # of workers, by BUCKET_S
        self.moves: Counter[int] = Counter()            # how often a partition came to another host
        self._last_host: dict[int, str] = {}
        self.lapsed_hosts: list[tuple[float, str]] = []
        self.hung_for_s: list[float] = []
        self.broken: list[str] = []
        self._processes = 0

    # ---- what hosts ask ---------------------------------------------------------------------------------------------
    def latency_s(self) -> float:
        """One way through the network."""
        return 0.0002 + self.chance.expovariate(1 / 0.0003)

    def task_left_s(self, chance: random.Random) -> float:
        return chance.random() * self.drain_s

    def next_process(self) -> int:
        self._processes += 1
        return self._processes

    # ---- what hosts tell --------------------------------------------------------------------------------------------
    def started(self, host: Host, worker: Worker) -> None:
        self.starts[int(self.clock.now_s / BUCKET_S)] += 1
        for p in worker.partitions:
            for other in self.workers_of[p].values():
                if other is not host and other.alive and not other.frozen:
                    self.broken.append(f"{self.clock.now_s:.3f}: partition {p} has a worker on {other.name} "
                                       f"when one starts on {host.name}")
                if other is not host and other.works:
                    self.broken.append(f"{self.clock.now_s:.3f}: the lease of {other.name} is certain when "
                                       f"partition {p} begins on {host.name}")
            self.workers_of[p][host.name, worker.process] = host

    def consumes(self, host: Host, worker: Worker) -> None:
        for p in worker.partitions:
            if self._last_host.get(p) != host.name:
                self.moves[p] += p in self._last_host
                self._last_host[p] = host.name
            since_s = self.idle_since_s.pop(p, None)
            if since_s is not None:
                self.idle_for_s.append((self.clock.now_s - since_s, p))
            self.consumed_at_s[p] = self.clock.now_s

    def left(self, host: Host, worker: Worker) -> None:
        for p in worker.partitions:
            if self.workers_of[p].pop((host.name, worker.process), None) and not self.workers_of[p]:
                self.idle_since_s.setdefault(p, self.clock.now_s)

    def lapsed(self, host: Host) -> None:
        self.lapsed_hosts.append((self.clock.now_s, host.name))

    # ---- what scenarios do ------------------------------------------------------------------------------------------
    def boot(self, names: Iterable[str] | None = None, over_s: float = 1.0) -> None:
        for name in names or self.hosts:
            self.clock.after(self.chance.random() * over_s, self.hosts[name].boot)

    def run(self, for_s: float) -> None:
        self.clock.run(self.clock.now_s + for_s)

    def settle(self, limit_s: float = 120.0) -> float:
        """Until every partition is consumed and the group is quiet; how long that took. What never is, is broken."""
        began, quiet = self.clock.now_s, 0
        while quiet < 3:
            if self.clock.now_s - began > limit_s:
                self.broken.append(f"not settled within {limit_s:g} s: {len(self.idle())} partitions idle")
                break
            self.run(0.5)
            still = self.group.state is State.STABLE and all(host.settled for host in self.hosts.values())
            quiet = quiet + 1 if still and not self.idle() else 0
        return self.clock.now_s - began

    def new_count(self) -> None:
        """Count from here on."""
        self.idle_for_s.clear()
        self.moves.clear()
        self.starts.clear()
        self.lapsed_hosts.clear()
        self.group.rebalances, self.group.longest_rebalance_s = 0, 0.0

    def idle(self) -> list[int]:
        """Partitions that nobody consumes now."""
        return [p for p in range(self.partitions)
                if not any(host.works and any(w.runs and p in w.partitions for w in host.workers.values())
                           for host in self.workers_of[p].values())]

    def most_starts(self) -> int:
        """Starts of workers in the busiest second."""
        begins = sorted(self.starts)
        width = round(1 / BUCKET_S)
        return max((sum(self.starts[b] for b in range(begin, begin + width)) for begin in begins), default=0)

    def health(self, heard: dict[str, Beat], window_s: float = 900.0) -> WorkersHealth:
        """What a client would see now, by `yadtq.health`; `heard` is what it has heard so far."""
        settings, now_ms = self.settings, int(self.clock.now_s * 1000)
        interval_s = settings.heartbeat_interval
        for host in self.hosts.values():
            if not host.alive or host.frozen or not self.group.up:
                continue
            at_ms = now_ms - int((self.clock.now_s - host.beats_from_s) % interval_s * 1000)
            for worker in host.running():
                name = f"{host.name}/w{worker.number}"
                known = heard.get(name)
                if known is None or known.at_ms < at_ms:
                    beat = known.heartbeat if known else Heartbeat(
                        worker_id=name, host=host.name, pid=1, sent_ms=at_ms, interval_s=interval_s, epoch=1,
                        expires_after_s=interval_s * settings.missed_heartbeats_threshold)
                    heard[name] = Beat(beat, at_ms)
        return judge_health(heard, now_ms, window_s=window_s)
