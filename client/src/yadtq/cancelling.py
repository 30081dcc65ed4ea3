"""Cancelling many tasks: which are meant, page by page, and what came of it.

Owns the walk over the indexes: each page is one bounded question to every shard, each cancel one bounded call, so that
a million tasks hold neither Redis nor the caller's memory. Repeating a walk that was broken off is harmless. Runs in
the caller's thread.
"""
from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING

from yadtq.errors import InvalidTask
from yadtq.submission import Task, checked_id
from yadtq.task import TaskStatus
from yadtq.tasks_query import Selection, TasksQuery, When, selection

if TYPE_CHECKING:
    from yadtq.connections import Connections
    from yadtq.result_backend import TaskRecordRaw

PAGE = 2000                     # tasks that are asked for, and cancelled, together: some tens of milliseconds
OPEN = (TaskStatus.SCHEDULED, TaskStatus.QUEUED, TaskStatus.PROCESSING, TaskStatus.RETRYING)
CLOCKS_MS = 60_000              # clients' clocks may differ by so much; what is submitted later than that is left alone


class CancelAnswer(StrEnum):
    """What came of a cancel.

    Example:
        >>> client.cancel_task(task_id) is CancelAnswer.CONFIRMED
        True
    """

    CONFIRMED = "CONFIRMED"     # it will not start; its result is TaskCancelled
    ASKED = "ASKED"             # it is in a worker's hands, or nobody knows it yet: the worker ends it
    ENDED = "ENDED"             # it had ended before


@dataclass(frozen=True)
class CancelReport:
    """What came of a cancel of many.

    Example:
        >>> client.cancel_tasks(group="import-17")
        CancelReport(confirmed=99871, asked=8, ended=0, answers={})
    """

    confirmed: int = 0          # will not start
    asked: int = 0              # run, or are about to: their workers end them
    ended: int = 0              # had ended before
    answers: Mapping[str, CancelAnswer] = field(default_factory=dict)       # by id, if they were asked for

    @property
    def total(self) -> int:
        """How many tasks were looked at."""
        return self.confirmed + self.asked + self.ended


class CancelOrder:
    """Which tasks are to be cancelled: some ids, or a selection of what has not ended; checked when it is made."""

    def __init__(self, ids: str | Iterable[str] | None = None, task: Task | Sequence[Task] | None = None,
                 group: str | None = None, status: TaskStatus | Collection[TaskStatus] | None = None,
                 since: When = None, until: When = None) -> None:
        filters = (task, group, status, since, until)
        if (ids is None) == all(one is None for one in filters):
            raise InvalidTask("give either the ids of the tasks to cancel, or filters: task, group, status, since, "
                              "until")
        self.ids = [ids] if isinstance(ids, str) else ids
        self.chosen: Selection | None = None
        if ids is None:
            self.chosen = selection(_open_states(status), task, group, since, until)

    def pages(self, query: TasksQuery) -> Iterator[list[str]]:
        """The ids, at most PAGE at a time. Those of a group and some types are looked at one by one."""
        if self.ids is not None:
            ids = iter(self.ids)
            while page := list(islice(ids, PAGE)):
                yield list(dict.fromkeys(checked_id(one) for one in page))
            return
        assert self.chosen is not None
        latest_ms = int(time.time() * 1000) + CLOCKS_MS     # else a walk might never catch up with who submits
        until_ms = latest_ms if self.chosen.until_ms is None else min(self.chosen.until_ms, latest_ms)
        chosen = self.chosen._replace(until_ms=until_ms)
        for page in query.pages(chosen, newest_first=False, page_size=PAGE):
            if chosen.group and chosen.types is not None:
                page = query.admitted(chosen, page)         # noqa: PLW2901 (the same page, less some)
            if page:
                yield page


def cancel_tasks(connections: Connections, order: CancelOrder, *, dry_run: bool, with_ids: bool) -> CancelReport:
    """Cancel them; with `dry_run` only tell what would come of it. Raises RedisConnectionError: what was cancelled
    until then stays so."""
    counts = dict.fromkeys(CancelAnswer, 0)
    answers: dict[str, CancelAnswer] = {}
    backend = connections.backend
    for page in order.pages(TasksQuery(connections)):
        if dry_run:
            found = [_would_be(record) for record in backend.read(page, values=False)]
        else:
            found = [CancelAnswer(answer) for answer in backend.cancel(page)]
        for answer in found:
            counts[answer] += 1
        if with_ids:
            answers.update(zip(page, found, strict=True))
    return CancelReport(counts[CancelAnswer.CONFIRMED], counts[CancelAnswer.ASKED], counts[CancelAnswer.ENDED], answers)


def _open_states(status: TaskStatus | Collection[TaskStatus] | None) -> Collection[TaskStatus]:
    if status is None:
        return OPEN
    given = {status} if isinstance(status, str) else set(status)
    ended = sorted(one for one in given if one in tuple(TaskStatus) and TaskStatus(one).ended)
    if ended:
        raise InvalidTask(f"what is {ended[0]} has ended and can't be cancelled; the others are {', '.join(OPEN)}")
    return given


def _would_be(record: TaskRecordRaw | None) -> CancelAnswer:
    if record is None or record.state == "P":
        return CancelAnswer.ASKED
    return CancelAnswer.ENDED if record.state in ("OK", "KO", "CX") else CancelAnswer.CONFIRMED
