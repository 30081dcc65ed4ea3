"""The consumer on confluent_kafka (librdkafka): partition-bound, in its caller's thread.

librdkafka has threads of its own in C: opened after a fork, never before. Never commits an offset.
"""
from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from confluent_kafka import Consumer as _Consumer
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from yadtq.errors import KafkaConnectionError, OffsetOutOfRange, UnknownTopic, YADTQError
from yadtq.transport.base import Guarded, Record
from yadtq.transport.connection import from_librdkafka, librdkafka_config
from yadtq.transport.library_log import limited_logger
from yadtq.transport.refusals import Refusals, await_librdkafka, note_librdkafka

if TYPE_CHECKING:
    from yadtq.config import Settings

log = logging.getLogger(__name__)

WAKE_S = 0.02  # how long a consumer waits in C, where nothing can wake it: bounds the delay of `wake`
PROBE_EVERY_S, PROBE_S = 1.0, 0.1  # while the brokers are away: how often, and for how long, to ask if they are back
UNKNOWN = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)
FETCH_WAIT_MS = 100  # how long a broker holds a fetch with nothing to read: what a resumed partition waits at most
QUEUE_MESSAGES, QUEUE_KBYTES = 10_000, 16_384  # read ahead: hides a round trip, without filling a worker's memory


class LibrdkafkaConsumer(Guarded):
    """See `yadtq.transport.Consumer`."""

    transport_name: ClassVar[str] = "librdkafka"

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._topic = ""
        self._offsets: dict[int, int] = {}
        self._woken = False
        self._down = False
        self._settings, self._refusals = settings, Refusals(settings)
        self._probe_s = 0.0
        self._timeout_s = settings.kafka_request_timeout_ms / 1000
        self._verify_s: float | None = None  # when to ask whether what is assigned exists
        self._known_s = 0.0  # when a broker last did not say that it does not
        self._problem: YADTQError | None = None  # raised by the poll after the one that returns the good records
        self._consumer = _Consumer(librdkafka_config(settings) | {
            "group.id": settings.kafka_group,  # demanded: nothing joins or commits, but our user has its rights there
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": False,
            "check.crcs": True,
            "fetch.wait.max.ms": FETCH_WAIT_MS,
            "fetch.min.bytes": 1,
            "fetch.error.backoff.ms": 50,
            "fetch.queue.backoff.ms": 10,
            "queued.min.messages": QUEUE_MESSAGES,
            "queued.max.messages.kbytes": QUEUE_KBYTES,
            "error_cb": self._on_error,
        }, logger=limited_logger())
        try:
            await_librdkafka(self._consumer, settings, self._refusals)
        except KafkaConnectionError:
            self._consumer.close()
            raise

    @property
    def connected(self) -> bool:
        """False once all brokers are known to be away."""
        return not self._down

    def assign(self, topic: str, offsets: dict[int, int]) -> None:
        """Read exactly these partitions from these offsets; see `Consumer.assign`."""
        self._check()
        self._topic, self._offsets, self._problem = topic, dict(offsets), None
        self._known_s = time.monotonic()
        self._verify_s = self._known_s + PROBE_EVERY_S if offsets else None
        self._consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in offsets.items()])

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """What is there or comes within `timeout_s`; see `Consumer.poll`."""
        self._check()
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem
        consumer = self._consumer
        end_s = time.monotonic() + timeout_s
        if self._down:
            self._probe()
        messages = consumer.consume(max_records, 0)
        while not messages and not self._woken and (left_s := end_s - time.monotonic()) > 0:
            if self._down:
                self._probe()
            first = consumer.poll(min(left_s, WAKE_S))
            if first is not None:
                messages = [first, *consumer.consume(max_records - 1, 0)] if max_records > 1 else [first]
        self._woken = False
        if messages:
            return self._records(messages)
        if self._verify_s is not None and time.monotonic() >= self._verify_s:
            self._verify()
        return []

    def _verify(self) -> None:
        """The library waits in silence for a topic or partition that does not exist: ask after assigning, until known.

        A broker that has just started may not know all topics yet: only a "no" that lasts is believed.
        """
        now_s = time.monotonic()
        self._verify_s = now_s + PROBE_EVERY_S
        try:
            found = self._consumer.list_topics(self._topic, timeout=PROBE_S).topics[self._topic]
        except KafkaException:
            self._known_s = now_s
            return  # an outage: later
        if found.error is None and self._offsets.keys() <= found.partitions.keys():
            self._verify_s = None
        elif found.error is not None and found.error.code() not in UNKNOWN:
            self._known_s = now_s
        elif now_s - self._known_s > self._timeout_s:
            self._known_s = now_s
            raise UnknownTopic(f"topic {self._topic} does not exist, or not with partitions {sorted(self._offsets)}")

    def _records(self, messages: list[Message]) -> list[Record]:
        new = tuple.__new__
        records: list[Record] = []
        add = records.append
        for message in messages:
            if message.error() is None:
                add(new(Record, (message.partition(), message.offset(), message.key(), message.value() or b"",
                                 message.timestamp()[1])))
            else:
                self._note(message)
        if not records and self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem
        return records

    def _note(self, message: Message) -> None:
        """An error in place of a record."""
        error, partition = message.error(), message.partition()
        assert error is not None
        assert partition is not None
        code = error.code()
        if code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            earliest = self._earliest(partition)
            self._problem = OffsetOutOfRange(f"{self._topic}[{partition}]: {error.str()}", partition, earliest)
        elif code in UNKNOWN:
            if self._verify_s is None:  # it was known: ask whether it is gone
                self._verify_s = self._known_s = time.monotonic()
        elif not error.retriable() and code not in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN):
            self._problem = from_librdkafka(error)

    def _earliest(self, partition: int) -> int:
        try:
            return int(self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=5)[0])
        except KafkaException as error:
            raise from_librdkafka(error.args[0]) from error

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._down = True
        if self._refusals.watching:
            note_librdkafka(error, self._refusals, self._settings)

    def _probe(self) -> None:
        """Nothing tells that a broker is back: a record may have been read ahead. Ask, now and then."""
        now_s = time.monotonic()
        if now_s - self._probe_s < PROBE_EVERY_S:
            return
        self._probe_s = now_s
        try:
            self._consumer.list_topics(self._topic, timeout=PROBE_S)
            self._down = False
        except KafkaException:
            pass

    def pause(self, partitions: Iterable[int]) -> None:
        """Return nothing more of these until resumed."""
        self._check()
        self._consumer.pause([TopicPartition(self._topic, partition) for partition in partitions])

    def resume(self, partitions: Iterable[int]) -> None:
        """Go on where reading was paused."""
        self._check()
        self._consumer.resume([TopicPartition(self._topic, partition) for partition in partitions])

    def high_watermarks(self) -> dict[int, int]:
        """The offsets behind the last records, as the fetches said."""
        self._check()
        marks = {}
        for partition in self._offsets:
            known = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
            if known is not None and known[1] >= 0:
                marks[partition] = known[1]
        return marks

    def wake(self) -> None:
        """Have poll return early, within WAKE_S."""
        self._woken = True

    def close(self) -> None:
        """Stop reading. Idempotent."""
        if self.closed:
            return
        self._check()
        self.closed = True
        self._consumer.close()

    def _library_objects(self) -> list[Any]:
        return [self._consumer]
