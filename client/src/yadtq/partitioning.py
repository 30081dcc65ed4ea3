"""Which partition of the task topic a submission goes to.

Owns the choice: round robin by default, a stable hash for submissions with a key or with an id of their own. Runs in
whatever thread submits; never talks to anything. The target is fixed when a message is made (PROTOCOL: a copy of a
message never changes its partition).
"""
from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32


def partition_of_key(key: str, partitions: int) -> int:
    """The partition for a key: CRC-32 of its UTF-8 bytes modulo the number of partitions.

    The same in every process, version and language (it is also librdkafka's `consistent` partitioner). When the topic
    grows, keys move: what is submitted later with a key may then overtake what was submitted before.

        >>> partition_of_key("customer-17", 4)
        3
    """
    return crc32(key.encode()) % partitions


class RoundRobin:
    """Hands out partitions in turn, shared by all threads of a client.

    Without a lock, so that a fork can't leave one locked: two threads may now and then get the same turn, which is
    harmless.
    """

    def __init__(self, start: int = 0) -> None:
        self._turn = start

    def next(self, partitions: int) -> int:
        """The next partition."""
        turn = self._turn
        self._turn = turn + 1
        return turn % partitions


class Partitioner:
    """Chooses for one client: by key, by a given id, or in turn.

    `kept` remembers where submissions with an unknown outcome went: if they are submitted again with their id, they go
    there again (PROTOCOL rule 13). It is bounded; past it, a given id is hashed, and the claim tells copies apart.
    """

    KEPT = 100_000

    def __init__(self, start: int = 0) -> None:
        self._round_robin = RoundRobin(start)
        self._kept: dict[str, int] = {}

    def choose(self, key: str | None, task_id: str | None, partitions: int, turn: int | None = None) -> int:
        """The partition for a submission with this key and this id given by the application (or None).

        Without either it is the next one's turn, or `turn`'s where many submissions share one.
        """
        if task_id is not None:
            kept = self._kept.get(task_id)
            return partition_of_key(key or task_id, partitions) if kept is None else kept
        if key is not None:
            return partition_of_key(key, partitions)
        return self._round_robin.next(partitions) if turn is None else turn % partitions

    def keep(self, task_id: str, partition: int) -> None:
        """Remember where a submission went whose outcome is unknown."""
        if len(self._kept) >= self.KEPT:
            self._kept.pop(next(iter(self._kept)), None)
        self._kept[task_id] = partition

    def settled(self, ids: Iterable[str]) -> None:
        """These submissions are confirmed: there is nothing to remember of them."""
        if self._kept:
            for task_id in ids:
                self._kept.pop(task_id, None)
