"""The consumer thread of a worker: fetches records, claims them in batches, hands what may run to the processor.

Owns the partition-bound Kafka consumer and every claim. It works one batch ahead of the processor, so that the round
trip of a claim overlaps with the run of the batch before. It fetches no more than the processor can do in a moment:
what is claimed and not started would be everybody's problem if this worker died. Never runs a handler, never commits.
"""
from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from yadtq.errors import InvalidMessage, OffsetOutOfRange, RedisConnectionError, UnsupportedVersion, YADTQError
from yadtq.result_backend import ClaimEntry
from yadtq.task import TaskMessage, decode_error, decode_message
from yadtqd.exits import Exit
from yadtqd.follow_ups import RETRY, error_of, next_attempt
from yadtqd.held import Held
from yadtqd.lanes import Parked
from yadtqd.starvation import Starvation
from yadtqd.worker_exit import end_now

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtq.result_backend import Claim, ResultBackend
    from yadtq.transport import Consumer as TransportConsumer
    from yadtq.transport import Record
    from yadtqd.ledger import Ledger
    from yadtqd.publisher import Publisher
    from yadtqd.redis_gate import RedisGate
    from yadtqd.shared import PartitionTable
    from yadtqd.suspicion import Suspicion

log = logging.getLogger(__name__)

IDLE_POLL_S = 0.5           # how long a poll waits for records; `wake` ends it
LOOK_S = 0.1                # how often the partition table is looked at while there is work
BACK_OFF_S = 0.2            # after an error of Kafka's
COMPLAIN_S = 30.0
MAY_OWE = ("KO", RETRY)     # states of a record that something may follow: a dead letter, a retry


class Consumer(threading.Thread):
    """`ready` gets lists of claimed tasks; `window()` says how many may be open at a time; `write_again` gets those
    that may run although they have ended here."""

    def __init__(self, settings: Settings, transport: TransportConsumer, backend: ResultBackend, ledger: Ledger,
                 gate: RedisGate, table: PartitionTable, epoch: int, suspicion: Suspicion, publisher: Publisher,
                 ready: queue.SimpleQueue[list[Held]], window: Callable[[], int], settled: threading.Event,
                 write_again: Callable[[list[Held]], object]) -> None:
        super().__init__(name="consumer", daemon=True)
        self._settings, self._transport, self._backend, self._ledger = settings, transport, backend, ledger
        self._gate, self._table, self._epoch = gate, table, epoch
        self._suspicion, self._publisher = suspicion, publisher
        self._ready, self._window, self._settled, self._write_again = ready, window, settled, write_again
        self._partitions: tuple[int, ...] = ()
        self._paused: frozenset[int] = frozenset()
        self._newer: set[int] = set()            # partitions in which a record of a newer version waits
        self._again: deque[Held] = deque()       # from other threads: to be claimed again
        self._copies: deque[Held] = deque()      # from the bookkeeper
        self._turn: deque[Held] = deque()        # from other threads: those before them with the same key have ended
        self._failed: deque[Held] = deque()      # from the result writer: to be tried again in their place
        self._parked = Parked()                  # until that is due
        self._looked = self._complain_at = 0.0
        self._starvation = Starvation()
        self._waited_s = 0.0                     # in polls with room to spare, since the last look around
        self._got: set[int] = set()              # partitions of which records came since then
        self.reopen: Callable[[], TransportConsumer] | None = None     # joined by the worker: another Kafka consumer
        self._stop = threading.Event()

    # ---- called by other threads ------------------------------------------------------------------------------------
    def start_at(self, positions: dict[int, int]) -> None:
        """Before `start`: what to consume, from where."""
        self._partitions = tuple(positions)
        self._transport.assign(self._settings.kafka_task_topic, positions)

    def stop(self) -> None:
        """Fetch and claim nothing more."""
        self._stop.set()
        self._settled.set()
        self._transport.wake()

    def claim_again(self, batch: Iterable[Held]) -> None:
        """Their records went another way, or Redis may have forgotten them: ask anew and obey."""
        self._again.extend(batch)
        self._settled.set()
        self._transport.wake()

    def claim_copies(self, batch: Iterable[Held]) -> None:
        """The task of which these are copies has ended for good: ask for all of them, and expect to be told so."""
        self._copies.extend(batch)
        self._settled.set()
        self._transport.wake()

    def take_turn(self, batch: Iterable[Held]) -> None:
        """Nothing of the same key is before them any more."""
        self._turn.extend(batch)
        self._settled.set()
        self._transport.wake()

    def park(self, batch: Iterable[Held]) -> None:
        """Their attempts have failed, which is recorded; the next ones are made in their place, when they are due."""
        self._failed.extend(batch)
        self._settled.set()
        self._transport.wake()

    def rests(self) -> bool:
        """Is all that it has in hand waiting for a time that has not come? Then it makes no progress, and rightly."""
        waiting = len(self._parked) + self._ledger.behind
        return 0 < self._ledger.open <= waiting and self._parked.left_s(time.time_ns() // 1_000_000) > 0

    @property
    def connected(self) -> bool:
        """Does Kafka answer?"""
        return self._transport.connected

    @property
    def waits_for_upgrade(self) -> bool:
        """Is there a record that only a newer YADTQ can read?"""
        return bool(self._newer)

    @property
    def all_paused(self) -> bool:
        """Is there nothing that it may fetch?"""
        return len(self._paused) == len(self._partitions)

    # ---- the thread -------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Until stopped; an error that nobody foresaw ends the worker, which is started anew."""
        try:
            while not self._stop.is_set():
                self._round()
        except BaseException as error:
            log.critical("the consumer thread failed", exc_info=True)
            end_now(Exit.CRASHED, f"consumer: {error!r}")

    def _round(self) -> None:
        if self._again:
            self._claim(self._ledger.again([self._again.popleft() for _ in range(len(self._again))]))
        if self._copies:
            self._claim([self._copies.popleft() for _ in range(len(self._copies))])
        self._claim_parked()
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._look_around()
        window = self._window()
        open_ = self._ledger.open
        # what waits for its turn or its time takes no room from others, but is bounded as well
        room = min(window - open_ + len(self._parked) + self._ledger.behind, self._settings.prefetch - open_)
        full = self._ledger.full()
        if room < max(1, window // 4) or not self._gate.is_open or full:
            if full:
                self._complain(now)
            self._settled.wait(LOOK_S)
            self._settled.clear()
            return
        wanted = min(room, self._settings.fetch_batch)
        try:
            wait_s = min(IDLE_POLL_S, self._parked.left_s(time.time_ns() // 1_000_000))
            records = self._transport.poll(wanted, wait_s)
        except OffsetOutOfRange as error:
            self._begin_anew(error)
        except YADTQError as error:
            log.warning("%s", error)
            self._stop.wait(BACK_OFF_S)
        else:
            if len(records) < wanted:
                self._waited_s += time.monotonic() - now
            if records:
                self._got.update({record.partition for record in records})
                self._take(records)

    def _claim_parked(self) -> None:
        """Park what has failed, claim what is due."""
        now_ms = time.time_ns() // 1_000_000
        while self._failed:
            held = self._failed.popleft()
            end = held.end
            assert end is not None
            due_ms = end.due_ms or now_ms
            self._next_attempt(held, end.n + 1, decode_error(end.error).history, due_ms)
            self._parked.put(held, due_ms)
        due = self._parked.take_due(now_ms)
        due += [self._turn.popleft() for _ in range(len(self._turn))]
        if due:
            self._claim(due)

    @staticmethod
    def _next_attempt(held: Held, n: int, history: bytes, due_ms: int) -> None:
        held.message = next_attempt(held.message, n, history, due_ms)
        held.end = None
        held.suspect, held.seen, held.lone = False, 0, 0

    def _complain(self, now: float) -> None:
        """Too much is recorded that may not be committed yet: say so, or nobody knows why nothing goes on."""
        if now >= self._complain_at:
            self._complain_at = now + COMPLAIN_S
            log.warning("nothing more is fetched: too many results wait until Redis is known to have them on disk (the "
                        "setting durability), or for a task before them that has not ended")

    def _look_around(self) -> None:
        """Obey pauses; tell how far the logs reach."""
        for partition, end in self._transport.high_watermarks().items():
            self._table[partition].end_offset = end
        paused = frozenset(p for p in self._partitions if self._table[p].paused or p in self._newer)
        if paused != self._paused:
            self._transport.pause(paused - self._paused)
            self._transport.resume(self._paused - paused)
            self._paused = paused
        self._look_for_starvation()

    def _look_for_starvation(self) -> None:
        if self._transport.connected:
            rows = {p: self._table[p] for p in self._partitions if p not in self._paused}
            behind = [p for p, row in rows.items()
                      if max(row.end_offset, row.asked_end) > self._ledger.next_offset(p)]
            starving = self._starvation.look(self._waited_s, self._got, behind, self._settings.progress_timeout_s / 2)
            if starving and self.reopen is not None:
                self._rebuild(starving, self.reopen)
        else:
            self._starvation.reset()
        self._waited_s, self._got = 0.0, set()

    def _rebuild(self, starving: list[int], reopen: Callable[[], TransportConsumer]) -> None:
        """The Kafka consumer is alive and brings nothing: take another. If that does not help, the supervisor will."""
        log.warning("partitions %s have records waiting, and none came for %g s: the Kafka consumer is made anew",
                    starving, self._settings.progress_timeout_s / 2)
        threading.Thread(target=_close, args=(self._transport,), name="old consumer", daemon=True).start()
        while not self._stop.is_set():
            try:
                self._transport = reopen()
                break
            except YADTQError as error:
                log.warning("%s", error)
                self._stop.wait(BACK_OFF_S)
        positions = {p: self._ledger.next_offset(p) for p in self._partitions}
        self._transport.assign(self._settings.kafka_task_topic, positions)
        self._paused = frozenset()
        self._starvation.reset()

    def _begin_anew(self, error: OffsetOutOfRange) -> None:
        """What we were to read is not in the log any more: clear_all_tasks does that, anything else is an alarm."""
        log.warning("%s; partition %d is read from its beginning at %d: tasks are lost unless they were cleared",
                    error.message, error.partition, error.earliest, extra={"partition": error.partition})
        if error.earliest < self._ledger.next_offset(error.partition):
            # The log was made anew: what was committed in the old one would have a successor skip tasks of this one.
            row = self._table[error.partition]
            row.watermark, row.committed = 0, error.earliest
        self._ledger.skip(error.partition, error.earliest)
        self._newer.discard(error.partition)
        positions = {p: self._ledger.next_offset(p) for p in self._partitions}
        self._transport.assign(self._settings.kafka_task_topic, positions)
        self._paused = frozenset()

    def _take(self, records: list[Record]) -> None:
        fetched: list[Held] = []
        for record in records:
            if record.partition in self._newer:
                continue                         # nor what comes behind it: offsets never go back
            try:
                message = decode_message(record.value)
            except UnsupportedVersion as error:
                self._await_upgrade(record, error)
            except InvalidMessage as error:
                fetched.append(self._invalid(record, error))
            else:
                fetched.append(Held(record.partition, record.offset, message, len(record.value)))
        self._claim(self._ledger.take(fetched))

    def _await_upgrade(self, record: Record, error: UnsupportedVersion) -> None:
        """The record is sound: it stays where it is, and the partition with it, until YADTQ is upgraded here."""
        log.critical("partition %d offset %d: %s; nothing more is read from this partition", record.partition,
                     record.offset, error, extra={"partition": record.partition})
        self._newer.add(record.partition)
        self._look_around()

    def _invalid(self, record: Record, error: InvalidMessage) -> Held:
        """What is no task is published to the dead letters as it is, and then done."""
        log.error("partition %d offset %d: %s", record.partition, record.offset, error,
                  extra={"partition": record.partition})
        name = f"{record.partition}:{record.offset}"
        held = Held(record.partition, record.offset,
                    TaskMessage(id=name, task="", args=b"", submitted_ms=0), len(record.value))
        held.follow = self._publisher.follow_ups.letter(held, name, error.code, error.message, original=record.value)
        return held

    def _claim(self, batch: list[Held]) -> None:
        by_partition: dict[int, list[Held]] = {}
        for held in self._ledger.in_turn(batch):
            if not held.message.task:            # no task at all, see _invalid
                self._publisher.publish([held])
            else:
                by_partition.setdefault(held.partition, []).append(held)
        for partition, group in by_partition.items():
            self._claim_group(partition, group)

    def _claim_group(self, partition: int, group: list[Held]) -> None:
        new = tuple.__new__                      # half the time of ClaimEntry(...)
        entries = [new(ClaimEntry, (m.id, m.n, m.g, m.task, m.submitted_ms, m.expires_ms, m.replay, held.offset,
                                    m.group, m.key is not None))
                   for held in group for m in (held.message,)]
        while not self._stop.is_set():
            if not self._gate.wait(LOOK_S):
                continue
            round_ = self._ledger.round
            try:
                claims = self._backend.claim(partition, self._epoch, entries, time.time_ns() // 1_000_000)
            except RedisConnectionError as error:
                self._gate.close(error)
                continue
            return self._obey(*self._caught_up(group, claims), round_)
        return None

    def _obey(self, group: list[Held], claims: list[Claim], round_: int) -> None:
        run: list[Held] = []
        ended: list[Held] = []                   # here, and Redis has lost it: written again, not run again
        done: list[Held] = []
        owed: list[Held] = []
        now_ns = time.monotonic_ns()
        for held, claim in zip(group, claims, strict=True):
            answer = claim.answer
            if answer == "RUN":
                held.claim_round, held.looked_ns = round_, now_ns
                if held.is_copy and not self._ledger.again([held]):
                    continue                     # another copy runs: it waits once more
                if claim.suspect or claim.seen or claim.lone:
                    held.suspect = self._suspicion.falls_on(held.message.id, claim)
                    held.seen, held.lone = claim.seen, claim.lone
                (run if held.end is None else ended).append(held)
            elif answer == "WAIT":
                self._parked.put(held, claim.due_ms)
            elif answer == "STALE":
                end_now(Exit.STALE, f"a later epoch than {self._epoch} owns partition {held.partition}")
            elif answer == "SETTLE" and claim.state in MAY_OWE:
                owed.append(held)
            else:
                done.append(held)
        if owed:
            done += self._settle(owed, round_)
        if done and not self._ledger.settle(done, time.monotonic(), round_):
            self._again.extend(done)
        if ended:
            self._write_again(ended)
        if run:
            self._ready.put(run)

    def _caught_up(self, group: list[Held], claims: list[Claim]) -> tuple[list[Held], list[Claim]]:
        """Those of them that are at the attempt at which their record is, which may be later than their messages'."""
        later = [(held, claim) for held, claim in zip(group, claims, strict=True) if claim.attempt > held.message.n]
        if not later:
            return group, claims
        try:
            records = self._backend.read([held.message.id for held, _ in later])
        except RedisConnectionError as error:
            self._gate.close(error)
            self._again.extend(held for held, _ in later)
            left = [(held, claim) for held, claim in zip(group, claims, strict=True) if (held, claim) not in later]
            return [held for held, _ in left], [claim for _, claim in left]
        for (held, claim), record in zip(later, records, strict=True):
            failure = error_of(record)
            self._next_attempt(held, claim.attempt, failure.history if failure else b"", claim.due_ms)
        return group, claims

    def _settle(self, owed: list[Held], round_: int) -> list[Held]:
        """Publish what is owed by tasks that had failed before; returns those that owe nothing."""
        try:
            return self._publisher.settle(owed, round_)
        except RedisConnectionError as error:
            self._gate.close(error)
            self._again.extend(owed)
            return []


def _close(transport: TransportConsumer) -> None:
    """In a thread of its own: nobody knows how long it takes with one that is broken."""
    try:
        transport.close()
    except Exception as error:  # noqa: BLE001 - it is given up anyway
        log.info("the old Kafka consumer could not be closed: %s", error)
