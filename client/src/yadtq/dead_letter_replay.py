"""Publishes the tasks of dead letters again, and marks letters as gone.

Owns what a replay changes in a message (`next_life`), why a letter can't be replayed, and the order of the steps:
published and acknowledged, shown as QUEUED in Redis, then marked. Runs in the caller's thread; every wait ends within
`submit_timeout_s`. Never decides which letters, never reads the topic.

What a replay keeps: id, arguments, key, group, time-outs, what follows, the history of attempts, the time of the first
submission, and the partition where the task was (if the topic has it still: its order among tasks of the same key).
What it changes: one replay more, attempt 0 again (the last one joins the history), the clear number of now. `expires`
and the due time are dropped: they said when the *first* run made sense, and whoever replays has just decided that the
task shall run now.
"""
from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec.structs import replace

from yadtq.attempts import MAX_TEXT, Attempt, with_attempt
from yadtq.dead_letter import DeadLetterMark, DeadLetterMessage, encode_mark
from yadtq.dead_letter_log import PARTITION
from yadtq.errors import (
    BacklogFull,
    InvalidMessage,
    InvalidTask,
    KafkaConnectionError,
    KafkaRefused,
    UnknownTopic,
    UnsupportedVersion,
    YADTQError,
)
from yadtq.names import shard_of
from yadtq.partitioning import partition_of_key
from yadtq.producer import FIRST_PAUSE_S, LONGEST_PAUSE_S, Acks
from yadtq.records import SubmitEntry
from yadtq.task import TaskMessage, decode_error, decode_message, encode_message

if TYPE_CHECKING:
    from yadtq.connections import Connections
    from yadtq.producer import ClearNumbers

BATCH = 500                     # letters published, then marked, at a time
BATCH_BYTES = 8 * 1024 * 1024   # ... or fewer, when they are large
MOST_REPLAYS = 0xFFFF           # what message and record can count
SHOW_WITHIN_S = 60.0            # a record made later might announce a run that is over and forgotten
REFUSALS = (InvalidTask, KafkaRefused, UnknownTopic)    # of one record, for good; anything else is an outage


class Given(NamedTuple):
    """A letter, and where on the dead-letter topic it is."""

    offset: int
    letter: DeadLetterMessage


def next_life(letter: DeadLetterMessage, clear_number: int) -> TaskMessage:
    """The message of a replay. The same letter gives the same message, however often it is replayed."""
    message = decode_message(letter.original)
    history = with_attempt(message.history, last_attempt(letter, message.n))
    return replace(message, n=0, replay=message.replay + 1, g=clear_number, expires_ms=None, due_ms=None,
                   history=history)


def last_attempt(letter: DeadLetterMessage, n: int) -> Attempt:
    """The attempt that a letter tells of; when it began is not known any more."""
    try:
        error_type = decode_error(letter.error).error_type if letter.error else ""
    except InvalidMessage:
        error_type = ""
    return Attempt(n, 0, letter.dead_ms, letter.worker, letter.code, error_type, letter.message[:MAX_TEXT])


def reason_against(letter: DeadLetterMessage) -> str | None:
    """Why a letter can't be replayed, None if it can."""
    if not letter.task:
        return f"it is no task ({letter.code})"
    try:
        message = decode_message(letter.original)
    except UnsupportedVersion as error:
        return error.message
    except InvalidMessage:
        return "its task is damaged, or was too large to be kept whole"
    if message.id != letter.id:
        return f"the task in it is another one, {message.id}"
    return f"it was replayed {MOST_REPLAYS} times" if message.replay >= MOST_REPLAYS else None


class Replayer:
    """Publishes and marks for one order."""

    def __init__(self, connections: Connections, clear_numbers: ClearNumbers) -> None:
        self._connections, self._clear_numbers = connections, clear_numbers
        self._limit_s = connections.settings.submit_timeout_s

    def publish(self, batch: Sequence[Given]) -> dict[int, str]:
        """Publish the tasks of these letters and show them as QUEUED; by offset, those that Kafka refused, and why.

        Raises KafkaConnectionError or RedisConnectionError: some may run by now, and none of the batch is to be marked.
        """
        refused: dict[int, str] = {}
        left: Sequence[Given] = batch
        numbers = self._clear_numbers.get()
        while left:
            messages = [(one, self._placed(one, numbers)) for one in left]
            begun_s = time.monotonic()
            errors = self._send(self._connections.settings.kafka_task_topic,
                                [(partition, encode_message(m), m.key.encode() if m.key else None)
                                 for _, (partition, m) in messages])
            refused |= {messages[index][0].offset: f"Kafka refuses it: {error}" for index, error in errors.items()}
            sent = [one for index, one in enumerate(messages) if index not in errors]
            if time.monotonic() - begun_s > SHOW_WITHIN_S:
                break                                       # they run all the same; their claims make the records
            answers = self._connections.backend.submit(
                [SubmitEntry(m.id, m.task, m.g, m.submitted_ms, partition, replay=m.replay, group=m.group)
                 for _, (partition, m) in sent])
            left = [one for (one, _), answer in zip(sent, answers, strict=True) if answer == "CLEARED"]
            if left:                                        # somebody cleared everything just now: stamp anew
                numbers = self._clear_numbers.refresh()
        return refused

    def mark(self, batch: Sequence[Given], how: Literal["replayed", "purged"]) -> None:
        """Say that these letters are gone, once Kafka has it. Raises KafkaConnectionError: some may be gone."""
        now_ms = int(time.time() * 1000)
        marks = [DeadLetterMark(id=letter.id, how=how, offset=offset, at_ms=now_ms) for offset, letter in batch]
        errors = self._send(self._connections.settings.kafka_dead_letter_topic,
                            [(PARTITION, encode_mark(mark), mark.id.encode()) for mark in marks])
        if errors:
            raise next(iter(errors.values()))

    def _placed(self, given: Given, numbers: Sequence[int]) -> tuple[int, TaskMessage]:
        message = next_life(given.letter, numbers[shard_of(given.letter.id)])
        partitions = self._connections.kafka.partitions
        partition = given.letter.partition
        if not 0 <= partition < partitions:                 # the topic was made anew, with fewer
            partition = partition_of_key(message.key or message.id, partitions)
        return partition, message

    def _send(self, topic: str, items: Collection[tuple[int, bytes, bytes | None]]) -> dict[int, YADTQError]:
        """Send, and wait for the acknowledgements; by index, the records that Kafka refused."""
        acks, items = Acks(len(items)), list(items)
        if not items:
            return {}
        deadline, pause_s = time.monotonic() + self._limit_s, FIRST_PAUSE_S
        while True:
            try:
                self._connections.kafka.producer.send_many(topic, items, acks)
                break
            except BacklogFull:                             # other threads submit
                if time.monotonic() + pause_s >= deadline:
                    raise
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if not acks.wait(deadline - time.monotonic()):
            raise KafkaConnectionError(f"Kafka did not acknowledge {len(items)} records for {topic} within "
                                       f"{self._limit_s:g} s; do it again, which is harmless")
        for error in acks.errors.values():
            if not isinstance(error, REFUSALS):
                raise error
        return acks.errors
