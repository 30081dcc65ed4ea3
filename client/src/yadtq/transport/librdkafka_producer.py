"""The producer on confluent_kafka (librdkafka): several times the rate of kafka-python at a quarter of its CPU time.

Owns a producer with a thread that reports its deliveries. librdkafka has threads of its own in C: opened after a fork,
never before.
"""
from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as _Producer

from yadtq.errors import BacklogFull, KafkaConnectionError, YADTQError
from yadtq.transport.base import BATCH_BYTES, MAX_PENDING_BYTES, GuardedProducer, OnDone, OnManyDone
from yadtq.transport.connection import from_librdkafka, librdkafka_config
from yadtq.transport.library_log import limited_logger
from yadtq.transport.refusals import Refusals, await_librdkafka, note_librdkafka

if TYPE_CHECKING:
    from yadtq.config import Settings

log = logging.getLogger(__name__)

POLL_S = 0.1  # how long the delivery thread waits in C for an event; bounds the delay of refused records and of close
PURGE_S = 2.0  # for the reports of records that are given up


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


class LibrdkafkaProducer(GuardedProducer):
    """See `yadtq.transport.Producer`."""

    transport_name: ClassVar[str] = "librdkafka"

    def __init__(self, settings: Settings, linger_ms: int = 0) -> None:
        super().__init__(settings.max_in_flight)
        self._settings, self._linger_ms = settings, linger_ms
        self._limit = settings.kafka_max_message_bytes
        self._fatal: KafkaError | None = None  # set by librdkafka's error callback, cleared by the delivery thread
        self._refused: deque[tuple[OnManyDone | None, int, int, YADTQError]] = deque()
        self._stop = False
        self._refusals = Refusals(settings)
        self._producer = _new_producer(settings, linger_ms, self._on_error)
        await_librdkafka(self._producer, settings, self._refusals)
        self._thread = threading.Thread(target=self._report_deliveries, name="yadtq-deliveries", daemon=True)
        self._thread.start()

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

    def _give_up(self, left: int) -> None:
        if left:
            self._producer.purge(blocking=False)
            self._pending.wait(PURGE_S)
        self._stop = True
        if threading.current_thread() is not self._thread:
            self._thread.join(POLL_S + PURGE_S)

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
            self._pending.tell_if_stuck(now_s)
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
        if self._refusals.watching:
            note_librdkafka(error, self._refusals, self._settings)

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
