"""Dead letters as a client sees them, on a queue in memory: which are there, filters, replaying, purging.

Then the reading alone, on logs that hypothesis makes up: letters, second copies, marks, replays and rubbish in any
order must give exactly what a plain walk forwards gives.
"""
from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from yadtq import TaskStatus, YADTQClient
from yadtq import dead_letter_log as log_module
from yadtq.attempts import Attempt, decode_attempts, with_attempt
from yadtq.codec import encode
from yadtq.config import Settings
from yadtq.config_check import MESSAGE_OVERHEAD
from yadtq.dead_letter import DeadLetterMark, DeadLetterMessage, decode_dead_letter, encode_dead_letter, encode_mark
from yadtq.dead_letter_log import DeadLetterLog
from yadtq.dead_letter_replay import Replayer, next_life, reason_against
from yadtq.errors import ClientClosed, DeadLetterNotFound, InvalidMessage, InvalidTask, KafkaConnectionError, TaskFailed
from yadtq.task import TaskMessage, decode_message, encode_error, encode_message, from_exception, new_task_id
from yadtq.testing import AsyncInMemoryYADTQ, InMemoryYADTQ
from yadtq.transport.memory import MemoryBroker, broker_of
from yadtqd.follow_ups import encode_fitting

broken = {"on": True}


def brittle(x: int, *, name: str = "") -> int:
    if broken["on"]:
        raise ValueError(f"broken for {x}")
    return 2 * x


@pytest.fixture
def client() -> Iterator[InMemoryYADTQ]:
    broken["on"] = True
    with InMemoryYADTQ({"brittle": brittle, "other": brittle}) as one:
        yield one


def die(client: YADTQClient, count: int = 1, task: str = "brittle", **options: Any) -> list[str]:
    """Tasks whose retries don't help."""
    ids = client.submit_tasks([{"task": task, "args": [n], "max_retries": 1} | options for n in range(count)])
    assert all(isinstance(one, TaskFailed) for one in client.get_results(ids, timeout=10, return_exceptions=True))
    for _ in range(500):                                        # a letter is written after the end is recorded
        if {one.id for one in client.dead_letters()} >= set(ids):
            return ids
        time.sleep(0.01)
    raise AssertionError("no letters")


def broker(client: YADTQClient) -> MemoryBroker:
    return broker_of(client.settings)


def log_of(client: YADTQClient) -> list[Any]:
    return broker(client).log_of(client.settings.kafka_dead_letter_topic, 0).records


# ---- looking --------------------------------------------------------------------------------------------------------
def test_a_letter_tells_all_about_its_task(client):
    task_id = client.submit_task("brittle", [7], {"name": "x"}, key="k", max_retries=1)
    with pytest.raises(TaskFailed):
        client.get_result(task_id, timeout=5)
    letter, = wait_for_letters(client, 1)
    assert letter == client.get_dead_letter(task_id)
    assert (letter.id, letter.task, letter.code, letter.message) == (task_id, "brittle", "TASK_FAILED", "broken for 7")
    assert (letter.args, letter.kwargs, letter.key, letter.attempt, letter.replays) == ([7], {"name": "x"}, "k", 1, 0)
    assert (letter.worker, letter.is_task) == ("memory/w0", True)
    assert letter.error.error_type == "ValueError"
    assert "brittle" in letter.error.traceback
    assert abs(letter.dead_ms / 1000 - time.time()) < 60
    with pytest.raises(AttributeError):
        letter.code = "X"


def test_what_was_no_task_is_shown_as_it_was_and_can_only_be_purged(client):
    die(client)                                                 # it stays, and so does the mark of the other
    client._connections.kafka.producer.send(client.settings.kafka_task_topic, 1, b"\xffrubbish")
    letter, _ = wait_for_letters(client, 2)
    assert (letter.task, letter.is_task, letter.record) == ("", False, b"\xffrubbish")
    assert (letter.id, letter.partition) == (f"1:{letter.offset}", 1)
    assert letter.code == "INVALID_MESSAGE"
    with pytest.raises(InvalidMessage):
        _ = letter.args
    report = client.replay_dead_letters(letter.id)
    assert report == ((), {letter.id: "it is no task (INVALID_MESSAGE)"})
    assert client.purge_dead_letters([letter.id, "2:7"]) == 1
    with pytest.raises(DeadLetterNotFound, match="was purged"):
        client.get_dead_letter(letter.id)


def wait_for_letters(client: YADTQClient, count: int) -> list[Any]:
    for _ in range(500):
        found = list(client.dead_letters())
        if len(found) == count:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{len(found)} letters, not {count}")


def test_filters(client):
    first, = die(client)
    time.sleep(0.01)
    middle = time.time()
    time.sleep(0.01)
    second, third = die(client, 1), die(client, 1, "other")
    assert [one.id for one in client.dead_letters()] == [*third, *second, first]
    assert [one.id for one in client.dead_letters(task="other")] == third
    assert [one.id for one in client.dead_letters(task=["other", "brittle"], limit=2)] == [*third, *second]
    assert len(list(client.dead_letters(code=["TASK_FAILED", "X"]))) == 3
    assert list(client.dead_letters(code="X")) == []
    assert [one.id for one in client.dead_letters(until=middle)] == [first]
    assert len(list(client.dead_letters(since=datetime.fromtimestamp(middle, UTC)))) == 2
    assert list(client.dead_letters(limit=0)) == []


@pytest.mark.parametrize("arguments", [
    {}, {"ids": ["a"], "task": "t"}, {"ids": "a", "everything": True}, {"task": "t", "everything": True},
    {"limit": -1}, {"limit": True}, {"ids": [3]}, {"ids": [""]}, {"since": "today"}, {"task": "no name"}])
@pytest.mark.parametrize("order", ["replay_dead_letters", "purge_dead_letters"])
def test_an_order_says_what_it_means(client, order, arguments):
    with pytest.raises(InvalidTask):
        getattr(client, order)(**arguments)
    with pytest.raises(InvalidTask):
        client.dead_letters(limit=-1)


# ---- replaying ------------------------------------------------------------------------------------------------------
def test_a_replay_runs_the_task_again_under_its_id(client):
    ids = die(client, 5, expires_s=3600, key="k")          # one partition: they die in this order
    broken["on"] = False
    assert client.replay_dead_letters(ids[:2], dry_run=True).replayed == tuple(ids[:2])
    assert len(list(client.dead_letters())) == 5
    with client.paused():
        assert client.replay_dead_letters(task="brittle").replayed == tuple(ids), "in the order of their deaths"
        assert {client.get_task_status(one) for one in ids} == {TaskStatus.QUEUED}
        assert client.count_tasks()[TaskStatus.FAILED] == 0
    assert client.get_results(ids, timeout=10) == [0, 2, 4, 6, 8]
    assert list(client.dead_letters()) == []
    assert log_of(client) == [], "and what nobody needs is deleted"
    again = client.replay_dead_letters([ids[0], "nobody"])
    assert again == ((), dict.fromkeys([ids[0], "nobody"], "there is no dead letter of it"))
    with pytest.raises(DeadLetterNotFound):
        client.get_dead_letter(ids[0])


def test_a_replay_that_fails_again_is_counted(client):
    task_id, = die(client)
    for replays in (1, 2):
        assert client.replay_dead_letters(task_id).replayed == (task_id,)
        with pytest.raises(TaskFailed):
            client.get_result(task_id, timeout=5)
        letter, = wait_for_letters(client, 1)
        assert (letter.id, letter.replays, letter.attempt) == (task_id, replays, 1)
        assert [one.n for one in letter.attempts] == [0, 1] * (replays + 1), "its earlier lives are not forgotten"
    broken["on"] = False
    assert client.replay_dead_letters(everything=True).replayed == (task_id,)
    assert client.get_result(task_id, timeout=5) == 0


def test_a_replayed_task_that_may_not_be_retried_gets_a_letter_again(client):
    """Else it would be gone from the dead letters without having succeeded."""
    message = TaskMessage(id=new_task_id(), task="brittle", args=encode([4], limit=99), submitted_ms=5, max_retries=0)
    put(client, letter_of(message))
    client.replay_dead_letters(message.id)
    letter, = wait_for_letters(client, 1)
    assert (letter.code, letter.replays, letter.attempt) == ("TASK_FAILED", 1, 0)


def test_a_death_between_publishing_and_marking_gives_one_run(client, monkeypatch):
    task_id, = die(client)
    broken["on"] = False
    with monkeypatch.context() as patch:
        patch.setattr(Replayer, "mark", lambda *_: (_ for _ in ()).throw(KafkaConnectionError("cut")))
        with pytest.raises(KafkaConnectionError):
            client.replay_dead_letters(task_id)
    assert client.get_result(task_id, timeout=5) == 0
    assert client.get_dead_letter(task_id).replays == 0, "it is still there"
    done = client.get_task(task_id).ended_ms
    assert client.replay_dead_letters(task_id).replayed == (task_id,)
    assert client.get_result(task_id, timeout=5) == 0
    time.sleep(0.1)
    assert client.get_task(task_id).ended_ms == done, "it did not run again"
    assert list(client.dead_letters()) == []


def test_a_replay_after_a_clear_runs(client):
    task_id, = die(client)
    client.clear_all_tasks()
    broken["on"] = False
    assert client.replay_dead_letters(everything=True).replayed == (task_id,)
    assert client.get_result(task_id, timeout=5) == 0


def test_what_a_replay_changes():
    message = TaskMessage(id="i", task="t", args=b"a", n=3, g=1, submitted_ms=5, key="k", expires_ms=6, due_ms=7,
                          replay=2, group="g", history=with_attempt(b"", Attempt(2)), timeout_s=1.0, follow=b"f")
    again = next_life(letter_of(message, dead_ms=8, worker="w", code="C", message="why"), 9)
    changed = {name for name in message.__struct_fields__ if getattr(message, name) != getattr(again, name)}
    assert changed == {"n", "g", "expires_ms", "due_ms", "replay", "history"}
    assert (again.n, again.g, again.expires_ms, again.due_ms, again.replay) == (0, 9, None, None, 3)
    assert decode_attempts(again.history) == [Attempt(2), Attempt(3, 0, 8, "w", "C", "", "why")]


def letter_of(task_message: TaskMessage | None = None, **fields: Any) -> DeadLetterMessage:
    message = task_message or TaskMessage(id="i", task="t", args=encode([1], limit=99), submitted_ms=5)
    values: dict[str, Any] = {"id": message.id, "task": message.task, "code": "C", "message": "m", "partition": 0,
                              "offset": 0, "worker": "w", "dead_ms": 1, "original": encode_message(message)}
    return DeadLetterMessage(**values | fields)


@pytest.mark.parametrize(("letter", "reason"), [
    (letter_of(), None), (letter_of(task=""), "no task"), (letter_of(original=b"\x9f\x01cut"), "too large"),
    (letter_of(id="other"), "another one"), (letter_of(original=b"\x9f\x02" + bytes(14)), "newer"),
    (letter_of(TaskMessage(id="i", task="t", args=b"", submitted_ms=5, replay=0xFFFF)), "65535 times")])
def test_what_can_not_be_replayed(letter, reason):
    found = reason_against(letter)
    assert found == reason or (found is not None and reason in found)


def test_a_letter_whose_partition_is_gone_goes_to_that_of_its_key(client):
    message = TaskMessage(id=new_task_id(), task="brittle", args=encode([4], limit=99), submitted_ms=5, key="k")
    put(client, letter_of(message, partition=99))
    broken["on"] = False
    assert client.replay_dead_letters(message.id).replayed == (message.id,)
    assert client.get_result(message.id, timeout=5) == 8


def put(client: YADTQClient, letter: DeadLetterMessage) -> None:
    producer = client._connections.kafka.producer
    producer.send(client.settings.kafka_dead_letter_topic, 0, encode_dead_letter(letter), letter.id.encode())
    assert producer.flush(5) == 0


# ---- purging --------------------------------------------------------------------------------------------------------
def test_purging(client):
    ids, others = die(client, 3, key="k"), die(client, 2, "other", key="k")
    assert client.purge_dead_letters(task="brittle", dry_run=True) == 3
    assert client.purge_dead_letters(limit=1) == 1
    assert {one.id for one in client.dead_letters()} == {*ids, others[0]}
    assert client.purge_dead_letters([]) == 0
    assert client.purge_dead_letters(task="brittle") == 3
    assert [one.id for one in client.dead_letters()] == [others[0]]
    assert min(record.offset for record in log_of(client)) == 3, "the log begins with the oldest that is there"
    assert client.purge_dead_letters(everything=True) == 1
    assert log_of(client) == []
    assert client.get_task_status(ids[0]) is TaskStatus.FAILED


def test_the_newest_copy_of_a_letter_counts_and_all_before_it_go_with_it(client):
    first, task_id = die(client, 2, key="k")
    letter = log_of(client)[-1]
    producer = client._connections.kafka.producer
    for value in (letter.value, letter.value):
        producer.send(client.settings.kafka_dead_letter_topic, 0, value, letter.key)
    assert producer.flush(5) == 0
    assert [one.id for one in client.dead_letters()] == [task_id, first]
    assert client.purge_dead_letters(task_id) == 1
    assert [one.id for one in client.dead_letters()] == [first]


def test_a_letter_that_comes_before_the_mark_of_an_older_one_is_not_lost(client, monkeypatch):
    """The task is replayed and fails again, before the mark of its first letter is written."""
    task_id, = die(client)
    mark = Replayer.mark

    def late(self: Replayer, batch: Any, how: Any) -> None:
        deadline = time.monotonic() + 10
        while client.get_dead_letter(task_id).replays == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        mark(self, batch, how)

    monkeypatch.setattr(Replayer, "mark", late)
    client.replay_dead_letters(task_id)
    letter, = client.dead_letters()
    assert (letter.id, letter.replays) == (task_id, 1)


def test_a_letter_of_a_newer_release_is_left_alone(client, caplog):
    producer = client._connections.kafka.producer
    newer = encode_dead_letter(letter_of()).replace(b"\x9b\x01", b"\x9b\x02", 1)
    producer.send(client.settings.kafka_dead_letter_topic, 0, newer, b"i")
    ids = die(client)
    assert [one.id for one in client.dead_letters()] == ids
    with pytest.raises(DeadLetterNotFound, match="newer YADTQ"):
        client.get_dead_letter("i")
    assert client.purge_dead_letters(everything=True) == 1
    assert log_of(client)[0].value == newer, "and is not deleted"


# ---- outages, asyncio -----------------------------------------------------------------------------------------------
def test_an_outage_is_told_within_the_deadline():
    with InMemoryYADTQ({"brittle": brittle}, kafka_request_timeout_ms=200) as client:
        broken["on"] = True
        die(client)
        broker(client).stop()
        for ask in (lambda: list(client.dead_letters()), lambda: client.get_dead_letter("i"),
                    lambda: client.replay_dead_letters(everything=True)):
            with pytest.raises(KafkaConnectionError):
                ask()
        broker(client).start()
    with pytest.raises(ClientClosed):
        client.dead_letters()


def test_the_asynchronous_front():
    async def use() -> None:
        broken["on"] = True
        async with AsyncInMemoryYADTQ({"brittle": brittle}) as client:
            ids = await client.submit_tasks([{"task": "brittle", "args": [n], "max_retries": 1, "key": "k"}
                                             for n in range(3)])
            await client.get_results(ids, timeout=5, return_exceptions=True)
            while len([one async for one in client.dead_letters()]) < 3:
                await asyncio.sleep(0.01)
            assert (await client.get_dead_letter(ids[0])).args == [0]
            async for letter in client.dead_letters(limit=2):
                assert letter.id == ids[2]
                break
            broken["on"] = False
            assert (await client.replay_dead_letters(ids[:2])).replayed == tuple(ids[:2])
            assert await client.get_results(ids[:2], timeout=5) == [0, 2]
            assert await client.purge_dead_letters(everything=True) == 1

    asyncio.run(use())


# ---- the reading, against a plain walk ------------------------------------------------------------------------------
LETTERS = st.tuples(st.just("letter"), st.integers(0, 3), st.integers(0, 1), st.sampled_from([0, 3000]))
MARKS = st.tuples(st.just("mark"), st.integers(0, 3), st.integers(0, 40))
LOGS = st.lists(st.one_of(LETTERS, LETTERS, MARKS, st.tuples(st.just("rubbish"))), max_size=40)


@given(LOGS, st.integers(0, 10), st.integers(1, 7), st.sampled_from([2000, 10**6]))
@example([("letter", 0, 0, 0), ("letter", 0, 0, 0), ("mark", 0, 1), ("mark", 0, 0)], 0, 1, 2000)
def test_reading_backwards_finds_what_reading_forwards_finds(steps, deleted, chunk, chunk_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_module, "FIRST_CHUNK", chunk)
        patch.setattr(log_module, "MOST_RECORDS", chunk)
        patch.setattr(log_module, "CHUNK_BYTES", chunk_bytes)
        read_and_compare(steps, deleted)


def read_and_compare(steps: list[tuple[Any, ...]], deleted: int) -> None:
    client = InMemoryYADTQ({}, inline=True)
    topic = client.settings.kafka_dead_letter_topic
    steps = [(*step[:2], min(step[2], at)) if step[0] == "mark" else step for at, step in enumerate(steps)]
    values = [record_of(step, offset) for offset, step in enumerate(steps)]
    producer = client._connections.kafka.producer
    producer.send_many(topic, [(0, value, key) for key, value in values])
    assert producer.flush(5) == 0
    begin = min(deleted, len(steps))
    client._connections.admin().delete_records(topic, {0: begin})
    wanted = plain_walk(steps, begin)
    with DeadLetterLog(client.settings, client._connections.opener, 5) as log:
        assert [one.offset for one in log.newest_first()] == wanted
        for name in range(4):
            letter, _ = log.find(f"i{name}")
            assert [letter.offset if letter else None] == [o for o in wanted if steps[o][1] == name] or [None]
        offsets = sorted(wanted)
        assert [record.offset for record in log.at(offsets)] == offsets
    client.close()


def record_of(step: tuple[Any, ...], offset: int) -> tuple[bytes, bytes]:
    if step[0] == "rubbish":
        return b"i0", b"\x9f rubbish"
    key = f"i{step[1]}"
    if step[0] == "mark":
        return key.encode(), encode_mark(DeadLetterMark(id=key, how="purged", offset=step[2]))
    message = TaskMessage(id=key, task="t", args=bytes(step[3]), submitted_ms=5, replay=step[2])
    return key.encode(), encode_dead_letter(letter_of(message, offset=offset))


def plain_walk(steps: list[tuple[Any, ...]], begin: int) -> list[int]:
    """The offsets of the letters that are there, the last first."""
    there: dict[int, int] = {}
    for offset, step in list(enumerate(steps))[begin:]:
        if step[0] == "letter":
            there[step[1]] = offset
        elif step[0] == "mark" and there.get(step[1], offset) <= step[2]:
            there.pop(step[1], None)
    return sorted(there.values(), reverse=True)


def test_nothing_in_a_letter_is_lost_on_its_way_to_the_task_topic(client):
    ids = die(client, 1, timeout_s=3.5, grace_s=1.0)
    with client.paused():
        client.replay_dead_letters(ids)
        logs = broker(client).topics[client.settings.kafka_task_topic]
        last = max((log.records[-1] for log in logs if log.records), key=lambda record: record.timestamp_ms)
        message = decode_message(last.value)
    assert (message.timeout_s, message.grace_s, message.max_retries, message.replay) == (3.5, 1.0, 1, 1)


def test_the_largest_task_that_can_be_submitted_is_kept_whole():
    """With the longest history and the longest traceback beside it; what is larger was never a submission."""
    settings = Settings(kafka_max_message_bytes=1_000_000, max_payload_bytes=1_000_000 - MESSAGE_OVERHEAD)
    history = b""
    for n in range(100):
        history = with_attempt(history, Attempt(n, 1 << 41, 1 << 41, "\u20ac" * 500, "C" * 50, "\u20ac" * 500,
                                                "\u20ac" * 5000))
    error = from_exception(ValueError("\u20ac" * 10_000))
    error = replace(error, traceback="x" * 8192, history=history)
    message = TaskMessage(id="i" * 128, task="t" * 128, args=bytes(settings.max_payload_bytes), submitted_ms=5,
                          key="k" * 1024, group="g" * 512, history=history)
    letter = letter_of(message, message=error.message, error=encode_error(error))
    value = encode_fitting(letter, settings.kafka_max_message_bytes)
    assert decode_dead_letter(value).original == letter.original, "the traceback may stay behind"
    smaller = replace(letter, original=bytes(900_000))
    assert decode_dead_letter(encode_fitting(smaller, settings.kafka_max_message_bytes)) == smaller
    larger = replace(letter, original=bytes(settings.kafka_max_message_bytes))
    cut = decode_dead_letter(encode_fitting(larger, settings.kafka_max_message_bytes))
    assert (cut.original, "1,000,000 bytes" in cut.message) == (bytes(4096), True)
