"""Publishes what a worker gives up to the dead-letter topic, before it counts as done.

Owns the order *record, publish, then done*: a task that was recorded as crashed is done when its dead letter is
acknowledged; after a death in between, the claim's answer SETTLE makes the successor publish it again. Letters come
from the consumer and the processor, publishing is done by the bookkeeper's thread, acknowledgements come from the
transport's. Rare, so one at a time is enough.
"""
from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from yadtq.dead_letter import DeadLetterMessage, encode_dead_letter
from yadtq.errors import InvalidMessage, TaskCrashed, YADTQError
from yadtq.task import decode_error, encode_message

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtq.result_backend import ResultBackend
    from yadtq.transport import Producer
    from yadtqd.held import Held
    from yadtqd.ledger import Ledger

log = logging.getLogger(__name__)

GIVEN_UP = frozenset({TaskCrashed.code})    # errors of tasks that end in the dead-letter topic
RETRY_S = 1.0
OVERHEAD = 32_768       # bytes of a letter beside the original, the whole error included
CUT = 4096              # bytes that are kept of an original that is too large


class DeadLetters:
    """`lease_holds()` is looked at before each publish; `on_forgotten` gets tasks to be claimed again."""

    def __init__(self, settings: Settings, producer: Producer, backend: ResultBackend, ledger: Ledger, worker_id: str,
                 lease_holds: Callable[[], bool], wake: Callable[[], object],
                 on_forgotten: Callable[[list[Held]], None]) -> None:
        self._topic, self._producer, self._backend = settings.kafka_dead_letter_topic, producer, backend
        self._ledger, self._worker_id = ledger, worker_id
        self._room = settings.kafka_max_message_bytes - OVERHEAD
        self._lease_holds, self._wake, self._on_forgotten = lease_holds, wake, on_forgotten
        self._to_publish: deque[Held] = deque()
        self._published: deque[Held] = deque()      # acknowledged
        self._under_way: set[Held] = set()
        self._not_before = 0.0

    def __len__(self) -> int:
        return len(self._to_publish) + len(self._under_way) + len(self._published)

    def make(self, held: Held, task_id: str, code: str, message: str, *, error: bytes = b"",
             original: bytes | None = None) -> bytes:
        """The letter of a task (or of what is none: `original` is its record's value)."""
        if original is None:
            original = encode_message(held.message)
        if len(original) > self._room:      # a record that was compressed may be any size: its letter must fit a record
            message += f" (its record had {len(original):,} bytes; only the first {CUT:,} are kept)"
            original = original[:CUT]
        return encode_dead_letter(DeadLetterMessage(
            id=task_id, task=held.message.task, code=code, message=message, partition=held.partition,
            offset=held.offset, worker=self._worker_id, dead_ms=time.time_ns() // 1_000_000, error=error,
            original=original))

    def publish(self, batch: Iterable[Held]) -> None:
        """Publish the letter (`follow`) of each, then count it as done."""
        self._to_publish.extend(batch)
        self._wake()

    def settle(self, batch: list[Held], round_: int) -> list[Held]:
        """These had ended as failed before we came: publish the letters of those that were given up (again: nobody
        knows whether that was done). Returns the others, which are done. Raises RedisConnectionError."""
        rest: list[Held] = []
        for held, record in zip(batch, self._backend.read([held.message.id for held in batch]), strict=True):
            found = _error_of(record.error) if record is not None and record.error else None
            if found is None or found[0] not in GIVEN_UP:
                rest.append(held)
                continue
            assert record is not None
            held.claim_round = round_
            held.follow = self.make(held, held.message.id, *found, error=record.error or b"")
            self.publish([held])
        return rest

    # ---- bookkeeper -------------------------------------------------------------------------------------------------
    def work(self, now: float) -> None:
        """Send what is to be sent, count as done what was acknowledged; never waits."""
        while self._published:
            held = self._published.popleft()
            # Redis was asked in that round; what is no task is unknown to it
            round_ = held.claim_round if held.message.task else self._ledger.round
            if not self._ledger.settle([held], now, round_):
                self._on_forgotten([held])          # with its letter: it may have to be recorded, and published, again
            elif held.message.task:
                held.follow = None
        while self._to_publish and now >= self._not_before and self._lease_holds():
            held = self._to_publish.popleft()
            self._under_way.add(held)
            try:
                self._producer.send(self._topic, 0, held.follow or b"", held.message.id.encode(), self._report_of(held))
            except YADTQError as error:
                self._reported(held, error)

    def _report_of(self, held: Held) -> Callable[[int, YADTQError | None], None]:
        return lambda _, error: self._reported(held, error)

    def _reported(self, held: Held, error: YADTQError | None) -> None:
        self._under_way.discard(held)
        if error is None:
            log.error("%s was given up: partition %d offset %d is in the dead letters now", held.message.id,
                      held.partition, held.offset)
            self._published.append(held)
        else:
            log.warning("a dead letter could not be published, it is tried again: %s", error)
            self._not_before = time.monotonic() + RETRY_S
            self._to_publish.append(held)
        self._wake()


def _error_of(data: bytes) -> tuple[str, str] | None:
    try:
        error = decode_error(data)
    except InvalidMessage:
        return None
    return error.code, error.message
