"""Waiting for results, one or many, and turning what came into values and exceptions.

Owns how an application waits: with a deadline, and never in silence while Redis is away. Decodes in the thread that
waits (the waiter's thread only hands over). The error of a failed task is raised as the class its code names, with the
traceback of the worker as a note, so that it stands in the traceback that a person sees.
"""
from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from yadtq.codec import decode
from yadtq.errors import RedisConnectionError, ResultTimeout, TaskCancelled, TaskFailed, TaskNotFound, YADTQError
from yadtq.sinks import ManySink, OneSink, QueueSink
from yadtq.task import decode_error, to_exception
from yadtq.wait_table import Outcome
from yadtq.waiter import Waiter, outcome_of_record

if TYPE_CHECKING:
    from yadtq.connections import Connections

SLICE_S = 1.0           # a long wait looks up this often, to see that Redis is away
READ_BATCH = 64         # results too large to be pushed, per read: bounds memory and the time Redis spends on one call


class TaskOutcome(msgspec.Struct, eq=False):
    """A task that has ended, as `as_completed` gives it: its id, and its value or its error.

    Example:
        >>> for outcome in client.as_completed(ids, timeout=60):
        ...     print(outcome.task_id, outcome.error or outcome.result())
    """

    task_id: str
    _value: Any
    error: YADTQError | None

    def result(self) -> Any:
        """The value that the task returned; raises its error if it failed."""
        if self.error is not None:
            raise self.error
        return self._value

    def __repr__(self) -> str:
        shown = f"error={self.error!r}" if self.error is not None else f"value={self._value!r:.100}"
        return f"TaskOutcome({self.task_id!r}, {shown})"


class _Waitable(Protocol):
    def wait(self, seconds: float) -> bool: ...


def settle(task_id: str, outcome: Outcome) -> TaskOutcome:
    """Decode an outcome whose bytes are there."""
    if outcome.lost is not None:
        return TaskOutcome(task_id, None, outcome.lost)
    if outcome.state == "OK":
        if outcome.result is None:
            return TaskOutcome(task_id, None, TaskNotFound(
                f"the task {task_id} succeeded, but its result has expired (result_ttl_s)"))
        try:
            return TaskOutcome(task_id, decode(outcome.result), None)
        except YADTQError as error:
            return TaskOutcome(task_id, None, error)
    return TaskOutcome(task_id, None, failure(task_id, outcome))


def failure(task_id: str, outcome: Outcome) -> TaskFailed:
    """The exception of a task that failed or was cancelled, the worker's traceback added as a note."""
    if outcome.state == "CX":                           # a cancel that came between two attempts: there was an error
        error: TaskFailed = TaskCancelled(f"the task {task_id} was cancelled", task_id=task_id)
    elif outcome.error:
        try:
            error = to_exception(decode_error(outcome.error), task_id)
        except YADTQError as unreadable:
            error = TaskFailed(f"the task failed, but its error can't be read: {unreadable.message}", task_id=task_id)
    else:
        error = TaskFailed(f"the task {task_id} failed, and its error is not kept any more", task_id=task_id)
    if error.remote_traceback:
        error.add_note(f"In the worker (task {task_id}):\n{error.remote_traceback.rstrip()}")
    return error


class Results:
    """The ways in which one client waits."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def one(self, task_id: str, timeout_s: float | None) -> Any:
        """The value of one task; raises its error, ResultTimeout, TaskNotFound, BackendLost, RedisConnectionError."""
        waiter, sink, deadline = self._connections.waiter, OneSink(), _deadline(timeout_s)
        waiter.begin((task_id,), sink, timeout_s)
        try:
            if sink.outcome is None and not self._wait(waiter, sink, deadline):
                raise ResultTimeout(f"the task {task_id} has not ended within {timeout_s:g} s; it goes on")
        finally:
            if sink.outcome is None:
                waiter.stop((task_id,), sink)
        outcome = sink.outcome
        assert outcome is not None
        return self.complete({task_id: outcome})[task_id].result()

    def many(self, ids: Sequence[str], timeout_s: float | None) -> list[TaskOutcome]:
        """The outcomes of many tasks in order; what has not ended in time has a ResultTimeout as its error."""
        unique = list(dict.fromkeys(ids))
        waiter, sink, deadline = self._connections.waiter, ManySink(unique), _deadline(timeout_s)
        waiter.begin(unique, sink, timeout_s)
        try:
            self._wait(waiter, sink, deadline)
        finally:
            pending = sink.pending()
            if pending:
                waiter.stop(pending, sink)
        settled = self.complete(dict(sink.outcomes))
        for task_id in pending:
            if task_id not in settled:
                settled[task_id] = TaskOutcome(task_id, None, ResultTimeout(
                    f"the task {task_id} has not ended within {timeout_s:g} s; it goes on"))
        return [settled[task_id] for task_id in ids]

    def as_completed(self, ids: Sequence[str], timeout_s: float | None) -> Iterator[TaskOutcome]:
        """Outcomes in the order in which the tasks end; raises ResultTimeout for the rest."""
        pending = set(ids)
        waiter, sink = self._connections.waiter, QueueSink()
        deadline = _deadline(timeout_s)
        try:
            waiter.begin(list(pending), sink, timeout_s)
            while pending:
                if not self._wait(waiter, sink, deadline):
                    raise ResultTimeout(f"{len(pending)} of {len(ids)} tasks have not ended within {timeout_s:g} s; "
                                        "they go on")
                task_id, outcome = sink.take()
                pending.discard(task_id)
                yield self.complete({task_id: outcome})[task_id]
        finally:
            waiter.stop(list(pending), sink)

    def complete(self, outcomes: dict[str, Outcome]) -> dict[str, TaskOutcome]:
        """Decode outcomes, after reading those that were too large to be pushed."""
        large = [task_id for task_id, outcome in outcomes.items() if outcome.must_read]
        for start in range(0, len(large), READ_BATCH):
            batch = large[start:start + READ_BATCH]
            for task_id, record in zip(batch, self._connections.backend.read(batch), strict=True):
                outcomes[task_id] = (Outcome(lost=self._connections.store.explain(task_id)) if record is None
                                     else outcome_of_record(record))
        return {task_id: settle(task_id, outcome) for task_id, outcome in outcomes.items()}

    def _wait(self, waiter: Waiter, sink: _Waitable, deadline: float | None) -> bool:
        """Until the sink has what it waits for, or the deadline. Raises RedisConnectionError when Redis stays away."""
        while True:
            left_s = SLICE_S if deadline is None else deadline - time.monotonic()
            if sink.wait(max(0.0, min(SLICE_S, left_s))):
                return True
            away_s = waiter.away_s()
            over = deadline is not None and time.monotonic() >= deadline
            if away_s > 0 and (over or (deadline is None and away_s > self._connections.connect_timeout_s)):
                raise RedisConnectionError(f"Redis has not answered for {away_s:.1f} s, so nobody knows how the task "
                                           "stands; it is not affected")
            if over:
                return False


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s
