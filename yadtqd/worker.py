"""A worker: runs the tasks of its partitions, from its fork to its exit.

Owns the order of its start (PROTOCOL.md: *epoch, fence, committed offset*) and of its end. Threads: this one becomes
the processor, in which handlers run; consumer (fetch and claim), bookkeeper (by time, and mending), heartbeat.
Everything that needs a network is made here, after the fork. Commits nothing itself: membership commits its watermark.
"""
from __future__ import annotations

import ctypes
import gc
import logging
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from yadtq import log as logs
from yadtq.errors import (
    KafkaConnectionError,
    KafkaReplaced,
    RedisConnectionError,
    WorkerInitializationFailed,
    YADTQError,
)
from yadtq.result_backend import ResultBackend
from yadtq.transport import chosen, open_consumer, open_producer
from yadtqd import kafka_identity, registry
from yadtqd.async_runner import AsyncRunner
from yadtqd.bookkeeper import Bookkeeper, fence
from yadtqd.cancelling import Canceller
from yadtqd.consumer import Consumer
from yadtqd.exits import Exit
from yadtqd.flights import Flights
from yadtqd.follow_ups import FollowUps
from yadtqd.heartbeat_sender import HeartbeatSender
from yadtqd.isolated_call import BREAK_OFF_S, Isolation
from yadtqd.isolated_pool import IsolatedPool, places
from yadtqd.ledger import Ledger
from yadtqd.processor import Processor
from yadtqd.publisher import Publisher
from yadtqd.recycler import Recycler
from yadtqd.redis_gate import RedisGate
from yadtqd.result_writer import ResultWriter
from yadtqd.slot import WAITS_FOR_KAFKA, WAITS_FOR_REDIS
from yadtqd.soft_timeout import Guard
from yadtqd.suspicion import Suspicion
from yadtqd.task_pool import TaskPool
from yadtqd.worker_state import WorkerState

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtq.transport import Consumer as TransportConsumer
    from yadtq.transport import Producer
    from yadtqd.child import ChildContext
    from yadtqd.held import Held

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_S = 0.2               # between two attempts to reach Kafka or Redis at the start
JOIN_POLL_S = 0.01          # static assignment: until membership has read the committed offsets
DURABLE_S = 3.0             # at the end: how long to wait until Redis has on disk what was recorded
FAREWELL_S = 0.2            # for the last heartbeat
SWITCH_S = 0.001            # a claim's thread waits no longer for the interpreter while handlers keep it busy
M_ARENA_MAX = -8            # as <malloc.h> numbers it
GC_THRESHOLD = 50_000       # objects: batches of tasks are garbage by count, which reference counting frees anyway


class Worker:
    """One worker's parts, put together by `run`."""

    def __init__(self, ctx: ChildContext) -> None:
        self._ctx, self._settings = ctx, ctx.settings
        self._host = ctx.settings.host_name
        self._id = f"{self._host}/{ctx.name}"
        self._table = ctx.shared.partitions
        self._guard = Guard(ctx.slot)
        self._wake = threading.Event()              # the bookkeeper's
        self._heartbeat = HeartbeatSender(ctx, self._id, self._host)
        self._log_level = ctx.shared.log_level
        self._ended = False                         # SIGTERM before there is a processor

    def run(self) -> int:
        """The worker's life; its exit status."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        _share_one_heap(self._settings)
        logs.context(worker=self._id)
        self._ctx.slot.state = WorkerState.STARTING
        self._heartbeat.look = self._obey_log_level
        self._heartbeat.start()
        try:
            self._registry = registry.load(self._settings.tasks)
        except WorkerInitializationFailed as error:
            log.critical("%s", error)
            return Exit.INITIALIZATION_FAILED
        try:
            self._connect()
        except KafkaReplaced as error:
            log.critical("%s", error)
            return Exit.KAFKA_REPLACED
        except YADTQError as error:
            log.critical("%s", error)
            return Exit.INITIALIZATION_FAILED
        if self._ended:
            return Exit.OK
        self._assemble()
        return self._work()

    # ---- starting ---------------------------------------------------------------------------------------------------
    def _connect(self) -> None:
        """Connect to Kafka and Redis, take an epoch, fence our partitions; for as long as it takes."""

        opening = _InBackground(lambda: self._insist(WAITS_FOR_KAFKA, lambda: open_consumer(self._settings)))
        self._backend: ResultBackend = ResultBackend(self._settings)
        self._durability = self._backend.durability()
        looking = _InBackground(lambda: self._insist(WAITS_FOR_REDIS, self._look_at_redis))
        self._producer: Producer = self._insist(WAITS_FOR_KAFKA, lambda: open_producer(self._settings, linger_ms=0))
        timeout_s = self._settings.kafka_request_timeout_ms / 1000
        self._epoch: int = self._insist(WAITS_FOR_KAFKA, lambda: self._heartbeat.take_epoch(self._producer, timeout_s))
        looking.result()
        self._witnessed = all(self._table[p].epoch for p in self._ctx.partitions)
        for partition in self._ctx.partitions:
            self._table[partition].epoch = self._epoch
        self._generations = {p: self._table[p].generation for p in self._ctx.partitions}
        self._fence()
        self._positions = self._committed()
        self._transport: TransportConsumer = opening.result()

    def _look_at_redis(self) -> None:
        """Which Redis is it, and does it belong to our Kafka? Before the first write."""
        self._await_membership()
        kafka_identity.check(self._backend, self._ctx.shared)
        self._durability.durable_before(time.monotonic())

    def _insist(self, waits_for: int, connect: Callable[[], T]) -> T:
        """Try until it works or we are to end; what can't get better by itself is raised."""
        while True:
            try:
                return connect()
            except (KafkaConnectionError, RedisConnectionError) as error:
                if not error.retryable or self._ended:
                    raise
                log.warning("%s; trying again", error)
                self._ctx.slot.waiting_for |= waits_for
                time.sleep(RETRY_S)
            finally:
                self._ctx.slot.waiting_for &= ~waits_for

    def _fence(self) -> None:

        def fence_all() -> None:
            for partition in self._ctx.partitions:
                fence(self._backend, partition, self._epoch)

        self._insist(WAITS_FOR_REDIS, fence_all)

    def _committed(self) -> dict[int, int]:
        """Where each partition is read from: what membership knows to be committed."""
        self._await_membership()
        return {p: self._table[p].committed for p in self._ctx.partitions}

    def _await_membership(self) -> None:
        static = self._settings.assignment == "static"      # then we may be started before membership has looked
        while static and not self._ctx.shared.topic_partitions and not self._ended:
            time.sleep(JOIN_POLL_S)

    # ---- putting it together ----------------------------------------------------------------------------------------
    def _assemble(self) -> None:

        ctx, settings, wake = self._ctx, self._settings, self._wake.set
        ready: queue.SimpleQueue[list[Held]] = queue.SimpleQueue()
        self._ledger = Ledger(self._positions)
        gate = RedisGate(wake)
        follow_ups = FollowUps(settings, self._registry, self._id)
        self._flights = Flights(ctx.slot, self._run_beside)
        hard = frozenset((h.partition, h.offset, h.task_id, h.attempt) for h in ctx.hard_timed_out)
        self._processor = processor = Processor(settings, self._registry, ctx.slot, ctx.shared, self._guard,
                                                self._ledger, ready, self._flights, follow_ups, hard, wake)
        self._publisher = Publisher(self._producer, self._backend, self._ledger, follow_ups, processor.lease_holds,
                                    wake, self._claim_again)
        self._writer = ResultWriter(self._backend, self._ledger, gate, ctx.slot, self._epoch, self._id,
                                    self._claim_again, self._publisher.publish, self._park)
        suspicion = Suspicion(witnessed=self._witnessed, named=ctx.suspects)
        self._consumer = Consumer(settings, self._transport, self._backend, self._ledger, gate, self._table,
                                  self._epoch, suspicion, self._publisher, ready, processor.window,
                                  self._writer.settled, self._writer.put_back)
        processor.canceller = Canceller(settings, self._backend, gate, self._registry, processor, self._flights)
        self._bookkeeper = Bookkeeper(settings, self._backend, self._durability, self._ledger, gate, self._writer,
                                      self._publisher, self._consumer, processor, self._flights, processor.canceller,
                                      self._table, ctx.slot, ctx.partitions, self._epoch, self._id, self._wake)
        self._ledger.on_turn = self._consumer.take_turn
        processor.writer, processor.claim_again = self._writer, self._consumer.claim_again
        processor.elsewhere = self._elsewhere(gate)
        self._heartbeat.current = lambda: processor.current or self._flights.shown()

    def _elsewhere(self, gate: RedisGate) -> Callable[..., bool | None]:
        """What runs a task beside the main thread; None of it is made before a task needs it."""

        settings, processor = self._settings, self._processor
        parts = (self._flights, settings.max_payload_bytes, processor.end, self._wake.set, processor.may_begin)
        runner = AsyncRunner(*parts)
        pool = TaskPool(settings.worker_threads, *parts) if settings.worker_threads > 1 else None
        isolated = IsolatedPool(
            places(settings.isolated_concurrency, self._workers_of_host()),
            lambda: Isolation(settings, self._ctx.isolator_address, self._backend, gate, self._epoch,
                              processor.cut_off, processor.lease_holds),
            self._flights, processor.end, self._claim_again, self._wake.set, processor.may_begin)

        def elsewhere(held: Any, task_type: Any, limits: Any) -> bool | None:
            place: AsyncRunner | TaskPool | IsolatedPool | None = runner if task_type.kind == "async" else pool
            if held.suspect or task_type.isolated:
                place = isolated
            if place is None:
                return None
            self._bookkeeper.at_once = True
            return place.run(held, task_type, limits)

        return elsewhere

    def _workers_of_host(self) -> int:
        owned = len(self._table.owned())
        return min(self._settings.max_workers or owned, owned)

    def _claim_again(self, batch: list[Held]) -> None:
        self._consumer.claim_again(batch)

    def _park(self, batch: list[Held]) -> None:
        self._consumer.park(batch)

    def _run_beside(self, several: bool) -> None:
        """While our slot can't name all that we run, whoever comes after us must suspect everything that we claimed."""
        for partition in self._ctx.partitions:
            row = self._table[partition]
            if several:
                row.epoch = 0
            elif row.owned and row.generation == self._generations[partition]:
                row.epoch = self._epoch

    # ---- working ----------------------------------------------------------------------------------------------------
    def _work(self) -> int:
        sys.setswitchinterval(SWITCH_S)
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD, 20, 20)
        self._guard.install()
        self._consumer.start_at(self._positions)
        self._consumer.start()
        self._consumer.reopen = lambda: open_consumer(self._settings)
        self._bookkeeper.recycler = Recycler(self._settings, self._ctx.slot)
        self._bookkeeper.start()
        self._heartbeat.tell(WorkerState.RUNNING)
        log.info("consuming partitions %s from %s in epoch %d", *map(list, (self._positions, self._positions.values())),
                 self._epoch)
        if self._ended:                             # SIGTERM came while we were starting
            self._processor.drain()
        self._processor.run()
        return self._end()

    def _end(self) -> int:
        """Stop fetching, let end what runs, record it, wait a moment until it may be committed."""
        logs.context(task_id="", partition=-1)
        self._consumer.stop()
        self._heartbeat.tell(WorkerState.STOPPING)
        processor, interrupted = self._processor, self._guard.fired
        if interrupted:
            processor.drain()
        _wait(lambda: not len(self._flights), lambda: processor.drain_deadline)     # a SIGTERM may shorten it
        _wait(lambda: not self._flights.apart, lambda: processor.drain_deadline + BREAK_OFF_S)      # broken off
        _wait(self._writer.flush, lambda: processor.drain_deadline)
        retired, at_most = processor.retiring, time.monotonic() + DURABLE_S
        if not interrupted:         # the successor of a recycled one starts at once: it settles what is recorded
            _wait(lambda: not ((self._ledger.unsure() and not retired) or len(self._publisher)),
                  lambda: min(processor.drain_deadline, at_most))
        self._heartbeat.farewell()
        self._producer.flush(FAREWELL_S)
        if retired and self._bookkeeper.recycler is not None:
            log.info("recycled: %s", self._bookkeeper.recycler.reason)
            return Exit.RECYCLED
        log.info("recycled: a handler was interrupted" if interrupted else "drained")
        return Exit.SOFT_RECYCLE if interrupted else Exit.OK

    # ---- signals, settings ------------------------------------------------------------------------------------------
    def _on_sigterm(self, *_: object) -> None:
        self._ended = True
        processor = getattr(self, "_processor", None)
        if processor is not None:
            processor.drain()

    def _obey_log_level(self) -> None:
        level = self._ctx.shared.log_level
        if level != self._log_level:
            self._log_level = level
            logs.set_level(logging.getLevelName(level))


class _InBackground:
    """A call in a thread of its own, so that connections are made side by side."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="connect", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self._error = error

    def result(self) -> Any:
        """What the call returned; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result


def _wait(done: Callable[[], object], deadline: Callable[[], float]) -> bool:
    """Until `done()`, at most until `deadline()` (monotonic s)."""
    while not done():
        if time.monotonic() >= deadline():
            return False
        time.sleep(0.005)
    return True


def _share_one_heap(settings: Settings) -> None:
    """Before there are threads: with kafka-python they allocate under the interpreter's lock, so that heaps of their
    own only take memory (1.5 MB of an idle worker). librdkafka's threads use theirs. Only glibc has several."""
    libc = ctypes.CDLL(None)
    if chosen(settings) == "kafka-python" and hasattr(libc, "mallopt"):
        libc.mallopt(M_ARENA_MAX, 1)


def run(ctx: ChildContext) -> int:
    """The worker's life; the exit status."""
    return Worker(ctx).run()
