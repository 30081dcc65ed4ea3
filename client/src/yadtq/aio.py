"""AsyncYADTQClient: YADTQClient for asyncio, method by method.

Owns the asynchronous surface. It drives an ordinary client: what talks to Kafka or Redis runs in a few threads of its
own, batched; what waits for a result holds no thread at all. Belongs to one event loop; make it after a fork, not
before.
"""
from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial as bind
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from yadtq.aio_bridge import Batcher, LoopQueueSink, LoopSink, in_loop
from yadtq.aio_cancelling import AsyncCancelMethods
from yadtq.aio_dead_letters import AsyncDeadLetterMethods
from yadtq.backlog import Limit, OnBacklog, limit_of
from yadtq.client import YADTQClient
from yadtq.company import Turns
from yadtq.config import Settings
from yadtq.errors import RedisConnectionError, ResultTimeout, YADTQError
from yadtq.results import TaskOutcome
from yadtq.submission import Due, Task, TaskSpec, checked_id
from yadtq.submit_each import submit_each
from yadtq.task import TaskRecord, TaskStatus
from yadtq.tasks_query import PAGE_SIZE, When
from yadtq.wait_table import Sink
from yadtq.waiter import LOOK_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yadtq.health import WorkersHealth
    from yadtq.monitor import WorkerChange, WorkerMonitor

T = TypeVar("T")
THREADS = 4             # submissions, watches, and two for the rest
MOST_A_TURN = 64        # tasks of a batch that may share a partition; the thousands of a gather() spread over all


class _Submission(NamedTuple):
    entry: Mapping[str, Any]
    timeout_s: float | None
    limit: Limit


class AsyncWorkerMonitor:
    """The handle of `AsyncYADTQClient.monitor_workers`.

    Example:
        >>> async with await client.monitor_workers(print) as monitor:
        ...     await work()
    """

    def __init__(self, monitor: WorkerMonitor) -> None:
        self._monitor = monitor

    @property
    def workers(self) -> WorkersHealth:
        """The workers as of the last look."""
        return self._monitor.workers

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Stop looking."""
        await asyncio.to_thread(self._monitor.stop, timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class AsyncYADTQClient(AsyncCancelMethods, AsyncDeadLetterMethods):
    """The asyncio front of YADTQClient: the same methods and parameters, awaited.

    The constructor takes what YADTQClient takes, and never blocks: `async with` connects (unless `connect=False`), else
    the first call does.

    Example:
        >>> async with AsyncYADTQClient(redis_host="localhost") as client:
        ...     task_id = await client.submit_task("addition", args=[1, 2])
        ...     await client.get_result(task_id, timeout=10)
        3
    """

    def __init__(
        self, num_partitions: int | None = None, *, settings: Settings | None = None,
        config: str | os.PathLike[str] | None = None, connect: bool = True, connect_timeout_s: float = 10.0,
        grow_partitions: bool = False, **options: Any,
    ) -> None:
        self._client = self._make_client(
            num_partitions, settings=settings, config=config, connect=False, connect_timeout_s=connect_timeout_s,
            grow_partitions=grow_partitions, **options)
        self._connect = connect
        self._connections = self._client._connections
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="yadtq-aio")
        self._turns = Turns()
        self._submissions: Batcher[_Submission, str] = Batcher(self._executor, self._submit_batch)
        self._watches: Batcher[tuple[Sequence[str], Sink], None] = Batcher(self._executor, self._watch_batch)

    def _make_client(self, num_partitions: int | None, **options: Any) -> YADTQClient:
        return YADTQClient(num_partitions, **options)

    # ---- life -------------------------------------------------------------------------------------------------------
    @property
    def settings(self) -> Settings:
        """The effective configuration.

        Example:
            >>> client.settings.redis_host
            'localhost'
        """
        return self._client.settings

    async def close(self, timeout: float = 10.0) -> int:
        """Close all connections; see YADTQClient.close.

        Example:
            >>> await client.close()
            0
        """
        given_up = await asyncio.to_thread(self._client.close, timeout)
        self._executor.shutdown(wait=False)
        return given_up

    async def __aenter__(self) -> Self:
        if self._connect:
            try:
                await self._in_thread(self._connections.connect)
            except BaseException:
                await self.close(0)
                raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self.close()

    # ---- submitting -------------------------------------------------------------------------------------------------
    async def submit_task(
        self, task: Task, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, key: str | None = None,
        delay_s: float | None = None, due: Due = None, timeout_s: float | None = None, grace_s: float | None = None,
        expires_s: float | None = None, max_retries: int | None = None, retry_backoff_s: float | None = None,
        task_id: str | None = None, group: str | None = None, submit_timeout_s: float | None = None,
        max_backlog: int | None = None, on_backlog: OnBacklog | None = None,
    ) -> str:
        """Submit one task; see YADTQClient.submit_task. Submissions of many coroutines at once go out as one batch.

        Example:
            >>> await asyncio.gather(*(client.submit_task("addition", [n, 1]) for n in range(1000)))
            ['0198c5d2-...', ...]
        """
        self._connections.check_open()
        entry = {"task": task, "args": args, "kwargs": kwargs, "key": key, "delay_s": delay_s, "due": due,
                 "timeout_s": timeout_s, "grace_s": grace_s, "expires_s": expires_s, "max_retries": max_retries,
                 "retry_backoff_s": retry_backoff_s, "task_id": task_id, "group": group}
        limit = limit_of(self.settings, max_backlog, on_backlog)
        return await self._submissions.call(_Submission(entry, submit_timeout_s, limit))

    async def submit_tasks(
        self, tasks: Iterable[TaskSpec | Mapping[str, Any]], *, partial: bool = False,
        submit_timeout_s: float | None = None, max_backlog: int | None = None, on_backlog: OnBacklog | None = None,
    ) -> list[str]:
        """Submit a batch; see YADTQClient.submit_tasks.

        Example:
            >>> await client.submit_tasks([{"task": "addition", "args": [n, 1]} for n in range(1000)])
            ['0198c5d2-...', ...]
        """
        return await self._in_thread(bind(self._client.submit_tasks, tasks, partial=partial,
                                          submit_timeout_s=submit_timeout_s, max_backlog=max_backlog,
                                          on_backlog=on_backlog))

    # ---- results ----------------------------------------------------------------------------------------------------
    async def get_result(self, task_id: str, timeout: float | None = None) -> Any:
        """Wait for a task and return its value; see YADTQClient.get_result.

        Example:
            >>> await client.get_result(task_id, timeout=10)
            3
        """
        return (await self._outcomes([checked_id(task_id)], timeout))[0].result()

    async def get_results(
        self, task_ids: Iterable[str], timeout: float | None = None, *, return_exceptions: bool = False,
    ) -> list[Any]:
        """Wait for many tasks at once; see YADTQClient.get_results.

        Example:
            >>> await client.get_results(ids, timeout=10)
            [1, 2, 3]
        """
        outcomes = await self._outcomes([checked_id(one) for one in task_ids], timeout)
        if return_exceptions:
            return [outcome.error if outcome.error is not None else outcome.result() for outcome in outcomes]
        return [outcome.result() for outcome in outcomes]

    async def as_completed(self, task_ids: Iterable[str], timeout: float | None = None) -> AsyncIterator[TaskOutcome]:
        """Tasks in the order in which they end; see YADTQClient.as_completed.

        Example:
            >>> async for outcome in client.as_completed(ids, timeout=60):
            ...     print(outcome.task_id, outcome.error or outcome.result())
        """
        self._connections.check_open()
        pending = {checked_id(one) for one in task_ids}
        count, deadline = len(pending), None if timeout is None else time.monotonic() + timeout
        sink = LoopQueueSink(asyncio.get_running_loop())
        try:
            if pending:
                await self._begin(list(pending), sink, deadline)
            while pending:
                taken = await sink.take_async(self._slice_s(deadline))
                if taken is None:
                    self._check_away(deadline)
                    if deadline is not None and time.monotonic() >= deadline:
                        raise ResultTimeout(f"{len(pending)} of {count} tasks have not ended within {timeout:g} s; "
                                            "they go on")
                    continue
                task_id, outcome = taken
                pending.discard(task_id)
                yield (await self._complete({task_id: outcome}))[task_id]
        finally:
            if pending:
                self._connections.waiter.stop(list(pending), sink)

    # ---- looking at tasks -------------------------------------------------------------------------------------------
    async def get_task_status(self, task_id: str) -> TaskStatus:
        """Where a task stands now; see YADTQClient.get_task_status.

        Example:
            >>> await client.get_task_status(task_id)
            <TaskStatus.SUCCESS: 'SUCCESS'>
        """
        return await self._in_thread(bind(self._client.get_task_status, task_id))

    async def get_task(self, task_id: str) -> TaskRecord:
        """All that is known of a task but its value; see YADTQClient.get_task.

        Example:
            >>> (await client.get_task(task_id)).worker
            'host1/w0'
        """
        return await self._in_thread(bind(self._client.get_task, task_id))

    def get_all_tasks(
        self, *, task: Task | Sequence[Task] | None = None, group: str | None = None, since: When = None,
        until: When = None, newest_first: bool = True, page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[TaskRecord]:
        """All tasks, a page at a time; see YADTQClient.get_all_tasks.

        Example:
            >>> async for record in client.get_all_tasks(task="addition"):
            ...     print(record.id, record.status)
        """
        return self._paged(self._client.get_all_tasks(
            task=task, group=group, since=since, until=until, newest_first=newest_first, page_size=page_size),
            page_size)

    def get_tasks_by_status(
        self, status: TaskStatus | Collection[TaskStatus], *, task: Task | Sequence[Task] | None = None,
        group: str | None = None, since: When = None, until: When = None, newest_first: bool = True,
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[TaskRecord]:
        """The tasks in one state or several; see YADTQClient.get_tasks_by_status.

        Example:
            >>> async for record in client.get_tasks_by_status(TaskStatus.FAILED):
            ...     print(record.id, record.error.code)
        """
        return self._paged(self._client.get_tasks_by_status(
            status, task=task, group=group, since=since, until=until, newest_first=newest_first,
            page_size=page_size), page_size)

    async def count_tasks(
        self, *, task: Task | Sequence[Task] | None = None, group: str | None = None,
    ) -> dict[TaskStatus, int]:
        """How many tasks there are in each state; see YADTQClient.count_tasks.

        Example:
            >>> (await client.count_tasks())[TaskStatus.QUEUED]
            17
        """
        return await self._in_thread(bind(self._client.count_tasks, task=task, group=group))

    # ---- changing tasks ---------------------------------------------------------------------------------------------
    async def clear_all_tasks(self) -> int:
        """Clear everything; see YADTQClient.clear_all_tasks.

        Example:
            >>> await client.clear_all_tasks()
            1042
        """
        return await self._in_thread(self._client.clear_all_tasks)

    # ---- workers ----------------------------------------------------------------------------------------------------
    async def get_all_workers_health(self, *, window_s: float = 900.0) -> WorkersHealth:
        """Every worker heard of lately; see YADTQClient.get_all_workers_health.

        Example:
            >>> [worker.worker_id for worker in await client.get_all_workers_health()]
            ['host1/w0', 'host1/w1']
        """
        return await self._in_thread(bind(self._client.get_all_workers_health, window_s=window_s))

    async def monitor_workers(
        self, callback: Callable[[WorkerChange], Awaitable[Any] | object], *, interval_s: float = 1.0,
        window_s: float = 900.0,
    ) -> AsyncWorkerMonitor:
        """Call back in the event loop (a function or a coroutine function) for every change among the workers.

        Example:
            >>> monitor = await client.monitor_workers(lambda change: print(change.kind, change.message))
            >>> await monitor.stop()
        """
        told = in_loop(callback, asyncio.get_running_loop())
        return AsyncWorkerMonitor(await self._in_thread(
            bind(self._client.monitor_workers, told, interval_s=interval_s, window_s=window_s)))

    # ---- inside -----------------------------------------------------------------------------------------------------
    async def _in_thread(self, call: Callable[[], T]) -> T:
        self._connections.check_open()
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def _outcomes(self, ids: Sequence[str], timeout: float | None) -> list[TaskOutcome]:
        self._connections.check_open()
        unique = list(dict.fromkeys(ids))
        sink = LoopSink(unique, asyncio.get_running_loop())
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            if unique:
                await self._begin(unique, sink, deadline)
            while not await sink.wait_async(self._slice_s(deadline)):
                self._check_away(deadline)
                if deadline is not None and time.monotonic() >= deadline:
                    break
        finally:
            pending = sink.pending()
            if pending:
                self._connections.waiter.stop(pending, sink)
        settled = await self._complete(dict(sink.outcomes))
        for task_id in pending:
            if task_id not in settled:
                settled[task_id] = TaskOutcome(task_id, None, ResultTimeout(
                    f"the task {task_id} has not ended within {timeout:g} s; it goes on"))
        return [settled[task_id] for task_id in ids]

    async def _begin(self, ids: Sequence[str], sink: Sink, deadline: float | None) -> None:
        """Register a wait; where Redis does not answer in time it goes on in its thread."""
        begun = asyncio.ensure_future(self._watches.call((ids, sink)))
        limit_s = None if deadline is None else max(deadline - time.monotonic(), LOOK_S)
        done, _ = await asyncio.wait({begun}, timeout=limit_s)
        if done:
            begun.result()
        else:
            begun.add_done_callback(lambda late: late.cancelled() or late.exception())

    def _slice_s(self, deadline: float | None) -> float:
        away_limit_s = self._connections.connect_timeout_s
        return away_limit_s if deadline is None else max(0.0, min(away_limit_s, deadline - time.monotonic()))

    def _check_away(self, deadline: float | None) -> None:
        away_s = self._connections.waiter.away_s()
        over = deadline is not None and time.monotonic() >= deadline
        if away_s > 0 and (over or (deadline is None and away_s > self._connections.connect_timeout_s)):
            raise RedisConnectionError(f"Redis has not answered for {away_s:.1f} s, so nobody knows how the task "
                                       "stands; it is not affected")

    async def _complete(self, outcomes: dict[str, Any]) -> dict[str, TaskOutcome]:
        complete = bind(self._client._results.complete, outcomes)
        if any(outcome.must_read for outcome in outcomes.values()):
            return await self._in_thread(complete)
        return complete()

    async def _paged(self, records: Iterator[TaskRecord], page_size: int) -> AsyncIterator[TaskRecord]:
        while page := await self._in_thread(lambda: list(islice(records, page_size))):
            for record in page:
                yield record

    # ---- in the threads ---------------------------------------------------------------------------------------------
    def _submit_batch(self, submissions: list[_Submission]) -> list[str | BaseException]:
        answers: dict[int, str | BaseException] = {}
        self._turns.begins(time.monotonic())
        turn = self._turns.now if len(submissions) <= MOST_A_TURN else None
        self._turns.leaves()
        for alike in dict.fromkeys(one[1:] for one in submissions):
            indexes = [index for index, one in enumerate(submissions) if one[1:] == alike]
            found: Sequence[str | YADTQError] = submit_each(
                self._client, [submissions[index].entry for index in indexes], *alike, turn)
            answers.update(zip(indexes, found, strict=True))
        self._turns.ends(time.monotonic())
        return [answers[index] for index in range(len(submissions))]

    def _watch_batch(self, waits: list[tuple[Sequence[str], Sink]]) -> list[BaseException | None]:
        self._connections.waiter.begin_many(waits)
        return [None] * len(waits)
