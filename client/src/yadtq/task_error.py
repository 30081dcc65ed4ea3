"""How the failure of a task travels: from the exception in the worker to a record in Redis to the client's exception.

Owns the layout of `TaskError` (golden bytes in tests/unit/test_task_error.py): new fields go to the end, with defaults.
Used by the workers (their processor's thread) and by clients in any thread. Never unpickles and never imports what an
error names: the client's class is found by its code alone.
"""
from __future__ import annotations

import traceback
from types import TracebackType

import msgspec

from yadtq.errors import InvalidMessage, TaskFailed, YADTQError, by_code

MAX_MESSAGE_BYTES = 2048            # of an exception's text: enough to read, small enough to list thousands
MAX_TRACEBACK_BYTES = 8192
_HEAD_BYTES = 2048                  # of a traceback that is cut: its beginning; the end, which says more, gets the rest
_CUT = "\n  ... cut ...\n"


class TaskError(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Why a task failed, as it is stored. The order of the fields *is* the format.

    Example:
        >>> client.get_task(task_id).error.code
        'DIVISION_BY_ZERO'
    """

    code: str
    message: str
    error_type: str = ""                # name of the exception's class in the worker, with its module
    traceback: str = ""
    retryable: bool = False
    given_up: bool = False              # retries (or a replay) were allowed or made: it is in the dead letters
    history: bytes = b""                # the attempts so far, encoded; `TaskRecord.attempts` has them


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(TaskError)
encode_error = _encoder.encode          # (TaskError) -> bytes


def decode_error(data: bytes | memoryview) -> TaskError:
    """The error in a record; raises InvalidMessage when the bytes are none."""
    try:
        return _decoder.decode(data)
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"{len(data)} bytes are no task error: {error}") from None


def from_exception(error: BaseException) -> TaskError:
    """What is kept of an exception that a handler raised: code, text, type and traceback, each bounded.

    The traceback begins in the handler: the frames of yadtqd that called it are left out.
    """
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    code, retryable = (error.code, error.retryable) if isinstance(error, YADTQError) else (TaskFailed.code, False)
    return TaskError(code=code, message=_bounded(_text(error), MAX_MESSAGE_BYTES), error_type=_bounded(name, 256),
                     traceback=_traceback(error), retryable=retryable)


def to_exception(error: TaskError, task_id: str) -> TaskFailed:
    """The exception that a client raises for a failed task: of the class with the error's code, always a TaskFailed.

    A code that is unknown here, or belongs to no TaskFailed, gives a TaskFailed whose `code` is set.
    """
    kind = by_code(error.code)
    details = {"task_id": task_id, "error_type": error.error_type, "remote_traceback": error.traceback}
    if kind is not None and issubclass(kind, TaskFailed):
        try:
            return kind(error.message, **details)
        except TypeError:                               # a user's class with a constructor of its own
            pass
    failed = TaskFailed(error.message, **details)
    if error.code != TaskFailed.code:
        failed.code = error.code                        # type: ignore[misc]  # of this instance alone
    return failed


def _text(error: BaseException) -> str:
    if isinstance(error, YADTQError):
        return error.message
    try:
        return str(error) or type(error).__name__
    except Exception:                                   # noqa: BLE001 (a user's __str__ may do anything)
        return f"{type(error).__name__} (its text could not be made)"


def _traceback(error: BaseException) -> str:
    try:
        frames = traceback.TracebackException(type(error), error, _handlers_own(error.__traceback__), compact=True)
        return _bounded("".join(frames.format()), MAX_TRACEBACK_BYTES)
    except Exception as second:                         # noqa: BLE001 (a user's exception must not break the worker)
        return f"the traceback could not be made: {type(second).__name__}"


def _handlers_own(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on that does not belong to yadtqd; all of it when there is no other."""
    at = trace
    while at is not None and _of_yadtqd(at.tb_frame.f_globals.get("__name__", "")):
        at = at.tb_next
    return at or trace


def _of_yadtqd(module: str) -> bool:
    return (module == "yadtqd" or module.startswith("yadtqd.")) and not module.startswith("yadtqd.tasks")


def _bounded(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of valid UTF-8; of what is longer, the beginning and the end."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > limit:
        head = min(_HEAD_BYTES, limit // 4)
        data = data[:head] + _CUT.encode() + data[len(data) - (limit - head - len(_CUT)):]
    return data.decode("utf-8", "ignore")
