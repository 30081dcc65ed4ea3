"""YADTQClient: what an application uses to submit tasks, wait for results and look at what there is.

Owns the public surface and the life of one client; the work is done by one module per role (submission, producer,
waiter, results, tasks_query, clearing, health, monitor). All methods may be called from any thread, and in a forked
child, which gets connections of its own at its first call.
"""
from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from yadtq.backlog import Limit, OnBacklog, limit_of
from yadtq.clearing import clear_all_tasks
from yadtq.client_cancelling import CancelMethods
from yadtq.client_dead_letters import DeadLetterMethods
from yadtq.config import Settings
from yadtq.connections import Connections, Opener, RealOpener
from yadtq.errors import BatchRefused, ConfigurationError, TaskSubmissionTimeout, YADTQError
from yadtq.gathering import Gathering
from yadtq.partitioning import Partitioner
from yadtq.producer import ClearNumbers, Submitter, tell_ids
from yadtq.results import Results, TaskOutcome
from yadtq.submission import Due, Prepared, Preparer, Stamp, Task, TaskSpec, checked_id
from yadtq.submit_each import errors_of
from yadtq.task import TaskRecord, TaskStatus
from yadtq.tasks_query import PAGE_SIZE, TasksQuery, When

if TYPE_CHECKING:
    from collections.abc import Callable

    from yadtq.health import WorkersHealth
    from yadtq.monitor import WorkerChange, WorkerMonitor


class YADTQClient(CancelMethods, DeadLetterMethods):
    """A client of YADTQ: submits tasks and gets their results.

    `num_partitions` is how many partitions the task topic gets when it is created (default 4, or what the configuration
    says). A topic with more is used as it is; one with fewer raises TooFewPartitions, unless `grow_partitions=True`.

    The configuration comes from the file (`config`, else YADTQ_CONFIG, else /etc/yadtq/yadtq.toml), then from
    environment variables YADTQ_*, then from `options`: every option of docs/configuration.md can be given as a keyword
    (`kafka_servers="k1:9092,k2:9092"`, `redis_host="r1"`, `submit_timeout_s=5` ...). Or give ready `settings`.

    The constructor connects, so that a wrong address shows at once: KafkaConnectionError or RedisConnectionError within
    `connect_timeout_s` seconds each. With `connect=False` each connection is made when first needed.

    Example:
        >>> with YADTQClient(kafka_host="localhost", redis_host="localhost") as client:
        ...     task_id = client.submit_task("addition", args=[1, 2])
        ...     client.get_result(task_id, timeout=10)
        3
    """

    def __init__(
        self, num_partitions: int | None = None, *, settings: Settings | None = None,
        config: str | os.PathLike[str] | None = None, connect: bool = True, connect_timeout_s: float = 10.0,
        grow_partitions: bool = False, **options: Any,
    ) -> None:
        if settings is not None and config is not None:
            raise ConfigurationError("give either settings or config, not both")
        if num_partitions is not None:
            options["num_partitions"] = num_partitions
        if settings is None:
            settings = Settings.load(config, **options)
        elif options:
            settings = settings.replace(**options)
        self._connections = Connections(settings, self._opener(), grow=grow_partitions,
                                        connect_timeout_s=connect_timeout_s)
        self._clear_numbers = ClearNumbers(self._connections)
        self._partitioner = Partitioner(start=time.time_ns() % 1009)    # so that short-lived clients spread as well
        self._preparer = Preparer(settings.max_payload_bytes, self._partitioner)
        self._submitter = Submitter(self._connections, self._clear_numbers)
        self._gathering = Gathering(lambda batch: errors_of(self, batch))
        self._results = Results(self._connections)
        self._query = TasksQuery(self._connections)
        if connect:
            try:
                self._connections.connect()
            except BaseException:
                self._connections.close(0)
                raise

    def _opener(self) -> Opener:
        return RealOpener()

    # ---- life -------------------------------------------------------------------------------------------------------
    @property
    def settings(self) -> Settings:
        """The effective configuration.

        Example:
            >>> client.settings.redis_host
            'localhost'
        """
        return self._connections.settings

    def close(self, timeout: float = 10.0) -> int:
        """Close all connections, waiting up to `timeout` seconds for submissions of other threads.

        Returns how many records were given up before Kafka acknowledged them (0 unless Kafka is away). Who still waits
        for a result gets ClientClosed, and so does every later call. Closing twice is harmless.

        Example:
            >>> client.close(timeout=5)
            0
        """
        return self._connections.close(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    # ---- submitting -------------------------------------------------------------------------------------------------
    def submit_task(
        self, task: Task, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, key: str | None = None,
        delay_s: float | None = None, due: Due = None, timeout_s: float | None = None, grace_s: float | None = None,
        expires_s: float | None = None, max_retries: int | None = None, retry_backoff_s: float | None = None,
        task_id: str | None = None, group: str | None = None, submit_timeout_s: float | None = None,
        max_backlog: int | None = None, on_backlog: OnBacklog | None = None,
    ) -> str:
        """Submit one task and return its id, once Kafka has acknowledged it and its record is written.

        `task` is the name of a task type, or the function declared with `@task`. Tasks with the same `key` go to the
        same partition (CRC-32 of the key modulo the partitions). It is SCHEDULED, and does not start before `delay_s`
        seconds have passed, or before `due` (Unix seconds, or a datetime with a time zone). `timeout_s` and `grace_s`
        replace the soft time-out and what follows until the hard one; a task not started within `expires_s` (counted
        from when it is due) ends as TaskExpired; `max_retries` and `retry_backoff_s` (the wait before the first retry)
        replace the type's. With a `task_id` a repeated
        submission is harmless: the task runs once. `group` is a label by which many tasks are found, counted and
        cancelled together.

        `max_backlog` and `on_backlog` replace the settings: how many tasks may be queued, and whether a submission
        beyond that raises QueueFull ("refuse") or waits for room ("wait").

        Raises InvalidTask, ArgumentNotEncodable, PayloadTooLarge, BacklogFull, QueueFull or KafkaConnectionError:
        nothing was sent. Or TaskSubmissionTimeout when nobody confirmed it within `submit_timeout_s` (default: the
        setting): then its outcome is unknown, and `error.task_ids` has the id with which to repeat it.

        Example:
            >>> client.submit_task("division", args=[10, 4], kwargs={"round_to": 1}, key="customer-17")
            '0198c5d2-9f6a-7b3c-8d4e-5f6071829304'
        """
        entry: dict[str, Any] = {"task": task, "args": args, "kwargs": kwargs, "key": key}
        rarer = {"delay_s": delay_s, "due": due, "timeout_s": timeout_s, "grace_s": grace_s, "expires_s": expires_s,
                 "max_retries": max_retries, "retry_backoff_s": retry_backoff_s, "task_id": task_id, "group": group}
        if any(value is not None for value in rarer.values()):
            entry |= rarer
        self._connections.check_open()
        limit = limit_of(self.settings, max_backlog, on_backlog)
        alone = limit.most > 0 or submit_timeout_s is not None
        prepared = self._preparer.prepare(entry, self._stamp(None if alone else self._gathering.turn))
        if alone:
            self._submit([prepared], submit_timeout_s, limit)
        else:
            self._submit_with_others(prepared)
        return prepared.message.id

    def submit_tasks(
        self, tasks: Iterable[TaskSpec | Mapping[str, Any]], *, partial: bool = False,
        submit_timeout_s: float | None = None, max_backlog: int | None = None, on_backlog: OnBacklog | None = None,
    ) -> list[str]:
        """Submit a batch, pipelined; returns the ids in the order of the entries.

        An entry is a dict with `task` and any of `args`, `kwargs`, `key`, `delay_s`, `due`, `timeout_s`, `grace_s`,
        `expires_s`, `max_retries`, `retry_backoff_s`, `task_id`, `group`, as in `submit_task`. All are checked before
        anything is sent.

        When some are refused, nothing is sent and BatchRefused says which and why (`error.refused`: index to error).
        With `partial=True` the good ones are submitted first, and BatchRefused then has their ids (`error.ids`, None
        where refused). QueueFull when there is not room for all of them, and nothing was sent; with
        `on_backlog="wait"` a batch of any size goes out as the queue has room. TaskSubmissionTimeout (nothing was
        confirmed for `submit_timeout_s`) names the tasks whose outcome is unknown (`task_ids`), those that were not
        sent (`not_sent`), and all ids in order (`ids`).

        Example:
            >>> client.submit_tasks([{"task": "addition", "args": [n, 1]} for n in range(1000)])
            ['0198c5d2-...', ...]
        """
        self._connections.check_open()
        limit = limit_of(self.settings, max_backlog, on_backlog)
        prepared, refused = self._preparer.prepare_many(tasks, self._stamp())
        accepted = prepared if not refused else [one for one in prepared if one is not None]
        good: list[Prepared] = [one for one in accepted if one is not None]
        if refused and not partial:
            raise BatchRefused(_refusal(refused, len(prepared), "nothing was submitted"), (None,) * len(prepared),
                               refused)
        if good:
            self._submit(good, submit_timeout_s, limit)
        if refused:
            raise BatchRefused(_refusal(refused, len(prepared), f"{len(good)} were submitted"),
                               tuple(one.message.id if one else None for one in prepared), refused)
        return [one.message.id for one in good]

    # ---- results ----------------------------------------------------------------------------------------------------
    def get_result(self, task_id: str, timeout: float | None = None) -> Any:
        """Wait for a task and return its value. The end is pushed: waiting costs nothing.

        `timeout` is in seconds (one look is made in any case); None waits as long as it takes. Raises the task's own
        error, a TaskFailed with its `code`, `error_type` and `remote_traceback` (also shown in the traceback);
        ResultTimeout; TaskNotFound; BackendLost when Redis was replaced by an empty one; RedisConnectionError when
        Redis is away until the time is over.

        Example:
            >>> client.get_result(client.submit_task("power", args=[2, 100]), timeout=10)
            1267650600228229401496703205376
        """
        self._connections.check_open()
        return self._results.one(checked_id(task_id), timeout)

    def get_results(
        self, task_ids: Iterable[str], timeout: float | None = None, *, return_exceptions: bool = False,
    ) -> list[Any]:
        """Wait for many tasks at once; their values in the order of the ids.

        The first error in that order is raised, after `timeout` seconds ResultTimeout; with `return_exceptions=True`
        errors (ResultTimeout too) stand in the list in place of values.

        Example:
            >>> ids = client.submit_tasks([{"task": "addition", "args": [n, 1]} for n in range(3)])
            >>> client.get_results(ids, timeout=10)
            [1, 2, 3]
        """
        self._connections.check_open()
        outcomes = self._results.many([checked_id(one) for one in task_ids], timeout)
        if return_exceptions:
            return [outcome.error if outcome.error is not None else outcome.result() for outcome in outcomes]
        return [outcome.result() for outcome in outcomes]

    def as_completed(self, task_ids: Iterable[str], timeout: float | None = None) -> Iterator[TaskOutcome]:
        """Tasks in the order in which they end, each as a TaskOutcome; ResultTimeout when the time is over.

        Example:
            >>> for outcome in client.as_completed(ids, timeout=60):
            ...     print(outcome.task_id, outcome.error or outcome.result())
        """
        self._connections.check_open()
        return self._results.as_completed([checked_id(one) for one in task_ids], timeout)

    # ---- looking at tasks -------------------------------------------------------------------------------------------
    def get_task_status(self, task_id: str) -> TaskStatus:
        """Where a task stands now. Raises TaskNotFound or BackendLost.

        Example:
            >>> client.get_task_status(task_id)
            <TaskStatus.SUCCESS: 'SUCCESS'>
        """
        return self.get_task(task_id).status

    def get_task(self, task_id: str) -> TaskRecord:
        """All that is known of a task but its value: state, attempt, worker, times, error. Raises as get_task_status.

        Example:
            >>> client.get_task(task_id).worker
            'host1/w0'
        """
        self._connections.check_open()
        return self._query.record(checked_id(task_id))

    def get_all_tasks(
        self, *, task: Task | Sequence[Task] | None = None, group: str | None = None, since: When = None,
        until: When = None, newest_first: bool = True, page_size: int = PAGE_SIZE,
    ) -> Iterator[TaskRecord]:
        """All tasks, by the time of their submission: an iterator that reads `page_size` at a time.

        `task` filters by task type (one or several), `group` by the label of their submission, `since` and `until`
        (Unix seconds or datetime, both inclusive) by its time. What is submitted or ends meanwhile may or may not
        appear.

        Example:
            >>> from itertools import islice
            >>> [record.id for record in islice(client.get_all_tasks(task="addition"), 10)]
            ['0198c5d2-...', ...]
        """
        self._connections.check_open()
        return self._query.records(None, task, since, until, newest_first=newest_first, page_size=page_size,
                                   group=group)

    def get_tasks_by_status(
        self, status: TaskStatus | Collection[TaskStatus], *, task: Task | Sequence[Task] | None = None,
        group: str | None = None, since: When = None, until: When = None, newest_first: bool = True,
        page_size: int = PAGE_SIZE,
    ) -> Iterator[TaskRecord]:
        """The tasks in one state (or several), else as get_all_tasks.

        Example:
            >>> for record in client.get_tasks_by_status(TaskStatus.FAILED, since=time.time() - 3600):
            ...     print(record.id, record.task, record.error.code)
        """
        self._connections.check_open()
        wanted = {status} if isinstance(status, str) else set(status)
        return self._query.records(wanted, task, since, until, newest_first=newest_first, page_size=page_size,
                                   group=group)

    def count_tasks(
        self, *, task: Task | Sequence[Task] | None = None, group: str | None = None,
    ) -> dict[TaskStatus, int]:
        """How many tasks there are in each state: of some types, of a group, or in all. Cheap, however many.

        Example:
            >>> client.count_tasks()[TaskStatus.QUEUED]
            17
        """
        self._connections.check_open()
        return self._query.counts(task, group)

    # ---- changing tasks ---------------------------------------------------------------------------------------------
    def clear_all_tasks(self) -> int:
        """Clear everything: all records in Redis and the backlog in Kafka. Returns how many tasks it cleared.

        What runs meanwhile finishes and vanishes; workers go on. Once the first step is done the tasks are gone even if
        this is interrupted: what is left to tidy up is completed by a worker or by calling it again.

        Example:
            >>> client.clear_all_tasks()
            1042
        """
        self._connections.check_open()
        return clear_all_tasks(self._connections, self._clear_numbers)

    # ---- workers ----------------------------------------------------------------------------------------------------
    def get_all_workers_health(self, *, window_s: float = 900.0) -> WorkersHealth:
        """Every worker heard of in the last `window_s` seconds, from the heartbeat topic; expired ones marked as such.

        Raises KafkaConnectionError. `broker_outage` of the list is True when nobody of several is heard of any more.
        The first call reads 200,000 heartbeats at most: of more than a thousand workers, those that are gone for good
        are seen for a shorter time.

        Example:
            >>> [(worker.worker_id, worker.state, worker.expired) for worker in client.get_all_workers_health()]
            [('host1/w0', 'RUNNING', False), ('host1/w1', 'RUNNING', False)]
        """
        return self._connections.health.read(window_s)

    def monitor_workers(
        self, callback: Callable[[WorkerChange], object], *, interval_s: float = 1.0, window_s: float = 900.0,
    ) -> WorkerMonitor:
        """Call back for every change among the workers, from a thread of its own, until `stop()` of what is returned.

        Raises KafkaConnectionError if it can't begin. An outage of Kafka later is one change (OUTAGE), not many.

        Example:
            >>> monitor = client.monitor_workers(lambda change: print(change.kind, change.message))
            >>> monitor.stop()
        """
        from yadtq.health import HealthReader
        from yadtq.monitor import WorkerMonitor
        self._connections.check_open()
        reader = HealthReader(self.settings, self._connections.opener, self._connections.connect_timeout_s)
        return WorkerMonitor(reader, callback, interval_s, window_s)

    # ---- inside -----------------------------------------------------------------------------------------------------
    def _stamp(self, turn: int | None = None) -> Stamp:
        return Stamp(self._clear_numbers.get(), self._connections.kafka.partitions, int(time.time() * 1000), turn)

    def _submit(self, prepared: Sequence[Prepared], submit_timeout_s: float | None, limit: Limit) -> None:
        timeout_s = self.settings.submit_timeout_s if submit_timeout_s is None else submit_timeout_s
        try:
            self._submitter.submit(prepared, timeout_s, limit)
        except TaskSubmissionTimeout as error:
            self._keep(prepared, set(error.task_ids))
            raise
        except BaseException as error:
            if not isinstance(error, YADTQError):       # Ctrl-C, a time-out of the task that submits
                tell_ids(error, self._keep(prepared))
            raise
        self._partitioner.settled(one.message.id for one in prepared)

    def _submit_with_others(self, prepared: Prepared) -> None:
        """Submit one task together with those that other threads submit at the same time."""
        try:
            self._gathering.submit(prepared)
        except BaseException as error:
            if not isinstance(error, YADTQError) and not hasattr(error, "task_ids"):   # Ctrl-C while we queued
                tell_ids(error, self._keep([prepared]))
            raise

    def _keep(self, prepared: Sequence[Prepared], unknown: Collection[str] | None = None) -> list[str]:
        """Whose outcome is unknown (None: all) goes to the same partition if it is submitted again; their ids."""
        kept = [one for one in prepared if unknown is None or one.message.id in unknown]
        for one in kept:
            self._partitioner.keep(one.message.id, one.partition)
        return [one.message.id for one in kept]


def _refusal(refused: Mapping[int, Exception], count: int, what: str) -> str:
    first = min(refused)
    return f"{len(refused)} of {count} tasks are refused and {what}; the first is entry {first}: {refused[first]}"
