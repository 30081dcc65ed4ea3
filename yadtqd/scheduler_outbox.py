"""What the scheduler publishes: tasks that are due, hops between levels, letters for what is none.

Owns the producer, made when first needed. The scheduler's thread calls everything; acknowledgements come from the
transport's thread and wait in a queue until they are asked for. Never decides what is due, never commits.
"""
from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from yadtq.dead_letter import DeadLetterMessage
from yadtq.errors import InvalidMessage, PayloadTooLarge, UnknownTopic, YADTQError
from yadtq.partitioning import partition_of_key
from yadtq.task import decode_message
from yadtq.transport import open_admin, open_producer
from yadtqd.follow_ups import encode_fitting
from yadtqd.wheel import Entry, Fire, Hop, Move

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtq.transport import Producer

log = logging.getLogger(__name__)

IN_FLIGHT = 5000            # moves that wait for Kafka; more would only make a zombie's last words longer
COUNT_FOR_S = 30.0          # for so long it is believed how many partitions the task topic has

Item = tuple[int, bytes, bytes | None]


class Outbox:
    """`publish` hands moves over; `answers` tells what became of them, each once."""

    def __init__(self, settings: Settings, worker_id: str) -> None:
        self._settings, self._worker_id = settings, worker_id
        self._producer: Producer | None = None
        self._answers: deque[tuple[Move, YADTQError | None]] = deque()
        self._partitions = 0                # of the task topic, asked when a task's own was missing; 0: not known
        self._partitions_until = 0.0
        self.in_flight = 0

    @property
    def room(self) -> int:
        """How many moves may be published now."""
        return min(IN_FLIGHT, self._settings.max_in_flight) - self.in_flight

    @property
    def has_answers(self) -> bool:
        """Whether `answers` has something to tell."""
        return bool(self._answers)

    def publish(self, moves: Sequence[Move]) -> None:
        """Hand over; never raises: what can't be sent is among the answers, with its error."""
        settings = self._settings
        fires = [move for move in moves if isinstance(move, Fire)]
        hops = [move for move in moves if isinstance(move, Hop)]
        others = [move for move in moves if not isinstance(move, (Fire, Hop))]
        self.in_flight += len(moves)
        self._send(settings.kafka_task_topic, fires, [self._fired(move) for move in fires])
        self._send(settings.kafka_delayed_topic, hops,
                   [(move.level, move.entry.value, move.entry.key) for move in hops])
        self._send(settings.kafka_dead_letter_topic, others, [self._letter(move.entry) for move in others])

    def _send(self, topic: str, moves: Sequence[Move], items: list[Item]) -> None:
        if not moves:
            return
        answers = self._answers
        try:
            if self._producer is None:
                self._producer = open_producer(self._settings, linger_ms=0)
            self._producer.send_many(topic, items, lambda index, _, error: answers.append((moves[index], error)))
        except YADTQError as error:
            answers.extend((move, error) for move in moves)

    def _fired(self, move: Fire) -> Item:
        delayed = move.delayed
        partition = delayed.partition
        if self._partitions and time.monotonic() >= self._partitions_until:
            self._partitions = 0
        if 0 < self._partitions <= partition:
            partition = partition_of_key(delayed.key.decode(errors="replace"), self._partitions) if delayed.key \
                else partition % self._partitions
        return partition, delayed.value, delayed.key

    def _letter(self, entry: Entry) -> Item:
        assert entry.error is not None
        message = f"{entry.error.message} (delayed topic, level {entry.level.number}, offset {entry.offset})"
        task_id, task, original = f"delayed:{entry.level.number}:{entry.offset}", "", entry.value
        partition = entry.level.number
        if entry.delayed is not None:           # a task, and Kafka does not take it: the letter is of what it would be
            original, partition = entry.delayed.value, entry.delayed.partition     # where a replay sends it
            with contextlib.suppress(YADTQError):
                told = decode_message(original)
                task_id, task = told.id, told.task
        letter = DeadLetterMessage(
            id=task_id, task=task, code=entry.error.code, message=message, partition=partition,
            offset=entry.offset, worker=self._worker_id, dead_ms=time.time_ns() // 1_000_000, original=original)
        return 0, encode_fitting(letter, self._settings.kafka_max_message_bytes), task_id.encode()

    # ---- what became of it ------------------------------------------------------------------------------------------
    def answers(self) -> list[tuple[Move, YADTQError | None]]:
        """What Kafka acknowledged or refused since the last call."""
        found = [self._answers.popleft() for _ in range(len(self._answers))]
        self.in_flight -= len(found)
        return found

    def judge(self, move: Move, error: YADTQError) -> None:
        """After an error: see that the next attempt is another one where this one can't succeed."""
        entry = move.entry
        if isinstance(error, PayloadTooLarge) and entry.error is None:
            log.error("a delayed task is too large for Kafka now and goes to the dead letters: %s", error.message)
            entry.error = error
        elif isinstance(error, UnknownTopic) and isinstance(move, Fire) and not self._partitions:
            self._count_partitions(move)

    def _count_partitions(self, move: Fire) -> None:
        """The task topic was made anew, smaller? Then the task runs in a partition that there is; it is not lost."""
        try:
            admin = open_admin(self._settings)
            try:
                count = admin.partition_count(self._settings.kafka_task_topic)
            finally:
                admin.close()
        except YADTQError as error:
            log.warning("scheduler: how many partitions has the task topic? %s", error.message)
            return
        if count <= move.delayed.partition:
            log.error("the task topic has %d partitions, but a delayed task is for partition %d: it and others like it "
                      "go where their key, or else the remainder, says", count, move.delayed.partition)
            self._partitions, self._partitions_until = count, time.monotonic() + COUNT_FOR_S

    def give_up(self) -> None:
        """The lease is over: nothing that is still under way may reach Kafka later. Each is answered with an error."""
        producer, self._producer = self._producer, None
        if producer is not None:
            given_up = producer.close(0)
            if given_up:
                log.warning("scheduler: %d records were given up: this host's place in the group is not certain",
                            given_up)

    def close(self) -> None:
        """At the end of the process."""
        self.give_up()


def why_refused(entry: Entry) -> str:
    """For the log."""
    kind = "no delayed task" if isinstance(entry.error, InvalidMessage) else "can't be published"
    return f"level {entry.level.number} offset {entry.offset}: {kind}: {entry.error}"
