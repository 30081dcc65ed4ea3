"""The plan of a chaos run: which fault when, where and for how long. Pure: the same seed gives the same plan.

Faults come in two lanes that go on side by side: `process` (one process of a host) and `server` (a whole host, a
broker, Redis, the network). A lane does one thing at a time, so no two brokers are ever down together. Kinds are drawn
from a bag that is refilled when it is empty: a short run sees as many different faults as it can.
"""
from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HOSTS = ("host1", "host2")
BROKERS = ("1", "2", "3")
WORKERS = tuple(f"{host}/w{n}" for host in HOSTS for n in (0, 1))
LINKS = ("host1-redis", "host2-redis", "load-redis", "host1-kafka", "host2-kafka", "load-kafka", "all-redis",
         "all-kafka")


@dataclass(frozen=True)
class Kind:
    """One kind of fault: what it may hit, how long it lasts (s), and how many of it are in a bag."""

    lane: str
    targets: tuple[str, ...]
    shortest_s: float = 0.0
    longest_s: float = 0.0
    share: int = 1


KINDS: dict[str, Kind] = {
    "worker_kill": Kind("process", WORKERS, share=4),
    "worker_pause": Kind("process", WORKERS, 0.2, 4.0, share=2),        # thawed before anybody minds
    "worker_freeze": Kind("process", WORKERS, 30.0, 30.0),              # until it is replaced, at most so long
    "worker_restart": Kind("process", WORKERS),                         # drained
    "membership_kill": Kind("process", HOSTS, share=2),
    "membership_pause": Kind("process", HOSTS, 1.0, 14.0),
    "isolator_kill": Kind("process", HOSTS),
    "janitor_kill": Kind("process", HOSTS),
    "scheduler_kill": Kind("process", HOSTS),
    "supervisor_kill": Kind("server", HOSTS, 0.5, 16.0, share=3),       # started again after that
    "supervisor_drain": Kind("server", HOSTS, 0.0, 2.0),
    "supervisor_pause": Kind("server", HOSTS, 1.0, 8.0),
    "host_freeze": Kind("server", HOSTS, 2.0, 16.0),                    # with all its processes, and thawed
    "kafka_kill": Kind("server", BROKERS, 0.5, 8.0, share=2),
    "kafka_stop": Kind("server", BROKERS, 0.5, 8.0),
    "kafka_freeze": Kind("server", BROKERS, 1.0, 8.0),
    "redis_kill": Kind("server", ("redis",), 0.2, 4.0, share=2),
    "redis_stop": Kind("server", ("redis",), 0.2, 4.0),
    "redis_freeze": Kind("server", ("redis",), 0.5, 7.0),
    "net_drop": Kind("server", LINKS, 1.0, 12.0, share=2),
    "net_delay": Kind("server", LINKS, 2.0, 8.0),
    "net_half_open": Kind("server", LINKS, 1.0, 8.0),
    "net_reset": Kind("server", LINKS, 0.2, 4.0),
    "burst": Kind("server", ("load",), 1.0, 3.0),                       # more than the client's buffers take
}
FREEZES = frozenset({"host_freeze"})        # in which nobody can kill the bodies that hang on
GAPS_S = {"process": (4.0, 9.0), "server": (5.0, 10.0)}


@dataclass(frozen=True)
class Step:
    """One fault; not begun before `at_s` (since the begin of the run), nor while the one before it lasts."""

    at_s: float
    lane: str
    kind: str
    target: str
    for_s: float

    def __str__(self) -> str:
        lasts = f" for {self.for_s:.1f} s" if self.for_s else ""
        return f"{self.at_s:7.1f} s  {self.lane:8}{self.kind:18}{self.target}{lasts}"


def plan(seed: int, length_s: float, kinds: Sequence[str] = tuple(KINDS), first_s: float = 5.0) -> list[Step]:
    """The steps of a run of `length_s`, in the order of their times."""
    steps: list[Step] = []
    for lane, (least_s, most_s) in GAPS_S.items():
        # a generator for each lane: one more kind in a lane does not change the other
        rng = random.Random(f"{seed}/{lane}")
        bag = _bag(rng, [kind for kind in kinds if KINDS[kind].lane == lane])
        at_s = first_s + rng.uniform(0, least_s)
        while at_s < length_s:
            name = next(bag, None)
            if name is None:
                break
            kind = KINDS[name]
            for_s = round(rng.uniform(kind.shortest_s, kind.longest_s), 1)
            steps.append(Step(round(at_s, 1), lane, name, rng.choice(kind.targets), for_s))
            at_s += rng.uniform(least_s, most_s) + (for_s if name != "worker_freeze" else 0.0)
    return sorted(steps, key=lambda step: (step.at_s, step.lane))


def _bag(rng: random.Random, kinds: Sequence[str]) -> Iterator[str]:
    full = [kind for kind in kinds for _ in range(KINDS[kind].share)]
    while full:
        rng.shuffle(full)
        yield from full
