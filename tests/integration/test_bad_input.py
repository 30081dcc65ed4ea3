"""Records that are nobody's, on every topic, among sound ones: the sound ones go their way, the others' is defined.

On the task topic: what is no task becomes a dead letter with its reason, and the partition goes on. On the delayed
topic: it becomes a dead letter as well. On the heartbeat topic: readers pass over it.
"""
from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import NOW_MS, TARGETS
from tests.support.queue_user import QueueUser
from tests.support.role_host import RoleHost, until
from yadtq import YADTQClient, codec
from yadtq.config import Settings
from yadtq.dead_letter import DeadLetterMessage, decode_dead_letter, encode_dead_letter
from yadtq.delayed import SHORT, DelayedTask, encode_delayed
from yadtq.errors import InvalidMessage, UnsupportedVersion
from yadtq.heartbeat import Heartbeat, encode_heartbeat
from yadtq.task import TaskMessage, decode_message, encode_message, new_task_id
from yadtq.transport import open_consumer
from yadtq.transport.connection import connect_kafka_python, import_kafka

pytestmark = [pytest.mark.integration, pytest.mark.slow]
TRANSPORTS = ("librdkafka", "kafka-python")
COUNT = 400


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.replace(tasks=("tests.support.handlers",), auto_commit_interval_ms=100,
                            kafka_session_timeout_ms=6000, host_name="a")


@pytest.fixture
def user(quick: Settings) -> Iterator[QueueUser]:
    with QueueUser(quick) as user:
        yield user


@pytest.fixture
def rng() -> random.Random:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


def tombstone(settings: Settings, topic: str, partition: int) -> None:
    """A record without a value, which no producer of ours makes."""
    producer: Any = connect_kafka_python(import_kafka().KafkaProducer, settings)
    try:
        producer.send(topic, None, b"key", partition=partition).get(20)
    finally:
        producer.close()


def hostile(name: str, rng: random.Random, decode: Any, count: int = COUNT) -> list[bytes]:
    """Bytes that are no message and of no newer version: those would have to wait."""
    found = [b"", b"\xc0", b"garbage", b"\x91" * 100_000, msgspec.msgpack.encode(list(range(14))), bytes(500_000)]
    while len(found) < count:
        data = mutated(TARGETS[name].seeds, rng)
        if b"\x91" * 100 in data:
            continue                        # how deep is too deep depends on the stack of who decodes
        try:
            decode(data)
        except UnsupportedVersion:
            continue
        except InvalidMessage:
            found.append(data)
    return found


def letters(settings: Settings, wanted: int) -> list[Any]:
    consumer = open_consumer(settings)
    consumer.assign(settings.kafka_dead_letter_topic, {0: 0})
    found: list[Any] = []

    def look() -> bool:
        found.extend(decode_dead_letter(record.value) for record in consumer.poll(1000, 0.1))
        return len(found) >= wanted

    until(look, f"{wanted} dead letters", 60)
    consumer.close()
    return found


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_task_topic(quick: Settings, user: QueueUser, rng: random.Random, transport: str) -> None:
    settings = quick.replace(transport=transport)
    bad = hostile("message", rng, decode_message)
    sound = []
    for number, value in enumerate(bad):
        user.producer.send(settings.kafka_task_topic, 0, value, rng.choice((None, b"", b"\xff" * 9)))
        if number % 10 == 0:
            sound.append(user.submit("addition", number, 1))
    assert user.producer.flush(20) == 0
    tombstone(settings, settings.kafka_task_topic, 0)
    after = user.submit("addition", 1, 1)
    with RoleHost(settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        assert user.result(after, 60) == 2
        assert user.results(sound) == [n + 1 for n in range(0, len(bad), 10)]
        found = letters(settings, len(bad) + 1)
        assert sorted(letter.original for letter in found) == sorted([*bad, b""])
        assert {letter.code for letter in found} == {"INVALID_MESSAGE"}
        assert all(0 < len(letter.message) < 1000 for letter in found)
        until(lambda: host.shared.partitions[0].watermark == len(bad) + len(sound) + 2, "the watermark", 30)
        assert not host.statuses, "and the worker lived through all of it"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_messages_whose_fields_are_hostile(quick: Settings, user: QueueUser, transport: str) -> None:
    """They are messages, so they are tasks: each ends, under its own strange id."""
    one = TaskMessage(id="x", task="addition", args=codec.encode([1, 2], limit=100), submitted_ms=1)
    replace = msgspec.structs.replace
    hostile_ids = ["\x00", "\x1b[2J\n", "x" * 512, "\u202e" * 100, "a:b}{c", "../../etc", "é" * 512, " ", ","]
    messages = [replace(one, id=task_id) for task_id in hostile_ids]
    messages += [replace(one, id=new_task_id(), task=name) for name in ("\x00\n", "x" * 512, "no:such", "é", "{0}")]
    messages += [
        replace(one, id=new_task_id(), timeout_s=float("inf")), replace(one, id=new_task_id(), timeout_s=1e308),
        replace(one, id=new_task_id(), grace_s=float("inf"), timeout_s=1e300),
        replace(one, id=new_task_id(), n=(1 << 31) - 1), replace(one, id=new_task_id(), replay=0xFFFF),
        replace(one, id=new_task_id(), g=(1 << 32) - 1), replace(one, id=new_task_id(), expires_ms=0),
        replace(one, id=new_task_id(), submitted_ms=1 << 52), replace(one, id=new_task_id(), key="\x00" * 2000),
        replace(one, id=new_task_id(), args=b"\xff"), replace(one, id=new_task_id(), args=b"\x91" * 5000),
        replace(one, id=new_task_id(), args=codec.encode({"a": 1}, limit=99)),
        replace(one, id=new_task_id(), kwargs=b"\x93abc"), replace(one, id=new_task_id(), kwargs=b"\xc0"),
        replace(one, id=new_task_id(), history=b"\xff" * 100), replace(one, id=new_task_id(), follow=b"\xff" * 100),
        replace(one, id=new_task_id(), retry_backoff_s=float("inf"), max_retries=1 << 30),
        replace(one, id=new_task_id(), group="\x00\n:"),
        replace(one, id=new_task_id(), task="t.raise", args=codec.encode(["x"], limit=99), history=b"\xff" * 100,
                n=3, max_retries=3),
    ]
    for message in messages:
        decode_message(encode_message(message))
    user.send(messages, partition=0, note=False)
    after = user.submit("addition", 1, 1)
    settings = quick.replace(transport=transport)
    with RoleHost(settings, own=(0,)) as host:
        host.start("worker", "w0", (0,))
        assert user.result(after, 60) == 2
        until(lambda: host.shared.partitions[0].watermark == len(messages) + 1, "the watermark", 30)
        ends = [user.ended(message.id).state for message in messages]
        assert ends[:len(hostile_ids)] == ["OK"] * len(hostile_ids)
        assert ends[len(hostile_ids):len(hostile_ids) + 5] == ["KO"] * 5
        assert not host.statuses
        with YADTQClient(settings=settings) as client:
            assert len(list(client.get_all_tasks())) == len(messages) + 1


def test_the_delayed_topic(quick: Settings, user: QueueUser, rng: random.Random) -> None:
    from yadtq.delayed import decode_delayed

    bad = hostile("delayed", rng, decode_delayed, 150)
    topic = quick.kafka_delayed_topic
    for value in bad:
        user.producer.send(topic, SHORT, value)
    assert user.producer.flush(20) == 0
    tombstone(quick, topic, SHORT)
    inner = DelayedTask(due_ms=1, partition=0, value=b"what it carries is no business of the scheduler's")
    user.producer.send(topic, SHORT, encode_delayed(inner))
    message = user.message("addition", 1, 2)
    user.producer.send(topic, SHORT, encode_delayed(DelayedTask(due_ms=1, partition=0, value=encode_message(message))))
    assert user.producer.flush(20) == 0
    with RoleHost(quick, own=(0,)) as host:
        host.start("scheduler")
        host.start("worker", "w0", (0,))
        assert user.result(message.id, 60) == 3
        found = letters(quick, len(bad) + 2)
        assert sorted(letter.original for letter in found) == sorted([*bad, b"", inner.value])
        assert {letter.code for letter in found} == {"INVALID_MESSAGE"}
        assert not host.statuses


def test_the_heartbeat_topic(quick: Settings, user: QueueUser, rng: random.Random) -> None:
    topic = quick.kafka_heartbeat_topic
    for _ in range(COUNT):
        user.producer.send(topic, 0, mutated(TARGETS["heartbeat"].seeds, rng))
    absurd = Heartbeat(worker_id="\x1b[2J/w0", host="h", pid=-1, sent_ms=-(1 << 62), interval_s=float("nan"),
                       expires_after_s=float("inf"), lag=1 << 62, state="?" * 1000, partitions=[-1, 1 << 62])
    user.producer.send(topic, 0, encode_heartbeat(absurd))
    assert user.producer.flush(20) == 0
    tombstone(quick, topic, 0)
    with RoleHost(quick, own=(0,)) as host, YADTQClient(settings=quick) as client:
        host.start("worker", "w0", (0,))
        until(lambda: "a/w0" in {one.worker_id for one in client.get_all_workers_health()}, "our worker is seen", 30)
        with client.monitor_workers(lambda change: None, interval_s=0.1) as monitor:
            assert monitor.workers


def test_the_dead_letter_topic(quick: Settings, user: QueueUser, rng: random.Random) -> None:
    """Who lists the dead letters passes over what is none."""
    topic = quick.kafka_dead_letter_topic
    poison = user.message("addition", 1, 2)
    for number in range(COUNT):
        user.producer.send(topic, 0, mutated(TARGETS["dead_letter"].seeds, rng))
        if number == COUNT // 2:
            user.producer.send(topic, 0, encode_dead_letter(DeadLetterMessage(
                id=poison.id, task="addition", code="TASK_CRASHED", message="m", partition=0, offset=0, worker="a/w0",
                dead_ms=NOW_MS, original=encode_message(poison))), poison.id.encode())
    assert user.producer.flush(20) == 0
    tombstone(quick, topic, 0)
    with YADTQClient(settings=quick) as client:
        found = list(client.dead_letters())
        assert poison.id in {letter.id for letter in found}
        assert client.get_dead_letter(poison.id).code == "TASK_CRASHED"
