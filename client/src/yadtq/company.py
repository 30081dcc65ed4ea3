"""How many threads submit at the same time, judged by what they did lately: whether a batch should wait for more.

Pure decisions of `yadtq.gathering` and, for turns, of the asynchronous client: the clock comes in, and one thread at a
time calls.

Threads that were answered by one batch come back for the next one at nearly the same moment. A batch that leaves with
the first of them costs as much as one with all of them, and has the others wait twice as long. So one that begins less
than PAUSE_S after the last waits for as many as there were, but never longer than the last one took, and never when
fewer came than were waited for the last time: each such disappointment doubles the batches that leave without waiting.

After STREAK batches without a pause the submissions of one batch, unless they have keys, go to one partition, the next
batch to the next: the broker then takes one request for all of them instead of one each. Less would be gained by it
before, and a burst of a few long tasks must spread over all workers.
"""
from __future__ import annotations

from math import inf

PAUSE_S = 0.002         # so long without a batch under way: what was before says nothing of what comes
LONGEST_WAIT_S = 0.001
MOST_SKIPPED = 63
STREAK = 16             # some ten milliseconds of threads that do nothing but submit


class Turns:
    """Whether the tasks of a batch share a partition, and which."""

    def __init__(self) -> None:
        self._turn = self._streak = 0
        self._ended_s = -inf

    @property
    def now(self) -> int | None:
        """Which partition's turn it is for all that comes without a key; None: each task has a turn of its own."""
        return self._turn if self._streak >= STREAK else None

    def begins(self, now_s: float) -> bool:
        """The next batch begins: whether it follows the last one without a pause."""
        follows = now_s - self._ended_s <= PAUSE_S
        if not follows:
            self._streak = 0
        return follows

    def leaves(self) -> None:
        """It is on its way: what comes from now on goes with the next one."""
        self._turn += 1

    def ends(self, now_s: float) -> None:
        """It has ended."""
        self._ended_s = now_s
        self._streak += 1


class Company:
    """What is expected of the next batch."""

    def __init__(self) -> None:
        self.turns = Turns()
        self._count = 1                     # who took part in the last batch, or came too late for it
        self._took_s = 0.0
        self._misses = self._skip = 0       # disappointments in a row; batches that leave without waiting

    def begins(self, now_s: float, there: int) -> tuple[int, float]:
        """A batch could begin with so many: how many more it should wait for, and how long at most (s)."""
        if not self.turns.begins(now_s):
            self._count = 1
        missing = self._count - there
        if missing <= 0:
            return 0, 0.0
        if self._skip:
            self._skip -= 1
            return 0, 0.0
        return missing, min(self._took_s, LONGEST_WAIT_S)

    def waited(self, came: bool) -> None:
        """Whether those who were waited for came in time."""
        self._misses = 0 if came else self._misses + 1
        self._skip = 0 if came else min((1 << self._misses) - 1, MOST_SKIPPED)

    def ends(self, now_s: float, took_s: float, size: int, late: int) -> None:
        """A batch of `size` has taken so long; `late` more came meanwhile."""
        self._count, self._took_s = size + late, took_s
        self.turns.ends(now_s)
