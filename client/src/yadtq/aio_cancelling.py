"""The methods of AsyncYADTQClient for cancelling: those of YADTQClient, awaited.

Each runs in one of the client's threads. Nothing here blocks the loop.
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial as bind
from typing import TYPE_CHECKING, TypeVar

from yadtq.client import YADTQClient
from yadtq.submission import Task
from yadtq.task import TaskStatus
from yadtq.tasks_query import When

if TYPE_CHECKING:
    from yadtq.cancelling import CancelAnswer, CancelReport

T = TypeVar("T")


class AsyncCancelMethods:
    """Cancelling one task or many; see docs/tasks.md."""

    _client: YADTQClient

    async def _in_thread(self, call: Callable[[], T]) -> T:
        raise NotImplementedError

    async def cancel_task(self, task_id: str) -> CancelAnswer:
        """Cancel a task; see YADTQClient.cancel_task.

        Example:
            >>> await client.cancel_task(task_id)
            <CancelAnswer.CONFIRMED: 'CONFIRMED'>
        """
        return await self._in_thread(bind(self._client.cancel_task, task_id))

    async def cancel_tasks(
        self, ids: str | Iterable[str] | None = None, *, task: Task | Sequence[Task] | None = None,
        group: str | None = None, status: TaskStatus | Collection[TaskStatus] | None = None, since: When = None,
        until: When = None, dry_run: bool = False, with_ids: bool = False,
    ) -> CancelReport:
        """Cancel many tasks; see YADTQClient.cancel_tasks.

        Example:
            >>> await client.cancel_tasks(group="import-17")
            CancelReport(confirmed=99871, asked=8, ended=0, answers={})
        """
        return await self._in_thread(bind(
            self._client.cancel_tasks, ids, task=task, group=group, status=status, since=since, until=until,
            dry_run=dry_run, with_ids=with_ids))
