"""Gets prepared submissions into Kafka and their records into Redis, both at once, and says what became of each.

Owns the pipelining of one client: a batch is cut into chunks; each chunk is handed to the transport and, while Kafka
replicates it, written to Redis; a few chunks are under way at a time. Runs in the thread that submits, except `Acks`,
which the transport's thread calls. It never gives up in silence: what was confirmed, refused, not sent, and what nobody
knows is told apart in the error.
"""
from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from yadtq.backlog import LOOK_AGAIN_S, UNLIMITED, Limit
from yadtq.errors import (
    BacklogFull,
    BatchRefused,
    ClientClosed,
    InvalidTask,
    KafkaConnectionError,
    KafkaRefused,
    TaskSubmissionTimeout,
    TransportClosed,
    UnknownTopic,
    YADTQError,
)
from yadtq.names import shard_of
from yadtq.submission import Prepared

if TYPE_CHECKING:
    from yadtq.connections import Connections

log = logging.getLogger(__name__)

CHUNK = 1000            # tasks written to Redis in one pipeline: some milliseconds
CHUNKS_UNDER_WAY = 16   # chunks that wait for Kafka, per submitting thread
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0
REFUSALS = (InvalidTask, KafkaRefused, UnknownTopic)    # Kafka answered that it takes no such record: never written


def _parts(prepared: Sequence[Prepared]) -> list[Sequence[Prepared]]:
    """By the topic they go to: what is due at once, then what is due later."""
    later = [one for one in prepared if one.message.due_ms is not None]
    if not later:
        return [prepared]
    now = [one for one in prepared if one.message.due_ms is None]
    return [now, later] if now else [later]


class Acks:
    """Kafka's answers to one chunk; called by the transport's thread, once a record."""

    __slots__ = ("_latch", "_left", "errors")

    def __init__(self, count: int) -> None:
        self.errors: dict[int, YADTQError] = {}
        self._left = count
        self._latch = threading.Lock()
        self._latch.acquire()

    def __call__(self, index: int, offset: int, error: YADTQError | None) -> None:
        """One answer."""
        if error is not None:
            self.errors[index] = error
        self._left -= 1
        if self._left == 0:
            self._latch.release()

    def wait(self, seconds: float) -> bool:
        """Whether all answers are there, within `seconds`. To be asked until it says True, and not after."""
        return self._latch.acquire(timeout=max(0.0, seconds))


class ClearNumbers:
    """The clear number of each shard as this client last saw it; a stale one is answered CLEARED and read again."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._numbers: list[int] | None = None

    def get(self) -> Sequence[int]:
        """One number per shard; read from Redis the first time."""
        return self._numbers if self._numbers is not None else self.refresh()

    def refresh(self) -> Sequence[int]:
        """Read them again."""
        self._numbers = self._connections.backend.clear_numbers()
        return self._numbers

    def set(self, numbers: list[int]) -> None:
        """They are known from elsewhere: this client has just raised them."""
        self._numbers = numbers


def tell_ids(error: BaseException, ids: Sequence[str]) -> None:
    """Have what broke a submission off say which tasks are concerned: as `task_ids`, and in its traceback."""
    error.task_ids = tuple(ids)             # type: ignore[attr-defined]
    shown = ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
    error.add_note(f"{len(ids)} submissions were broken off; they may or may not run, and submitting them again with "
                   f"the same task_id is safe: {shown} (all are in `task_ids` of this exception)")


class Submitter:
    """Submits for one client; stateless but for the clear numbers, so all threads may use it at once."""

    def __init__(self, connections: Connections, clear_numbers: ClearNumbers) -> None:
        self._connections, self._clear_numbers = connections, clear_numbers

    def submit(self, prepared: Sequence[Prepared], timeout_s: float, limit: Limit = UNLIMITED) -> None:
        """Return when Kafka has acknowledged all and their records are written.

        `timeout_s` is how long *nothing* may be confirmed: a batch of any size goes on while it gets ahead.
        `limit` says how many tasks may be queued; when it is not to be waited for, there is room for all or none.
        Raises TaskSubmissionTimeout, KafkaConnectionError, BacklogFull or QueueFull (all three: nothing was sent), or,
        when Kafka refuses single tasks for good, BatchRefused.
        """
        if limit.most and not limit.wait:
            self._connections.backlog.take_all(sum(one.message.due_ms is None for one in prepared), limit, timeout_s)
        run = _Run(self._connections, timeout_s, limit if limit.wait else UNLIMITED)
        again: Sequence[Prepared] = prepared
        while again:
            run.send_all(again)
            again = run.stamped_anew(self._clear_numbers)
        run.raise_failure([one.message.id for one in prepared])


class _Run:
    """One call of `submit`: what is under way, and what became of the rest."""

    def __init__(self, connections: Connections, timeout_s: float, limit: Limit) -> None:
        self._connections, self._timeout_s, self._limit = connections, timeout_s, limit
        self._deadline = time.monotonic() + timeout_s
        self._window: deque[tuple[Sequence[Prepared], Acks]] = deque()
        self.cleared: list[Prepared] = []
        self.unknown: dict[str, YADTQError | None] = {}     # by id: why nobody knows
        self.refused: dict[str, YADTQError] = {}            # by id: Kafka will never take it
        self.not_sent: list[str] = []
        self.failure: YADTQError | None = None              # why the run stopped early

    def send_all(self, prepared: Sequence[Prepared]) -> None:
        """Send and record everything, or stop at the first chunk that can't be confirmed in time."""
        for part in _parts(prepared):
            if self.failure is None:
                self._send_part(part)
            else:
                self.not_sent += [one.message.id for one in part]
        self._await_kafka(0)

    def _send_part(self, prepared: Sequence[Prepared]) -> None:
        done = 0
        while done < len(prepared):
            size = min(CHUNK, len(prepared) - done)
            if prepared[0].message.due_ms is None:          # what is due later is not queued yet
                size = self._room(size)
            chunk = prepared[done:done + size] if size < len(prepared) else prepared
            if not size or not self._send(chunk):
                break
            done += size
            if not self._record(chunk) or not self._await_kafka(CHUNKS_UNDER_WAY - 1):
                break
        self.not_sent += [one.message.id for one in prepared[done:]]

    def _room(self, count: int) -> int:
        """For how many of `count` tasks the queue has room, waiting for one at least; 0: for none in time."""
        if not self._limit.most:
            return count
        backlog, left_s = self._connections.backlog, self._timeout_s
        try:
            while not (taken := backlog.take(count, self._limit, max(left_s, 0.1))):
                left_s = self._deadline - time.monotonic()
                if left_s <= LOOK_AGAIN_S:
                    self.failure = backlog.full(count, self._limit)
                    return 0
                time.sleep(LOOK_AGAIN_S)
                self._connections.check_open()
        except YADTQError as error:
            self.failure = error
            return 0
        return taken

    def _got_ahead(self) -> None:
        self._deadline = time.monotonic() + self._timeout_s

    def _send(self, chunk: Sequence[Prepared]) -> bool:
        """Hand a chunk to the transport, waiting while its backlog is full. False: it did not take it."""
        pause_s = FIRST_PAUSE_S
        acks = Acks(len(chunk))
        topic, items = self._items(chunk)
        while True:
            try:
                kafka = self._connections.kafka
                kafka.producer.send_many(topic, items, acks)
            except BacklogFull as full:
                if time.monotonic() + pause_s >= self._deadline:
                    self.failure = full
                    return False
                if self._window:
                    self._await_kafka(len(self._window) - 1)
                else:
                    time.sleep(pause_s)                     # other threads fill it
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            except YADTQError as error:
                self.failure = ClientClosed() if isinstance(error, TransportClosed) else error
                return False
            else:
                self._window.append((chunk, acks))
                return True

    def _items(self, chunk: Sequence[Prepared]) -> tuple[str, list[tuple[int, bytes, bytes | None]]]:
        """What is produced where: what is due later to its level of the delayed topic."""
        settings = self._connections.settings
        if chunk[0].message.due_ms is None:
            return settings.kafka_task_topic, [(one.partition, one.value, one.key) for one in chunk]
        now_ms = int(time.time() * 1000)
        return settings.kafka_delayed_topic, [one.delayed(now_ms) for one in chunk]

    def _record(self, chunk: Sequence[Prepared]) -> bool:
        """Write the records of a chunk, riding out an outage of Redis until the deadline. False: not confirmed."""
        entries = [one.entry() for one in chunk]
        try:
            left_s = self._deadline - time.monotonic()
            answers = self._connections.backend.submit(entries, timeout_s=max(left_s, 0.1))
        except YADTQError as error:
            self.failure = self.failure or error
            self.unknown.update((one.message.id, error) for one in chunk)
            return False
        self._got_ahead()
        if answers.count("DONE") != len(answers):
            for one, answer in zip(chunk, answers, strict=True):
                if answer == "CLEARED":
                    self.cleared.append(one)
                elif answer == "LATE":                      # Kafka has it, so it runs; too late for a record though
                    self.unknown[one.message.id] = None
        return True

    def _await_kafka(self, at_most: int) -> bool:
        """Wait until no more than `at_most` chunks are under way. False: Kafka did not answer in time."""
        while len(self._window) > at_most:
            chunk, acks = self._window[0]
            if not acks.wait(self._deadline - time.monotonic()):
                self.failure = self.failure or KafkaConnectionError("Kafka did not acknowledge")
                for waiting, _ in self._window:
                    self.unknown.update((one.message.id, self.failure) for one in waiting)
                self._window.clear()
                return False
            self._window.popleft()
            self._got_ahead()
            for index, error in acks.errors.items():
                self._refuse(chunk[index].message.id, error)
        return True

    def stamped_anew(self, clear_numbers: ClearNumbers) -> Sequence[Prepared]:
        """What was cleared while it was submitted, to be produced again; after a failure it is told."""
        cleared, self.cleared = self.cleared, []
        if not cleared:
            return ()
        if self.failure is None:
            try:
                numbers = clear_numbers.refresh()
                return [one.stamped(numbers[shard_of(one.message.id)]) for one in cleared]
            except YADTQError as error:
                self.failure = error
        self.unknown.update((one.message.id, self.failure) for one in cleared)
        return ()

    def _refuse(self, task_id: str, error: YADTQError) -> None:
        if isinstance(error, REFUSALS):
            self.refused[task_id] = error
        else:                                               # "failed" does not mean "not written"
            self.unknown[task_id] = error

    def raise_failure(self, ids: Sequence[str]) -> None:
        """Raise what this run has to tell, if anything."""
        if self.refused:
            self._withdraw()
        if self.unknown or (self.failure is not None and len(self.not_sent) < len(ids)):
            cause = self.failure or next(iter(self.unknown.values()))
            raise TaskSubmissionTimeout(
                self._sentence(len(ids), cause), tuple(self.unknown), ids=tuple(ids), not_sent=tuple(self.not_sent),
            ) from cause
        if self.failure is not None:                        # nothing was sent at all
            raise self.failure
        if self.refused:
            if len(ids) == 1:
                raise self.refused[ids[0]]
            raise BatchRefused(
                f"Kafka refused {len(self.refused)} of {len(ids)} tasks; the others are submitted",
                tuple(None if one in self.refused else one for one in ids),
                {index: self.refused[one] for index, one in enumerate(ids) if one in self.refused})

    def _sentence(self, count: int, cause: YADTQError | None) -> str:
        if not self.unknown:
            return (f"{len(self.not_sent)} of {count} tasks were not sent within {self._timeout_s:g} s: "
                    f"{cause.message if cause else 'no reason is known'}; the others are submitted")
        first = next(iter(self.unknown))
        which = f"the task {first}" if count == 1 else f"{len(self.unknown)} of {count} tasks (the first: {first})"
        rest = f"; {len(self.not_sent)} more were not sent" if self.not_sent else ""
        why = cause.message if cause is not None else "it came after the time limit of a submission"
        return (f"no confirmation of {which} within {self._timeout_s:g} s: {why}. It may or may not run; submitting it "
                f"again with the same task_id is safe{rest}")

    def _withdraw(self) -> None:
        """Records of what Kafka refused for good would wait for ever: cancel them, as well as that goes."""
        try:
            self._connections.backend.cancel(list(self.refused))
        except YADTQError as error:
            log.warning("%d tasks that Kafka refused stay QUEUED in Redis: %s", len(self.refused), error)
