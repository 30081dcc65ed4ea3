"""One round of one system: every workload once, each result verified.

Owns the order of a round and the sizes of its runs. Runs in the measuring process. Three starts a round: workers on
additions (memory, latency, batch), a queue that fills before its workers start (single submissions, drain), and workers
for tasks that wait (io).
"""
from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers import processes
from benchmarks.peers.stand import ClientProcess, Failed, Session, Stand
from benchmarks.peers.systems.catalogue import WORKERS, System

WARM = 200
IDLE_S = 1.5                    # before memory is read
DRAIN_MOST = 100_000
MOST = 200_000


@dataclass
class Sizes:
    """How many tasks a run takes, so that it lasts about as long for every system: from the rate that it last had."""

    seconds: float
    rates: dict[tuple[str, str], float] = field(default_factory=dict)

    def count(self, system: System, workload: str, least: int, most: int, share: float = 1.0) -> int:
        rate = self.rates.get((system.name, workload), system.first_rates[workload])
        return max(least, min(most, int(rate * self.seconds * share) // 10 * 10))

    def note(self, system: System, workload: str, found: dict[str, Any]) -> None:
        """The rate of a run, for the next one."""
        self.rates[system.name, workload] = found["tasks"] / found["seconds"]


@dataclass
class Meter:
    """CPU time of everything that takes part, and of what does not."""

    stand: Stand
    session: Session
    client: ClientProcess

    def read(self) -> dict[str, float]:
        own = {"workers": processes.cpu_s(self.session.worker_pids()), "client": processes.cpu_s([self.client.pid])}
        return own | self.stand.servers_cpu_s() | {"machine": processes.machine_busy_s(), "at": time.perf_counter(),
                                                   "meter": time.process_time()}

    def measure(self, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run it; its answer with us of CPU time a task, and the share of the machine that others took."""
        before = self.read()
        found = run()
        used = {name: value - before[name] for name, value in self.read().items()}
        took_s, machine, meter = used.pop("at"), used.pop("machine"), used.pop("meter")
        foreign = (machine - meter - sum(used.values())) / took_s / (os.cpu_count() or 1)
        return found | {"cpu_us": {name: value / found["tasks"] * 1e6 for name, value in used.items()},
                        "foreign_pct": max(0.0, foreign * 100)}


def one_round(stand: Stand, system: System, sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Its samples by workload."""
    samples: dict[str, dict[str, Any]] = {}
    with stand.session(system) as session:
        _batches(stand, session, sizes, samples)
    if system.workloads & {"singles", "drain"}:
        with stand.session(system) as session:
            _queue(stand, session, sizes, samples)
    if "io" in system.workloads:
        with stand.session(system, io=True) as session:
            session.start_workers()
            with session.client() as client:
                _warm(session, client)
                count = sizes.count(system, "io", 100, MOST)
                samples["io"] = Meter(stand, session, client).measure(lambda: client.ask("io", count=count))
                _verify(session, client, count + 2 * WARM)
    for workload in samples.keys() & system.first_rates.keys():
        sizes.note(system, workload, samples[workload])
    return {name: found for name, found in samples.items() if name in system.workloads}


def _warm(session: Session, client: ClientProcess) -> None:
    """Twice: that the workers are up, and, when each has its share, that it has gone all ways."""
    client.ask("warm", count=WARM)
    time.sleep(session.system.settle_s)
    client.ask("warm", count=WARM)


def _batches(stand: Stand, session: Session, sizes: Sizes, samples: dict[str, dict[str, Any]]) -> None:
    system = session.system
    session.start_workers()
    with session.client(one_by_one=True) as client:
        _warm(session, client)
        time.sleep(IDLE_S)
        memory = processes.pss_mb(session.worker_pids())
        client.ask("latency", count=10)
        count = sizes.count(system, "latency", 50, 500)
        samples["latency"] = Meter(stand, session, client).measure(lambda: client.ask("latency", count=count))
        _verify(session, client, 2 * WARM)
    with session.client() as client:
        client.ask("warm", count=WARM)
        count = sizes.count(system, "additions", 200, MOST)
        before = {pid: processes.cpu_s([pid]) for pid in memory}
        samples["additions"] = Meter(stand, session, client).measure(lambda: client.ask("additions", count=count))
        busiest = sorted(before, key=lambda pid: before[pid] - processes.cpu_s([pid]))[:WORKERS]
        samples["memory"] = {"all_mb": sum(memory.values()), "processes": len(memory),
                             "worker_mb": sum(memory[pid] for pid in busiest) / WORKERS}
        _verify(session, client, count + WARM)


def _queue(stand: Stand, session: Session, sizes: Sizes, samples: dict[str, dict[str, Any]]) -> None:
    system = session.system
    with session.client(one_by_one=True) as client:
        meter = Meter(stand, session, client)
        single = sizes.count(system, "singles", 100, MOST, 0.5)
        samples["singles"] = meter.measure(lambda: client.ask("singles", count=single))
        total = max(single, sizes.count(system, "drain", 200, DRAIN_MOST))
        if total > single:
            client.ask("queue", count=total - single)
        session.start_workers()
        samples["drain"] = meter.measure(lambda: client.ask("drain", count=total))
        _verify(session, client, total)


def _verify(session: Session, client: ClientProcess, count: int) -> None:
    found = client.ask("verify")
    if found != {"checked": count, "wrong": 0}:
        raise Failed(f"{session.system.title}: {found['checked']} of {count} results, {found['wrong']} of them wrong")
