"""The bookkeeper's thread of a worker: all that has to happen by time, and mending after Redis was away.

Owns the watermark: says in the partition table how far each partition may be committed, once Redis is known to have
what was recorded on disk (PROTOCOL.md rules 2 and 6; membership commits). It flushes ends that lie while a long task
runs, shows long tasks as PROCESSING, publishes what follows a task. It alone opens the Redis gate again; after a
restart of Redis in the order *fence, write again what ended, claim again what was claimed, go on*. Never runs a
handler.
"""
from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from yadtq.errors import RedisConnectionError
from yadtqd.exits import Exit
from yadtqd.slot import RETIRE, WAITS_FOR_KAFKA, WAITS_FOR_REDIS, WAITS_FOR_UPGRADE, WAITS_TO_RETIRE
from yadtqd.worker_exit import end_now

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtq.durability import Durability
    from yadtq.result_backend import ResultBackend
    from yadtqd.cancelling import Canceller
    from yadtqd.consumer import Consumer
    from yadtqd.flights import Flights
    from yadtqd.held import Held
    from yadtqd.ledger import Ledger
    from yadtqd.processor import Processor
    from yadtqd.publisher import Publisher
    from yadtqd.recycler import Recycler
    from yadtqd.redis_gate import RedisGate
    from yadtqd.result_writer import ResultWriter
    from yadtqd.shared import PartitionTable
    from yadtqd.slot import Slot

log = logging.getLogger(__name__)

BUSY_TICK_S = 0.02
IDLE_TICK_S = 0.25
STALE_FLUSH_NS = 10_000_000         # beyond the writer's patience: the processor flushes what is younger
DURABILITY_S = 0.1                  # how often it is asked what is durable (which asks Redis less often)
RETRY_S = (0.05, 1.0)               # the first and the longest wait for Redis


class Bookkeeper(threading.Thread):
    """Runs until the process ends; `wake` makes it look at once."""

    def __init__(self, settings: Settings, backend: ResultBackend, durability: Durability, ledger: Ledger,
                 gate: RedisGate, writer: ResultWriter, publisher: Publisher, consumer: Consumer, processor: Processor,
                 flights: Flights, canceller: Canceller, table: PartitionTable, slot: Slot,
                 partitions: tuple[int, ...], epoch: int, worker_id: str, wake: threading.Event) -> None:
        super().__init__(name="bookkeeper", daemon=True)
        self._backend, self._durability, self._ledger, self._gate = backend, durability, ledger, gate
        self._writer, self._publisher, self._consumer, self._processor = writer, publisher, consumer, processor
        self._flights, self._canceller, self._table, self._slot = flights, canceller, table, slot
        self._partitions, self._epoch, self._worker_id = partitions, epoch, worker_id
        self._shown_after_ns = settings.processing_after_ms * 1_000_000
        self._wake = wake
        self._shown: set[tuple[str, int]] = set()       # (id, started): what is shown as PROCESSING
        self._ask_durability_at = 0.0
        self._retry_at = 0.0
        self._retry_s = RETRY_S[0]
        self.recycler: Recycler | None = None       # joined by the worker
        self.at_once = False            # tasks end beside the main thread: flush as soon as woken

    def run(self) -> None:
        """Until the process ends; an error that nobody foresaw ends the worker, which is started anew."""
        try:
            while True:
                busy = bool(self._writer or self._ledger.open or len(self._publisher))
                self._wake.wait(BUSY_TICK_S if busy else IDLE_TICK_S)
                self._wake.clear()
                self._tick(time.monotonic())
        except BaseException as error:
            log.critical("the bookkeeper thread failed", exc_info=True)
            end_now(Exit.CRASHED, f"bookkeeper: {error!r}")

    def _tick(self, now: float) -> None:
        if not self._gate.is_open:
            self._mend(now)
        if self._gate.is_open:
            try:
                self._write(time.monotonic())
            except RedisConnectionError as error:
                self._gate.close(error)
        self._publisher.work(now)
        self._tell()

    def _write(self, now: float) -> None:
        writer = self._writer
        if writer and (self.at_once or time.monotonic_ns() - writer.oldest_ns > writer.patience_ns + STALE_FLUSH_NS):
            writer.flush()
        self._show_long_tasks(now)
        if self._ledger.unsure() and now >= self._ask_durability_at:
            self._ask_durability_at = now + DURABILITY_S
            self.commit(now)

    # ---- how far may be committed -----------------------------------------------------------------------------------
    def commit(self, now: float) -> None:
        """Move the watermarks as far as is safe. Raises RedisConnectionError; only this thread."""
        self._durability.note(now)
        before = self._durability.durable_before(now)
        if self._durability.restarted:
            raise RedisConnectionError("Redis was restarted, or another took over")     # the gate closes, until mended
        moved, released = self._ledger.sweep(before)
        for partition, position in moved.items():
            self._table[partition].watermark = position
        if released:
            self._consumer.claim_copies(released)

    # ---- PROCESSING, and cancels of what runs -----------------------------------------------------------------------
    def _show_long_tasks(self, now: float) -> None:
        since_ns = time.monotonic_ns() - self._shown_after_ns
        running = [(f.held, f.started_ns, f.started_ms) for f in self._flights.running()]
        if self._processor.current is not None:
            running.append(self._processor.current)
        seen = {(held.message.id, started_ns) for held, started_ns, _ in running}
        self._shown &= seen
        by_partition: dict[int, list[tuple[Held, int]]] = {}
        long = [one for one in running if one[1] <= since_ns]
        for held, started_ns, started_ms in long:
            key = held.message.id, started_ns
            if key not in self._shown:
                self._shown.add(key)
                by_partition.setdefault(held.partition, []).append((held, started_ms))
        for partition, group in by_partition.items():
            entries = [(held.message.id, held.message.n, started_ms) for held, started_ms in group]
            answers = self._backend.started(partition, self._epoch, entries, self._worker_id)
            if "STALE" in answers:
                end_now(Exit.STALE, f"a later epoch than {self._epoch} owns partition {partition}")
            self._canceller.asked([one[0] for one, answer in zip(group, answers, strict=True) if answer == "ASKED"])
        self._canceller.look([held for held, *_ in long], now)

    # ---- Redis was away ---------------------------------------------------------------------------------------------
    def _mend(self, now: float) -> None:
        """Try whether Redis answers; if it does, give it back what it may have forgotten, and open the gate."""
        if now < self._retry_at:
            return
        try:
            self._durability.look(now)
            if self._durability.restarted:
                self._give_back()
        except RedisConnectionError as error:
            log.debug("Redis: %s", error)
            self._retry_at = time.monotonic() + self._retry_s
            self._retry_s = min(self._retry_s * 2, RETRY_S[1])
            return
        self._retry_s = RETRY_S[0]
        self._gate.open()
        self._writer.settled.set()                  # a consumer that waits may go on

    def _give_back(self) -> None:
        """The order matters: nothing is claimed before all ends in memory are written again."""
        for partition in self._partitions:
            fence(self._backend, partition, self._epoch)
        rewrite, reclaim = self._ledger.reopen()
        log.warning("Redis was restarted, or another took over: %d results are written again, %d tasks looked at again",
                    len(rewrite), len(reclaim))
        self._shown.clear()
        self._writer.put_back(rewrite)
        self._consumer.claim_again(reclaim)             # it waits at the gate
        if not self._writer.flush(even_if_closed=True):
            raise RedisConnectionError("Redis went away again")     # `restarted` is still set: all of it once more
        self._durability.rewritten()

    # ---- what others see --------------------------------------------------------------------------------------------
    def _tell(self) -> None:
        kafka, redis = self._consumer.connected, self._gate.is_open
        due = self.recycler is not None and self.recycler.due(time.monotonic())
        if due and self._slot.drain_by_ns == RETIRE and not self._processor.draining:
            self._consumer.stop()
            self._processor.retire()
        self._slot.waiting_for = ((0 if kafka else WAITS_FOR_KAFKA) | (0 if redis else WAITS_FOR_REDIS)
                                  | (WAITS_TO_RETIRE if due else 0)
                                  | (WAITS_FOR_UPGRADE if self._consumer.waits_for_upgrade else 0))
        able = kafka and redis and self._processor.lease_holds() and not (
            self._consumer.all_paused or self._ledger.full() or self._consumer.rests())
        lag = 0
        for partition in self._partitions:
            row = self._table[partition]
            row.waiting = self._ledger.waiting(partition, max(row.end_offset, row.asked_end))
            lag += row.waiting
        self._slot.lag = lag if able else 0


def fence(backend: ResultBackend, partition: int, epoch: int) -> None:
    """Write our epoch as the fence of a partition; ends the worker if a later one owns it."""
    highest = backend.fence(partition, epoch)
    if highest > epoch:
        end_now(Exit.STALE, f"partition {partition} is owned by epoch {highest}, which is later than {epoch}")

