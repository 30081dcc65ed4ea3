"""The transports while their broker dies, freezes, stops and comes back: nothing acknowledged is lost, nobody wedges.

Each test has a broker of its own. A thread keeps sending numbered records, another keeps reading; then the broker is
broken and mended, and what was acknowledged is compared with what is in the log.
"""
from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.contract.transport_support import REAL, Reports, consuming, created, producing, read, settings_of, wait_for
from yadtq.errors import BacklogFull, KafkaConnectionError
from yadtq.transport import Producer, Record, open_admin, open_consumer, open_producer
from yadtq.transport.library_log import RateLimit, limited_logger

if TYPE_CHECKING:
    from tests.support.services import KafkaServer
    from yadtq.config import Settings

pytestmark = [pytest.mark.fault, pytest.mark.slow]

RESUME_S = 2.5  # after the return of the broker; 0.3 to 1.1 on a quiet machine: reconnecting is tried every second
PARTITIONS = 4
COPIES = 3      # of a record, by kafka-python: one for each time-out of a request while the broker was frozen


@pytest.fixture(params=REAL)
def settings(request: pytest.FixtureRequest, own_kafka: KafkaServer, topic_prefix: str) -> Settings:
    logging.getLogger("yadtq.kafka").filters.clear()
    limited_logger()  # each test counts lines from nought
    return created(settings_of(request.param, own_kafka.bootstrap, topic_prefix, kafka_request_timeout_ms=4000))


class Stream:
    """Sends numbered records, round robin over the partitions, until stopped; keeps when each was acknowledged."""

    def __init__(self, producer: Producer, topic: str) -> None:
        self.reports = Reports()
        self.acknowledged_s: dict[int, float] = {}
        self.sent = 0
        self._stop = threading.Event()
        self._producer, self._topic = producer, topic
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.002):
            n = self.sent
            try:
                self._producer.send(self._topic, n % PARTITIONS, b"%d" % n, None, lambda o, e, n=n: self._done(n, o, e))
            except BacklogFull:
                continue
            self.sent = n + 1

    def _done(self, n: int, offset: int, error: object) -> None:
        self.reports.many(n, offset, error)  # type: ignore[arg-type]
        self.acknowledged_s[n] = time.monotonic()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(5)

    def first_after(self, moment_s: float) -> float:
        """Seconds from a moment to the first acknowledgement after it."""
        wait_for(lambda: any(at > moment_s for at in list(self.acknowledged_s.values())), 20, "sends resume")
        return min(at for at in list(self.acknowledged_s.values()) if at > moment_s) - moment_s


class Reader:
    """Polls until stopped and keeps what came and when."""

    def __init__(self, settings: Settings) -> None:
        self.records: list[Record] = []
        self.came_s: list[float] = []
        self.longest_poll_s = 0.0
        self.failed: list[BaseException] = []
        self.disconnected = False
        self._settings = settings
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with consuming(self._settings, dict.fromkeys(range(PARTITIONS), 0)) as consumer:
                while not self._stop:
                    start_s = time.monotonic()
                    got = consumer.poll(500, 0.2)
                    self.longest_poll_s = max(self.longest_poll_s, time.monotonic() - start_s)
                    self.records += got
                    self.came_s += [time.monotonic()] * bool(got)
                    self.disconnected |= not consumer.connected
                self.connected = consumer.connected
        except BaseException as error:  # what ends the thread is looked at by the test
            self.failed.append(error)

    def end(self) -> None:
        self._stop = True
        self._thread.join(10)

    def stop(self) -> None:
        self.end()
        assert not self._thread.is_alive(), "poll hangs"
        if self.failed:
            raise self.failed[0]


def check_nothing_lost(settings: Settings, stream: Stream, reader: Reader) -> None:
    """What was acknowledged is in the log at the offset reported, in order, and the reader has seen all of it."""
    ends = open_admin(settings)
    total = sum(ends.end_offsets(settings.kafka_task_topic).values())
    ends.close()
    with consuming(settings, dict.fromkeys(range(PARTITIONS), 0)) as consumer:
        log = read(consumer, total)
    at = {(record.partition, record.offset): int(record.value) for record in log}
    assert len(at) == total
    assert stream.reports.once_each(stream.sent)
    for n, offset in stream.reports.offsets.items():
        assert at.get((n % PARTITIONS, offset)) == n, f"acknowledged record {n} is not where it was reported"
    for partition in range(PARTITIONS):
        firsts = list(dict.fromkeys(value for (p, _), value in sorted(at.items()) if p == partition))
        assert firsts == sorted(firsts), "reordered"
    copies = max(Counter(at.values()).values())
    assert copies <= (1 if settings.transport == "librdkafka" else COPIES), f"{copies} copies of a record"
    wait_for(lambda: len(reader.records) >= total, 10, "the reader has caught up")
    reader.stop()
    seen = [(record.partition, record.offset) for record in reader.records]
    assert len(seen) == len(set(seen)) == total
    for partition in range(PARTITIONS):
        assert [offset for p, offset in seen if p == partition] == list(range(sum(p == partition for p, _ in seen)))


def break_and_mend(settings: Settings, broken: Callable[[], None], away_s: float, mend: Callable[[], None]) -> None:
    """The common course of the tests below."""
    with producing(settings) as producer, contextlib.ExitStack() as ending:
        stream, reader = Stream(producer, settings.kafka_task_topic), Reader(settings)
        ending.callback(reader.end)             # what goes on after a failure disturbs the tests after it
        ending.callback(stream.stop)
        wait_for(lambda: len(stream.acknowledged_s) > 100 and len(reader.records) > 100, 15, "all is well at first")
        broken()
        time.sleep(away_s)
        mend()
        mended_s = time.monotonic()
        resumed_s = stream.first_after(mended_s)
        wait_for(lambda: bool(reader.came_s) and reader.came_s[-1] > mended_s, 20, "reading resumes")
        came_s = min(at for at in list(reader.came_s) if at > mended_s) - mended_s
        time.sleep(0.5)
        stream.stop()
        assert producer.flush(15) == 0, "wedged"
        assert not stream.reports.errors
        check_nothing_lost(settings, stream, reader)
        assert reader.longest_poll_s < 1.5, f"a poll of 0.2 s took {reader.longest_poll_s:.1f} s"
        print(f"\n{settings.transport}: sending resumed {resumed_s:.2f} s, reading {came_s:.2f} s after the return")
        assert resumed_s < RESUME_S
        assert came_s < RESUME_S


def test_killed_and_restarted(settings: Settings, own_kafka: KafkaServer) -> None:
    break_and_mend(settings, own_kafka.kill, 1, own_kafka.start)


def test_frozen_and_thawed(settings: Settings, own_kafka: KafkaServer) -> None:
    break_and_mend(settings, own_kafka.freeze, 3, own_kafka.thaw)


def test_frozen_past_the_request_timeout(settings: Settings, own_kafka: KafkaServer) -> None:
    break_and_mend(settings, own_kafka.freeze, 7, own_kafka.thaw)


def test_stopped_for_fifteen_seconds(settings: Settings, own_kafka: KafkaServer,
                                     caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "yadtq"):
        break_and_mend(settings, own_kafka.stop, 15, own_kafka.start)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("yadtq")]
    assert any("records wait for Kafka" in line for line in said), "the age of what waits is told"
    assert 2 <= len(said) <= 25, "\n".join(said)  # 5 in 10 s; some 20 s pass with starting


def test_an_idle_consumer_notices_that_the_broker_is_away_and_back(settings: Settings, own_kafka: KafkaServer) -> None:
    with consuming(settings, {0: 0}) as consumer:
        consumer.poll(1, 0.3)
        assert consumer.connected
        own_kafka.kill()
        wait_for(lambda: not (consumer.poll(1, 0.1) or consumer.connected), 5, "away is noticed")
        own_kafka.start()
        wait_for(lambda: not consumer.poll(1, 0.1) and consumer.connected, 3, "back is noticed")


def test_what_was_read_ahead_does_not_hide_that_the_broker_is_away(settings: Settings, own_kafka: KafkaServer) -> None:
    with producing(settings) as producer:
        producer.send_many(settings.kafka_task_topic, [(0, b"%d" % n, None) for n in range(2000)])
        assert producer.flush(15) == 0
    with consuming(settings, {0: 0}) as consumer:
        got = len(read(consumer, 1, 1))
        time.sleep(1)                                       # the rest is read ahead
        own_kafka.kill()
        time.sleep(1)
        while records := consumer.poll(100, 0.1):
            got += len(records)
        wait_for(lambda: not (consumer.poll(1, 0.1) or consumer.connected), 5, "away is noticed")
        assert got == 2000, "and all of it is there"
        own_kafka.start()
        wait_for(lambda: not consumer.poll(1, 0.1) and consumer.connected, 3, "back is noticed")


def test_no_broker_at_the_start_is_an_error_within_the_deadline(topic_prefix: str) -> None:
    for transport in REAL:
        before = threading.active_count(), len(os.listdir("/proc/self/fd"))
        settings = settings_of(transport, "127.0.0.1:1", topic_prefix, kafka_request_timeout_ms=1000)
        for open_one in (open_producer, open_consumer, open_admin):
            start_s = time.monotonic()
            with pytest.raises(KafkaConnectionError, match=r"127\.0\.0\.1:1 "):
                open_one(settings)
            assert time.monotonic() - start_s < 4
        # librdkafka ends its threads behind our back; neither library may leave more with each attempt.
        def nothing_is_left(threads: int = before[0], files: int = before[1]) -> bool:
            gc.collect()        # a client that failed hangs in a cycle of references
            return threading.active_count() <= threads and len(os.listdir("/proc/self/fd")) <= files
        wait_for(nothing_is_left, 30, "nothing is left")


def test_admin_tells_an_outage_within_its_deadline_and_works_again(settings: Settings, own_kafka: KafkaServer) -> None:
    admin = open_admin(settings)
    assert admin.partition_count(settings.kafka_task_topic) == PARTITIONS
    for broken, mend in ((own_kafka.kill, own_kafka.start), (own_kafka.freeze, own_kafka.thaw)):
        broken()
        start_s = time.monotonic()
        with pytest.raises(KafkaConnectionError):
            admin.partition_count(settings.kafka_task_topic)
        assert time.monotonic() - start_s < 2 * 4 + 1
        mend()
        assert admin.partition_count(settings.kafka_task_topic) == PARTITIONS
    admin.close()


def test_closing_during_an_outage_keeps_its_deadline_and_tells_every_record(
        settings: Settings, own_kafka: KafkaServer) -> None:
    reports = Reports()
    producer, consumer = open_producer(settings), open_consumer(settings)
    consumer.assign(settings.kafka_task_topic, {0: 0})
    producer.send(settings.kafka_task_topic, 0, b"x", None, reports.one(0))
    assert producer.flush(5) == 0
    consumer.poll(1, 1)
    own_kafka.freeze()
    producer.send(settings.kafka_task_topic, 0, b"in flight", None, reports.one(1))
    time.sleep(0.2)
    producer.send_many(settings.kafka_task_topic, [(n % PARTITIONS, b"x", None) for n in range(500)],
                       lambda i, o, e: reports.many(i + 2, o, e))
    start_s = time.monotonic()
    assert producer.flush(0.5) == 501
    assert 0.4 < time.monotonic() - start_s < 1
    assert producer.close(1) == 501
    consumer.close()
    assert time.monotonic() - start_s < 7
    assert reports.once_each(502)
    assert set(reports.offsets) == {0}
    assert all(isinstance(error, KafkaConnectionError) for error in reports.errors.values())
    own_kafka.thaw()


def test_memory_stays_bounded_during_an_outage(settings: Settings, own_kafka: KafkaServer) -> None:
    reports = Reports()
    with producing(settings.replace(max_in_flight=1000)) as producer:
        own_kafka.kill()
        refused = 0
        for n in range(3000):
            try:
                producer.send(settings.kafka_task_topic, n % PARTITIONS, b"x" * 100, None, reports.one(n))
            except BacklogFull:
                refused += 1
        assert refused >= 2000
        assert producer.pending == 1000
        own_kafka.start()
        assert producer.flush(20) == 0
    assert len(reports.offsets) == 3000 - refused


def test_a_fatal_error_of_librdkafka_is_told_and_survived(own_kafka: KafkaServer, topic_prefix: str) -> None:
    """librdkafka's own way to provoke one is called through its C interface: a broker does it too rarely."""
    import ctypes

    settings = created(settings_of("librdkafka", own_kafka.bootstrap, topic_prefix))
    reports = Reports()
    with producing(settings) as producer:
        producer.send(settings.kafka_task_topic, 0, b"x", None, reports.one(0))
        assert producer.flush(5) == 0
        own_kafka.freeze()
        producer.send(settings.kafka_task_topic, 0, b"held", None, reports.one(1))
        handle = ctypes.c_void_p.from_address(id(producer._producer) + object.__basicsize__)  # type: ignore[attr-defined]
        maps = Path("/proc/self/maps").read_text().splitlines()
        path = next(line.split()[-1] for line in maps if "librdkafka" in line and ".so" in line)
        ctypes.CDLL(path).rd_kafka_test_fatal_error(handle, 47, b"provoked")
        wait_for(lambda: reports.once_each(2), 10, "the record that was held is told")
        assert isinstance(reports.errors[1], KafkaConnectionError)
        own_kafka.thaw()

        def sends_again() -> bool:
            try:
                producer.send(settings.kafka_task_topic, 0, b"x", None, reports.one(2))
            except KafkaConnectionError:
                return False
            return True

        wait_for(sends_again, 10, "a new producer took over")
        assert producer.flush(10) == 0
        assert 2 in reports.offsets


def test_the_rate_limit_counts_what_it_leaves_out() -> None:
    now_s = [0.0]
    limit = RateLimit(2, 10, lambda: now_s[0])
    lines = [logging.LogRecord("n", logging.INFO, "", 0, "line %d", (n,), None) for n in range(6)]
    assert [limit.filter(line) for line in lines[:5]] == [True, True, False, False, False]
    now_s[0] = 10.0
    assert limit.filter(lines[5])
    assert lines[5].getMessage() == "line 5 (3 lines like this were left out)"
