"""Task ids and messages: order, uniqueness across threads and forks, the bytes on the wire, and what is refused."""
from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.errors import InvalidMessage, InvalidTask, UnsupportedVersion
from yadtq.task import (
    TaskMessage,
    TaskRecord,
    TaskStatus,
    decode_message,
    encode_message,
    new_task_id,
    status_of,
    submitted_ms,
)

task_module = importlib.import_module("yadtq.task")       # `yadtq.task` itself is the decorator
ID = "0198c5d2-9f6a-7b3c-8d4e-5f6071829304"


# ---- ids ------------------------------------------------------------------------------------------------------------
def test_an_id_is_a_uuid7_of_now() -> None:
    before = time.time_ns() // 1_000_000
    made = new_task_id()
    parsed = uuid.UUID(made)
    assert (str(parsed), parsed.version, parsed.variant) == (made, 7, uuid.RFC_4122)
    assert before <= submitted_ms(made) <= time.time_ns() // 1_000_000 + 1


def test_ids_increase_even_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([5_000, 5_000, 4_000, 4_999, 5_001, 5_001, 1] * 3000)
    monkeypatch.setattr(task_module.time, "time_ns", lambda: next(clock) * 1_000_000)
    ids = task_module._TaskIds()
    made = [ids.next() for _ in range(20_000)]
    assert made == sorted(set(made))
    assert {submitted_ms(i) for i in made} == {5_000, 5_001}


def test_ids_carry_over_into_the_next_millisecond() -> None:
    ids = task_module._TaskIds()
    first = ids.next()
    ids._ms += 10_000
    ids._upper, ids._tail = (1 << 26) - 1, (1 << 48) - 1
    second, third = ids.next(), ids.next()
    assert first < second < third
    assert submitted_ms(second) == ids._ms
    assert uuid.UUID(second).version == 7


def test_threads_never_make_the_same_id() -> None:
    made: list[list[str]] = []

    def work() -> None:
        mine = [new_task_id() for _ in range(5_000)]
        assert mine == sorted(mine)
        made.append(mine)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({i for mine in made for i in mine}) == 40_000


def test_forked_children_never_make_their_parents_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_module.time, "time_ns", lambda: 7_000_000_000)      # all in the same millisecond
    new_task_id()
    readers = []
    for _ in range(3):
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            os.write(write, "".join(new_task_id() for _ in range(50)).encode())
            os._exit(0)
        os.close(write)
        readers.append((pid, read))
    made = {new_task_id() for _ in range(50)}
    for pid, read in readers:
        with open(read, "rb") as stream:
            text = stream.read().decode()
        os.waitpid(pid, 0)
        made |= {text[at:at + 36] for at in range(0, len(text), 36)}
    assert len(made) == 200


def test_a_fork_while_a_thread_makes_an_id_leaves_the_child_able_to() -> None:
    with task_module._ids._lock:
        if (pid := os.fork()) == 0:
            new_task_id()
            os._exit(7)
    deadline = time.monotonic() + 20
    while (done := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    if done[0] == 0:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(done[1]) == 7


@given(st.integers(0, 2**48 - 1))
def test_an_id_of_any_time_tells_it(now_ms: int) -> None:
    made = new_task_id(now_ms)
    assert submitted_ms(made) == now_ms
    assert uuid.UUID(made).version == 7


@pytest.mark.parametrize("wrong", ["", "x", ID[:-1], ID + "0", ID.upper(), ID.replace("-", "_"),
                                   "41b73896-a138-4011-99a2-37437a53a09c",      # of version 4
                                   ID[:9] + " 9f6"[:4] + ID[13:], ID.replace("0198", "0_98"),
                                   "\uff10" + ID[1:], ID + "\n"])
def test_what_is_no_id_is_refused(wrong: str) -> None:
    with pytest.raises(InvalidTask, match="is no task id"):
        submitted_ms(wrong)


def test_a_time_that_does_not_fit_is_refused() -> None:
    for wrong in (-1, 2**48):
        with pytest.raises(InvalidTask):
            new_task_id(wrong)


# ---- states ---------------------------------------------------------------------------------------------------------
def test_states() -> None:
    assert {s for s in TaskStatus if s.ended} == {TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.CANCELLED}
    assert f"{TaskStatus.FAILED}" == "FAILED" == TaskStatus.FAILED
    assert status_of("P", processing_shown=False) is TaskStatus.QUEUED
    assert status_of("P") is TaskStatus.PROCESSING
    assert [status_of(s) for s in ("S", "Q", "R", "OK", "KO", "CX", "X", "?")] == [
        TaskStatus.SCHEDULED, TaskStatus.QUEUED, TaskStatus.RETRYING, TaskStatus.SUCCESS, TaskStatus.FAILED,
        TaskStatus.CANCELLED, None, None]


# ---- messages -------------------------------------------------------------------------------------------------------
FULL = TaskMessage(id=ID, task="addition", args=b"\x92\x01\x02", kwargs=b"\x80", n=1, g=2,
                   submitted_ms=1_750_000_000_000, key="k", timeout_s=1.5, grace_s=0.5, expires_ms=3, due_ms=4,
                   max_retries=5, replay=6, follow=b"f")
SMALL = TaskMessage(id="i", task="t", args=b"", submitted_ms=1)


@pytest.mark.parametrize(("message", "golden"), [
    (SMALL, "dc001301a169a174c400c400000001c0c0c0c0c0c000c400c0c0c400"),
    (FULL, "dc001301d924" + ID.encode().hex() + "a86164646974696f6ec403920102c401800102cf000001977420dc00"
           "a16bcb3ff8000000000000cb3fe000000000000003040506c40166c0c0c400")])
def test_golden_bytes(message: TaskMessage, golden: str) -> None:
    assert encode_message(message).hex() == golden
    assert decode_message(bytes.fromhex(golden)) == message
    assert decode_message(memoryview(bytes.fromhex(golden))) == message


@given(st.builds(TaskMessage, v=st.just(1), id=st.text(min_size=1), task=st.text(min_size=1), args=st.binary(),
                 kwargs=st.binary(), n=st.integers(0, 2**31 - 1), g=st.integers(0, 2**31 - 1),
                 submitted_ms=st.integers(0, 2**48), key=st.none() | st.text(),
                 timeout_s=st.none() | st.floats(0, allow_nan=False),
                 expires_ms=st.none() | st.integers(0, 2**48), max_retries=st.none() | st.integers(0, 99)))
def test_messages_come_out_as_they_went_in(message: TaskMessage) -> None:
    assert decode_message(encode_message(message)) == message


def fields(message: TaskMessage) -> list[Any]:
    return msgspec.msgpack.decode(encode_message(message))


def test_further_fields_of_a_later_release_are_ignored_and_missing_ones_have_defaults() -> None:
    assert decode_message(msgspec.msgpack.encode([*fields(FULL), "lane", {"x": 1}])) == FULL
    assert decode_message(msgspec.msgpack.encode(fields(SMALL)[:8])) == SMALL


@pytest.mark.parametrize("rest", [[], ["id", "task"], [{"entirely": "different"}], [1] * 30])
def test_a_newer_version_is_called_so(rest: list[object]) -> None:
    with pytest.raises(UnsupportedVersion, match=r"version 2, which is newer than 1.*upgrade YADTQ"):
        decode_message(msgspec.msgpack.encode([2, *rest]))


def test_a_newer_version_of_the_same_layout_is_refused_too() -> None:
    with pytest.raises(UnsupportedVersion):
        decode_message(msgspec.msgpack.encode([2, *fields(FULL)[1:]]))
    with pytest.raises(InvalidMessage, match="unknown version 0"):
        decode_message(msgspec.msgpack.encode([0, *fields(FULL)[1:]]))


@pytest.mark.parametrize("data", [b"", b"\x90", b"\x91\x01", b"hello", b"\xdd\xff\xff\xff\xff", b"\x91" * 100_000,
                                  msgspec.json.encode(fields(SMALL)[:2]), msgspec.msgpack.encode([1, 2, 3, 4]),
                                  encode_message(SMALL) + b"x", encode_message(SMALL)[:-1]])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode_message(data)
    assert type(caught.value) is InvalidMessage


@given(st.binary(max_size=100), st.integers(0, 60), st.integers(0, 255))
def test_no_bytes_raise_anything_else(data: bytes, at: int, byte: int) -> None:
    damaged = bytearray(encode_message(FULL))
    damaged[at] = byte
    for hostile in (data, bytes(damaged)):
        with contextlib.suppress(InvalidMessage):
            decode_message(hostile)


def test_messages_and_records_are_frozen() -> None:
    with pytest.raises(AttributeError):
        SMALL.n = 2  # type: ignore[misc]
    record = TaskRecord(id=ID, task="t", status=TaskStatus.QUEUED)
    with pytest.raises(AttributeError):
        record.status = TaskStatus.FAILED  # type: ignore[misc]


@pytest.mark.parametrize("field", [
    {"id": ""}, {"id": "x" * 513}, {"task": ""}, {"task": "x" * 70_000}, {"n": -1}, {"n": 1 << 40}, {"g": 1 << 40},
    {"submitted_ms": 1 << 60}, {"timeout_s": float("nan")}, {"timeout_s": -1.0}, {"grace_s": float("nan")},
    {"replay": 1 << 16}, {"expires_ms": -5},
])
def test_what_records_and_clocks_can_not_hold_is_no_message(field: dict[str, Any]) -> None:
    """A foreign producer may write anything; one such record must not damage the batch that it comes with."""
    sound = {"id": "i", "task": "t", "args": b"\x90", "submitted_ms": 1}
    assert decode_message(encode_message(TaskMessage(**sound))).id == "i"
    with pytest.raises(InvalidMessage):
        decode_message(encode_message(TaskMessage(**(sound | field))))
