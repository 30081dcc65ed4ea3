"""A record of the delayed topic: a task that waits for its time, and the level of the timing wheel where it waits.

Owns the layout of `DelayedTask` (golden bytes in tests/unit/test_delayed.py) and the widths of the levels. A level is a
partition of the topic: its records leave in the order in which they came, each after the level's width, to a narrower
level or, when due, to the task topic. Clients and workers put tasks in, only the scheduler takes them out. Pure.
"""
from __future__ import annotations

from typing import Annotated

import msgspec

from yadtq.errors import InvalidMessage
from yadtq.names import WIRE_VERSION
from yadtq.task import check_version

# 1 s, 8 s, 64 s ... 24 days. Changing them strands nothing (only `due_ms` decides), but partitions can't be taken away.
WIDTHS_MS = tuple(1000 * 8**level for level in range(8))
SHORT = len(WIDTHS_MS)              # the partition of what is due sooner than the narrowest level is wide
LEVELS = len(WIDTHS_MS) + 1         # partitions of the topic
_Time = Annotated[int, msgspec.Meta(ge=0, le=1 << 52)]
_Partition = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]      # Kafka's


class DelayedTask(msgspec.Struct, array_like=True, frozen=True, gc=False, kw_only=True):
    """One task that waits. The order of the fields *is* the format; the key of its record is the task's id."""

    v: int = WIRE_VERSION
    due_ms: _Time                   # Unix time
    partition: _Partition           # of the task topic, fixed when the message was made
    key: bytes | None = None        # of the record on the task topic
    value: bytes                    # the TaskMessage, as it will stand there


_decoder = msgspec.msgpack.Decoder(DelayedTask)
encode_delayed = msgspec.msgpack.Encoder().encode       # (DelayedTask) -> bytes


def decode_delayed(data: bytes | memoryview) -> DelayedTask:
    """The task in a record of the delayed topic; additional fields at its end are ignored.

    Raises UnsupportedVersion when a newer YADTQ wrote it, and InvalidMessage for anything else that is none.
    """
    try:
        delayed = _decoder.decode(data)
    except (ValueError, RecursionError) as error:
        check_version(data, "delayed task")
        raise InvalidMessage(f"a record of {len(data)} bytes is no delayed task: {error}") from None
    if delayed.v != WIRE_VERSION:
        check_version(data, "delayed task")
    return delayed


def level_of(left_ms: int) -> int:
    """The level for what is due in `left_ms`: the widest that is not wider, SHORT for less than the narrowest."""
    for level in range(len(WIDTHS_MS) - 1, -1, -1):
        if WIDTHS_MS[level] <= left_ms:
            return level
    return SHORT
