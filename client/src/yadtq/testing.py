"""For the tests of applications: the real client on a queue in memory, with a worker that runs the tasks.

    from yadtq import task
    from yadtq.testing import InMemoryYADTQ

    @task
    def double(x: int) -> int:
        return 2 * x

    def test_double() -> None:
        with InMemoryYADTQ() as client:
            assert client.get_result(client.submit_task(double, [21]), timeout=5) == 42

Owns what puts the two together. No Kafka and no Redis; arguments and results go through the real encoding, errors are
the real ones, and so are the states; a task whose retries did not help becomes a dead letter. What it does not have:
time-outs of tasks, isolation, crashes, other hosts.
"""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from yadtq.aio import AsyncYADTQClient
from yadtq.backlog import Limit
from yadtq.client import YADTQClient
from yadtq.config import Settings
from yadtq.connections import Opener, RealOpener
from yadtq.errors import InvalidTaskType
from yadtq.memory_backend import MemoryBackend
from yadtq.memory_worker import MemoryWorker
from yadtq.submission import Prepared
from yadtq.tasks import TaskType, declared

if TYPE_CHECKING:
    from yadtq.result_backend import ResultBackend

__all__ = ["AsyncInMemoryYADTQ", "InMemoryYADTQ"]

Handlers = Sequence[Callable[..., Any]] | Mapping[str, Callable[..., Any]] | None


class _MemoryOpener(RealOpener):
    """The transport in memory comes from the settings; only the backend is another one."""

    def __init__(self) -> None:
        self.memory = MemoryBackend()

    def backend(self, settings: Settings) -> ResultBackend:
        return cast("ResultBackend", self.memory)


class InMemoryYADTQ(YADTQClient):
    """A YADTQClient whose queue is in memory and whose worker runs in this process.

    `tasks` says what the worker knows: functions declared with `@task`, or a mapping of names to any functions
    (stand-ins for tasks that another team owns); by default everything declared in this process. With `inline=True` a
    task runs in the thread that submits it, before `submit_task` returns (a delayed one too: it does not wait): good
    for debuggers, and for databases in transactions.
    `options` are options of the configuration, e.g. `max_payload_bytes=1000`.

    Example:
        >>> with InMemoryYADTQ({"addition": lambda *operands: sum(operands)}) as client:
        ...     client.get_result(client.submit_task("addition", [1, 2]), timeout=5)
        3
    """

    def __init__(self, tasks: Handlers = None, *, inline: bool = False, num_partitions: int = 4,
                 **options: Any) -> None:
        self._memory = _MemoryOpener()
        self._inline = inline
        settings = Settings(transport="memory", kafka_servers=f"memory-{uuid4().hex}:1", num_partitions=num_partitions,
                            **options)
        super().__init__(settings=settings)
        self._worker = MemoryWorker(settings, self._memory.memory, _types(tasks))
        if not inline:
            self._worker.start()

    def _opener(self) -> Opener:
        return self._memory

    def close(self, timeout: float = 10.0) -> int:
        """Stop the worker after the task that runs, and close the client.

        Example:
            >>> client.close()
            0
        """
        self._worker.close()
        return super().close(timeout)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hold the worker back, so that what is submitted in the block stays QUEUED until its end.

        Example:
            >>> with client.paused():
            ...     task_id = client.submit_task("addition", [1, 2])
            ...     client.cancel_task(task_id)
            <CancelAnswer.CONFIRMED: 'CONFIRMED'>
        """
        self._worker.pause()
        try:
            yield
        finally:
            self._worker.resume()
            if self._inline:
                self._worker.run_pending()

    def _submit(self, prepared: Sequence[Prepared], submit_timeout_s: float | None, limit: Limit) -> None:
        super()._submit(prepared, submit_timeout_s, limit)
        if self._inline:
            self._worker.run_pending()


class AsyncInMemoryYADTQ(AsyncYADTQClient):
    """The same for asyncio: an AsyncYADTQClient on a queue in memory. Tasks run in the worker's thread.

    Example:
        >>> async with AsyncInMemoryYADTQ({"addition": lambda *operands: sum(operands)}) as client:
        ...     await client.get_result(await client.submit_task("addition", [1, 2]), timeout=5)
        3
    """

    def __init__(self, tasks: Handlers = None, *, num_partitions: int = 4, **options: Any) -> None:
        self._memory_client = InMemoryYADTQ(tasks, num_partitions=num_partitions, **options)
        super().__init__()

    def _make_client(self, num_partitions: int | None, **options: Any) -> YADTQClient:
        return self._memory_client

    async def close(self, timeout: float = 10.0) -> int:
        """Stop the worker after the task that runs, and close the client.

        Example:
            >>> await client.close()
            0
        """
        return await super().close(timeout)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hold the worker back, so that what is submitted in the block stays QUEUED until its end.

        Example:
            >>> with client.paused():
            ...     task_id = await client.submit_task("addition", [1, 2])
        """
        with self._memory_client.paused():
            yield


def _types(tasks: Handlers) -> Callable[[], Mapping[str, TaskType]]:
    if tasks is None:
        return declared                                 # asked anew for each task: declared later is good enough
    if isinstance(tasks, Mapping):
        known = {name: _stand_in(name, handler) for name, handler in tasks.items()}
    else:
        known = {}
        for handler in tasks:
            declaration = getattr(handler, "__yadtq__", None)
            if not isinstance(declaration, TaskType):
                raise InvalidTaskType(f"{handler!r} is not declared with @task; give a mapping of names to functions")
            known[declaration.name] = declaration
    fixed = MappingProxyType(known)
    return lambda: fixed


def _stand_in(name: str, handler: Callable[..., Any]) -> TaskType:
    declaration = getattr(handler, "__yadtq__", None)
    if isinstance(declaration, TaskType):
        return declaration
    kind: Any = "async" if inspect.iscoroutinefunction(handler) else "sync"
    return TaskType(name=name, handler=handler, kind=kind, module=getattr(handler, "__module__", "") or "")
