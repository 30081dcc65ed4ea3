"""What a member of a Kafka group holds: its partitions from when the group gives them until it has let them go.

Owns the difference to what the group has given: a revoked partition is held until its worker has ended, and the group
is told so whenever it is arranged anew. The library's rebalance listener and its joins write here in the library's
thread; the role's thread lets go. Never asks Kafka anything.
"""
from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Any


class Holding:
    """What the group has given, and what it has taken and we have not let go yet."""

    def __init__(self) -> None:
        self.events: deque[tuple[str, list[int]]] = deque()
        self.given: frozenset[int] = frozenset()
        self._leaving: frozenset[int] = frozenset()
        self._told: frozenset[int] = frozenset()
        self._revoked = False
        self._new = True                    # the group knows us, if at all, by what an earlier process has told it
        self._lock = threading.Lock()

    def tell(self) -> list[int]:
        """What we hold, and last what we are about to let go; the group hears it now."""
        with self._lock:
            self._told = self.given | self._leaving
            self._new = self._new and not self.given
            return [*sorted(self.given), *sorted(self._leaving - self.given)]

    @property
    def to_tell(self) -> bool:
        """Does the group have to hear what we hold? It does when we have let go something (all: once is enough), and
        after the first assignment of this process, which may be that of an earlier one that died over a hand-over."""
        return not self._leaving and bool(self._told - self.given or (self._new and self.given))

    def keep(self, partitions: Iterable[int]) -> None:
        """An earlier process of ours was about to let these go, and their workers are there yet."""
        with self._lock:
            self._leaving |= set(partitions)

    def note(self, what: str, partitions: Iterable[int]) -> None:
        """The group says: these are assigned or revoked. Lost is always everything, with our place in the group."""
        changed = set(partitions)
        with self._lock:
            if what == "assigned":
                self.given |= changed
            elif what == "revoked":
                self._leaving |= self.given & changed
                self.given -= changed
                self._revoked = True
            else:
                changed |= self.given | self._leaving
                self.given = self._leaving = frozenset()
            self.events.append((what, sorted(changed)))

    def take_revoked(self) -> bool:
        """Was anything revoked since this was asked last?"""
        revoked, self._revoked = self._revoked, False
        return revoked

    def release(self, partitions: Iterable[int]) -> None:
        """They are let go."""
        with self._lock:
            self._leaving -= set(partitions)


def listener(consumer: Any, holding: Holding, *, pause: bool) -> Any:
    """The rebalance listener: notes what happened, and keeps every partition paused if nobody reads."""
    from kafka import ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned: Any) -> None:
            if pause:
                consumer.pause(*assigned)
            holding.note("assigned", [tp.partition for tp in assigned])

        def on_partitions_revoked(self, revoked: Any) -> None:
            holding.note("revoked", [tp.partition for tp in revoked])

        def on_partitions_lost(self, lost: Any) -> None:
            holding.note("lost", [tp.partition for tp in lost])

    return Listener()
