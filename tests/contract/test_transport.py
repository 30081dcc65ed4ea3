"""One suite for all transports: what `yadtq.transport` promises, on real Kafka for kafka-python and librdkafka.

Shows order, single and true acknowledgement, bounds, start offsets, pausing, waking and closing. What happens when the
broker dies is in test_transport_faults.py.
"""
from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.transport_support import (
    REAL,
    TRANSPORTS,
    Reports,
    consuming,
    created,
    producing,
    read,
    settings_of,
    wait_for,
)
from yadtq.errors import (
    BacklogFull,
    KafkaConnectionError,
    OffsetOutOfRange,
    PayloadTooLarge,
    TransportClosed,
    UnknownTopic,
    YADTQError,
)
from yadtq.transport import Consumer, Record, chosen, open_admin, open_consumer, open_producer

if TYPE_CHECKING:
    from tests.support.services import KafkaServer
    from yadtq.config import Settings

pytestmark = pytest.mark.integration


@pytest.fixture(params=[*TRANSPORTS, *(f"{transport} over TLS" for transport in REAL)])
def settings(request: pytest.FixtureRequest, topic_prefix: str) -> Settings:
    """Topics with 4 partitions on each transport; the real ones plain, and with SCRAM over TLS."""
    transport, _, secure = request.param.partition(" ")
    if secure:
        options = request.getfixturevalue("secure_kafka").options()
        return created(settings_of(transport, options.pop("kafka_servers"), topic_prefix, **options))
    servers = "" if transport == "memory" else request.getfixturevalue("kafka").bootstrap
    return created(settings_of(transport, servers, topic_prefix))


def test_a_record_arrives_as_it_was_sent(settings: Settings) -> None:
    reports = Reports()
    before_ms = time.time_ns() // 1_000_000
    with producing(settings) as producer, consuming(settings, {2: 0}) as consumer:
        assert producer.transport_name == consumer.transport_name == settings.transport
        producer.send(settings.kafka_task_topic, 2, b"\x00value", b"key", reports.one(0))
        producer.send(settings.kafka_task_topic, 2, b"", None, reports.one(1))
        first, second = read(consumer, 2)
        assert producer.flush(5) == 0
        wait_for(lambda: reports.once_each(2), 5, "both reported")
    assert first[:4] == (2, 0, b"key", b"\x00value")
    assert (second.key, second.value) == (None, b"")
    assert isinstance(first, Record)
    assert before_ms - 5 <= first.timestamp_ms <= time.time_ns() // 1_000_000 + 5
    assert reports.offsets == {0: 0, 1: 1}


def test_records_of_a_partition_keep_their_order_and_each_is_reported_once(settings: Settings) -> None:
    count = 6000
    reports = Reports()
    with producing(settings) as producer, consuming(settings, dict.fromkeys(range(4), 0)) as consumer:
        for start in range(0, count, 1000):  # single sends and batches in turn
            numbers = range(start, start + 1000)
            if start % 2000:
                for n in numbers:
                    producer.send(settings.kafka_task_topic, n % 4, b"%d" % n, None, reports.one(n))
            else:
                producer.send_many(settings.kafka_task_topic, [(n % 4, b"%d" % n, None) for n in numbers],
                                   lambda i, o, e, start=start: reports.many(start + i, o, e))
        records = read(consumer, count)
        assert producer.flush(10) == 0
        assert producer.pending == 0
    assert reports.once_each(count)
    assert not reports.errors
    for partition in range(4):
        mine = [record for record in records if record.partition == partition]
        assert [int(record.value) for record in mine] == list(range(partition, count, 4))
        assert [record.offset for record in mine] == list(range(count // 4))
        assert [reports.offsets[int(record.value)] for record in mine] == [record.offset for record in mine]


def test_reports_come_from_one_thread_which_is_not_the_callers(settings: Settings) -> None:
    reports = Reports()
    with producing(settings) as producer:
        def submit(first: int) -> None:
            for n in range(first, first + 200):
                producer.send(settings.kafka_task_topic, n % 4, b"x", None, reports.one(n))

        threads = [threading.Thread(target=submit, args=(n * 200,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert producer.flush(10) == 0
        assert reports.once_each(1200)
        assert len(reports.threads) == 1
        assert not reports.threads & {thread.ident for thread in (*threads, threading.current_thread())}


def test_a_report_comes_only_after_the_record_can_be_read(settings: Settings) -> None:
    ends: list[int] = []
    with producing(settings) as producer:
        admin = open_admin(settings)
        done = threading.Event()
        producer.send(settings.kafka_task_topic, 1, b"x", None, lambda offset, error: done.set())
        assert done.wait(5)
        ends.append(admin.end_offsets(settings.kafka_task_topic)[1])
        admin.close()
    assert ends == [1]


def test_a_callback_that_raises_stops_nobody_else(settings: Settings) -> None:
    reports = Reports()

    def bad(*_: object) -> None:
        raise RuntimeError("from on_done")

    with producing(settings) as producer:
        producer.send(settings.kafka_task_topic, 0, b"x", None, bad)
        producer.send_many(settings.kafka_task_topic, [(0, b"x", None)] * 3, bad)
        producer.send(settings.kafka_task_topic, 0, b"x", None, reports.one(0))
        producer.send(settings.kafka_task_topic, 0, b"x")
        assert producer.flush(5) == 0
    assert reports.once_each(1)


def test_more_than_max_in_flight_is_refused_and_room_comes_back(settings: Settings) -> None:
    reports = Reports()
    held, release = threading.Event(), threading.Event()

    def hold(offset: int, error: YADTQError | None) -> None:
        held.set()
        release.wait(10)

    with producing(settings.replace(max_in_flight=50)) as producer:
        topic = settings.kafka_task_topic
        with pytest.raises(BacklogFull, match="max_in_flight"):
            producer.send_many(topic, [(0, b"x", None)] * 51, reports.many)
        producer.send(topic, 0, b"first", None, hold)
        assert held.wait(5)  # the delivery thread is busy: nothing is reported from here on
        for n in range(40):
            producer.send(topic, 0, b"x", None, reports.one(n))
        under_way = producer.pending
        assert under_way >= 40
        with pytest.raises(BacklogFull):
            producer.send_many(topic, [(0, b"x", None)] * 20, reports.many)
        assert producer.pending == under_way, "a refused batch must leave nothing behind"
        def fill() -> None:
            for _ in range(20):
                producer.send(topic, 0, b"x")

        with pytest.raises(BacklogFull):
            fill()
        release.set()
        assert producer.flush(5) == 0
        producer.send(topic, 0, b"x", None, reports.one(40))
        assert producer.flush(5) == 0
    assert reports.once_each(41)


def test_a_record_that_is_too_large_is_refused_and_its_neighbours_are_not(settings: Settings) -> None:
    reports = Reports()
    big = b"b" * (settings.kafka_max_message_bytes + 1)
    with producing(settings) as producer:
        with pytest.raises(PayloadTooLarge) as refused:
            producer.send(settings.kafka_task_topic, 0, big, None, reports.one(0))
        assert refused.value.limit == settings.kafka_max_message_bytes
        assert refused.value.size >= len(big)
        producer.send_many(settings.kafka_task_topic, [(0, b"a", None), (0, big, None), (0, b"c", None)], reports.many)
        assert producer.flush(10) == 0
        assert producer.pending == 0
    assert reports.once_each(3)
    assert reports.offsets == {0: 0, 2: 1}
    assert isinstance(reports.errors[1], PayloadTooLarge)


def test_the_largest_record_allowed_goes_through(settings: Settings) -> None:
    value = os.urandom(settings.max_payload_bytes)
    with producing(settings) as producer, consuming(settings, {3: 0}) as consumer:
        for _ in range(3):
            producer.send(settings.kafka_task_topic, 3, value)
        assert [record.value == value for record in read(consumer, 3)] == [True] * 3


def test_reading_starts_where_it_is_told_and_assigning_anew_replaces_all(settings: Settings) -> None:
    with producing(settings) as producer, consuming(settings) as consumer:
        producer.send_many(settings.kafka_task_topic, [(p, b"%d" % n, None) for p in range(3) for n in range(10)])
        assert producer.flush(5) == 0
        consumer.assign(settings.kafka_task_topic, {0: 7, 1: 0})
        got = read(consumer, 13)
        assert [r.offset for r in got if r.partition == 0] == [7, 8, 9]
        assert [r.offset for r in got if r.partition == 1] == list(range(10))
        assert consumer.poll(10, 0.1) == []
        consumer.assign(settings.kafka_task_topic, {2: 4})
        assert [(r.partition, r.offset) for r in read(consumer, 6)] == [(2, n) for n in range(4, 10)]
        consumer.assign(settings.kafka_task_topic, {2: 9, 0: 9})  # back, and again what was read before
        assert sorted((r.partition, r.offset) for r in read(consumer, 2)) == [(0, 9), (2, 9)]
        consumer.assign(settings.kafka_task_topic, {})
        assert consumer.poll(10, 0.1) == []


def test_poll_returns_at_once_when_there_is_something_and_no_more_than_was_asked_for(settings: Settings) -> None:
    with producing(settings) as producer, consuming(settings, {0: 0}) as consumer:
        assert consumer.poll(10, 0.1) == []
        producer.send_many(settings.kafka_task_topic, [(0, b"x", None)] * 25)
        assert producer.flush(5) == 0
        first = consumer.poll(10, 5)
        assert 1 <= len(first) <= 10
        rest = read(consumer, 25 - len(first), batch=10)
        assert [r.offset for r in (*first, *rest)] == list(range(25))
        threading.Timer(0.3, producer.send, (settings.kafka_task_topic, 0, b"late")).start()
        start_s = time.monotonic()
        assert [r.value for r in consumer.poll(10, 10)] == [b"late"]
        assert 0.2 < time.monotonic() - start_s < 1.5


def test_poll_waits_no_longer_than_it_is_told(settings: Settings) -> None:
    with consuming(settings, {0: 0}) as consumer:
        for timeout_s in (0.0, 0.01, 0.3):
            start_s = time.monotonic()
            assert consumer.poll(10, timeout_s) == []
            assert timeout_s <= time.monotonic() - start_s < timeout_s + 0.5


def test_paused_partitions_are_silent_and_lose_nothing(settings: Settings) -> None:
    with producing(settings) as producer, consuming(settings, {0: 0, 1: 0}) as consumer:
        producer.send_many(settings.kafka_task_topic, [(n % 2, b"x", None) for n in range(100)])
        assert producer.flush(5) == 0
        before = consumer.poll(10, 5)
        consumer.pause([0])
        records = list(before)
        end_s = time.monotonic() + 2
        while time.monotonic() < end_s and sum(r.partition == 1 for r in records) < 50:
            got = consumer.poll(10, 0.2)
            assert all(r.partition == 1 for r in got)
            records += got
        assert consumer.poll(10, 0.2) == []
        producer.send(settings.kafka_task_topic, 1, b"while paused")
        assert [r.value for r in read(consumer, 1)] == [b"while paused"], "the other partition goes on"
        consumer.resume([0])
        start_s = time.monotonic()
        records += read(consumer, 100 - len(records))
        assert time.monotonic() - start_s < 2
    assert [r.offset for r in records if r.partition == 0] == list(range(50))
    assert [r.offset for r in records if r.partition == 1] == list(range(50))


def test_wake_ends_the_poll_that_waits_or_the_next_one_and_only_that(settings: Settings) -> None:
    with consuming(settings, {0: 0}) as consumer:
        threading.Timer(0.2, consumer.wake).start()
        start_s = time.monotonic()
        assert consumer.poll(10, 10) == []
        assert time.monotonic() - start_s < 1.0
        consumer.wake()
        start_s = time.monotonic()
        assert consumer.poll(10, 10) == []
        assert time.monotonic() - start_s < 0.5
        start_s = time.monotonic()
        assert consumer.poll(10, 0.3) == []
        assert time.monotonic() - start_s >= 0.3, "one wake, one poll"


def test_an_offset_out_of_range_is_told_with_where_the_log_begins_and_reading_can_go_on(settings: Settings) -> None:
    admin = open_admin(settings)
    with producing(settings) as producer, consuming(settings) as consumer:
        producer.send_many(settings.kafka_task_topic, [(n % 2, b"%d" % (n // 2), None) for n in range(40)])
        assert producer.flush(5) == 0
        assert admin.delete_records(settings.kafka_task_topic, {0: 12}) == {0: 12}
        for start in (3, 99):  # before the log's begin, and behind its end
            consumer.assign(settings.kafka_task_topic, {0: start, 1: 0})
            others: list[Record] = []

            def read_on(others: list[Record] = others) -> None:
                for _ in range(20):
                    others += consumer.poll(100, 0.5)

            with pytest.raises(OffsetOutOfRange) as raised:
                read_on()
            assert (raised.value.partition, raised.value.earliest) == (0, 12)
            assert all(r.partition == 1 for r in others)
        consumer.assign(settings.kafka_task_topic, {0: raised.value.earliest})
        assert [int(r.value) for r in read(consumer, 8)] == list(range(12, 20))
        assert consumer.poll(1, 0.1) == []
    admin.close()


def test_high_watermarks_are_known_without_asking(settings: Settings) -> None:
    with producing(settings) as producer:
        producer.send_many(settings.kafka_task_topic, [(0, b"x", None)] * 30)
        assert producer.flush(5) == 0
    with consuming(settings, {0: 0, 1: 0}) as consumer:  # its first fetch sees all of them
        assert len(read(consumer, 5, batch=5)) == 5
        assert consumer.high_watermarks()[0] == 30
        assert consumer.high_watermarks().get(1, 0) == 0
        assert consumer.connected


def test_a_topic_or_partition_that_does_not_exist_is_told(settings: Settings) -> None:
    settings = settings.replace(kafka_request_timeout_ms=1500)
    for topic, partition in (("no_such_topic", 0), (settings.kafka_task_topic, 17)):
        reports = Reports()
        with producing(settings) as producer:
            try:
                producer.send(topic, partition, b"x", None, reports.one(0))
            except YADTQError as error:
                assert isinstance(error, UnknownTopic)  # noqa: PT017 - raised or reported, both are allowed
            else:
                wait_for(lambda r=reports: r.once_each(1), 10, "reported")
                assert isinstance(reports.errors[0], UnknownTopic)
            assert producer.flush(5) == 0
            producer.send(settings.kafka_task_topic, 0, b"x", None, reports.one(7))
            assert producer.flush(5) == 0
            assert 7 in reports.offsets


def test_reading_a_topic_or_partition_that_does_not_exist_is_told(settings: Settings) -> None:
    settings = settings.replace(kafka_request_timeout_ms=1000)
    for topic, partition in (("no_such_topic", 0), (settings.kafka_task_topic, 17)):
        with consuming(settings) as consumer:
            consumer.assign(topic, {partition: 0})

            def read_on(consumer: Consumer = consumer) -> None:
                end_s = time.monotonic() + 15
                while time.monotonic() < end_s:
                    assert consumer.poll(10, 0.2) == []

            with pytest.raises(UnknownTopic):
                read_on()


def test_a_partition_added_while_producing_can_be_used_at_once(settings: Settings) -> None:
    reports = Reports()
    with producing(settings) as producer:
        producer.send(settings.kafka_task_topic, 0, b"x")
        assert producer.flush(5) == 0
        grown = settings.replace(num_partitions=6)
        admin = open_admin(grown)
        assert admin.ensure_topics(grow=True) == 6
        admin.close()
        producer.send(settings.kafka_task_topic, 5, b"x", None, reports.one(0))
        producer.send_many(settings.kafka_task_topic, [(4, b"x", None)], lambda i, o, e: reports.many(1, o, e))
        assert producer.flush(5) == 0
        assert reports.offsets == {0: 0, 1: 0}


def test_closing_flushes_and_what_comes_after_is_refused(settings: Settings) -> None:
    reports = Reports()
    producer = open_producer(settings)
    for n in range(500):
        producer.send(settings.kafka_task_topic, n % 4, b"x", None, reports.one(n))
    assert producer.close(10) == 0
    assert reports.once_each(500)
    assert not reports.errors
    assert producer.close(1) == 0
    with pytest.raises(TransportClosed):
        producer.send(settings.kafka_task_topic, 0, b"x")
    with pytest.raises(TransportClosed):
        producer.send_many(settings.kafka_task_topic, [(0, b"x", None)])

    consumer = open_consumer(settings)
    consumer.assign(settings.kafka_task_topic, {0: 0})
    consumer.poll(1, 0.1)
    consumer.close()
    consumer.close()
    for call in (lambda: consumer.poll(1, 0), lambda: consumer.assign("t", {}), lambda: consumer.pause([0])):
        with pytest.raises(TransportClosed):
            call()
    admin = open_admin(settings)
    admin.close()
    with pytest.raises(KafkaConnectionError):
        admin.partition_count(settings.kafka_task_topic)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # Python 3.12: what is tested
def test_a_forked_child_is_refused_and_its_exit_neither_hangs_nor_crashes(settings: Settings) -> None:
    with producing(settings) as producer, consuming(settings, {0: 0}) as consumer:
        pid = os.fork()
        if pid == 0:  # the child: no pytest, no return
            status = 1
            try:
                for call in (lambda: producer.send("t", 0, b"x"), lambda: consumer.poll(1, 0)):
                    try:
                        call()
                    except TransportClosed:
                        status -= 1
                status = 0 if status == -1 else 9
                del producer, consumer
                import gc

                gc.collect()
            finally:
                os._exit(status)
        ended: list[int] = []
        wait_for(lambda: bool(ended.append(os.waitpid(pid, os.WNOHANG)[0]) or ended[-1]), 5, "the child ended")
        producer.send(settings.kafka_task_topic, 0, b"x")  # the parent is none the worse
        assert len(read(consumer, 1)) == 1


def test_auto_takes_librdkafka_where_it_is_installed(kafka: KafkaServer, topic_prefix: str) -> None:
    assert chosen(settings_of("auto", kafka.bootstrap, topic_prefix)) == "librdkafka"


@pytest.mark.parametrize("transport", REAL)
def test_what_is_sent_to_partitions_that_are_just_being_created_is_not_lost(
        transport: str, kafka: KafkaServer, topic_prefix: str) -> None:
    """A broker refuses the first requests for a partition that it has not opened yet, and takes those behind them.

    That lost acknowledged records of librdkafka's idempotent producer while it had several requests under way.
    """
    for attempt in range(6):
        settings = settings_of(transport, kafka.bootstrap, f"{topic_prefix}_{attempt}", num_partitions=24)
        reports = Reports()
        admin: Any = open_admin(settings)
        admin._admin.create_topics({settings.kafka_task_topic: {"num_partitions": 24}})
        while not admin._partition_counts([settings.kafka_task_topic])[settings.kafka_task_topic]:
            pass  # not a moment later than it is visible
        with producing(settings) as producer:
            for n in range(720):
                producer.send(settings.kafka_task_topic, n % 24, b"%d" % n, None, reports.one(n))
                time.sleep(0.0002)
            assert producer.flush(30) == 0
        assert not reports.errors
        assert admin.end_offsets(settings.kafka_task_topic) == dict.fromkeys(range(24), 30)
        assert all(reports.offsets[n] == n // 24 for n in range(720))
        admin._admin.delete_topics([settings.kafka_task_topic])
        admin.close()


@pytest.mark.parametrize("transport", REAL)
def test_a_broker_with_a_small_limit_refuses_only_what_is_too_large(
        transport: str, kafka: KafkaServer, topic_prefix: str) -> None:
    """The limit of a topic may be below ours: the broker's refusal must not fall on records beside the large one."""
    settings = settings_of(transport, kafka.bootstrap, topic_prefix)
    admin = open_admin(settings)
    admin._admin.create_topics(  # type: ignore[attr-defined] # a setting that YADTQ does not make
        {settings.kafka_task_topic: {"num_partitions": 1, "configs": {"max.message.bytes": "300000"}}},
        wait_for_metadata=True)
    admin.close()
    reports = Reports()
    items = [(0, b"s" * 1000, None) for _ in range(400)]
    items[200] = (0, b"b" * 500_000, None)
    with producing(settings) as producer:
        producer.send_many(settings.kafka_task_topic, items, reports.many)
        assert producer.flush(20) == 0
    assert reports.once_each(400)
    assert {index: type(error) for index, error in reports.errors.items()} == {200: PayloadTooLarge}
