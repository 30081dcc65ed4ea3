"""Which partitions this host has, gains and gives up, as the cells of the partition table say it.

Owns the order of a hand-over: a partition that goes away is marked as not owned, then its worker ends and is reaped,
then its last watermark is committed, and only then may another have it. Pure but for the table: no Kafka, no clock.
Used by membership's one thread, whichever kind of assignment there is.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yadtqd.shared import Shared


class Assignment:
    """What membership knows beside the cells: which partitions are on their way in or out."""

    def __init__(self, shared: Shared) -> None:
        self._shared, self._table = shared, shared.partitions
        self._coming: set[int] = set()          # given to us, where to begin is not known yet
        self._leaving: set[int] = set()         # taken from us, the worker is not reaped yet
        self._lost: set[int] = set()            # of those: already another's, so that nothing is committed any more
        self._held: set[int] = set()            # ours

    # ---- what the group says ----------------------------------------------------------------------------------------
    def give(self, partitions: Iterable[int]) -> None:
        """They are ours from now on."""
        self._coming |= set(partitions)

    def take(self, partitions: Iterable[int], *, lost: bool) -> None:
        """They go away. `lost`: the group has thrown us out, another may have them already."""
        gone = set(partitions)
        self._coming -= gone
        self._held -= gone
        self._leaving |= gone
        if lost:
            self._lost |= gone
        self._set_owned(gone, 0)

    def joined(self) -> None:
        """The first assignment of this process is complete: what an earlier one held and we did not get goes away."""
        stale = set(self._table.owned()) - self._held - self._coming
        if stale:
            self.take(stale, lost=True)
        if not self._shared.joined:
            self._shared.joined = 1
            self._shared.ownership_changed()

    # ---- what is to be done -----------------------------------------------------------------------------------------
    @property
    def held(self) -> frozenset[int]:
        """Partitions that are ours and may be committed."""
        return frozenset(self._held)

    def to_look_up(self) -> list[int]:
        """Partitions whose start has to be found out now; those whose old worker still lives have to wait."""
        return sorted(self._coming - self._leaving)

    def begin(self, positions: Mapping[int, int], *, continues: bool) -> None:
        """Those that were given are ours, to be read from these positions (committed, never below the log's begin).

        `continues`: an earlier membership of this host held them until now, and their workers go on. The supervisor
        hears of all of them at once: it would place workers anew for each.
        """
        new: set[int] = set()
        for partition, position in positions.items():
            row = self._table[partition]
            self._coming.discard(partition)
            self._held.add(partition)
            if row.owned and continues:
                row.committed = max(row.committed, position)
                continue
            # What the cells say is of an earlier time of ours: others may have worked on the partition since.
            row.watermark = row.epoch = row.end_offset = row.asked_end = row.waiting = 0
            row.committed = position
            row.generation += 1
            new.add(partition)
        self._set_owned(new, 1)

    def reaped(self) -> dict[int, int]:
        """Of the leaving partitions whose workers are gone: the last positions to be committed (0: nothing).

        Call `left` for each when that is done.
        """
        return {p: 0 if p in self._lost else self._uncommitted(p) for p in self._leaving if not self._table[p].worker}

    def left(self, partition: int) -> None:
        """Its worker is gone and its last position is committed (or can't be any more)."""
        self._leaving.discard(partition)
        self._lost.discard(partition)
        row = self._table[partition]
        row.watermark = row.epoch = 0

    @property
    def leaving(self) -> bool:
        """Is a hand-over under way? Then the group must not be told that we are ready for the next step."""
        return bool(self._leaving - self._lost)

    def to_commit(self, *, all_of_them: bool = False) -> dict[int, int]:
        """Positions to be committed: those that moved, or all that there are (unchanged ones expire after days)."""
        moved = {p: self._uncommitted(p) for p in self._held}
        if all_of_them:
            moved = {p: at or self._table[p].committed for p, at in moved.items()}
        return {p: at for p, at in moved.items() if at}

    def committed(self, positions: dict[int, int]) -> None:
        """Kafka has confirmed these."""
        for partition, position in positions.items():
            row = self._table[partition]
            row.committed = max(row.committed, position)

    def _uncommitted(self, partition: int) -> int:
        row = self._table[partition]
        return row.watermark if row.watermark > row.committed else 0

    def _set_owned(self, partitions: set[int], owned: int) -> None:
        for partition in partitions:
            self._table[partition].owned = owned
        if partitions:
            self._shared.ownership_changed()
