"""What may come of hostile bytes, decoder by decoder: a target takes any bytes and raises only where there is a bug.

Each target asks more than "no unexpected exception": what was accepted is used as its reader would use it. Pure but
for the packets, which go through a real socket pair, and the configuration, which is read from a file.
"""
from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from yadtq import codec
from yadtq.config import Settings
from yadtq.dead_letter import (
    DeadLetterMark,
    DeadLetterMessage,
    decode_dead_letter,
    decode_mark,
    encode_dead_letter,
    encode_mark,
    is_mark,
)
from yadtq.delayed import LEVELS, DelayedTask, decode_delayed, encode_delayed, level_of
from yadtq.errors import (
    ArgumentNotEncodable,
    ConfigurationError,
    ControlProtocolError,
    InvalidMessage,
    NumpyMissing,
    PayloadTooLarge,
    TaskFailed,
)
from yadtq.health import Beat, judge
from yadtq.heartbeat import Heartbeat, decode_heartbeat, encode_heartbeat
from yadtq.records import parse_record
from yadtq.task import TaskMessage, decode_message, encode_message
from yadtq.task_error import TaskError, decode_error, encode_error, to_exception
from yadtq.tasks import TaskType
from yadtq.tasks_query import shown_record
from yadtqd import control_protocol as control
from yadtqd import isolated_protocol as isolated
from yadtqd.body import arguments, deadlines
from yadtqd.shared import Shared

ID = "0198c5d2-9f6a-7b3c-8d4e-5f6071829304"
NOW_MS = 1_790_000_000_000


@dataclass(frozen=True)
class Target:
    """One decoder: what is done with bytes, and sound bytes to begin with."""

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


# ---- values ---------------------------------------------------------------------------------------------------------
def value(data: bytes) -> None:
    """The codec: InvalidMessage or a value, which can be encoded again unless it is nested too deeply or too large."""
    try:
        found = codec.decode(data)
    except (InvalidMessage, NumpyMissing):
        return
    try:
        again = codec.encode(found, limit=codec.MAX_BYTES)
    except (ArgumentNotEncodable, PayloadTooLarge):
        return
    codec.decode(again)


def _values() -> tuple[bytes, ...]:
    from datetime import UTC, datetime, timedelta
    from decimal import Decimal
    from uuid import UUID

    import numpy as np

    found: tuple[Any, ...] = (
        [1, "two", None, 0.5, b"bytes"], {"a": [1, {"b": 2}]}, 2**70, -(2**65), (1, (2, 3)), {1, 2}, frozenset({"x"}),
        {1: 2, (3, 4): 5}, bytearray(b"abc"), 1 + 2j, Decimal("1.5"), UUID(ID), datetime(2026, 1, 2, tzinfo=UTC),
        timedelta(days=1), np.arange(6).reshape(2, 3), np.float32(1.5), np.array(["a", "bc"]), float("nan"))
    return tuple(codec.encode(one, limit=10**6) for one in found)


# ---- records of topics ----------------------------------------------------------------------------------------------
@cache
def _worker() -> tuple[Settings, TaskType, Any]:
    from yadtqd.registry import load

    return Settings(), load(()).get("addition"), Shared.create(n_slots=1, n_partitions=1).slot(0)


def message(data: bytes) -> None:
    """A record of the task topic: no message of ours, or one that a worker can hold, time and describe."""
    try:
        found = decode_message(data)
    except InvalidMessage as error:
        if len(str(error)) > 1000:
            raise AssertionError("the reason in a dead letter is a sentence") from error
        return
    assert decode_message(encode_message(found)) == found
    settings, task_type, slot = _worker()
    limits = deadlines(found, task_type, settings)
    assert 0 <= limits.soft_s <= limits.hard_s < 1e10
    slot.begin(1, found.id, found.task, 0, 0, 1, int(limits.soft_s * 1e9), int(limits.hard_s * 1e9), found.n)
    assert slot.read().task is not None
    try:
        arguments(found)
    except InvalidMessage:
        return


MESSAGE = TaskMessage(id=ID, task="addition", args=codec.encode([1, 2], limit=100), submitted_ms=NOW_MS)
FULL = TaskMessage(id=ID, task="addition", args=codec.encode([1, 2], limit=100), n=3, g=4, submitted_ms=NOW_MS, key="k",
                   kwargs=codec.encode({"a": 1}, limit=100), timeout_s=1.5, grace_s=0.0, expires_ms=NOW_MS,
                   due_ms=NOW_MS, max_retries=3, replay=2, follow=b"f", group="g", retry_backoff_s=0.5, history=b"h")


def dead_letter(data: bytes) -> None:
    """A record of the dead-letter topic: a letter, a mark, or none of ours."""
    try:
        if is_mark(data):
            mark = decode_mark(data)
            assert decode_mark(encode_mark(mark)) == mark
        found = decode_dead_letter(data)
    except InvalidMessage:
        return
    assert decode_dead_letter(encode_dead_letter(found)) == found


def delayed(data: bytes) -> None:
    """A record of the delayed topic: no task of ours, or one with a due time that a level can be found for."""
    try:
        found = decode_delayed(data)
    except InvalidMessage:
        return
    assert decode_delayed(encode_delayed(found)) == found
    assert 0 <= level_of(found.due_ms - NOW_MS) < LEVELS


def heartbeat(data: bytes) -> None:
    """A record of the heartbeat topic: what is accepted can be judged, whatever it says."""
    try:
        found = decode_heartbeat(data)
    except InvalidMessage:
        return
    assert decode_heartbeat(encode_heartbeat(found)).worker_id == found.worker_id
    found.expired(NOW_MS)
    judge({found.worker_id: Beat(found, NOW_MS - 1000)}, NOW_MS)


def task_error(data: bytes) -> None:
    """The error in a record: InvalidMessage, or an exception for the client."""
    try:
        found = decode_error(data)
    except InvalidMessage:
        return
    made = to_exception(found, ID)
    assert isinstance(made, TaskFailed)
    str(made)


# ---- Redis, sockets, files ------------------------------------------------------------------------------------------
def record(data: bytes) -> None:
    """A record in Redis: none of ours, or one that can be shown."""
    found = parse_record(ID, data)
    if found is not None:
        shown_record(ID, found)


def control_frame(data: bytes) -> None:
    """What comes over the control socket, cut into pieces at places that the bytes themselves choose."""
    reader = control.FrameReader(control.MAX_REQUEST)
    step = (data[0] if data else 0) % 50 + 1
    try:
        for at in range(0, len(data), step):
            for body in reader.feed(data[at:at + step]):
                request = control.decode_request(body)
                control.encode_frame(request, 10 * control.MAX_REQUEST)
    except ControlProtocolError:
        return


def packet(data: bytes) -> None:
    """A packet for the isolator or a worker, the second half of it in a memfd."""
    small, large = data[:len(data) // 2], data[len(data) // 2:]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, large)
        socket.send_fds(theirs, [small or b"\xc0"], [fd])
        found = isolated.receive(ours)
        assert found is not None
        assert found[1] == large
    except isolated.IsolatorGone:
        return
    finally:
        os.close(fd)
        ours.close()
        theirs.close()


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="yadtq-fuzz-")      # gone with the process


def configuration(data: bytes) -> None:
    """A configuration file: settings, or mistakes, each with the file's name and, once it is text, a line."""
    path = Path(_folder().name, "yadtq.toml")
    path.write_bytes(data)
    try:
        settings = Settings.load(path, env={})
    except ConfigurationError as error:
        for line in error.message.splitlines():
            assert str(path) in line or line.startswith(("default: ", " ")), line
        return
    assert settings.bootstrap
    assert settings.hard_timeout_ms > 0


def _control_frames() -> tuple[bytes, ...]:
    requests = (control.Request(command="ping", id=1), control.Request(command="pause", args={"partition": 3}))
    return tuple(control.encode_frame(one, 1000) for one in requests)


def _packets() -> tuple[bytes, ...]:
    found = (isolated.Run(encode_message(MESSAGE), 1000, 1.0, 2.0, 0), isolated.Kill(), isolated.Result("OK", b"x"),
             isolated.Ended(0, 9, False))
    return tuple(msgspec.msgpack.encode(one) for one in found)


def _records() -> tuple[bytes, ...]:
    from yadtq import records

    made = []
    for state in (1, 4, 6, 7):
        kind, worker, result, waiters = b"addition", b"h/w0", b"\x03", b"c1,c2"
        error = encode_error(TaskError("X", "y"))
        body = kind + worker + result + error + waiters
        made.append(records._HEAD.pack(
            records.MAGIC, state, state, 0, 0, records.HEAD_BYTES + len(body), 0, 2, 7.0, 0, 0, 0, 0, 0, float(NOW_MS),
            len(kind), len(worker), len(result), len(error), len(waiters), 1.0, 2.0, 3.0, -1.0) + body)
    return tuple(made)


TARGETS: dict[str, Target] = {
    "value": Target(value, _values()),
    "message": Target(message, (encode_message(MESSAGE), encode_message(FULL), b"", b"\x9f\x02" + bytes(14))),
    "dead_letter": Target(dead_letter, (encode_dead_letter(DeadLetterMessage(
        id=ID, code="TASK_CRASHED", message="m", partition=0, offset=1, worker="h/w0", dead_ms=NOW_MS,
        error=encode_error(TaskError("TASK_CRASHED", "m")), original=encode_message(MESSAGE))),
        encode_mark(DeadLetterMark(id=ID, how="replayed", offset=3, at_ms=NOW_MS)))),
    "delayed": Target(delayed, (encode_delayed(DelayedTask(due_ms=NOW_MS, partition=1, key=b"k",
                                                           value=encode_message(MESSAGE))),)),
    "heartbeat": Target(heartbeat, (encode_heartbeat(Heartbeat(
        worker_id="h/w0", host="h", pid=1, partitions=[0, 1], sent_ms=NOW_MS, interval_s=5.0, expires_after_s=15.0)),)),
    "task_error": Target(task_error, (encode_error(TaskError("DIVISION_BY_ZERO", "m", "ZeroDivisionError", "t")),)),
    "record": Target(record, _records()),
    "control_frame": Target(control_frame, _control_frames()),
    "packet": Target(packet, _packets()),
    "configuration": Target(configuration, (
        b'kafka_servers = "k1:9092,k2:9092"\nredis_port = 6379\ntasks = ["shop.tasks"]\n',
        b'task_timeout = 10\n[kafka]\nhost = "x"\n', b'log_level = "INFO" # c\npartitions = [\n 1,\n 2]\n',
        b'\xef\xbb\xbfredis_ssl = true\n', 'host_name = "rechner"\n'.encode("utf-16"))),
}
