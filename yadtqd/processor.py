"""The main thread of a worker: takes claimed tasks and has each of them run, here or where its type wants to be run.

Owns the order *lease check, slot, handler, end*. Handlers run in this thread, where a soft time-out can interrupt them;
with `worker_threads` above 1 in a pool (yadtqd.task_pool), `async def` ones on an event loop (yadtqd.async_runner),
isolated ones and suspects in a process of their own (yadtqd.isolated_pool). Ends go to the result writer, which this
thread flushes itself as soon as nothing else waits. Never talks to Kafka, never claims.
"""
from __future__ import annotations

import logging
import math
import queue
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from yadtq.errors import TaskExpired, TaskHardTimeout, TaskNotRegistered
from yadtq.log import context
from yadtq.running import enter
from yadtqd.body import CANCELLED, Deadlines, Outcome, deadlines, refused, run_body, timed_out
from yadtqd.cancelling import LAY_NS
from yadtqd.offset_tracker import NOT_SETTLED
from yadtqd.shared import Shared, boottime_ns
from yadtqd.slot import ID_BYTES
from yadtqd.soft_timeout import OWN_TIMER_BELOW_S
from yadtqd.task_pool import LOOK_S

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtq.task import TaskMessage
    from yadtq.tasks import TaskType
    from yadtqd.cancelling import Canceller
    from yadtqd.flights import Flights
    from yadtqd.follow_ups import FollowUps
    from yadtqd.held import Held
    from yadtqd.ledger import Ledger
    from yadtqd.registry import Registry
    from yadtqd.result_writer import ResultWriter
    from yadtqd.slot import Slot
    from yadtqd.soft_timeout import Guard

log = logging.getLogger(__name__)

AHEAD_S = 0.5                   # how much work may lie claimed and not started
LEASE_POLL_S = 0.02
CUT_OFF_S = 1.5                 # what runs apart is broken off so long before we are killed, ...
CUT_OFF_SHARE = 0.2             # ... or this share of the drain's limit
DRAIN_QUEUE_S = 2.0             # so long a drain goes on with what is claimed, which nobody else can begin meanwhile


class Processor:
    """`run` is the worker's life; it returns when it drains or must be recycled (`guard.fired`)."""

    def __init__(self, settings: Settings, registry: Registry, slot: Slot, shared: Shared, guard: Guard, ledger: Ledger,
                 ready: queue.SimpleQueue[list[Held]], flights: Flights,
                 follow_ups: FollowUps, hard_timed_out: frozenset[tuple[int, int, str, int]],
                 busy: Callable[[], object]) -> None:
        self._settings, self._registry, self._slot, self._shared = settings, registry, slot, shared
        self._guard, self._ledger, self._ready, self._flights = guard, ledger, ready, flights
        self._follow_ups, self._hard_timed_out = follow_ups, hard_timed_out
        self._busy = busy                   # tells the bookkeeper that there is work
        self._lease_at = Shared.lease_ns.index
        self._limit = settings.max_payload_bytes
        self._behind: dict[str, list[Held]] = {}    # by key: what is being claimed again
        self._usual_limits: dict[str, Deadlines] = {}     # by task type: the deadlines of tasks without their own
        self._average_s = 0.001             # of a task, in this thread
        self._drain_until = 0.0             # monotonic, until when claimed tasks are begun; 0: not draining
        self.drain_deadline = 0.0           # until when what runs may go on
        self.retiring = False               # draining without a limit, to be recycled
        self._seq = 0
        self.current: tuple[Held, int, int] | None = None   # what runs here, since when (monotonic ns, Unix ms)
        self._interruptible: tuple[Held, int] | None = None     # the same while its handler runs in this thread; number
        # joined by the worker before `run`
        self.writer: ResultWriter
        self.claim_again: Callable[[list[Held]], None]
        self.canceller: Canceller
        # begins a task beside this thread: None if it is to run here, False if it may not begin any more
        self.elsewhere: Callable[[Held, TaskType, Deadlines], bool | None] = lambda *_: None

    # ---- called by other threads, and by signal handlers ------------------------------------------------------------
    def drain(self) -> None:
        """Begin nothing that is not claimed yet, and end soon. Safe in a signal handler: takes no lock."""
        if not self._drain_until or self.retiring:
            self.retiring = False
            now, kill_ns = time.monotonic(), self._slot.drain_by_ns
            limit_s = max(kill_ns / 1e9 - now, 0.0) if kill_ns > 0 else self._settings.drain_timeout_s
            self.drain_deadline = now + limit_s - min(CUT_OFF_S, limit_s * CUT_OFF_SHARE)
            self._drain_until = now + min(DRAIN_QUEUE_S, limit_s / 2)
        self._ready.put([])                 # wakes `run`

    def retire(self) -> None:
        """End what is claimed, however long that takes, then `run` returns; fetching has been stopped."""
        if not self._drain_until:
            self.retiring, self._drain_until, self.drain_deadline = True, math.inf, math.inf
        self._ready.put([])

    def cancel(self, held: Held, hard_ns: int) -> None:
        """End it if its handler runs in the main thread; it is killed at `hard_ns` (monotonic)."""
        running = self._interruptible
        if running is not None and running[0] is held:
            self._guard.cancel(running[1], hard_ns)

    @property
    def draining(self) -> bool:
        """Has the end begun?"""
        return self._drain_until > 0

    def cut_off(self) -> bool:
        """Is it time to break off what still runs?"""
        return self._drain_until > 0 and time.monotonic() >= self.drain_deadline

    def window(self) -> int:
        """How many tasks may be fetched and not ended: about AHEAD_S of work."""
        least = 4 * self._settings.worker_threads + 2 * len(self._flights)
        return min(self._settings.prefetch, max(least, int(AHEAD_S / self._average_s)) + len(self._flights))

    def lease_holds(self) -> bool:
        """Is this host's place in the group certain?"""
        return boottime_ns() < self._shared.cells[self._lease_at]

    def may_begin(self, held: Held) -> bool:
        """May a body begin now? Its claim counts, our place in the group is certain, no drain forbids it, and nobody
        has cancelled it while it waited for its place."""
        now_ns = time.monotonic_ns()
        if now_ns - held.looked_ns > LAY_NS:
            self.canceller.unwanted([held], now_ns)
        return (held.claim_round == self._ledger.round and self.lease_holds() and not self._too_late()
                and not held.cancelled and not _expired(held))

    def _too_late(self) -> bool:
        return self._drain_until > 0 and time.monotonic() >= self._drain_until

    # ---- the main thread --------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Run what is claimed until drained or recycled."""
        ready, writer = self._ready, self.writer
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        while not (self._guard.fired or (self._drain_until and ready.empty())):
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)    # a handler may have left signals blocked: SIGTERM too
            batch = ready.get()
            self._busy()
            now_ns = time.monotonic_ns()
            for place, held in enumerate(batch):
                if self._guard.fired or self._too_late():
                    return
                if now_ns - held.looked_ns > LAY_NS:
                    self.canceller.unwanted(batch[place:], now_ns)
                self._one(held)
                now_ns = time.monotonic_ns()
                if writer.due(now_ns):
                    writer.flush()
            if writer and ready.empty():
                writer.flush()

    def _one(self, held: Held) -> None:
        if self.writer.heavy() and not self._wait_for_redis():
            return
        if boottime_ns() >= self._shared.cells[self._lease_at] and not self._wait_for_lease():
            return
        if held.claim_round != self._ledger.round or (self._behind and self._comes_too_early(held)):
            self._again(held)       # Redis was restarted since it was claimed, or since one of its key before it was
            return
        message = held.message
        context(task_id=message.id, partition=held.partition)
        ended = self._ended_before(held)
        if ended is not None:
            self._end_at_once(held, ended)
            return
        try:
            task_type = self._registry.get(message.task)
        except TaskNotRegistered as error:
            log.warning("%s", error)
            self._end_at_once(held, refused(error))
            return
        limits = self._limits_of(message, task_type)
        apart = held.suspect or task_type.isolated
        if apart or self._flights.suspects:
            self.writer.flush()                     # a lone run takes its time: nobody waits for it
        begun = (apart or self._suspects_ended(held)) and self.elsewhere(held, task_type, limits)
        if begun is None:
            self._here(held, task_type, limits)
        elif not begun and not self._too_late():
            self._one(held)                         # what forbade it is looked at anew

    def _limits_of(self, message: TaskMessage, task_type: TaskType) -> Deadlines:
        """Its deadlines; those of tasks that bring none of their own are worked out once a task type."""
        if message.timeout_s is not None or message.grace_s is not None:
            return deadlines(message, task_type, self._settings)
        limits = self._usual_limits.get(task_type.name)
        if limits is None:
            limits = self._usual_limits[task_type.name] = deadlines(message, task_type, self._settings)
        return limits

    def _again(self, held: Held) -> None:
        """Have it claimed again, which puts it behind what is claimed already: the next of its key has to follow it."""
        key = held.message.key
        if key is not None and held not in (behind := self._behind.setdefault(key, [])):
            behind.append(held)
        self.claim_again([held])

    def _comes_too_early(self, held: Held) -> bool:
        """Does one of its key that was accepted before it still come back from being claimed again?"""
        key = held.message.key
        if key is None or key not in self._behind:
            return False
        behind = [one for one in self._behind.pop(key) if one is not held and one.settled_at == NOT_SETTLED]
        if behind:
            self._behind[key] = behind
        return any(one.partition == held.partition and one.offset < held.offset for one in behind)

    def _ended_before(self, held: Held) -> Outcome | None:
        """How it ends without being run: it was cancelled or expired since it was claimed, or its last worker killed
        over it."""
        message = held.message
        if held.cancelled:
            return CANCELLED
        if _expired(held):
            return refused(TaskExpired())
        if self._hard_timed_out and (held.partition, held.offset, _as_in_slot(message.id),
                                     message.n) in self._hard_timed_out:
            return refused(TaskHardTimeout(f"{message.task} ran past its hard time-out, and its worker was killed"))
        return None

    def _suspects_ended(self, held: Held) -> bool:
        """Wait until no suspect runs: if this process died meanwhile, it would count against both. False when the task
        may not begin any more."""
        while self._flights.bars(suspect=False):
            if not self.may_begin(held):
                return False
            self._flights.wait(LOOK_S)
        return True

    def _here(self, held: Held, task_type: TaskType, limits: Deadlines) -> None:
        seq = self._seq = self._seq + 1
        guard, slot, message = self._guard, self._slot, held.message
        own_timer_s = limits.soft_s if limits.soft_s < OWN_TIMER_BELOW_S else 0.0
        started_ms = time.time_ns() // 1_000_000
        now_ns = time.monotonic_ns()
        soft_ns = now_ns + int(limits.soft_s * 1e9) if limits.soft_s else 0
        hard_ns = now_ns + int(limits.hard_s * 1e9) if limits.soft_s else 0
        self._flights.take_slot()
        slot.begin(seq, message.id, message.task, held.partition, held.offset, now_ns, soft_ns, hard_ns, message.n)
        self.current = held, now_ns, started_ms
        self._interruptible = held, seq
        enter(held)

        def call(handler: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
            return guard.call(seq, own_timer_s, handler, args, kwargs)

        outcome = run_body(task_type, message, self._limit, call)
        if guard.fired:                             # and perhaps swallowed by the handler: its word counts no more
            outcome = CANCELLED if guard.cancelled else self._timed_out(task_type, limits)
        self.current = self._interruptible = None
        slot.end()
        self._flights.give_slot_back()
        ended_ns = time.monotonic_ns()
        self._average_s += ((ended_ns - now_ns) / 1e9 - self._average_s) * 0.05
        self.end(held, outcome, started_ms, started_ms + (ended_ns - now_ns) // 1_000_000, ended_ns)

    def _timed_out(self, task_type: TaskType, limits: Deadlines) -> Outcome:
        log.warning("%s ran past its soft time-out of %g s; this worker is recycled", task_type.name, limits.soft_s)
        return timed_out(task_type.name, limits.soft_s)

    def _end_at_once(self, held: Held, outcome: Outcome) -> None:
        now_ms = time.time_ns() // 1_000_000
        self.end(held, outcome, now_ms, now_ms, time.monotonic_ns())

    def end(self, held: Held, outcome: Outcome, started_ms: int, ended_ms: int, now_ns: int) -> None:
        """Hand an end over to be recorded; from any thread that runs tasks."""
        end, held.follow = self._follow_ups.judge(held, outcome, started_ms, ended_ms)
        self.writer.add(held, end, now_ns)

    def _wait_for_lease(self) -> bool:
        """The lease is over: begin nothing until membership is certain again, or we are stopped."""
        if self._drain_until:
            return False                            # asked for each task that still lies claimed: say nothing
        log.warning("this host's place in the consumer group is not certain: no task is begun until it is")
        self.writer.flush()
        while not self._drain_until:
            if self.lease_holds():
                log.info("this host's place in the consumer group is certain again")
                return True
            time.sleep(LEASE_POLL_S)
        return False

    def _wait_for_redis(self) -> bool:
        """Too many results wait for it: begin nothing until they are recorded, or we are stopped."""
        while self.writer.heavy():
            if self._drain_until:
                return False
            time.sleep(LEASE_POLL_S)
        return True


def _expired(held: Held) -> bool:
    """The claim looks at this too; what is claimed may lie for long behind a slow task, or while the lease is over."""
    expires_ms = held.message.expires_ms
    return expires_ms is not None and time.time_ns() > expires_ms * 1_000_000


def _as_in_slot(task_id: str) -> str:
    """An id as a slot can hold it."""
    return task_id.encode()[:ID_BYTES].decode(errors="replace")
