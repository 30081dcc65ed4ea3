"""Partitions that the group has given to nobody: when to look for them, and when to have the group arranged anew.

With the cooperative protocol a partition moves in two steps: who had it is told to let go, and asks for the second step
when that is done. If it dies in between and is back within its session, as a static member it finds its old place, the
group is content, and nobody asks: the partition would be without an owner for ever. So each member looks at what the
group has given out, soon after its own start and now and then later, and asks in the dead one's stead.

Pure: takes the clock. `GroupMember` asks Kafka. What is being handed over is no gap, since who has it says so; but a
member of an older version does not, so an old member waits until any hand-over must be over.
"""
from __future__ import annotations

import random
from collections.abc import Iterable, Set

FIRST_S = 2.0               # after the start: a dead member's successor is the one to ask
AGAIN_S = 2.0               # a gap, or no answer: look again; a fresh member asks when it is still there
EVERY_S = 300.0             # else: some KB for each host of the group
FRESH_S = 60.0              # so long after its start a member is fresh


def gaps(partitions: Iterable[int], given: Iterable[Iterable[int]]) -> frozenset[int]:
    """Those of `partitions` that are in none of `given`, nor held by who was told to let them go."""
    return frozenset(partitions).difference(*given)


class GapWatch:
    """`due`, then `saw` what there is; it says whether to ask. `slow_s`: the longest that a hand-over may take."""

    def __init__(self, now: float, slow_s: float, rng: random.Random) -> None:
        self._rng, self._slow_s = rng, slow_s
        self._fresh_until = now + FRESH_S
        self._next = now + FIRST_S
        self._missing: Set[int] = frozenset()
        self._since = now

    def due(self, now: float) -> bool:
        """Whether to look."""
        return now >= self._next

    def saw(self, missing: Set[int] | None, now: float) -> bool:
        """What nobody has (None: that can't be told now). True: have the group arranged anew."""
        self._next = now + AGAIN_S
        if missing is None:
            return False
        if not missing:
            self._missing = missing
            self._next = now + EVERY_S * self._rng.uniform(0.5, 1.5)
            return False
        if not missing & self._missing:
            self._since = now
        self._missing = missing
        patience_s = AGAIN_S if now < self._fresh_until else self._slow_s
        if now - self._since < patience_s:
            return False
        self._since = now                   # it is being done; once more if that does not help
        return True
