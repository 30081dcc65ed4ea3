"""The shared memory of a host: a header, the children's slots and the table of partitions, in one memfd.

Owns the layout. Made by the supervisor before it forks; all its children inherit the mapping. Who writes which cell
stands beside it; nobody else does. Never blocks, takes no lock: each cell is stored whole, and no meaning hangs on two
of them changing together (`ownership_changed` comes after the cells that it announces).
"""
from __future__ import annotations

import contextlib
import mmap
import os
import time
from typing import TYPE_CHECKING

from yadtqd.slot import CELL_BYTES, SLOT_BYTES, Cell, Slot

if TYPE_CHECKING:
    from collections.abc import MutableSequence

    from yadtq.config import Settings

MAGIC = 0x59414454515F3031      # "YADTQ_01"
LAYOUT_VERSION = 1
HEADER_BYTES = 4096
PARTITION_BYTES = 128
KAFKA_AT, KAFKA_BYTES = 1024, 256       # in the header: the text of `Shared.kafka`
CELLS = PARTITION_BYTES // CELL_BYTES
SLOTS = 4104                    # 4096 workers and the other roles; pages that nobody touches cost nothing
PARTITIONS = 10_000             # partitions of the task topic that a host can know
FOR_EVER_NS = 2**63 - 1         # the lease of static assignment


def boottime_ns() -> int:
    """The clock of leases: it goes on while the machine is suspended, as the broker's does."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def lease_margin_s(settings: Settings) -> float:
    """How long before the group's session could expire the lease ends: time to stop what still runs, in seconds.

    The supervisor kills what is left of the workers within four fifths of it (`lease_drain_s`).
    """
    return settings.kafka_session_timeout_ms / 1000 / 4


def lease_drain_s(lease_left_s: float, settings: Settings) -> float:
    """How long workers may go on when that is left of the lease: as long as nobody else can have their partitions."""
    return max(lease_left_s + 0.8 * lease_margin_s(settings), 0.0)


def lease_end_ns(since_ns: int, settings: Settings) -> int:
    """Until when a place in the group is certain that was confirmed by what was sent at `since_ns` (a heartbeat)."""
    return since_ns + int(settings.kafka_session_timeout_ms * 1e6) - int(lease_margin_s(settings) * 1e9)


class Partition:
    """What this host knows of one partition of the task topic."""

    owned = Cell(0)         # membership: 1 while the group says that it is ours (static: the supervisor)
    generation = Cell(1)    # membership: + 1 at each acquisition, so that lost-and-regained is seen as a change
    paused = Cell(2)        # supervisor (yadtqctl pause): 1 while the worker must not fetch
    worker = Cell(3)        # supervisor: slot index + 1 of the worker bound to it; 0 once that worker is reaped
    epoch = Cell(4)         # worker
    watermark = Cell(5)     # worker: commit up to here (offset + 1 of the last finished and durable record), 0 none
    committed = Cell(6)     # membership: what Kafka has confirmed (offset + 1), 0 when not known
    #                         (and the worker that finds the log made anew: its beginning)
    end_offset = Cell(7)    # worker: the high watermark, 0 when not known
    asked_end = Cell(9)     # janitor: where a log that stands still ends, as Kafka said; 0 when not known
    waiting = Cell(8)       # worker: records that are not finished; what is finished may still wait to become durable

    def __init__(self, number: int, cells: MutableSequence[int]) -> None:
        self.number = number
        self.cells = cells

    @property
    def lag(self) -> int:
        """Records not yet finished (without a worker: not committed); -1 when not known."""
        if self.worker:
            return self.waiting
        return max(self.end_offset - max(self.watermark, self.committed), 0) if self.end_offset else -1


class PartitionTable:
    """Partitions by number; `table[3].owned = 1`. IndexError beyond the capacity of the table."""

    def __init__(self, buffer: memoryview, count: int) -> None:
        self._cells = buffer.cast("q")
        self._count = count
        self._rows: dict[int, Partition] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Partition:
        if not 0 <= number < self._count:
            raise IndexError(f"partition {number}: this host can own 0 to {self._count - 1}")
        row = self._rows.get(number)
        if row is None:
            at = number * CELLS
            row = self._rows[number] = Partition(number, self._cells[at:at + CELLS])  # type: ignore[arg-type]
        return row

    def owned(self) -> tuple[int, ...]:
        """The numbers of the partitions that this host owns, in order."""
        return tuple(number for number, owned in enumerate(self._cells[::CELLS].tolist()) if owned)

    def bound(self) -> tuple[int, ...]:
        """The numbers of those that have a worker, in order."""
        return tuple(number for number, slot in enumerate(self._cells[Partition.worker.index::CELLS].tolist()) if slot)


class Shared:
    """A host's shared memory, mapped: `Shared.create()` in the supervisor, `Shared.attach(fd)` for a kept one."""

    _magic = Cell(0)
    _version = Cell(1)
    n_slots = Cell(2)
    n_partitions = Cell(3)
    supervisor_pid = Cell(4)
    lease_ns = Cell(5)          # membership: CLOCK_BOOTTIME until which this host's place is certain; 0 before the join
    ownership_seq = Cell(6)     # membership: + 1 after each change of `owned`
    joined = Cell(7)            # membership: 1 once it knows what this host owns (even if that is nothing)
    topic_partitions = Cell(8)  # membership: how many partitions the task topic has, 0 when not known
    log_level = Cell(9)         # supervisor: a level of logging; children look at it in their loops
    draining = Cell(10)         # supervisor: 1 once the daemon is stopping for good
    reload_seq = Cell(11)       # supervisor: + 1 at each reload
    _kafka_length = Cell(12)    # membership: bytes of `kafka`

    def __init__(self, fd: int, changed_fd: int) -> None:
        self.fd = fd
        self.changed_fd = changed_fd
        self._map = mmap.mmap(fd, 0)
        whole = memoryview(self._map)
        self.cells: MutableSequence[int] = whole[:HEADER_BYTES].cast("q")  # type: ignore[assignment]
        if self._magic not in {0, MAGIC} or (self._magic and self._version != LAYOUT_VERSION):
            raise ValueError("this memory has another layout")
        self._whole = whole

    @classmethod
    def create(cls, n_slots: int = SLOTS, n_partitions: int = PARTITIONS) -> Shared:
        """New shared memory, and the eventfd that wakes the supervisor."""
        fd = os.memfd_create("yadtq-slots", os.MFD_CLOEXEC)
        os.ftruncate(fd, HEADER_BYTES + n_slots * SLOT_BYTES + n_partitions * PARTITION_BYTES)
        shared = cls(fd, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        shared._version, shared.n_slots, shared.n_partitions = LAYOUT_VERSION, n_slots, n_partitions
        shared.supervisor_pid = os.getpid()
        shared._magic = MAGIC
        shared._lay_out()
        return shared

    @classmethod
    def attach(cls, fd: int, changed_fd: int | None = None) -> Shared:
        """Map the memory of an earlier supervisor, whose descriptor was kept; ValueError if it has another layout."""
        if os.fstat(fd).st_size < HEADER_BYTES:
            raise ValueError("this memory has another layout")
        shared = cls(fd, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) if changed_fd is None else changed_fd)
        if shared._magic != MAGIC:
            raise ValueError("this memory has another layout")
        shared._lay_out()
        return shared

    def _lay_out(self) -> None:
        slots_end = HEADER_BYTES + self.n_slots * SLOT_BYTES
        self._slots = self._whole[HEADER_BYTES:slots_end]
        self.partitions = PartitionTable(self._whole[slots_end:], self.n_partitions)

    def slot(self, index: int) -> Slot:
        """The slot with this index, 0 to n_slots - 1."""
        return Slot(index, self._slots[index * SLOT_BYTES:(index + 1) * SLOT_BYTES])

    def ownership_changed(self) -> None:
        """Membership: tell the supervisor that `owned` cells changed; call it after writing them. Never blocks."""
        self.ownership_seq += 1
        self.wake_supervisor()

    def wake_supervisor(self) -> None:
        """End the supervisor's sleep: any child may, when it wrote something worth a look. Never blocks."""
        with contextlib.suppress(BlockingIOError):      # the counter is full: it will wake anyway
            os.eventfd_write(self.changed_fd, 1)

    def take_wakeup(self) -> None:
        """Supervisor: forget the wake-ups so far."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.changed_fd)

    @property
    def kafka(self) -> str:
        """Which Kafka our epochs come from, as membership has learnt it (`Admin.identity`); "" before."""
        return bytes(self._whole[KAFKA_AT:KAFKA_AT + self._kafka_length]).decode(errors="replace")

    @kafka.setter
    def kafka(self, identity: str) -> None:
        text = identity.encode()[:KAFKA_BYTES]
        if text != bytes(self._whole[KAFKA_AT:KAFKA_AT + self._kafka_length]):
            self._kafka_length = 0              # nobody may read half of it
            self._whole[KAFKA_AT:KAFKA_AT + len(text)] = text
            self._kafka_length = len(text)

    def lease_left_s(self) -> float:
        """Seconds until this host's place in the group is not certain any more; negative when it is over."""
        return (self.lease_ns - boottime_ns()) / 1e9

    def close(self) -> None:
        """Close both descriptors; the mapping lives as long as the views on it."""
        os.close(self.fd)
        os.close(self.changed_fd)
