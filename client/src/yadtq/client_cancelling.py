"""The methods of YADTQClient for cancelling: the public surface alone, the work is `cancelling`'s.

A base of its own so that the client's module stays readable. All methods may be called from any thread.
"""
from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from yadtq.cancelling import CancelAnswer, CancelOrder, CancelReport, cancel_tasks
from yadtq.submission import Task, checked_id
from yadtq.task import TaskStatus
from yadtq.tasks_query import When

if TYPE_CHECKING:
    from yadtq.connections import Connections


class CancelMethods:
    """Cancelling one task or many; see docs/tasks.md."""

    _connections: Connections

    def cancel_task(self, task_id: str) -> CancelAnswer:
        """Cancel a task: CONFIRMED if it waits, ASKED if a worker has it (or nobody knows it), ENDED if it has ended.

        A task that runs is told to end, by an exception in its handler, and killed if it has not ended after its grace.

        Example:
            >>> client.cancel_task(task_id)
            <CancelAnswer.CONFIRMED: 'CONFIRMED'>
        """
        self._connections.check_open()
        return CancelAnswer(self._connections.backend.cancel([checked_id(task_id)])[0])

    def cancel_tasks(
        self, ids: str | Iterable[str] | None = None, *, task: Task | Sequence[Task] | None = None,
        group: str | None = None, status: TaskStatus | Collection[TaskStatus] | None = None, since: When = None,
        until: When = None, dry_run: bool = False, with_ids: bool = False,
    ) -> CancelReport:
        """Cancel many tasks, and tell how many of them were CONFIRMED, ASKED, and ENDED (see cancel_task).

        Give `ids`, or filters as in get_all_tasks, which all must hold: of what has not ended, the `task` types, the
        `group`, one `status` or several, submitted `since` and `until`. With `dry_run` nothing changes; `with_ids`
        gives each task's answer. A million tasks are no matter: they are taken in pages.

        What is submitted meanwhile may be cancelled too. Raises InvalidTask when nothing says which tasks are meant, or
        RedisConnectionError; what was cancelled until then stays so, and a repetition is harmless.

        Example:
            >>> client.cancel_tasks(group="import-17")
            CancelReport(confirmed=99871, asked=8, ended=0, answers={})
        """
        self._connections.check_open()
        order = CancelOrder(ids, task, group, status, since, until)
        return cancel_tasks(self._connections, order, dry_run=dry_run, with_ids=with_ids)
