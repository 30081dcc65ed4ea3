"""What a task is on the wire and at the client: its id, its message on Kafka, its error, its record and its states.

Owns the layout of `TaskMessage` (golden bytes in tests/unit/test_task.py): new fields go to the end, with a default;
what an older reader would misunderstand raises WIRE_VERSION. Used by the client and the workers in any thread; never
talks to Kafka or Redis.
"""
from __future__ import annotations

import os
import random
import re
import threading
import time
from enum import StrEnum
from typing import Annotated

import msgspec

from yadtq.attempts import Attempt
from yadtq.errors import InvalidMessage, InvalidTask, UnsupportedVersion
from yadtq.names import WIRE_VERSION
from yadtq.task_error import TaskError, decode_error, encode_error, from_exception, to_exception

__all__ = ["STATES", "Attempt", "TaskError", "TaskMessage", "TaskRecord", "TaskStatus", "decode_error",
           "decode_message", "encode_error", "encode_message", "from_exception", "new_task_id", "status_of",
           "submitted_ms", "to_exception"]


class TaskStatus(StrEnum):
    """Where a task stands. A string too.

    Example:
        >>> TaskStatus.FAILED == "FAILED", TaskStatus.FAILED.ended
        (True, True)
    """

    SCHEDULED = "SCHEDULED"         # waits for its time
    QUEUED = "QUEUED"               # accepted, waits for a worker (or has been running for a moment only)
    PROCESSING = "PROCESSING"       # runs
    RETRYING = "RETRYING"           # failed, waits for its next attempt
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self in _ENDED


_ENDED = frozenset({TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.CANCELLED})

# The states of a record in Redis; X is the hidden mark of a cancel that was wished for an unknown id.
STATES = {"S": TaskStatus.SCHEDULED, "Q": TaskStatus.QUEUED, "P": TaskStatus.PROCESSING, "R": TaskStatus.RETRYING,
          "OK": TaskStatus.SUCCESS, "KO": TaskStatus.FAILED, "CX": TaskStatus.CANCELLED}


def status_of(state: str, *, processing_shown: bool = True) -> TaskStatus | None:
    """What a client sees of a record's state; None for X and unknown ones.

    A claimed record (P) shows as QUEUED until `processing_shown` (its field `pr`): it waits in the worker's hand.
    """
    if state == "P" and not processing_shown:
        return TaskStatus.QUEUED
    return STATES.get(state)


# ---- ids ------------------------------------------------------------------------------------------------------------
class _TaskIds:
    """UUIDv7 (RFC 9562, method 2, "monotonic random"): increasing within a process, whatever the clock does.

    The 74 bits beside the time start each millisecond at a random number and grow by a random step of 32 bits; the
    upper 26 stay in the prefix, so that an id costs one addition and one formatting. The random numbers come from a
    generator seeded by the kernel, anew in each forked child: ids must differ, they need not be secret.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(os.urandom(32)).getrandbits     # noqa: S311 (ids are no secrets)
        self._ms = -1
        self._upper = self._tail = 0
        self._prefix = ""

    def next(self) -> str:
        with self._lock:
            now = time.time_ns() // 1_000_000
            if now > self._ms:
                self._ms, self._upper = now, self._random(25)       # the top bit is left for carries
                self._tail, self._prefix = self._random(47), _prefix(now, self._upper)
            else:                                                    # the same millisecond, or the clock went back
                self._tail += self._random(32) + 1
                if self._tail >> 48:
                    self._carry()
            return f"{self._prefix}{self._tail:012x}"

    def at(self, now_ms: int) -> str:
        """An id of another time than now; takes no part in the order."""
        return f"{_prefix(now_ms, self._random(26))}{self._random(48):012x}"

    def _carry(self) -> None:
        self._tail &= (1 << 48) - 1
        self._upper += 1
        if self._upper >> 26:                                        # 2**42 ids in one millisecond: borrow the next
            self._ms, self._upper = self._ms + 1, 0
        self._prefix = _prefix(self._ms, self._upper)


def _prefix(now_ms: int, upper: int) -> str:
    """All of an id but its last 12 digits: time, version 7, and 26 bits around the variant."""
    if not 0 <= now_ms < 1 << 48:
        raise InvalidTask(f"{now_ms} ms is no time that a task id can carry")
    return f"{now_ms >> 16:08x}-{now_ms & 0xFFFF:04x}-7{upper >> 14:03x}-{0x8000 | upper & 0x3FFF:04x}-"


_ids = _TaskIds()


def _after_fork() -> None:
    global _ids  # noqa: PLW0603 (a child that went on with its parent's state would make its sibling's ids)
    _ids = _TaskIds()


os.register_at_fork(after_in_child=_after_fork)


def new_task_id(now_ms: int | None = None) -> str:
    """A new task id: a UUIDv7 in its canonical 36 characters, larger than all before it in this process.

    With `now_ms` (Unix time) it carries that time instead and is ordered by it only.
    """
    return _ids.next() if now_ms is None else _ids.at(now_ms)


_TASK_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def submitted_ms(task_id: str) -> int:
    """The Unix time in ms that a task id carries. Raises InvalidTask for what is no id of YADTQ."""
    if _TASK_ID.fullmatch(task_id):
        return int(task_id[:8] + task_id[9:13], 16)
    raise InvalidTask(f"{task_id[:60]!r} is no task id (a UUIDv7 such as 0198c5d2-9f6a-7b3c-8d4e-5f6071829304)")


# ---- bounds of a message: what Redis' records and the workers' clocks can hold; checked when one is decoded ----------
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
_Seconds = Annotated[float, msgspec.Meta(ge=0)]                      # no NaN either
_Time = Annotated[int, msgspec.Meta(ge=0, le=1 << 52)]
_Small = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
_Clear = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]


# ---- the message ----------------------------------------------------------------------------------------------------
class TaskMessage(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """A task on its way through Kafka, one attempt of it. The order of the fields *is* the format."""

    v: int = WIRE_VERSION
    id: _Text
    task: _Text                         # the task type's name
    args: bytes                         # codec.encode of the list of positional arguments
    kwargs: bytes = b""                 # codec.encode of the dict of keyword arguments; empty: none
    n: _Count = 0                       # attempt, from 0
    g: _Clear = 0                       # clear number of its shard when it was submitted
    submitted_ms: _Time
    key: str | None = None              # tasks with the same key go to the same partition
    timeout_s: _Seconds | None = None   # soft time-out; None: the type's or the installation's
    grace_s: _Seconds | None = None     # hard = soft + grace
    expires_ms: _Time | None = None     # not started any more after this Unix time
    due_ms: _Time | None = None         # not started before this Unix time
    max_retries: _Count | None = None   # None: the type's
    replay: _Small = 0                  # how often it was replayed from the dead letters
    follow: bytes = b""                 # what follows it
    group: _Text | None = None          # a label, to look at and to cancel many at once
    retry_backoff_s: _Seconds | None = None     # wait before the first retry; None: the type's or the installation's
    history: bytes = b""                # the attempts before this one, encoded


class _Version(msgspec.Struct, array_like=True, frozen=True, gc=False):
    v: int


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(TaskMessage)
_version = msgspec.msgpack.Decoder(_Version)
encode_message = _encoder.encode        # (TaskMessage) -> bytes; bound once, since every task passes here


def decode_message(data: bytes | memoryview) -> TaskMessage:
    """The message in a record of the task topic; additional fields at its end are ignored.

    Raises UnsupportedVersion when a newer YADTQ wrote it, and InvalidMessage for anything else that is no message.
    """
    try:
        message = _decoder.decode(data)
    except (ValueError, RecursionError) as error:
        check_version(data, "task message")
        raise InvalidMessage(f"a record of {len(data)} bytes is no task message: {error}") from None
    if message.v != WIRE_VERSION:
        check_version(data, "task message")
    return message


def check_version(data: bytes | memoryview, what: str) -> None:
    """Raises if the record says that it is of another version than this YADTQ reads."""
    try:
        version = _version.decode(data).v
    except (ValueError, RecursionError):
        return
    if version > WIRE_VERSION:
        raise UnsupportedVersion(f"a {what} has version {version}, which is newer than {WIRE_VERSION}, the newest that "
                                 "this process reads; upgrade YADTQ here")
    if version != WIRE_VERSION:
        raise InvalidMessage(f"a {what} has the unknown version {version}")


# ---- the record -----------------------------------------------------------------------------------------------------
class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a task: what `get_all_tasks` and `yadtq status` show. Times are Unix times in ms.

    Example:
        >>> record = client.get_task(task_id)
        >>> record.status, record.ended_ms - record.started_ms
        (<TaskStatus.SUCCESS: 'SUCCESS'>, 12)
    """

    id: str
    task: str
    status: TaskStatus
    attempt: int = 0
    partition: int = -1                 # -1: not known yet
    submitted_ms: int = 0
    started_ms: int | None = None
    ended_ms: int | None = None
    worker: str = ""
    has_result: bool = False
    error: TaskError | None = None      # of a task that failed, or waits for its next attempt
    group: str | None = None            # the label it was submitted with
    due_ms: int | None = None           # SCHEDULED or RETRYING: when it is to start
    attempts: tuple[Attempt, ...] = ()  # those that have ended, oldest first; of many, the first and the last
