"""One simulated host: its membership, its supervisor's decisions and its workers, by the project's own functions.

Real: what a member holds (`Holding`), the order of a hand-over (`Assignment`), how the leader shares out (`share`,
`grant`), the lease (`lease_end_ns`), which worker has which partition (`place`), when one that died starts again
(`RestartPolicy`), when a silent one is killed (`deadlines.judge`). Played: processes, the network, Kafka.
"""
from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from yadtq.config import Settings
from yadtqd.assignment import Assignment
from yadtqd.deadlines import Limits, Progress, Verdict, judge
from yadtqd.holding import Holding
from yadtqd.placement import place
from yadtqd.restart_policy import Fate, History, RestartPolicy
from yadtqd.shared import CELLS, Partition, lease_drain_s, lease_end_ns
from yadtqd.sharing import grant, share
from yadtqd.slot import SlotView
from yadtqd.watch import DUMP_NS
from yadtqd.worker_state import WorkerState

if TYPE_CHECKING:
    from benchmarks.scale.cluster import Cluster

POLL_S = 0.1                # membership looks at its group so often
RETRY_S = 0.3
TICK_S = 0.25               # the supervisor's
_NO_TASK: dict[str, Any] = {"pid": 1, "state": WorkerState.RUNNING, "epoch": 1, "soft_for": 0, "waiting_for": 0,
                            "done": 0, "failed": 0, "retried": 0, "crashed": 0, "lag": 0, "task": None}


class Table:
    """The partition table of one host, as far as it is looked at: real rows without shared memory."""

    def __init__(self) -> None:
        self._rows: dict[int, Partition] = {}

    def __getitem__(self, number: int) -> Partition:
        if number not in self._rows:
            self._rows[number] = Partition(number, [0] * CELLS)
        return self._rows[number]

    def owned(self) -> tuple[int, ...]:
        return tuple(sorted(number for number, row in self._rows.items() if row.owned))


@dataclass
class Memory:
    """What Assignment uses of the shared memory."""

    partitions: Table = field(default_factory=Table)
    joined: int = 0

    def ownership_changed(self) -> None:
        """The host follows by itself."""


@dataclass
class Worker:
    """A worker's process, and its past."""

    number: int
    partitions: tuple[int, ...] = ()
    runs: bool = False
    stopping: bool = False
    process: int = 0            # which of its processes this is
    task_left_s: float = 0.0    # how long what it runs will take: its drain
    history: History = field(default_factory=History)
    not_before_s: float = 0.0


class Host:
    """`boot` it; everything else happens by itself, or is done to it."""

    def __init__(self, cluster: Cluster, name: str, settings: Settings, seed: int) -> None:
        self.cluster, self.name, self.settings = cluster, name, settings
        self.clock, self.group = cluster.clock, cluster.group
        self.chance = random.Random(seed)
        self.alive, self.thaws_at_s, self.stopping = False, 0.0, False
        self.incarnation = 0
        self.heartbeat_s = max(settings.kafka_session_timeout_ms // 7, 100) / 1000
        self.policy = RestartPolicy(settings.max_worker_retries, settings.retry_window_s, settings.cool_down_s)
        self.lapses = 0                     # how often the lease ended while the host lived
        self.beats_from_s = 0.0

    # ---- life -------------------------------------------------------------------------------------------------------
    def boot(self) -> None:
        if self.alive:
            return
        self.alive, self.stopping, self.thaws_at_s = True, False, 0.0
        self.incarnation += 1
        self.holding, self.memory = Holding(), Memory()
        self.assignment = Assignment(self.memory)  # type: ignore[arg-type]
        self.lease_ns, self.sent_ns, self.generation, self.state = 0, 0, -1, "new"
        self.rejoin = False
        self.workers: dict[int, Worker] = {}
        self.beats_from_s = self.clock.now_s
        self._join()
        self._later(self.chance.random() * self.heartbeat_s, self._beat)

    def die(self) -> None:
        self.alive = False
        for worker in self.workers.values():
            self.cluster.left(self, worker)

    def freeze(self, for_s: float) -> None:
        self.thaws_at_s = self.clock.now_s + for_s

    @property
    def frozen(self) -> bool:
        return self.clock.now_s < self.thaws_at_s

    @property
    def lease_left_s(self) -> float:
        return (self.lease_ns - self.clock.now_ns) / 1e9

    @property
    def works(self) -> bool:
        """Does it run, and is its place certain?"""
        return self.alive and not self.frozen and self.lease_left_s > 0

    def _later(self, delay_s: float, call: Any, *arguments: Any) -> None:
        """Only in this life of the host, and not while it is frozen."""
        self.clock.after(delay_s, self._if_here, self.incarnation, call, arguments)

    def _if_here(self, incarnation: int, call: Any, arguments: tuple[Any, ...]) -> None:
        if not self.alive or incarnation != self.incarnation:
            return
        if self.frozen:
            self.clock.at(self.thaws_at_s + 1e-6, self._if_here, incarnation, call, arguments)
        else:
            call(*arguments)

    def _ask(self, request: Any, *arguments: Any, answer: Any, limit_s: float = 5.0) -> None:
        """A request to the coordinator and its answer, each by the network; `answer` hears None after the limit."""
        done: list[bool] = []

        def once(*said: Any) -> None:
            if not done:
                done.append(True)
                answer(*said)

        def reply(*said: Any) -> None:
            self._later(self.cluster.latency_s(), once, *said)

        self.clock.after(self.cluster.latency_s(), request, self.name, *arguments, reply)
        self._later(limit_s, once, None)

    # ---- the group --------------------------------------------------------------------------------------------------
    def _beat(self) -> None:
        if self.state == "stable":
            sent_ns = self.clock.now_ns
            generation = self.generation
            self._ask(self.group.heartbeat, self.incarnation, generation, limit_s=self.heartbeat_s,
                      answer=lambda said: self._beaten(said, sent_ns, generation))
        elif (self.cluster.beside and self.generation >= 0 and self.holding.given
              and self.clock.now_s - self.joining_since_s < self.group.rebalance_s / 2):
            sent_ns = self.clock.now_ns
            self._ask(self.group.heartbeat, self.incarnation, self.generation, limit_s=self.heartbeat_s,
                      answer=lambda said: self._confirmed(said, sent_ns))
        self._later(self.heartbeat_s * (1 + 0.02 * self.chance.random()), self._beat)

    def _beaten(self, said: str | None, sent_ns: int, generation: int) -> None:
        if self.state != "stable" or generation != self.generation or said is None:
            return
        if said in ("ok", "rebalance"):
            self._renew(sent_ns)
        if said == "rebalance":
            self.rejoin = True
            self._later(self.chance.random() * POLL_S, self._poll)
        elif said in ("unknown", "generation"):
            self._lose()
            self._join()

    def _confirmed(self, said: str | None, sent_ns: int) -> None:
        """GroupMember.certain_while_joining_ns."""
        if said in ("ok", "rebalance") and self.generation >= 0:
            self._renew(sent_ns)

    def _poll(self) -> None:
        """GroupMember.poll, when there may be something to do."""
        if self.cluster.blocking and self.assignment.leaving:   # as it was when a hand-over kept the group waiting
            self._later(0.01, self._poll)
        elif self.state == "stable" and (self.rejoin or self.holding.to_tell):
            self._join()

    def _join(self) -> None:
        if self.state != "joining":
            self.joining_since_s = self.clock.now_s
        self.state, self.rejoin, self.sent_ns = "joining", False, self.clock.now_ns
        self._ask(self.group.join, self.incarnation, self.holding.tell(), self.generation >= 0, answer=self._joined,
                  limit_s=self.group.rebalance_s + 5)

    def _joined(self, said: str | None, generation: int = 0, what: Any = None) -> None:
        if said is None:
            self._later(RETRY_S, self._join)
        elif said == "unknown":
            self._lose()
            self._join()
        elif said == "back":
            self.generation = generation
            self._take_place(what)
        else:
            self.generation = generation
            if what is None:
                self._sync(None)
            else:
                hands = share(self.cluster.partitions, what)
                self._later(self.cluster.assign_s, self._sync, grant(hands, what))

    def _sync(self, assignment: dict[str, list[int]] | None) -> None:
        self.sent_ns = self.clock.now_ns
        self._ask(self.group.sync, self.generation, assignment, answer=self._synced,
                  limit_s=self.settings.kafka_request_timeout_ms / 1000)

    def _synced(self, said: str | None, hand: list[int] | None = None) -> None:
        if said == "ok" and hand is not None:
            self._take_place(hand)
        else:
            if said == "unknown":
                self._lose()
            self._join()

    def _take_place(self, hand: list[int]) -> None:
        self.state = "stable"
        before, now = set(self.holding.given), set(hand)
        self._renew(self.sent_ns)
        if before - now:
            self.holding.note("revoked", before - now)
        if now - before:
            self.holding.note("assigned", now - before)
        self.holding.take_revoked()
        self._note_events()
        self._later(self.chance.random() * POLL_S, self._poll)

    def _lose(self) -> None:
        self.holding.note("lost", self.holding.given)
        self.lease_ns, self.generation = min(self.lease_ns, self.clock.now_ns), -1
        self._note_events()
        self._lease_over()

    def _note_events(self) -> None:
        while self.holding.events:
            what, partitions = self.holding.events.popleft()
            if what == "assigned":
                self.assignment.give(partitions)
            else:
                self.assignment.take(partitions, lost=what == "lost")
        self._follow()
        self._hand_over()
        self._look_up()

    def _look_up(self) -> None:
        coming = self.assignment.to_look_up()
        if coming:
            self._later((1 + len(coming)) * 2 * self.cluster.latency_s(), self._begin, coming)

    def _begin(self, coming: list[int]) -> None:
        still = set(self.assignment.to_look_up())
        self.assignment.begin({p: 1 for p in coming if p in still}, continues=False)
        self.assignment.joined()
        self._follow()

    # ---- the lease --------------------------------------------------------------------------------------------------
    def _renew(self, since_ns: int) -> None:
        lapsed = self.lease_left_s <= 0
        self.lease_ns = max(self.lease_ns, lease_end_ns(since_ns, self.settings))
        self._later(max(self.lease_left_s, 0) + 1e-6, self._look_at_lease)
        if lapsed:
            self._follow()

    def _look_at_lease(self) -> None:
        if self.lease_left_s <= 0 and any(w.partitions for w in self.workers.values()):
            self._lease_over()

    def _lease_over(self) -> None:
        self.lapses += bool(self.workers)
        self.cluster.lapsed(self)
        self._follow()

    # ---- the supervisor ---------------------------------------------------------------------------------------------
    def _follow(self) -> None:
        """yadtqd.ownership.follow, with played processes."""
        owned = self.memory.partitions.owned() if self.lease_left_s > 0 and not self.stopping else ()
        limit_s = (self.settings.drain_timeout_s if self.lease_left_s > 0 else
                   lease_drain_s(self.lease_left_s, self.settings))
        if self.cluster.blocking and self.lease_left_s > 0:
            limit_s = min(limit_s, self.settings.kafka_session_timeout_ms / 1000)
        wanted = place(owned, {n: w.partitions for n, w in self.workers.items() if not w.stopping},
                       self.settings.max_workers)
        for number, worker in list(self.workers.items()):
            if worker.stopping or worker.partitions != wanted.get(number):
                worker.stopping = True              # (a later limit does not count, an earlier one does)
                self._later(min(worker.task_left_s, limit_s), self._reaped, worker, worker.process)
        for number, hand in wanted.items():
            if number not in self.workers:
                self._start(number, hand)

    def _start(self, number: int, hand: tuple[int, ...]) -> None:
        rows = self.memory.partitions
        if any(rows[p].worker for p in hand):
            return                          # when its old worker is reaped
        worker = self.workers[number] = Worker(number, hand, process=self.cluster.next_process())
        worker.task_left_s = self.cluster.task_left_s(self.chance)
        for p in hand:
            rows[p].worker = 1
        self.cluster.started(self, worker)
        self._later(self.cluster.start_s * (1 + self.chance.random()), self._consumes, worker, worker.process)

    def _consumes(self, worker: Worker, process: int) -> None:
        if worker.process == process and not worker.stopping and self.workers.get(worker.number) is worker:
            worker.runs = True
            self.cluster.consumes(self, worker)

    def _reaped(self, worker: Worker, process: int) -> None:
        if self.workers.get(worker.number) is not worker or worker.process != process:
            return
        del self.workers[worker.number]
        self._gone(worker)
        self._hand_over()
        self._look_up()
        self._follow()

    def _hand_over(self) -> None:
        for p in list(self.assignment.reaped()):
            self.assignment.left(p)
            self.holding.release([p])
        if self.holding.to_tell:
            self._later(self.chance.random() * POLL_S, self._poll)

    def _gone(self, worker: Worker) -> None:
        worker.runs = False
        self.cluster.left(self, worker)
        for p in worker.partitions:
            self.memory.partitions[p].worker = 0

    # ---- what is done to it -----------------------------------------------------------------------------------------
    def crash(self, number: int) -> None:
        """A worker dies by itself; the restart policy says when it starts again."""
        worker = self.workers.get(number)
        if worker is None or worker.stopping or worker.not_before_s > self.clock.now_s:
            return
        decision = self.policy.after(worker.history, Fate.FAILED, self.clock.now_s, self.chance.random())
        worker.history = decision.history
        worker.not_before_s = self.clock.now_s + decision.delay_s
        worker.runs = False
        self.cluster.left(self, worker)
        worker.process = self.cluster.next_process()
        self._later(decision.delay_s, self._restart, worker, worker.process)

    def _restart(self, worker: Worker, process: int) -> None:
        if worker.process == process and not worker.stopping and self.workers.get(worker.number) is worker:
            self.cluster.started(self, worker)
            self._later(self.cluster.start_s * (1 + self.chance.random()), self._consumes, worker, process)

    def hang(self, number: int) -> None:
        """A worker beats no more; the supervisor's look at it, tick by tick."""
        if number in self.workers:
            self._look(self.workers[number], self.workers[number].process, self.clock.now_ns, self.clock.now_s)

    def _look(self, worker: Worker, process: int, beat_ns: int, since_s: float) -> None:
        if worker.process != process or worker.stopping:
            return
        settings = self.settings
        limits = Limits.of(settings.heartbeat_interval * settings.missed_heartbeats_threshold,
                           settings.progress_timeout_s)
        view = SlotView(beat_ns=beat_ns, **_NO_TASK)
        now_ns = self.clock.now_ns
        if judge(view, WorkerState.RUNNING, Progress(0, now_ns), limits, now_ns) is Verdict.HUNG:
            self.cluster.hung_for_s.append(self.clock.now_s - since_s)
            self._later(DUMP_NS / 1e9, self.crash, worker.number)
        else:
            self._later(TICK_S, self._look, worker, process, beat_ns, since_s)

    def upgrade(self, down_s: float) -> None:
        """Drain, stop for `down_s`, start again, as a service that is restarted."""
        self.stopping = True
        self._follow()
        self._stop_when_drained(down_s)

    def _stop_when_drained(self, down_s: float) -> None:
        if self.workers:
            self._later(0.05, self._stop_when_drained, down_s)
        else:
            self.die()
            self.clock.after(down_s, self.boot)

    @property
    def settled(self) -> bool:
        """Is there nothing on its way in or out?"""
        return not self.alive or self.frozen or not (self.holding.to_tell or self.assignment.leaving
                                                     or self.assignment.to_look_up() or self.state != "stable")

    def running(self) -> Iterator[Worker]:
        return (worker for worker in self.workers.values() if worker.runs)
