"""How far a partition may be committed, when its tasks end in any order and what ended becomes durable only later.

Owns the position of one partition: everything below it is done *and* known to survive a crash of Redis (PROTOCOL.md
rules 5 and 6). Pure: no clock, no thread, no I/O; the ledger calls it under its lock. Never commits anything.
"""
from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

NOT_SETTLED = math.inf  # the `settled_at` of what is not done: later than any time, so that one comparison is enough


class Tracked(Protocol):
    """What the tracker needs to know of a fetched record; `settled_at` is changed by others at any time."""

    offset: int
    settled_at: float    # monotonic s at which the write that settled it was answered; NOT_SETTLED before


E = TypeVar("E", bound=Tracked)


class OffsetTracker(Generic[E]):
    """The records of a partition that were fetched and not yet passed by the committed position, oldest first.

    Offsets rise, but may have gaps (a log that was compacted, or transactions' markers).

        tracker = OffsetTracker(position=7)
        tracker.add(entry)                    # entry.offset == 7
        entry.settled_at = now
        tracker.advance(durable_before)       # -> [entry] once durable_before > now; tracker.position == 8
    """

    __slots__ = ("_entries", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self._entries: deque[E] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[E]:
        return iter(self._entries)

    @property
    def next_offset(self) -> int:
        """The lowest offset that may be added."""
        return self._entries[-1].offset + 1 if self._entries else self.position

    def add(self, entry: E) -> None:
        """Take a fetched record in. Raises ValueError for one that was passed already: offsets never go back."""
        if entry.offset < self.next_offset:
            raise ValueError(f"offset {entry.offset} came after {self.next_offset - 1}")
        self._entries.append(entry)

    def advance(self, durable_before: float) -> list[E]:
        """Pass the contiguous run of records that were settled before `durable_before` (monotonic s); they are
        returned and forgotten. `position` is then what may be committed."""
        passed: list[E] = []
        entries = self._entries
        while entries and entries[0].settled_at < durable_before:
            passed.append(entries.popleft())
        if passed:
            self.position = passed[-1].offset + 1
        return passed
