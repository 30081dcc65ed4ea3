"""Runs one handler and says how the attempt ended: arguments decoded, value encoded, every exception made an end.

Used by the processor (in the worker's main thread or its pool), by the runner of async handlers and by the isolator's
children. Knows nothing of Kafka, Redis or slots; never raises, except through a signal between two tasks.
"""
from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from yadtq import codec
from yadtq.errors import (
    ArgumentNotEncodable,
    InvalidMessage,
    ResultNotEncodable,
    TaskMemoryLimit,
    TaskTimeout,
    YADTQError,
)
from yadtq.retry_policy import Wish, wish_of
from yadtq.running import Cancelled, SoftTimeout, current_task
from yadtq.sizes import size_text
from yadtq.task import TaskError, encode_error, from_exception
from yadtq.tasks import TaskType, refused_arguments

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtq.task import TaskMessage

OK, KO, CX = "OK", "KO", "CX"
LONGEST_S = 1e9         # 31 years: what the clocks of slots and timers can hold, whatever a submission says
Call = Callable[[Callable[..., Any], list[Any], dict[str, Any]], Any]


class Outcome(NamedTuple):
    """How an attempt ended: OK with the encoded value, KO with the encoded error, or CX: cancelled.

    `wish` is what a handler's exception says about a retry; None for a failure that we found ourselves.
    """

    end: str
    result: bytes = b""
    error: bytes = b""
    wish: Wish | None = None


CANCELLED = Outcome(CX)


def run_body(task_type: TaskType, message: TaskMessage, limit: int, call: Call) -> Outcome:
    """Run the handler by `call(handler, args, kwargs)`; results of more than `limit` bytes are an error."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    pid = os.getpid()
    try:
        args, kwargs = arguments(message)
        try:
            value = call(task_type.handler, args, kwargs)
        finally:
            leave_if_forked(pid)
    except SoftTimeout:
        return timed_out(task_type.name)
    except BaseException as error:  # noqa: BLE001 - SystemExit too: a task must not be able to end its worker
        return failed(task_type, error, args, kwargs)
    return succeeded(task_type, value, limit)


def leave_if_forked(pid: int) -> None:
    """End this process if it is not `pid`: one that a handler forked, and that came back as if it were its worker."""
    if os.getpid() != pid:
        os._exit(0)


def arguments(message: TaskMessage) -> tuple[list[Any], dict[str, Any]]:
    """The handler's arguments. Raises InvalidMessage."""
    args = codec.decode(message.args)
    kwargs = codec.decode(message.kwargs) if message.kwargs else {}
    if type(args) is not list or type(kwargs) is not dict:
        raise InvalidMessage(f"the arguments of {message.task} are no list and dict")
    return args, kwargs


def succeeded(task_type: TaskType, value: object, limit: int) -> Outcome:
    """The end of an attempt whose handler returned `value`."""
    try:
        return Outcome(OK, codec.encode(value, limit=limit, name="result"))
    except ArgumentNotEncodable as error:
        return refused(ResultNotEncodable(error.message))
    except YADTQError as error:
        return refused(error)
    except MemoryError as error:
        return failed(task_type, error, [], {})
    except Exception as error:  # noqa: BLE001 - a value of the handler's own class may do anything when it is read
        return refused(ResultNotEncodable(f"result: {type(error).__name__}: {error}"[:500]))


def failed(task_type: TaskType, error: BaseException, args: list[Any], kwargs: dict[str, Any]) -> Outcome:
    """The end of an attempt whose handler raised."""
    if isinstance(error, Cancelled) and current_task().cancel_requested:
        return CANCELLED
    if type(error) is TypeError:
        error = refused_arguments(task_type, error, args, kwargs) or error
    told = from_exception(error)
    if task_type.memory_limit and isinstance(error, MemoryError):
        told = msgspec.structs.replace(told, code=TaskMemoryLimit.code, message=(
            f"{task_type.name} ran into its memory limit of {size_text(task_type.memory_limit)}: {told.message}"))
    return Outcome(KO, error=encode_error(told), wish=wish_of(error, task_type))


def timed_out(name: str, timeout_s: float | None = None) -> Outcome:
    """The end of an attempt that ran past its soft time-out."""
    after = "" if timeout_s is None else f" of {timeout_s:g} s"
    return refused(TaskTimeout(f"{name} ran past its soft time-out{after}"))


def refused(error: YADTQError) -> Outcome:
    """A failure that we found ourselves: without a traceback, which would only show our own code."""
    return Outcome(KO, error=encode_error(TaskError(error.code, error.message, type(error).__name__, "",
                                                    error.retryable)))


class Deadlines(NamedTuple):
    """How long an attempt may run, in s; 0: as long as it likes."""

    soft_s: float
    hard_s: float


def deadlines(message: TaskMessage, task_type: TaskType, settings: Settings) -> Deadlines:
    """The deadlines of an attempt: the submission's, else the task type's, else the installation's."""
    soft_s = message.timeout_s
    if soft_s is None:
        soft_s = settings.task_timeout if task_type.timeout_s is None else task_type.timeout_s
    if not soft_s > 0:
        return Deadlines(0.0, 0.0)
    soft_s = min(soft_s, LONGEST_S)
    return Deadlines(soft_s, soft_s + grace(message, task_type, settings))


def grace(message: TaskMessage, task_type: TaskType, settings: Settings) -> float:
    """How long an attempt that was told to end, by its soft time-out or a cancel, may take for it, in s."""
    grace_s = message.grace_s
    if grace_s is None:
        grace_s = settings.task_timeout_grace_s if task_type.grace_s is None else task_type.grace_s
    return min(grace_s, LONGEST_S)
