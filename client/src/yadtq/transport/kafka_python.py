"""The transport on kafka-python: always there, no compiled code needed.

Owns a producer, whose deliveries are reported by a thread of ours (kafka-python's own only does its network), and a
partition-bound consumer that runs in its caller's thread. The producer's defaults lose work or wedge after an outage:
each setting here says what it is against. Opened after a fork, never before. Never commits an offset.
"""
from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ClassVar

from yadtq.errors import KafkaConnectionError, KafkaRefused, OffsetOutOfRange, PayloadTooLarge, UnknownTopic, YADTQError
from yadtq.transport.base import BATCH_BYTES, Guarded, GuardedProducer, OnDone, OnManyDone, Record
from yadtq.transport.connection import (
    connect_kafka_python,
    from_kafka_python,
    import_kafka,
    kafka_python_errors,
)
from yadtq.transport.refusals import SLICE_S, Refusals

if TYPE_CHECKING:
    from yadtq.config import Settings

kafka = import_kafka()
log = logging.getLogger(__name__)

ABORT_S = 2.0  # for the reports of records that are given up
SLICE_MS = 100  # how long a consumer waits in the library, where nothing can wake it: bounds the delay of `wake`
FETCH_WAIT_MS = 250  # how long a broker holds a fetch with nothing to read; each one that ends costs 0.5 ms of CPU time
RECORD_OVERHEAD = 128  # room for headers of batch and record below `kafka_max_message_bytes`


class KafkaPythonProducer(GuardedProducer):
    """See `yadtq.transport.Producer`."""

    transport_name: ClassVar[str] = "kafka-python"

    def __init__(self, settings: Settings, linger_ms: int = 0) -> None:
        super().__init__(settings.max_in_flight)
        self._settings = settings
        self._limit = settings.kafka_max_message_bytes
        self._numbers = itertools.count()
        # What is under way; whoever takes an entry out reports it, so that each is reported once.
        self._open: dict[int, tuple[Any, int | None, int]] = {}
        self._outcomes: SimpleQueue[tuple[tuple[Any, int | None, int], Any] | None] = SimpleQueue()
        refusals = Refusals(settings)
        self._producer = connect_kafka_python(kafka.KafkaProducer, settings, refusals=refusals,
            # What the broker really speaks is asked on each connection and lowers this; without it the constructor
            # connects only to ask, and the first record waits 100 ms longer. With it, it doesn't connect: we do below.
            api_version=(4, 0),
            enable_idempotence=False,  # with it, one refused record makes every later send fail
            acks="all",
            max_in_flight_requests_per_connection=1,  # more would reorder records when one is repeated
            delivery_timeout_ms=2_000_000_000,  # once that is over the producer wedges for good
            max_block_ms=settings.kafka_request_timeout_ms,
            max_request_size=max(settings.kafka_max_message_bytes, 4 * BATCH_BYTES),
            batch_size=BATCH_BYTES,  # one batch a partition and request: the default of 16 KB is half the rate
            linger_ms=linger_ms,
            metrics_enabled=False,
            allow_auto_create_topics=False,
        )
        self._await_broker(refusals)
        self._thread = threading.Thread(target=self._report_deliveries, name="yadtq-deliveries", daemon=True)
        self._thread.start()

    def _await_broker(self, refusals: Refusals) -> None:
        """The constructor does not connect; the metadata of the task topic are needed first anyway."""
        from kafka.errors import KafkaError, KafkaTimeoutError

        left_ms = self._settings.kafka_request_timeout_ms
        while True:
            try:
                self._producer._wait_on_metadata(self._settings.kafka_task_topic, min(left_ms, SLICE_S * 1000))
            except KafkaError as error:
                left_ms -= int(SLICE_S * 1000)
                known, verdict = self._producer._metadata.brokers(), refusals.verdict()
                if not known:
                    if verdict is None and left_ms > 0 and isinstance(error, KafkaTimeoutError):
                        continue
                    self._abort()
                    raise verdict or refusals.gone(error) from error
            except KafkaRefused:
                self._abort()
                raise
            refusals.watching = False
            return  # or a broker answered: it is the topic that is missing, which is for `send` to say

    def send(self, topic: str, partition: int, value: bytes, key: bytes | None = None,
             on_done: OnDone | None = None) -> None:
        """Hand over one record; see `Producer.send`."""
        self._check()
        size = len(value)
        self._pending.take(1, size)
        try:
            self._produce(topic, partition, value, key, (on_done, None, size))
        except BaseException:
            self._pending.give_back(1, size)
            raise

    def send_many(self, topic: str, items: Sequence[tuple[int, bytes, bytes | None]],
                  on_done: OnManyDone | None = None) -> None:
        """Hand over a batch; see `Producer.send_many`."""
        self._check()
        self._pending.take(len(items), sum([len(item[1]) for item in items]))
        append = self._producer._accumulator.append
        places = {partition: kafka.TopicPartition(topic, partition)
                  for partition in self._producer._metadata.partitions_for_topic(topic) or ()}
        room = self._limit - RECORD_OVERHEAD
        wake = False
        for index, (partition, value, key) in enumerate(items):
            entry = (on_done, index, len(value))
            place = places.get(partition)
            try:
                if place is None or len(value) + len(key or b"") > room:
                    self._produce(topic, partition, value, key, entry)      # the way that knows what to do then
                    continue
                # KafkaProducer.send in short: a third of its time goes into checks that hold for all of the batch
                future, full, fresh, _ = append(place, None, key, value, [])
                wake = wake or full or fresh
                self._await(future, entry)
            except YADTQError as error:
                self._outcomes.put((entry, error))
            except Exception as error:  # noqa: BLE001 - translated; the library raises all sorts
                self._outcomes.put((entry, from_kafka_python(error, len(value), self._limit)))
        if wake:
            self._producer._sender.wakeup()

    def _produce(self, topic: str, partition: int, value: bytes, key: bytes | None,
                 entry: tuple[Any, int | None, int]) -> None:
        if (size := len(value) + len(key or b"") + RECORD_OVERHEAD) > self._limit:
            raise PayloadTooLarge(f"a record of {size} bytes is larger than kafka_max_message_bytes, {self._limit}",
                                  size, self._limit)
        try:
            future = self._producer.send(topic, value, key, None, partition)
        except Exception as error:  # noqa: BLE001 - translated; the library raises all sorts
            future = self._second_try(error, topic, partition, value, key)
        self._await(future, entry)

    def _await(self, future: Any, entry: tuple[Any, int | None, int]) -> None:
        number = next(self._numbers)
        self._open[number] = entry
        ended = partial(self._ended, number)
        future._add_cb_eb(ended, ended)

    def _second_try(self, error: Exception, topic: str, partition: int, value: bytes, key: bytes | None) -> Any:
        """A partition may be newer than what the producer knows of the topic: ask once, then send or tell."""
        known = self._producer._metadata.partitions_for_topic(topic)
        if known is None and self._producer._metadata.brokers() and not isinstance(error, TypeError):
            raise UnknownTopic(f"topic {topic} does not exist ({error})") from error
        if known is None or partition in known or not isinstance(error, (ValueError, AssertionError)):
            raise from_kafka_python(error, len(value), self._limit) from error
        refreshed = threading.Event()
        self._producer._metadata.request_update().add_both(lambda _: refreshed.set())
        self._producer._sender.wakeup()
        refreshed.wait(self._settings.kafka_request_timeout_ms / 1000)
        try:
            return self._producer.send(topic, value, key, None, partition)
        except Exception as again:
            raise UnknownTopic(f"topic {topic} has no partition {partition} ({again})") from again

    def _ended(self, number: int, outcome: Any) -> None:
        """Called by kafka-python's thread, or at once in the sender's."""
        entry = self._open.pop(number, None)
        if entry is not None:
            self._outcomes.put((entry, outcome))

    def _give_up(self, left: int) -> None:
        self._abort()
        gone = KafkaConnectionError("given up: the producer was closed before Kafka acknowledged the record")
        for number in list(self._open):
            self._ended(number, gone)
        self._outcomes.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(ABORT_S)

    def _abort(self) -> None:
        """End kafka-python's thread. Its own `close` waits for records first, and raises instead of ending then."""
        self._producer._sender.force_close()
        self._producer._sender.join(ABORT_S)
        if not self._producer._accumulator.has_incomplete:
            self._producer.close(timeout=0)

    # ---- the delivery thread --------------------------------------------------------------------------------------
    def _report_deliveries(self) -> None:
        """The thread that calls on_done, until closed."""
        while True:
            try:
                item = self._outcomes.get(timeout=1.0)
            except Empty:
                self._pending.tell_if_stuck(time.monotonic())
                continue
            if item is None:
                return
            self._report(*item)
            if self._outcomes.empty():
                self._pending.settle(time.monotonic())

    def _report(self, entry: tuple[Any, int | None, int], outcome: Any) -> None:
        on_done, index, size = entry
        self._pending.done(size)
        if on_done is None:
            return
        if isinstance(outcome, BaseException):
            offset, error = -1, from_kafka_python(outcome, size, self._limit)
        else:
            offset, error = outcome.offset, None
        try:
            if index is None:
                on_done(offset, error)
            else:
                on_done(index, offset, error)
        except Exception:  # the caller's; the other reports go on
            log.exception("on_done failed")

    def _library_objects(self) -> list[Any]:
        self._producer._unregister_cleanup()  # a child's exit would wait for a thread that it does not have
        return [self._producer]


class KafkaPythonConsumer(Guarded):
    """See `yadtq.transport.Consumer`."""

    transport_name: ClassVar[str] = "kafka-python"

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._topic = ""
        self._positions: dict[int, int] = {}  # of every assigned partition, paused ones too
        self._paused: set[int] = set()
        self._woken = False
        self._known_s = 0.0
        self._timeout_ms = settings.kafka_request_timeout_ms
        self._consumer = connect_kafka_python(kafka.KafkaConsumer, settings,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            fetch_max_wait_ms=min(FETCH_WAIT_MS, settings.kafka_request_timeout_ms // 2),
            fetch_max_bytes=16 * 1024 * 1024,
            metrics_enabled=False,
            allow_auto_create_topics=False,
            metadata_max_age_ms=60_000,
        )

    @property
    def connected(self) -> bool:
        """False while no connection to a broker is open."""
        return any(connection.connected for connection in list(self._consumer._manager._conns.values()))

    def assign(self, topic: str, offsets: dict[int, int]) -> None:
        """Read exactly these partitions from these offsets; see `Consumer.assign`."""
        self._check()
        with kafka_python_errors():
            self._consumer.assign([])  # forgets positions and what was fetched
            self._topic, self._positions, self._paused = topic, dict(offsets), set()
            self._known_s = time.monotonic()
            self._read(offsets)

    def _read(self, new: Iterable[int]) -> None:
        """Have the library read what is not paused; the `new` ones from our positions, the others go on."""
        self._consumer.assign([self._tp(partition) for partition in self._positions if partition not in self._paused])
        for partition in new:
            self._consumer.seek(self._tp(partition), self._positions[partition])

    def _tp(self, partition: int) -> Any:
        return kafka.TopicPartition(self._topic, partition)

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """What is there or comes within `timeout_s`; see `Consumer.poll`."""
        from kafka.errors import OffsetOutOfRangeError

        self._check()
        end_s = time.monotonic() + timeout_s
        left_ms = max(timeout_s * 1000, 0.0)
        while True:
            try:
                with kafka_python_errors():
                    fetched = self._consumer.poll(timeout_ms=min(left_ms, SLICE_MS), max_records=max_records)
            except YADTQError as error:
                if isinstance(error.__cause__, OffsetOutOfRangeError):
                    raise self._out_of_range(error.__cause__) from error.__cause__
                if not isinstance(error, KafkaConnectionError) or not error.retryable:
                    raise
                fetched = {}  # an outage: the library reconnects by itself
                time.sleep(min(left_ms, SLICE_MS) / 1000)
            if fetched:
                return self._records(fetched)
            left_ms = (end_s - time.monotonic()) * 1000
            if self._woken or left_ms <= 0:
                self._woken = False
                self._check_topic()
                return []

    def _records(self, fetched: dict[Any, list[Any]]) -> list[Record]:
        new = tuple.__new__
        for tp, records in fetched.items():
            self._positions[tp.partition] = records[-1].offset + 1
        return [new(Record, (record.partition, record.offset, record.key, record.value or b"", record.timestamp))
                for records in fetched.values() for record in records]

    def _check_topic(self) -> None:
        """The library waits in silence for a topic or partition that does not exist: tell, once that is certain."""
        known = self._consumer._cluster.partitions_for_topic(self._topic) if self._positions else None
        missing = sorted(self._positions.keys() - known) if known else []
        now_s = time.monotonic()
        if (known and not missing) or not self._positions or not self.connected:
            self._known_s = now_s
        elif now_s - self._known_s > self._timeout_ms / 1000:  # a broker that starts may not know everything at once
            self._known_s = now_s
            raise UnknownTopic(f"topic {self._topic} has no partition {missing[0]}" if missing else
                               f"topic {self._topic} does not exist")

    def _out_of_range(self, error: Any) -> YADTQError:
        partition = next(iter(error.args[0])).partition
        tp = self._tp(partition)
        with kafka_python_errors():
            earliest = self._consumer.beginning_offsets([tp], timeout_ms=self._timeout_ms)[tp]
        where = f"{self._topic}[{partition}]: no record at offset {error.args[0][tp]}"
        return OffsetOutOfRange(where, partition, earliest)

    def pause(self, partitions: Iterable[int]) -> None:
        """Return nothing more of these until resumed.

        Not by the library's own pause: records that it has fetched and put aside for a paused partition are forgotten
        there when the partition is resumed and nothing else is at hand, and the partition is never read again.
        """
        self._check()
        self._paused.update(partition for partition in partitions if partition in self._positions)
        with kafka_python_errors():
            self._read(())

    def resume(self, partitions: Iterable[int]) -> None:
        """Go on where reading was paused."""
        self._check()
        resumed = [partition for partition in partitions if partition in self._paused]
        self._paused.difference_update(resumed)
        with kafka_python_errors():
            self._read(resumed)

    def high_watermarks(self) -> dict[int, int]:
        """The offsets behind the last records, as the fetches said."""
        self._check()
        marks = {partition: self._consumer.highwater(self._tp(partition)) for partition in self._positions
                 if partition not in self._paused}
        return {partition: mark for partition, mark in marks.items() if mark is not None}

    def wake(self) -> None:
        """Have poll return early, within SLICE_MS."""
        self._woken = True

    def close(self) -> None:
        """Stop reading. Idempotent."""
        if self.closed:
            return
        self._check()
        self.closed = True
        with kafka_python_errors():
            self._consumer.close(autocommit=False, timeout_ms=1000)

    def _library_objects(self) -> list[Any]:
        return [self._consumer]
