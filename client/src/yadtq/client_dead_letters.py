"""The methods of YADTQClient for dead letters: the public surface alone, the work is `dead_letters`'.

A base of its own so that the client's module stays readable. All methods may be called from any thread.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from yadtq.submission import Task, checked_id
from yadtq.tasks_query import When

if TYPE_CHECKING:
    from yadtq.connections import Connections
    from yadtq.dead_letters import DeadLetter, DeadLetters, ReplayReport
    from yadtq.producer import ClearNumbers


class DeadLetterMethods:
    """Listing, reading, replaying and purging dead letters; see docs/dead-letters.md."""

    _connections: Connections
    _clear_numbers: ClearNumbers

    def dead_letters(
        self, *, task: Task | Sequence[Task] | None = None, code: str | Sequence[str] | None = None,
        since: When = None, until: When = None, limit: int | None = None,
    ) -> Iterator[DeadLetter]:
        """The dead letters, the newest first: an iterator that reads a part of the topic at a time.

        `task` and `code` filter by task type and error code (one or several), `since` and `until` (Unix seconds or
        datetime, both inclusive) by the time of death. Who stops early, or gives a `limit`, has read no more than that.
        Raises KafkaConnectionError; a letter that comes or goes meanwhile may or may not appear.

        Example:
            >>> for letter in client.dead_letters(code="TASK_CRASHED", since=time.time() - 3600):
            ...     print(letter.id, letter.task, letter.message)
        """
        from yadtq.dead_letters import filter_for
        self._connections.check_open()
        return self._dead_letters().listing(filter_for(task, code, since, until, limit), limit)

    def get_dead_letter(self, task_id: str) -> DeadLetter:
        """The newest dead letter of one id (of what was no task: "partition:offset"). Raises DeadLetterNotFound.

        Example:
            >>> client.get_dead_letter(task_id).error.traceback
            'Traceback (most recent call last): ...'
        """
        return self._dead_letters().get(checked_id(task_id))

    def replay_dead_letters(
        self, ids: str | Iterable[str] | None = None, *, task: Task | Sequence[Task] | None = None,
        code: str | Sequence[str] | None = None, since: When = None, until: When = None, limit: int | None = None,
        everything: bool = False, dry_run: bool = False,
    ) -> ReplayReport:
        """Run the tasks of dead letters again, and take their letters away; returns which, and why others were not.

        Give `ids`, or filters as in `dead_letters` (`limit`: the newest so many), or `everything=True`. Each task keeps
        its id, arguments, key and history, begins with its first attempt again, and is QUEUED at once: who waits for it
        gets the new result. `expires` does not apply any more. They run in the order of their deaths.

        A letter goes once Kafka has the task. When this is interrupted, do it again: what was published runs once.
        Raises InvalidTask, KafkaConnectionError or RedisConnectionError (what was replayed until then stays so).

        Example:
            >>> client.replay_dead_letters(task="report", code="TASK_CRASHED")
            ReplayReport(replayed=('0198c5d2-9f6a-7b3c-8d4e-5f6071829304',), skipped={})
        """
        from yadtq.dead_letters import order_for
        order = order_for(ids, task, code, since, until, limit, everything=everything)
        return self._dead_letters().replay(order, dry_run=dry_run)

    def purge_dead_letters(
        self, ids: str | Iterable[str] | None = None, *, task: Task | Sequence[Task] | None = None,
        code: str | Sequence[str] | None = None, since: When = None, until: When = None, limit: int | None = None,
        everything: bool = False, dry_run: bool = False,
    ) -> int:
        """Throw dead letters away for good; returns how many (would be, in a dry run). Chosen as in a replay.

        The tasks stay FAILED, until their results expire. Raises InvalidTask or KafkaConnectionError.

        Example:
            >>> client.purge_dead_letters(code="INVALID_MESSAGE", until=time.time() - 7 * 86_400)
            3
        """
        from yadtq.dead_letters import order_for
        order = order_for(ids, task, code, since, until, limit, everything=everything)
        return self._dead_letters().purge(order, dry_run=dry_run)

    def _dead_letters(self) -> DeadLetters:
        from yadtq.dead_letters import DeadLetters
        return DeadLetters(self._connections, self._clear_numbers)
