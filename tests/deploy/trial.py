"""A trial of the deployed cluster: a mixed load from outside, faults meanwhile, then the verdict over the history.

    with Trial(cluster, folder) as trial:
        with trial.fault("host_power_cut", "host3"):
            ...
        trial.finish()                                  # AssertionError if a promise of docs/guarantees.md is broken

The load is that of the chaos run (tests/fault/chaos/load.py), in a process of its own on this machine; the handlers'
part of the history lies on the hosts, in HISTORY, and is collected from their disks at the end.
"""
from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.deploy.cluster import Cluster, wait_until
from tests.fault.chaos import figures
from tests.fault.chaos.load_process import LoadProcess, read_letters, told
from tests.fault.chaos.run import free_seed
from tests.support.guarantees import Rules, unexcused, violations
from tests.support.history import Fault, History, Journal, now

HISTORY = "var/lib/yadtq/history.events"
# After the loss of Redis's primary an answer that it gave may be forgotten: docs/guarantees.md says when, how long.
RULES = Rules(redis_losses=frozenset({"redis_primary_kill", "redis_primary_cut_off"}), freezes=frozenset())
WARM = 300                      # tasks that are accepted before anything breaks
ALL_DONE_S = 240.0
SHOWN = 8


class Trial:
    """`rate` in tasks a second. `report` is there after `finish`."""

    def __init__(self, cluster: Cluster, folder: Path, rate: float = 60.0, rules: Rules = RULES) -> None:
        self.cluster, self.folder, self.rate, self.rules = cluster, folder, rate, rules
        self.history = folder / "history"
        self.report: dict[str, Any] = {}
        self.seed = free_seed()
        self._journal = Journal(self.history / "faults.events")
        self._offsets: dict[str, int] = {}

    def __enter__(self) -> Trial:
        self.history.mkdir(parents=True)
        for host in self.cluster.hosts:
            path = host.root / HISTORY
            self._offsets[host.name] = path.stat().st_size if path.exists() else 0
        print(f"load: seed {self.seed}, {self.rate:g} tasks a second, in {self.folder}")
        self.load = LoadProcess(self.cluster.options(), self.folder, self.history, self.seed, self.rate, 6.0, 4000)
        self._begun = time.monotonic()
        try:
            wait_until(lambda: self.accepted >= WARM, 60, f"{WARM} tasks to be accepted")
        except AssertionError:
            self.load.end()
            print((self.folder / "load.log").read_text()[-3000:])
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.load.end()

    @property
    def accepted(self) -> int:
        """How many tasks have been accepted so far."""
        return self.load.figures.get("accepted", 0)

    @contextlib.contextmanager
    def fault(self, kind: str, target: str) -> Iterator[None]:
        """Something is broken in here, and mended."""
        begun = now()
        try:
            yield
        finally:
            self._journal.write(Fault(kind=kind, target=target, begun=begun, at=now()))

    def goes_on(self, limit_s: float = 60.0, count: int = 200) -> float:
        """Seconds until `count` more tasks have been accepted."""
        before = self.accepted
        return wait_until(lambda: self.accepted >= before + count, limit_s, f"{count} more tasks to be accepted")

    def finish(self) -> dict[str, Any]:
        """Submit nothing more, wait for all ends, collect the history, and check every promise; the figures."""
        took_s = time.monotonic() - self._begun
        assert self.load.finish(ALL_DONE_S), "the load did not come to its end"
        read_letters(self.cluster.settings(), Journal(self.history / "letters.events"))
        for host in self.cluster.hosts:
            path = host.root / HISTORY
            if path.exists():
                written = path.read_bytes()[self._offsets[host.name]:]
                (self.history / f"{host.name}.events").write_bytes(written)
        history = History.read(self.history)
        found = violations(history, self.rules)
        self.report = figures.tasks(history, found) | {"seed": self.seed, "minutes": took_s / 60,
                                                       "rate": self.accepted / took_s}
        broken = unexcused(found)
        for line in told(history, broken[:SHOWN]):
            print(line)
        assert not broken, "\n".join(map(str, broken[:SHOWN]))
        assert self.report["accepted"] >= WARM
        assert any(task.starts for task in history.tasks.values())
        return self.report

    def longest_gap_s(self, since: float) -> float:
        """The longest time after `since` (of tests.support.history.now) in which no handler anywhere began."""
        starts = sorted(start.at for task in History.read(self.history).tasks.values() for start in task.starts
                        if start.at >= since)
        return max((later - earlier for earlier, later in zip([since, *starts], starts, strict=False)), default=0.0)
