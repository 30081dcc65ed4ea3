"""The records of the dead-letter topic: letters, and marks, which say that letters are gone.

A letter is a task that was given up, whole, with the reason; or what was no task at all, as it was.

Owns the layout of `DeadLetterMessage` and of `DeadLetterMark` (golden bytes in tests/unit/test_dead_letter.py): new
fields go to the end, with a default. Workers write letters once the task's end is recorded, and possibly again after a
crash: who reads the topic takes the newest of an id. Clients write marks when they have replayed or purged one.

Why marks, on a topic that never deletes by itself, and not a compacted topic where a null value would do: a tombstone
hides *everything* before it under its key. A task that was replayed may fail again before the tombstone of its first
letter arrives, and its second letter would be gone unseen. A mark names the letter that it removes, and removes nothing
that came after that one. (Nor would the cleaner of a compacted topic ask whether two letters of one name tell of the
same thing: what was no task is named by its place on the task topic, and that can be made anew.) What lies below the
oldest letter that is still there is deleted by whoever replays or purges (`yadtq.dead_letter_log`), marks included.

A copy of a letter that its worker's successor publishes after the mark is there again. That is harmless: replayed once
more it gives the same replay count, which the claim knows already.

Pure; never talks to Kafka.
"""
from __future__ import annotations

from typing import Literal

import msgspec

from yadtq.errors import InvalidMessage
from yadtq.names import WIRE_VERSION
from yadtq.task import check_version


class DeadLetterMessage(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """One task that was given up. The order of the fields *is* the format; the key of its record is the id."""

    v: int = WIRE_VERSION
    id: str                             # the task's; of what is no task "partition:offset"
    task: str = ""                      # its task type; empty: it is no task
    code: str                           # of the error: TASK_CRASHED, INVALID_MESSAGE ...
    message: str
    partition: int                      # where on the task topic it was
    offset: int
    worker: str                         # who gave it up
    dead_ms: int                        # Unix time
    error: bytes = b""                  # the whole TaskError, encoded, where there is one
    original: bytes = b""               # the record's value, as it was


class DeadLetterMark(msgspec.Struct, array_like=True, frozen=True, kw_only=True, tag="gone"):
    """Letters of one id are gone. Begins with its tag, where a letter has its version; its record's key is the id."""

    v: int = WIRE_VERSION
    id: str
    how: Literal["replayed", "purged"]
    offset: int                         # on the dead-letter topic: all letters of the id up to here are gone
    at_ms: int = 0                      # when, Unix time


_decoder = msgspec.msgpack.Decoder(DeadLetterMessage)
_mark_decoder = msgspec.msgpack.Decoder(DeadLetterMark)
encode_dead_letter = msgspec.msgpack.Encoder().encode       # (DeadLetterMessage) -> bytes
encode_mark = msgspec.msgpack.Encoder().encode              # (DeadLetterMark) -> bytes
_MARK_TAG = b"\xa4gone"


def is_mark(data: bytes) -> bool:
    """Whether a record of the topic is a mark, without decoding it."""
    return data[1:6] == _MARK_TAG


def decode_dead_letter(data: bytes | memoryview) -> DeadLetterMessage:
    """The dead letter in a record; additional fields at its end are ignored.

    Raises UnsupportedVersion when a newer YADTQ wrote it, and InvalidMessage for anything else that is none.
    """
    try:
        letter = _decoder.decode(data)
    except (ValueError, RecursionError) as error:
        check_version(data, "dead letter")
        raise InvalidMessage(f"a record of {len(data)} bytes is no dead letter: {error}") from None
    if letter.v != WIRE_VERSION:
        check_version(data, "dead letter")
    return letter


def decode_mark(data: bytes | memoryview) -> DeadLetterMark:
    """The mark in a record; raises InvalidMessage for anything that is none, of another version among them."""
    try:
        mark = _mark_decoder.decode(data)
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"a record of {len(data)} bytes is no mark of a dead letter: {error}") from None
    if mark.v != WIRE_VERSION:
        raise InvalidMessage(f"a mark of a dead letter has version {mark.v}, not {WIRE_VERSION}")
    return mark
