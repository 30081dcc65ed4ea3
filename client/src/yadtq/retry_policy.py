"""Whether an attempt that failed is repeated, and when.

Pure: what the failure says, the limits, the clock and the random number come in as arguments. Used by the workers of
yadtqd and by the in-memory worker of `yadtq.testing`, right after a handler has failed.

What is worth a retry: any exception, but not those that tell of arguments (TaskArgumentError: a division by zero does
not get better), of a task that can't be run here at all, or of a result that does not travel. `retry_on` of the task
type replaces this rule, `give_up_on` is an exception from either. A handler that raises `Retry` asks for one itself.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from yadtq.errors import (
    InvalidMessage,
    Retry,
    TaskArgumentError,
    TaskCancelled,
    TaskCrashed,
    TaskExpired,
    TaskFailed,
    TaskNotRegistered,
    YADTQError,
    by_code,
)

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtq.task import TaskMessage
    from yadtq.tasks import TaskType

ASKED_RETRIES = 100         # `raise Retry(...)` in a task without max_retries: so often, else a slip would run for ever
MAX_DELAY_S = 366 * 86_400.0
_POINTLESS = (TaskArgumentError, TaskNotRegistered, TaskExpired, TaskCancelled, TaskCrashed, InvalidMessage)


class Wish(NamedTuple):
    """What a failure itself says about a retry."""

    worth: bool                         # False: it would fail again
    asked: bool = False                 # the handler raised Retry
    delay_s: float | None = None        # and said when


class Limits(NamedTuple):
    """How often and how soon a task is repeated: the submission's word, else its type's, else the installation's."""

    max_retries: int
    backoff_s: float                    # before the first retry; doubled for each one after it
    backoff_max_s: float
    jitter: float                       # 0: none, 1: anything from 0 to the full wait
    max_asked: int                      # retries, when the handler asks for them
    keyed_max_s: float | None           # cap of every wait for a task with a key; None: it has none


class RetryAt(NamedTuple):
    """Attempt `n` + 1 is owed."""

    due_ms: int                         # Unix time


class GiveUp(NamedTuple):
    """The failure is final."""

    reason: str
    retries_allowed: bool               # it could have been retried, or was: the task belongs to the dead letters


def wish_of(error: BaseException, task_type: TaskType) -> Wish:
    """What an exception that a handler raised says about a retry."""
    if isinstance(error, Retry):
        return Wish(True, asked=True, delay_s=error.delay_s)
    return Wish(_worth(type(error), task_type))


def wish_of_code(code: str, task_type: TaskType | None) -> Wish:
    """The same for an error that we found ourselves (a time-out, say), of which there is only the code."""
    return Wish(_worth(by_code(code) or TaskFailed, task_type))


def _worth(kind: type[BaseException], task_type: TaskType | None) -> bool:
    if issubclass(kind, TaskCrashed):
        return False                                    # it was run again and again already, alone
    if task_type is not None:
        if issubclass(kind, task_type.give_up_on):
            return False
        if task_type.retry_on:
            return issubclass(kind, task_type.retry_on)
    if issubclass(kind, YADTQError):
        return kind.retryable or (issubclass(kind, TaskFailed) and not issubclass(kind, _POINTLESS))
    return True


def limits_of(message: TaskMessage, task_type: TaskType | None, settings: Settings) -> Limits:
    """The limits that hold for a task."""
    declared = (None, None, None, None) if task_type is None else (
        task_type.max_retries, task_type.retry_backoff_s, task_type.retry_backoff_max_s, task_type.retry_jitter)
    said = message.max_retries if message.max_retries is not None else declared[0]
    backoff_s = _first(message.retry_backoff_s, declared[1], settings.retry_backoff_s)
    return Limits(
        max_retries=settings.task_max_retries if said is None else said, backoff_s=backoff_s,
        # who asks for a longer first wait than the cap means it
        backoff_max_s=max(_first(declared[2], settings.retry_backoff_max_s), backoff_s),
        jitter=_first(declared[3], settings.retry_jitter),
        max_asked=max(settings.task_max_retries, ASKED_RETRIES) if said is None else said,
        keyed_max_s=None if message.key is None else settings.keyed_retry_max_s)


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def decide(wish: Wish, n: int, limits: Limits, now_ms: int, random: float,
           expires_ms: int | None = None) -> RetryAt | GiveUp:
    """Is attempt `n` (from 0), which has just failed, followed by another? `random` is from 0 to below 1.

        decide(Wish(True), 0, limits, now_ms, 0.5)      # -> RetryAt(due_ms=...)
    """
    most = limits.max_asked if wish.asked else limits.max_retries
    if not wish.worth:
        return GiveUp("another attempt would fail as well", most > 0)
    if n >= most:
        return GiveUp(f"all {most} retries are used up" if most else "no retries are allowed", most > 0)
    due_ms = now_ms + round(wait_s(wish, n, limits, random) * 1000)
    if expires_ms is not None and due_ms >= expires_ms:
        return GiveUp("it expires before the next attempt", True)
    return RetryAt(due_ms)


def wait_s(wish: Wish, n: int, limits: Limits, random: float) -> float:
    """How long to wait after attempt `n`: what the handler asked for, else the back-off, its jitter taken off."""
    if wish.delay_s is not None:
        wait = min(wish.delay_s, MAX_DELAY_S)
    else:
        wait = min(limits.backoff_s * 2.0 ** min(n, 64), limits.backoff_max_s, MAX_DELAY_S) * (
            1 - limits.jitter * random)
    return wait if limits.keyed_max_s is None else min(wait, limits.keyed_max_s)
