"""Tasks with a key, in a worker's hands: one at a time of each key, in the order of the log, retries in their place.

Owns the lanes (PROTOCOL.md rule 8): a task is claimed only when all earlier tasks of its key *in its partition* have
ended, and that is recorded. So those that wait are still QUEUED: they can be cancelled, and are nobody's suspects. A
task whose attempt failed stays at the head of its lane until its next one is due, its offset uncommitted. Pure; the
ledger calls it under its lock. Bounded: what waits here is fetched, and no more than `prefetch` is.
"""
from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yadtqd.held import Held


class Lanes:
    """One lane for each key that has tasks in hand; a lane's first task is the one that may be claimed."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[int, str], deque[Held]] = {}
        self.waiting = 0                # tasks behind the first of their lane

    def enter(self, held: Held) -> bool:
        """May it be claimed now? Else it waits behind earlier ones of its key. Repeated, it keeps its place."""
        key = held.message.key
        if key is None:
            return True
        lane = self._lanes.setdefault((held.partition, key), deque())
        if not held.in_lane:
            held.in_lane = True
            lane.append(held)
            self.waiting += len(lane) > 1
        return lane[0] is held

    def leave(self, held: Held) -> Held | None:
        """It has ended: the next of its key, whose turn it is now. Once is enough, and more does no harm."""
        key = held.message.key
        lane = None if key is None else self._lanes.get((held.partition, key))
        if key is None or lane is None or lane[0] is not held:
            return None
        lane.popleft()
        held.in_lane = False
        if not lane:
            del self._lanes[held.partition, key]
            return None
        self.waiting -= 1
        return lane[0]


class Parked:
    """Tasks that stay in their place until their next attempt is due. Used by one thread."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Held]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, held: Held, due_ms: int) -> None:
        """`due_ms` is Unix time."""
        self._count += 1
        heapq.heappush(self._heap, (due_ms, self._count, held))

    def left_s(self, now_ms: int) -> float:
        """How long until the first of them is due; infinite when there is none."""
        return max(0, self._heap[0][0] - now_ms) / 1000 if self._heap else float("inf")

    def take_due(self, now_ms: int) -> list[Held]:
        """Those that are due, in the order in which they became so."""
        due = []
        while self._heap and self._heap[0][0] <= now_ms:
            due.append(heapq.heappop(self._heap)[2])
        return due
