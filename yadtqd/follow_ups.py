"""What follows a failed attempt: its retry on the delayed topic, or its dead letter. Made here, published elsewhere.

Owns the decision at the end of an attempt (`judge`) and the records that follow, which are made from message and record
alone: whoever comes after a worker that died before it published makes the same ones again (`owed`; PROTOCOL.md rule 5,
*record, publish, and settle*). Pure but for the clock; called by whatever thread ran the task, and by the consumer.

A task with a key stays where it is: nothing is published, and the next attempt is made in its place (rule 8).

A dead letter is owed by a task that was given up: TASK_CRASHED always; any other failure if retries were allowed, and
are used up or make no sense, and of a task that was replayed from the dead letters. A task that may not be retried
just fails.
"""
from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from yadtq.attempts import Attempt, with_attempt
from yadtq.dead_letter import DeadLetterMessage, encode_dead_letter
from yadtq.delayed import DelayedTask, encode_delayed
from yadtq.errors import InvalidMessage, TaskCrashed, TaskExpired, TaskNotRegistered
from yadtq.result_backend import FinishEntry
from yadtq.retry_policy import RetryAt, decide, limits_of, wish_of_code
from yadtq.task import TaskError, TaskMessage, decode_error, encode_error, encode_message
from yadtqd.body import KO, Outcome

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtq.result_backend import TaskRecordRaw
    from yadtqd.held import Held
    from yadtqd.registry import Registry

log = logging.getLogger(__name__)

RETRY = "R"             # the state of a record that waits for its retry, and the end of an attempt that has one
OVERHEAD = 4096         # bytes of a record beside its value: key, header of its batch
CUT = 4096              # bytes that are kept of an original that is too large


class FollowUp(NamedTuple):
    """A record that is published once the end of a task is recorded."""

    topic: str
    key: bytes
    value: bytes
    code: str = ""          # of a dead letter: why
    due_ms: int = -1        # of a retry: when, which decides about its partition at the time it is sent


class FollowUps:
    """Judges ends and makes what follows them, for one worker."""

    def __init__(self, settings: Settings, registry: Registry, worker_id: str,
                 number: Callable[[], float] = random.random) -> None:
        self._settings, self._registry, self._worker_id, self._random = settings, registry, worker_id, number

    # ---- at the end of an attempt -----------------------------------------------------------------------------------
    def judge(self, held: Held, outcome: Outcome, started_ms: int, ended_ms: int
              ) -> tuple[FinishEntry, FollowUp | None]:
        """What is recorded of an attempt that has ended, and what is to be published after that."""
        m = held.message
        if outcome.end != KO:               # OK, or CX: nothing follows
            kept = encode_error(TaskError("", "", history=m.history)) if m.history else b""
            return self._entry(held, outcome.end, started_ms, ended_ms, outcome.result, kept), None
        error = decode_error(outcome.error)
        try:
            task_type = self._registry.get(m.task)
        except TaskNotRegistered:
            task_type = None
        wish = outcome.wish or wish_of_code(error.code, task_type)
        limits = limits_of(m, task_type, self._settings)
        decision = decide(wish, m.n, limits, time.time_ns() // 1_000_000, self._random(), m.expires_ms)
        if isinstance(decision, RetryAt):
            history = with_attempt(m.history, Attempt(m.n, started_ms, ended_ms, self._worker_id, error.code,
                                                      error.error_type, error.message))
            log.info("%s failed (%s): attempt %d, the next one is due in %.3g s", m.task,
                     error.error_type or error.code, m.n + 1, (decision.due_ms - ended_ms) / 1000)
            kept = encode_error(msgspec.structs.replace(error, history=history))
            entry = self._entry(held, RETRY, started_ms, ended_ms, b"", kept, decision.due_ms)
            return entry, None if m.key is not None else self.retry(held, history, decision.due_ms)
        expired = error.code == TaskExpired.code                    # as a claim ends it: no letter
        if (decision.retries_allowed and not expired) or m.n > 0 or m.replay > 0:     # a replay that fails: again
            log.warning("%s failed for good (%s): %s", m.task, error.error_type or error.code, decision.reason)
            error = msgspec.structs.replace(error, given_up=True)
        kept = encode_error(msgspec.structs.replace(error, history=m.history) if m.history else error)
        letter = self.letter(held, m.id, error.code, error.message, error=kept) if _is_dead(error, m.n) else None
        return self._entry(held, KO, started_ms, ended_ms, b"", kept), letter

    @staticmethod
    def _entry(held: Held, end: str, started_ms: int, ended_ms: int, result: bytes, error: bytes,
               due_ms: int | None = None) -> FinishEntry:
        m = held.message
        return tuple.__new__(FinishEntry, (     # half the time of FinishEntry(...)
            m.id, m.n, m.g, m.task, m.submitted_ms, end, held.offset, started_ms, ended_ms, result, error, m.replay,
            due_ms, m.group))

    # ---- what somebody before us may not have published -------------------------------------------------------------
    def owed(self, held: Held, record: TaskRecordRaw | None) -> FollowUp | None:
        """What follows a task that had ended, or waited for its retry, when its message came again."""
        error = error_of(record)
        if record is None or error is None:
            return None
        if record.state == "KO" and _is_dead(error, record.attempt):
            return self.letter(held, held.message.id, error.code, error.message, error=record.error or b"")
        if record.state == RETRY and record.attempt == held.message.n + 1:
            return self.retry(held, error.history, record.due_ms or 0)
        return None

    # ---- the records that follow ------------------------------------------------------------------------------------
    def retry(self, held: Held, history: bytes, due_ms: int) -> FollowUp:
        """The next attempt: same id, same partition, when it is due."""
        message = next_attempt(held.message, held.message.n + 1, history, due_ms)
        key = message.id.encode()
        return FollowUp(self._settings.kafka_delayed_topic, key, encode_delayed(DelayedTask(
            due_ms=due_ms, partition=held.partition, value=encode_message(message))), due_ms=due_ms)

    def letter(self, held: Held, task_id: str, code: str, message: str, *, error: bytes = b"",
               original: bytes | None = None) -> FollowUp:
        """The letter of a task (or of what is none: `original` is its record's value)."""
        if original is None:
            original = encode_message(held.message)
        value = encode_fitting(DeadLetterMessage(
            id=task_id, task=held.message.task, code=code, message=message, partition=held.partition,
            offset=held.offset, worker=self._worker_id, dead_ms=time.time_ns() // 1_000_000, error=error,
            original=original), self._settings.kafka_max_message_bytes)
        return FollowUp(self._settings.kafka_dead_letter_topic, task_id.encode(), value, code)


def encode_fitting(letter: DeadLetterMessage, max_message_bytes: int) -> bytes:
    """A letter that fits a record. A task that was submitted always does, whole: max_payload_bytes leaves the room, and
    if need be the traceback stays behind. The record of somebody else may have been compressed and be of any size."""
    size = len(letter.original)
    for one in (letter, msgspec.structs.replace(letter, error=b"")):
        value = encode_dead_letter(one)
        if len(value) <= max_message_bytes - OVERHEAD:
            return value
    return encode_dead_letter(msgspec.structs.replace(
        letter, message=f"{letter.message} (its record had {size:,} bytes; only the first {CUT:,} are kept)",
        error=b"", original=letter.original[:CUT]))


def stays(held: Held) -> bool:
    """Has its attempt failed, and is the next one to be made in its place? It has a key, whose order is kept."""
    return held.message.key is not None and held.end is not None and held.end.end == RETRY


def next_attempt(message: TaskMessage, n: int, history: bytes, due_ms: int) -> TaskMessage:
    """The message of attempt `n` of a task."""
    return msgspec.structs.replace(message, n=n, history=history, due_ms=due_ms)


def _is_dead(error: TaskError, n: int) -> bool:
    return error.given_up or n > 0 or error.code == TaskCrashed.code


def error_of(record: TaskRecordRaw | None) -> TaskError | None:
    """The error that a record carries, with the history of its attempts; None when there is none that can be read."""
    if record is None or not record.error:
        return None
    try:
        return decode_error(record.error)
    except InvalidMessage:
        return None
