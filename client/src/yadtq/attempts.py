"""The history of a task's attempts: when, where, and how each of them failed.

Owns the layout of `Attempt` and the bounds of a history. It travels encoded: in the message of a retry and, beside the
error, in the task's record, so that either can be made again from the other. Pure; used by clients and workers.
"""
from __future__ import annotations

import msgspec

from yadtq.errors import InvalidMessage

FIRST, LAST = 10, 20                # how many attempts are kept from the beginning and from the end
MAX_TEXT = 200                      # characters of an error's message that are kept
MAX_NAME = 100                      # and of an exception's class, a worker's id


class Attempt(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One attempt that has ended. The order of the fields *is* the format. Times are Unix times in ms.

    Example:
        >>> [(attempt.n, attempt.error_type) for attempt in client.get_task(task_id).attempts]
        [(0, 'ConnectionError'), (1, '')]
    """

    n: int                          # from 0
    started_ms: int = 0
    ended_ms: int = 0
    worker: str = ""
    code: str = ""                  # of its error; empty: it succeeded
    error_type: str = ""            # the exception's class in the worker
    message: str = ""               # the beginning of the error's text


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Attempt])


def decode_attempts(data: bytes | memoryview) -> list[Attempt]:
    """The attempts in a history, oldest first; b"" is an empty one. Raises InvalidMessage for bytes that are none."""
    if not data:
        return []
    try:
        return _decoder.decode(data)
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"{len(data)} bytes are no history of attempts: {error}") from None


def with_attempt(history: bytes, attempt: Attempt) -> bytes:
    """The history with one more attempt at its end. Of many, the first and the last are kept: their `n` tells."""
    try:
        attempts = decode_attempts(history)
    except InvalidMessage:
        attempts = []                                   # better a short history than a task that can't be retried
    attempts.append(msgspec.structs.replace(
        attempt, message=attempt.message[:MAX_TEXT], error_type=attempt.error_type[-MAX_NAME:],
        worker=attempt.worker[-MAX_NAME:]))
    if len(attempts) > FIRST + LAST:
        attempts = attempts[:FIRST] + attempts[-LAST:]
    return _encoder.encode(attempts)
