"""A record of the dead-letter topic: a task that was given up, whole, with the reason; or what was no task at all.

Owns the layout of `DeadLetter` (golden bytes in tests/unit/test_dead_letter.py): new fields go to the end, with a
default. Written by workers once the task's end is recorded, and possibly again after a crash: who reads the topic takes
the newest of an id. Never talks to Kafka.
"""
from __future__ import annotations

import msgspec

from yadtq.errors import InvalidMessage
from yadtq.names import WIRE_VERSION
from yadtq.task import check_version


class DeadLetter(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """One task that was given up. The order of the fields *is* the format; the key of its record is the id."""

    v: int = WIRE_VERSION
    id: str                             # the task's; of what is no task "partition:offset"
    task: str = ""                      # its task type
    code: str                           # of the error: TASK_CRASHED, INVALID_MESSAGE ...
    message: str
    partition: int                      # where on the task topic it was
    offset: int
    worker: str                         # who gave it up
    dead_ms: int                        # Unix time
    error: bytes = b""                  # the whole TaskError, encoded, where there is one
    original: bytes = b""               # the record's value, as it was


_decoder = msgspec.msgpack.Decoder(DeadLetter)
encode_dead_letter = msgspec.msgpack.Encoder().encode       # (DeadLetter) -> bytes


def decode_dead_letter(data: bytes | memoryview) -> DeadLetter:
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
