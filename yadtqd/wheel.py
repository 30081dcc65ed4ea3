"""The timing wheel: what is to be done next with the tasks that wait, decided from their due times and the clock.

Owns what a scheduler has in hand: per level the records that were read and not looked at yet, one heap of what is due
within the narrowest width, and how far each level may be committed. A level's records leave in the order in which they
came: only its head is looked at, once it has lain for the level's width (or has less than the narrowest width left).
With more left it *hops*, to the widest level that is not wider than what is left; with less it waits in the heap, to
the millisecond. Only `due_ms` decides when a task is published; how long it lay, only when it is looked at.

Everything has a bound; what does not fit stays in Kafka. Pure: takes the clock, knows no Kafka, no thread. tests/unit/
test_wheel.py holds its promises: never early, no later than the narrowest level when looked at in time, nothing lost.
"""
from __future__ import annotations

import heapq
from collections import deque
from typing import NamedTuple

from yadtq.delayed import LEVELS, SHORT, WIDTHS_MS, DelayedTask, decode_delayed, level_of
from yadtq.errors import InvalidMessage, UnsupportedVersion, YADTQError

NARROWEST_MS = WIDTHS_MS[0]
LEVEL_RECORDS = 8000            # of a level that are read ahead ...
LEVEL_BYTES = 4 * 1024 * 1024   # ... and their size: half of it is used up before more is fetched
HEAP_RECORDS = 50_000           # due within the narrowest width; more are fired late, one heap after the other
HEAP_BYTES = 64 * 1024 * 1024
LATE_MS = 1000                  # what should have been fired so long ago: the supervisor sees it as work that waits
OPEN_RECORDS = 100_000          # of a level, done but behind one that is not: then nothing more of it is looked at


class Fire(NamedTuple):
    """Publish it to the task topic."""

    entry: Entry
    delayed: DelayedTask


class Hop(NamedTuple):
    """Move it to another level (or to the same one, at its end)."""

    entry: Entry
    level: int


class Refuse(NamedTuple):
    """It is no delayed task, or Kafka will never take it: `entry.error` says why."""

    entry: Entry


Move = Fire | Hop | Refuse


def where_to(level: int, due_ms: int, entered_ms: int, now_ms: int) -> int | None:
    """Where the head of a level goes now: a level, SHORT for the heap, None: nowhere yet (see `look_at`)."""
    left_ms = due_ms - now_ms
    if left_ms < NARROWEST_MS:
        return SHORT
    if level != SHORT and now_ms < entered_ms + WIDTHS_MS[level]:
        return None
    return level_of(left_ms)        # (from SHORT: a client's clock is ahead of ours)


def look_at(level: int, due_ms: int, entered_ms: int) -> int:
    """When a head that goes nowhere yet is to be looked at again (Unix ms)."""
    return int(min(entered_ms + WIDTHS_MS[level], due_ms - NARROWEST_MS + 1))


class Entry:
    """One record in hand, from the moment it is looked at until it has been published and committed past."""

    __slots__ = ("delayed", "done", "error", "key", "level", "offset", "value")

    def __init__(self, level: Level, offset: int, key: bytes | None, value: bytes, delayed: DelayedTask | None,
                 error: YADTQError | None) -> None:
        self.level, self.offset, self.key, self.value = level, offset, key, value
        self.delayed, self.error, self.done = delayed, error, False


class Level:
    """One level in hand. `number` is its partition of the delayed topic."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.position = -1              # commit up to here; -1: nothing was read yet
        self.next_offset = -1
        self.ahead: deque[tuple[int, bytes | None, bytes, int]] = deque()   # offset, key, value, when it entered
        self.ahead_bytes = 0
        self.open: deque[Entry] = deque()
        self.look_at_ms = 0             # its head has to wait until then
        self.newer = ""                 # why its head can't be read here: a newer YADTQ wrote it
        self.full = False

    def wants_more(self) -> bool:
        """Whether more is to be read ahead; with some slack, since stopping and going on costs a fetch."""
        share = 2 if self.full else 1
        self.full = len(self.ahead) * share >= LEVEL_RECORDS or self.ahead_bytes * share >= LEVEL_BYTES
        return not self.full


def _urgency(level: Level) -> int:
    """What is due soonest first: many hops between wide levels must not hold up what is due in a moment."""
    return (level.number + 1) % LEVELS


class Wheel:
    """The levels in hand and their heap."""

    def __init__(self) -> None:
        self.levels: dict[int, Level] = {}
        self._heap: list[tuple[int, int, Entry, DelayedTask]] = []
        self._heap_bytes = 0
        self._again: deque[Entry] = deque()         # what could not be published: to be placed anew
        self._count = 0

    # ---- which levels ----------------------------------------------------------------------------------------------
    def gain(self, number: int) -> None:
        """A level is ours, to be read from where it was committed."""
        self.levels[number] = Level(number)

    def lose(self, number: int) -> None:
        """It is ours no longer; what was in hand of it is forgotten."""
        gone = self.levels.pop(number, None)
        if gone is not None:
            self._forget(gone)

    def _forget(self, gone: Level) -> None:
        self._heap = [item for item in self._heap if item[2].level is not gone]
        heapq.heapify(self._heap)
        self._heap_bytes = sum(len(item[2].value) for item in self._heap)
        self._again = deque(entry for entry in self._again if entry.level is not gone)

    # ---- reading ----------------------------------------------------------------------------------------------------
    def take(self, number: int, offset: int, key: bytes | None, value: bytes, entered_ms: int, now_ms: int) -> None:
        """A record was read. One that lies before what was read already: the log was made anew, or is read again."""
        level = self.levels.get(number)
        if level is None:
            return
        if offset < level.next_offset:
            self._forget(level)
            level = self.levels[number] = Level(number)
        if level.position < 0:
            level.position = offset
        level.next_offset = offset + 1
        level.ahead.append((offset, key, value, min(entered_ms, now_ms)))     # who wrote it may have a clock ahead
        level.ahead_bytes += len(value)

    # ---- what is to be done -----------------------------------------------------------------------------------------
    def turn(self, now_ms: int, room: int) -> list[Move]:
        """At most `room` moves that are due now; each is to be answered by `done` or `again`."""
        moves: list[Move] = []
        for _ in range(min(len(self._again), room)):
            self._place(self._again.popleft(), now_ms, moves)
        self._fire(now_ms, room, moves)             # first, for they are late already
        for level in sorted(self.levels.values(), key=_urgency):
            if level.ahead and now_ms >= level.look_at_ms:
                self._look_at_heads(level, now_ms, room, moves)
        self._fire(now_ms, room, moves)
        return moves

    def _place(self, entry: Entry, now_ms: int, moves: list[Move]) -> None:
        if entry.delayed is None or entry.error is not None:
            moves.append(Refuse(entry))
        elif entry.delayed.due_ms - now_ms < NARROWEST_MS:
            self._push(entry, entry.delayed)
        else:
            moves.append(Hop(entry, level_of(entry.delayed.due_ms - now_ms)))

    def _fire(self, now_ms: int, room: int, moves: list[Move]) -> None:
        heap = self._heap
        while heap and heap[0][0] <= now_ms and len(moves) < room:
            _, _, entry, delayed = heapq.heappop(heap)
            self._heap_bytes -= len(entry.value)
            moves.append(Fire(entry, delayed))

    def _look_at_heads(self, level: Level, now_ms: int, room: int, moves: list[Move]) -> None:
        """Take heads into the heap, or have them moved, until one has to wait."""
        level.look_at_ms = 0
        while level.ahead and len(moves) < room and len(level.open) < OPEN_RECORDS and not level.newer:
            offset, key, value, entered_ms = level.ahead[0]
            try:
                delayed = decode_delayed(value)
            except UnsupportedVersion as error:
                level.newer = f"level {level.number} offset {offset}: {error.message}"
                return
            except InvalidMessage as error:
                moves.append(Refuse(self._open(level, offset, key, value, None, error)))
                continue
            to = where_to(level.number, delayed.due_ms, entered_ms, now_ms)
            if to is None:
                level.look_at_ms = look_at(level.number, delayed.due_ms, entered_ms)
                return
            if to == SHORT and self._is_full():
                return
            entry = self._open(level, offset, key, value, delayed, None)
            if to == SHORT:
                self._push(entry, delayed)
            else:
                moves.append(Hop(entry, to))

    @staticmethod
    def _open(level: Level, offset: int, key: bytes | None, value: bytes, delayed: DelayedTask | None,
              error: InvalidMessage | None) -> Entry:
        level.ahead.popleft()
        level.ahead_bytes -= len(value)
        entry = Entry(level, offset, key, value, delayed, error)
        level.open.append(entry)
        return entry

    def _is_full(self) -> bool:
        return len(self._heap) >= HEAP_RECORDS or self._heap_bytes >= HEAP_BYTES

    def _push(self, entry: Entry, delayed: DelayedTask) -> None:
        self._count += 1
        heapq.heappush(self._heap, (delayed.due_ms, self._count, entry, delayed))
        self._heap_bytes += len(entry.value)

    def next_ms(self, otherwise_ms: int) -> int:
        """When there is something to do again (Unix ms), `otherwise_ms` if nothing is before."""
        times = [level.look_at_ms for level in self.levels.values() if level.look_at_ms and level.ahead]
        if self._heap:
            times.append(self._heap[0][0])
        if self._again:
            times.append(0)
        return min([otherwise_ms, *times])

    def late(self, now_ms: int) -> int:
        """How many are in hand while the first of them should have been fired a while ago; 0 when all is well."""
        late = bool(self._again) or bool(self._heap and self._heap[0][0] < now_ms - LATE_MS)
        return len(self._heap) + len(self._again) if late else 0

    # ---- what became of it ------------------------------------------------------------------------------------------
    def done(self, entry: Entry) -> None:
        """It was published, and Kafka has acknowledged it: its level may be committed past it."""
        entry.done, entry.value, entry.delayed = True, b"", None
        level = entry.level
        while level.open and level.open[0].done:
            level.position = level.open.popleft().offset + 1

    def again(self, entry: Entry) -> None:
        """It could not be published."""
        if self.levels.get(entry.level.number) is entry.level:      # else it is another's now
            self._again.append(entry)

    def positions(self) -> dict[int, int]:
        """How far each level may be committed."""
        return {number: level.position for number, level in self.levels.items() if level.position >= 0}
