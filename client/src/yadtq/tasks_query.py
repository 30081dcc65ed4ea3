"""Looking at tasks: one, many by state and type and time, and how many there are.

Owns the paged iterators: each page is one bounded question to every shard's index, so that a million tasks cost no more
to start on than ten, and nothing is held but the page. Runs in the thread that iterates. Only reads.
"""
from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from yadtq.attempts import MAX_TEXT, Attempt, decode_attempts
from yadtq.errors import InvalidTask, YADTQError
from yadtq.submission import Task, checked_group, checked_name
from yadtq.task import STATES, TaskError, TaskRecord, TaskStatus, decode_error, status_of

if TYPE_CHECKING:
    from yadtq.connections import Connections
    from yadtq.result_backend import TaskRecordRaw

PAGE_SIZE = 500
_CODES = {status: code for code, status in STATES.items()}
_WITH_ERROR = (TaskStatus.FAILED, TaskStatus.RETRYING, TaskStatus.CANCELLED)
When = float | datetime | None      # a Unix time in seconds, or a datetime (naive: local time)


class Selection(NamedTuple):
    """Which tasks are meant, checked and in the index's own terms."""

    codes: list[str]                # of the states
    types: list[str] | None         # None: all
    group: str                      # "": all, and those of no group
    since_ms: int | None
    until_ms: int | None

    def admits(self, task: str) -> bool:
        """Is a task that the index has given of a type that is meant? With a group, the index doesn't look at that."""
        return not self.group or self.types is None or task in self.types


def selection(states: Collection[TaskStatus] | None, task: Task | Sequence[Task] | None, group: str | None,
              since: When, until: When) -> Selection:
    """A selection from what an application gave; raises InvalidTask."""
    try:
        codes = list(_CODES.values()) if states is None else [_CODES[TaskStatus(one)] for one in states]
    except ValueError as error:
        raise InvalidTask(f"{error}: the states are {', '.join(TaskStatus)}") from None
    return Selection(codes, task_types(task), checked_group(group) or "", unix_ms(since), unix_ms(until))


class TasksQuery:
    """The read-only questions of one client."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def record(self, task_id: str) -> TaskRecord:
        """One record; raises TaskNotFound or BackendLost."""
        raw = self._connections.backend.read([task_id], values=False)[0]
        shown = None if raw is None else shown_record(task_id, raw)
        if shown is None:
            raise self._connections.store.explain(task_id)
        return shown

    def records(
        self, states: Collection[TaskStatus] | None, task: Task | Sequence[Task] | None, since: When, until: When, *,
        newest_first: bool, page_size: int = PAGE_SIZE, group: str | None = None,
    ) -> Iterator[TaskRecord]:
        """Check the arguments now, and return the iterator over the matching records."""
        chosen = selection(states, task, group, since, until)
        if page_size < 1:
            raise InvalidTask(f"page_size must be 1 or more, not {page_size}")
        return self._pages(chosen, newest_first, page_size)

    def _pages(self, chosen: Selection, newest_first: bool, page_size: int) -> Iterator[TaskRecord]:
        for page in self.pages(chosen, newest_first=newest_first, page_size=page_size):
            for task_id, raw in zip(page, self._connections.backend.read(page, values=False), strict=True):
                shown = None if raw is None else shown_record(task_id, raw)
                if shown is not None and chosen.admits(shown.task):     # None: it went between the two questions
                    yield shown

    def pages(self, chosen: Selection, *, newest_first: bool, page_size: int) -> Iterator[list[str]]:
        """The ids that the index has for a selection, none of the pages empty. Of a group and some types: the group's,
        since there is no index of both."""
        codes, types, group, since_ms, until_ms = chosen
        cursor: str | None = None
        while True:
            page, cursor = self._connections.backend.page(codes, types, cursor, page_size, since_ms, until_ms,
                                                          newest_first, group)
            if page:
                yield [task_id for task_id, _ in page]
            if cursor is None:
                return

    def admitted(self, chosen: Selection, page: Sequence[str]) -> list[str]:
        """Those of a page that are of a type that is meant."""
        records = self._connections.backend.read(page, values=False)
        return [one for one, raw in zip(page, records, strict=True) if raw is not None and chosen.admits(raw.task)]

    def counts(self, task: Task | Sequence[Task] | None = None, group: str | None = None) -> dict[TaskStatus, int]:
        """How many tasks there are, per state; every state is there."""
        chosen = selection(None, task, group, None, None)
        if chosen.types and chosen.group:
            raise InvalidTask("tasks are counted by type or by group, not by both")
        found = dict.fromkeys(TaskStatus, 0)
        for code, count in self._connections.backend.counts(chosen.types, chosen.group).items():
            status = STATES.get(code)
            if status is not None:
                found[status] += count
        return found


def shown_record(task_id: str, raw: TaskRecordRaw) -> TaskRecord | None:
    """What an application sees of a record; None for what is hidden (a cancel wished for an unknown id)."""
    status = status_of(raw.state, processing_shown=raw.shown)
    if status is None:
        return None
    error = _error(raw.error)
    return TaskRecord(
        id=task_id, task=raw.task, status=status, attempt=raw.attempt, partition=raw.partition,
        submitted_ms=raw.submitted_ms, started_ms=raw.started_ms or None, ended_ms=raw.ended_ms or None,
        worker=raw.worker, has_result=raw.has_result,
        error=error if error is not None and error.code and status in _WITH_ERROR else None,
        group=raw.group or None, due_ms=raw.due_ms, attempts=_attempts(raw, error))


def _attempts(raw: TaskRecordRaw, error: TaskError | None) -> tuple[Attempt, ...]:
    """All attempts that have ended: the failed ones that the record carries, and the one with which the task ended."""
    attempts: list[Attempt] = []
    if error is not None and error.history:
        with suppress(YADTQError):
            attempts = decode_attempts(error.history)
    if raw.state in ("OK", "KO") and raw.started_ms is not None and raw.ended_ms is not None:
        last = error if error is not None and error.code else TaskError("", "")
        attempts.append(Attempt(raw.attempt, raw.started_ms, raw.ended_ms, raw.worker, last.code, last.error_type,
                                last.message[:MAX_TEXT]))
    return tuple(attempts)


def unix_ms(when: When) -> int | None:
    """A moment given as Unix seconds or datetime, in Unix ms."""
    if when is None:
        return None
    if isinstance(when, datetime):
        return round(when.timestamp() * 1000)
    if isinstance(when, (int, float)) and not isinstance(when, bool):
        return round(when * 1000)
    raise InvalidTask(f"a time is a datetime or a Unix time in seconds, not {when!r}")


def task_types(task: Task | Sequence[Task] | None) -> list[str] | None:
    """The names of task types that were given as a filter, one or several; None: all."""
    if task is None:
        return None
    if isinstance(task, str) or callable(task):
        return [checked_name(task)]
    return [checked_name(one) for one in task]


def _error(data: bytes | None) -> TaskError | None:
    if not data:
        return None
    try:
        return decode_error(data)
    except YADTQError as unreadable:
        return TaskError(unreadable.code, unreadable.message)
