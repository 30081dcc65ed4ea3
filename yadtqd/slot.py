"""One child's slot of 512 bytes in the host's shared memory: what it does now, readable even after its SIGKILL.

Owns the layout of a slot. The child writes (any of its threads, each cell by one of them), the supervisor reads and
writes SOFT_FOR only. Every cell is 8 bytes, aligned, and stored whole. Never blocks, never allocates shared memory
itself (yadtqd.shared does).

The task in hand is kept in two halves and a flip word: task number n is written into half n & 1, then CUR = n; the
end is CUR = 0. A reader accepts a half when its own number equals CUR before and after. A writer killed in the middle
has not moved CUR yet, so what the reader sees is whole, whenever the kill came (a seqlock is not: it stays odd).
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, overload

if TYPE_CHECKING:
    from collections.abc import MutableSequence

SLOT_BYTES = 512
CELL_BYTES = 8

WAITS_FOR_KAFKA = 1     # bits of Slot.waiting_for
WAITS_FOR_REDIS = 2
WAITS_TO_RETIRE = 8     # it asks to be replaced by a fresh process (yadtqd.recycling)
WAITS_FOR_UPGRADE = 4   # a record of a newer version stands in a partition: it is sound, and waits

RETIRE = -1             # in Slot.drain_by_ns

_HALF = struct.Struct("<8q40s88s")   # n, started, soft, hard, partition, offset, attempt, lengths; task id; task type
_HALVES_AT = (128, 320)              # bytes; the sixteen cells before them are the single ones
ID_BYTES = 40
_NAME_BYTES = 88
_READ_ATTEMPTS = 16


class Cell:
    """One aligned 8-byte signed cell of a view that has `cells`; reads and writes are single loads and stores."""

    def __init__(self, index: int) -> None:
        self.index = index

    @overload
    def __get__(self, view: None, owner: type) -> Cell: ...
    @overload
    def __get__(self, view: object, owner: type) -> int: ...
    def __get__(self, view: object | None, owner: type) -> Cell | int:
        return self if view is None else view.cells[self.index]  # type: ignore[attr-defined]

    def __set__(self, view: object, value: int) -> None:
        view.cells[self.index] = value  # type: ignore[attr-defined]


class TaskInHand(NamedTuple):
    """The task that a child runs; times are CLOCK_MONOTONIC nanoseconds, 0 for a deadline that is not set."""

    n: int              # the worker's own running number of it, from 1
    task_id: str        # at most 40 bytes of it; (partition, offset) names the record in any case
    task: str           # its task type, at most 88 bytes of it
    partition: int
    offset: int
    attempt: int
    started_ns: int
    soft_ns: int
    hard_ns: int
    cancelled: bool = False     # its hard deadline is that of a cancel


class SlotView(NamedTuple):
    """What the supervisor saw in a slot at one moment."""

    pid: int
    state: int          # a yadtqd.worker_state.WorkerState
    beat_ns: int        # CLOCK_MONOTONIC
    epoch: int
    soft_for: int
    waiting_for: int    # WAITS_FOR_KAFKA | WAITS_FOR_REDIS | WAITS_FOR_UPGRADE
    done: int
    failed: int
    retried: int
    crashed: int
    lag: int            # records not yet finished in its partitions; -1 when not known
    task: TaskInHand | None


class Slot:
    """A slot in shared memory.

    Child: `beat`, `state`, `epoch`, `lag`, `waiting_for`, `begin`, `end`, `count`; for the soft time-out `live`, `seq`
    and `soft_for`, for a cancel `cancel_for` and `cancel_hard_ns`. Supervisor: `read`, `clear`, `soft_for`.

    The soft time-out works so: the supervisor sets `soft_for = n` of the task whose deadline passed and sends SIGUSR1;
    the worker's handler raises only if `live == seq == soft_for`, and sets `live = 0` first. The worker sets `live = n`
    right before the body and `live = 0` in a `finally` inside an outer `except` right after it.

    With several tasks in hand at once (threads, asyncio) the slot shows the one whose hard deadline comes first.
    """

    pid = Cell(0)
    state = Cell(1)
    beat_ns = Cell(2)
    epoch = Cell(3)
    seq = Cell(4)           # CUR: number of the task in hand, 0 when there is none
    live = Cell(5)          # number of the task that a soft time-out may interrupt now, 0 when none
    soft_for = Cell(6)      # the supervisor's: number of the task whose soft deadline has passed
    waiting_for = Cell(7)
    done = Cell(8)
    failed = Cell(9)
    retried = Cell(10)
    crashed = Cell(11)
    lag = Cell(12)
    drain_by_ns = Cell(13)      # the supervisor's: when a child that drains is killed (CLOCK_MONOTONIC), 0 before,
    #                             RETIRE: it may go as it has asked to, and take its time
    cancel_for = Cell(14)       # number of the task in hand that is being cancelled
    cancel_hard_ns = Cell(15)   # when it is to be killed for that; written before `cancel_for`

    def __init__(self, index: int, buffer: memoryview) -> None:
        assert len(buffer) == SLOT_BYTES
        self.index = index
        self._bytes = buffer
        self.cells: MutableSequence[int] = buffer.cast("q")  # type: ignore[assignment]

    # ---- the child's side
    def beat(self, now_ns: int) -> None:
        """Say that the child makes progress; `now_ns` is time.monotonic_ns()."""
        self.cells[2] = now_ns

    def begin(self, task_no: int, task_id: str, task: str, partition: int, offset: int,
              started_ns: int, soft_ns: int, hard_ns: int, attempt: int = 0) -> None:
        """Note the task that starts now; `task_no` counts up from 1 and is never used twice by this child."""
        id_bytes, name = task_id.encode()[:ID_BYTES], task.encode()[:_NAME_BYTES]
        _HALF.pack_into(self._bytes, _HALVES_AT[task_no & 1], task_no, started_ns, soft_ns, hard_ns, partition, offset,
                        attempt, len(id_bytes) | len(name) << 8, id_bytes, name)
        self.cells[4] = task_no

    def end(self) -> None:
        """Note that no task is in hand."""
        self.cells[4] = 0

    def count(self, *, done: int = 0, failed: int = 0, retried: int = 0, crashed: int = 0) -> None:
        """Add to the counters. Read, add and write is three steps: call it from one thread of the child only."""
        cells = self.cells
        cells[8] += done
        cells[9] += failed
        cells[10] += retried
        cells[11] += crashed

    # ---- the supervisor's side
    def clear(self) -> None:
        """Make the slot new for another child; only while none is using it."""
        self._bytes[:] = bytes(SLOT_BYTES)
        self.cells[12] = -1

    def read(self) -> SlotView:
        """What the slot says now; `task` is None when there is none, or when tasks change too fast to matter."""
        cells = self.cells
        return SlotView(pid=cells[0], state=cells[1], beat_ns=cells[2], epoch=cells[3], soft_for=cells[6],
                        waiting_for=cells[7], done=cells[8], failed=cells[9], retried=cells[10], crashed=cells[11],
                        lag=cells[12], task=self._task())

    def _task(self) -> TaskInHand | None:
        for _ in range(_READ_ATTEMPTS):
            n = self.cells[4]
            if n == 0:
                return None
            fields = _HALF.unpack_from(self._bytes, _HALVES_AT[n & 1])
            if fields[0] == n == self.cells[4]:
                _, started, soft, hard, partition, offset, attempt, lengths, task_id, name = fields
                cancelled = self.cells[14] == n and not 0 < hard < self.cells[15]
                return TaskInHand(n, task_id[:lengths & 0xFF].decode(errors="replace"),
                                  name[:lengths >> 8].decode(errors="replace"), partition, offset, attempt,
                                  started, soft, self.cells[15] if cancelled else hard, cancelled)
        return None
