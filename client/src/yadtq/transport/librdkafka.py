"""The transport on confluent_kafka (librdkafka): several times the rate of kafka-python at a quarter of its CPU time.

Owns a producer with a thread that reports its deliveries, and a partition-bound consumer that runs in its caller's
thread. librdkafka has threads of its own in C: opened after a fork, never before. Never commits an offset.
"""
from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from confluent_kafka import Consumer as _Consumer
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka import Producer as _Producer

from yadtq.errors import BacklogFull, KafkaConnectionError, OffsetOutOfRange, UnknownTopic, YADTQError
from yadtq.transport.base import (
    ALARM_AFTER_S,
    BATCH_BYTES,
    MAX_PENDING_BYTES,
    Guarded,
    OnDone,
    OnManyDone,
    Pending,
    Record,
)
from yadtq.transport.connection import from_librdkafka, librdkafka_config, unreachable
from yadtq.transport.library_log import limited_logger

if TYPE_CHECKING:
    from yadtq.config import Settings

log = logging.getLogger(__name__)

POLL_S = 0.1  # how long the delivery thread waits in C for an event; bounds the delay of refused records and of close
WAKE_S = 0.02  # how long a consumer waits in C, where nothing can wake it: bounds the delay of `wake`
PROBE_EVERY_S, PROBE_S = 1.0, 0.1  # while the brokers are away: how often, and for how long, to ask if they are back
PURGE_S = 2.0  # for the reports of records that are given up
FETCH_WAIT_MS = 100  # how long a broker holds a fetch with nothing to read: what a resumed partition waits at most
QUEUE_MESSAGES, QUEUE_KBYTES = 10_000, 16_384  # read ahead: hides a round trip, without filling a worker's memory


def _new_producer(settings: Settings, linger_ms: int, on_error: Any) -> _Producer:
    return _Producer(librdkafka_config(settings) | {
        "acks": "all",
        "enable.idempotence": True,  # no duplicate when a request is repeated
        # With more, acknowledged records can be lost (seen): a broker that does not know the producer yet, as in a new
        # partition, may refuse its first request and take the second; the first, repeated, then counts as a duplicate,
        # which librdkafka reports as a success. One at a time costs nothing: what comes meanwhile makes larger batches.
        "max.in.flight.requests.per.connection": 1,
        "delivery.timeout.ms": 2_147_483_647,  # the caller decides how long to wait; a time-out here proves nothing
        "linger.ms": linger_ms,
        "batch.size": BATCH_BYTES,
        "message.max.bytes": settings.kafka_max_message_bytes,
        # Above our own bound, which is the one that is meant to be met.
        "queue.buffering.max.messages": settings.max_in_flight + 1000,
        "queue.buffering.max.kbytes": 2 * MAX_PENDING_BYTES // 1024,
        "error_cb": on_error,
    }, logger=limited_logger())


class LibrdkafkaProducer(Guarded):
    """See `yadtq.transport.Producer`."""

    transport_name: ClassVar[str] = "librdkafka"

    def __init__(self, settings: Settings, linger_ms: int = 0) -> None:
        super().__init__()
        self._settings, self._linger_ms = settings, linger_ms
        self._limit = settings.kafka_max_message_bytes
        self._pending = Pending(settings.max_in_flight)
        self._fatal: KafkaError | None = None  # set by librdkafka's error callback, cleared by the delivery thread
        self._refused: deque[tuple[OnManyDone | None, int, int, YADTQError]] = deque()
        self._stop = False
        self._alarm_s = 0.0
        self._producer = _new_producer(settings, linger_ms, self._on_error)
        try:
            self._producer.list_topics(settings.kafka_task_topic, timeout=settings.kafka_request_timeout_ms / 1000)
        except KafkaException as error:
            raise unreachable(settings, error.args[0].str()) from error
        self._thread = threading.Thread(target=self._report_deliveries, name="yadtq-deliveries", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Records handed over and not reported yet."""
        return len(self._pending)

    def send(self, topic: str, partition: int, value: bytes, key: bytes | None = None,
             on_done: OnDone | None = None) -> None:
        """Hand over one record; see `Producer.send`."""
        self._check()
        size = len(value)
        self._pending.take(1, size)
        try:
            self._produce(topic, partition, value, key, partial(self._done_one, on_done))
        except BaseException:
            self._pending.give_back(1, size)
            raise

    def send_many(self, topic: str, items: Sequence[tuple[int, bytes, bytes | None]],
                  on_done: OnManyDone | None = None) -> None:
        """Hand over a batch; see `Producer.send_many`."""
        self._check()
        self._pending.take(len(items), sum([len(item[1]) for item in items]))
        done, produce = self._done_many, self._producer.produce
        for index, (partition, value, key) in enumerate(items):
            try:
                produce(topic, value, key, partition, partial(done, on_done, index))
            except Exception:  # noqa: BLE001 - told by on_done, whatever it is: the rest of the batch goes on
                try:  # again, the way that knows what can be mended
                    self._produce(topic, partition, value, key, partial(done, on_done, index))
                except YADTQError as error:
                    self._refused.append((on_done, index, len(value), error))

    def _produce(self, topic: str, partition: int, value: bytes, key: bytes | None, callback: Any) -> None:
        """Produce, with errors of ours; a partition that is new to librdkafka is looked for once."""
        for attempt in (1, 2):
            try:
                self._producer.produce(topic, value, key, partition, callback)
            except BufferError as error:
                raise BacklogFull(str(error)) from error
            except KafkaException as error:
                problem = error.args[0]
                if attempt == 1 and problem.code() == KafkaError._UNKNOWN_PARTITION and self._refresh(topic):
                    continue
                if problem.fatal() or problem.code() == KafkaError._FATAL:
                    self._fatal = problem
                raise from_librdkafka(problem, len(value), self._limit) from error
            except (TypeError, ValueError, RuntimeError) as error:
                raise KafkaConnectionError(f"the record can't be sent: {error}") from error
            return

    def _refresh(self, topic: str) -> bool:
        try:
            self._producer.list_topics(topic, timeout=self._settings.kafka_request_timeout_ms / 1000)
        except KafkaException:
            return False
        return True

    def flush(self, timeout_s: float) -> int:
        """Wait until nothing is under way; see `Producer.flush`."""
        return self._pending.wait(timeout_s)

    def poll(self) -> None:
        """Nothing to do: the delivery thread polls."""

    def close(self, timeout_s: float) -> int:
        """Flush, then give up what is left; see `Producer.close`."""
        if self.closed:
            return 0
        self._check()
        self.closed = True
        given_up = self._pending.wait(timeout_s)
        if given_up:
            self._producer.purge(blocking=False)
            self._pending.wait(PURGE_S)
        self._stop = True
        if threading.current_thread() is not self._thread:
            self._thread.join(POLL_S + PURGE_S)
        return given_up

    # ---- the delivery thread --------------------------------------------------------------------------------------
    def _report_deliveries(self) -> None:
        """The thread that serves all callbacks, until closed."""
        while not self._stop:
            events = self._serve(self._producer, POLL_S)
            now_s = time.monotonic()
            if self._refused:
                self._report_refused()
                events += 1
            if events:  # reports, or only lines for the log
                self._pending.settle(now_s)
            if (stuck_s := self._pending.stuck_s(now_s)) > ALARM_AFTER_S and now_s - self._alarm_s > ALARM_AFTER_S:
                self._alarm_s = now_s
                log.warning("KAFKA_CONNECTION_ERROR: %d records wait for Kafka, none was acknowledged for %.0f s",
                            len(self._pending), stuck_s)
            if self._fatal is not None:
                self._replace()

    def _serve(self, producer: _Producer, timeout_s: float) -> int:
        """Serve callbacks, which are all this thread is for: it must outlive whatever the library raises there."""
        try:
            return producer.poll(timeout_s)
        except KafkaException as error:
            if error.args[0].fatal():
                self._fatal = error.args[0]
            else:
                log.warning("KAFKA_CONNECTION_ERROR: %s", error)
                time.sleep(POLL_S)
            return 1

    def _report_refused(self) -> None:
        while self._refused:
            on_done, index, size, error = self._refused.popleft()
            self._pending.done(size)
            if on_done is not None:
                _call(on_done, index, -1, error)

    def _replace(self) -> None:
        """A fatal error ends a librdkafka producer: give up what it holds (each is told) and go on with a new one."""
        log.error("librdkafka's producer failed (%s): starting a new one", self._fatal)
        broken, self._fatal = self._producer, None
        self._producer = _new_producer(self._settings, self._linger_ms, self._on_error)
        broken.purge(blocking=False)
        end_s = time.monotonic() + PURGE_S
        while len(broken) and time.monotonic() < end_s:
            self._serve(broken, POLL_S)
        self._fatal = None  # what the broken one said while it was emptied

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = error

    def _done_one(self, on_done: OnDone | None, error: KafkaError | None, message: Message) -> None:
        size = len(message)
        self._pending.done(size)
        if on_done is not None:
            offset = message.offset()
            if error is None and offset is not None:
                _call(on_done, offset, None)
            else:
                _call(on_done, -1, self._failure(error, size))

    def _failure(self, error: KafkaError | None, size: int) -> YADTQError:
        """Success without an offset means "a duplicate, which must be there already": nobody has seen it there."""
        if error is None:
            return KafkaConnectionError("Kafka took the record for a duplicate: whether it is there is not known")
        return from_librdkafka(error, size, self._limit)

    def _done_many(self, on_done: OnManyDone | None, index: int, error: KafkaError | None, message: Message) -> None:
        pending = self._pending  # `done` written out: the hottest lines of a batch
        pending._done += 1
        pending._done_bytes += len(message)
        if on_done is not None:
            try:
                offset = message.offset()
                if error is None and offset is not None:
                    on_done(index, offset, None)
                else:
                    on_done(index, -1, self._failure(error, len(message)))
            except Exception:  # the caller's; the other reports go on
                log.exception("on_done failed")

    def _library_objects(self) -> list[Any]:
        return [self._producer]


def _call(on_done: Any, *arguments: Any) -> None:
    """Call the caller's function, whose errors must not stop the others' reports."""
    try:
        on_done(*arguments)
    except Exception:
        log.exception("on_done failed")


class LibrdkafkaConsumer(Guarded):
    """See `yadtq.transport.Consumer`."""

    transport_name: ClassVar[str] = "librdkafka"

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._topic = ""
        self._offsets: dict[int, int] = {}
        self._woken = False
        self._down = False
        self._probe_s = 0.0
        self._timeout_s = settings.kafka_request_timeout_ms / 1000
        self._verify_s: float | None = None  # when to ask whether what is assigned exists
        self._problem: YADTQError | None = None  # raised by the poll after the one that returns the good records
        self._consumer = _Consumer(librdkafka_config(settings) | {
            "group.id": f"{settings.kafka_group}.unused",  # demanded by the library; nothing joins or commits
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
            self._consumer.list_topics(settings.kafka_task_topic, timeout=settings.kafka_request_timeout_ms / 1000)
        except KafkaException as error:
            self._consumer.close()
            raise unreachable(settings, error.args[0].str()) from error

    @property
    def connected(self) -> bool:
        """False once all brokers are known to be away."""
        return not self._down

    def assign(self, topic: str, offsets: dict[int, int]) -> None:
        """Read exactly these partitions from these offsets; see `Consumer.assign`."""
        self._check()
        self._topic, self._offsets, self._problem = topic, dict(offsets), None
        self._verify_s = time.monotonic() + self._timeout_s if offsets else None
        self._consumer.assign([TopicPartition(topic, partition, offset) for partition, offset in offsets.items()])

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """What is there or comes within `timeout_s`; see `Consumer.poll`."""
        self._check()
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem
        consumer = self._consumer
        end_s = time.monotonic() + timeout_s
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
        """The library waits in silence for a topic or partition that does not exist: ask, once after assigning."""
        self._verify_s = time.monotonic() + PROBE_EVERY_S
        try:
            found = self._consumer.list_topics(self._topic, timeout=PROBE_S).topics[self._topic]
        except KafkaException:
            return  # an outage: later
        if found.error is None and self._offsets.keys() <= found.partitions.keys():
            self._verify_s = None
        elif found.error is None or found.error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            raise UnknownTopic(f"topic {self._topic} does not exist, or not with partitions {sorted(self._offsets)}")

    def _records(self, messages: list[Message]) -> list[Record]:
        new = tuple.__new__
        records: list[Record] = []
        add = records.append
        for message in messages:
            if message.error() is None:
                add(new(Record, (message.partition(), message.offset(), message.key(), message.value(),
                                 message.timestamp()[1])))
            else:
                self._note(message)
        if records:
            self._down = False
        elif self._problem is not None:
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

    def _probe(self) -> None:
        """Nothing tells that a broker is back while no record comes: ask, now and then."""
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
