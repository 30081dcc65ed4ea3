"""The methods of AsyncYADTQClient for dead letters: those of YADTQClient, awaited.

Each runs in one of the client's threads; the iterator reads a page at a time there. Nothing here blocks the loop.
"""
from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from functools import partial as bind
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, cast

from yadtq.client import YADTQClient
from yadtq.submission import Task
from yadtq.tasks_query import When

if TYPE_CHECKING:
    from yadtq.dead_letters import DeadLetter, ReplayReport

T = TypeVar("T")
PAGE_SIZE = 200


class AsyncDeadLetterMethods:
    """Listing, reading, replaying and purging dead letters; see docs/dead-letters.md."""

    _client: YADTQClient

    async def _in_thread(self, call: Callable[[], T]) -> T:
        raise NotImplementedError

    async def dead_letters(
        self, *, task: Task | Sequence[Task] | None = None, code: str | Sequence[str] | None = None,
        since: When = None, until: When = None, limit: int | None = None,
    ) -> AsyncIterator[DeadLetter]:
        """The dead letters, the newest first, a page at a time; see YADTQClient.dead_letters.

        Example:
            >>> async for letter in client.dead_letters(code="TASK_CRASHED"):
            ...     print(letter.id, letter.task, letter.message)
        """
        found = cast("Generator[DeadLetter, Any, None]", self._client.dead_letters(
            task=task, code=code, since=since, until=until, limit=limit))
        try:
            while page := await self._in_thread(lambda: list(islice(found, PAGE_SIZE))):
                for letter in page:
                    yield letter
        finally:
            await self._in_thread(found.close)      # who breaks off leaves a consumer open otherwise

    async def get_dead_letter(self, task_id: str) -> DeadLetter:
        """The newest dead letter of one id; see YADTQClient.get_dead_letter.

        Example:
            >>> (await client.get_dead_letter(task_id)).code
            'TASK_CRASHED'
        """
        return await self._in_thread(bind(self._client.get_dead_letter, task_id))

    async def replay_dead_letters(
        self, ids: str | Iterable[str] | None = None, *, task: Task | Sequence[Task] | None = None,
        code: str | Sequence[str] | None = None, since: When = None, until: When = None, limit: int | None = None,
        everything: bool = False, dry_run: bool = False,
    ) -> ReplayReport:
        """Run the tasks of dead letters again; see YADTQClient.replay_dead_letters.

        Example:
            >>> (await client.replay_dead_letters(task="report")).replayed
            ('0198c5d2-9f6a-7b3c-8d4e-5f6071829304',)
        """
        return await self._in_thread(bind(
            self._client.replay_dead_letters, ids, task=task, code=code, since=since, until=until, limit=limit,
            everything=everything, dry_run=dry_run))

    async def purge_dead_letters(
        self, ids: str | Iterable[str] | None = None, *, task: Task | Sequence[Task] | None = None,
        code: str | Sequence[str] | None = None, since: When = None, until: When = None, limit: int | None = None,
        everything: bool = False, dry_run: bool = False,
    ) -> int:
        """Throw dead letters away for good; see YADTQClient.purge_dead_letters.

        Example:
            >>> await client.purge_dead_letters(code="INVALID_MESSAGE")
            3
        """
        return await self._in_thread(bind(
            self._client.purge_dead_letters, ids, task=task, code=code, since=since, until=until, limit=limit,
            everything=everything, dry_run=dry_run))
