"""What a worker holds: which tasks are in hand, which copies wait for them, how far each partition may be committed.

Owns the offset trackers, the ids in hand and the lanes of one worker. Called by its consumer, processor and bookkeeper
threads, once per batch, under one lock. Never talks to Kafka or Redis.

An id stays in hand until its end is *known durable*, not only until it is recorded: after a crash of Redis that lost
the record, a waiting copy would otherwise be claimed, and run, before the end in memory was written again.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Lock

from yadtqd.held import Held
from yadtqd.lanes import Lanes
from yadtqd.offset_tracker import NOT_SETTLED, OffsetTracker

PASSED = -1     # the size of a record whose offset was skipped while it was in hand: nobody waits for it


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what a worker keeps in memory."""

    uncommitted: int = 60_000              # records fetched and not yet passed by the committed position
    uncommitted_bytes: int = 128 << 20     # and their bytes: messages, results


class Ledger:
    """`positions`: where each of the worker's partitions starts."""

    def __init__(self, positions: Mapping[int, int], limits: Limits | None = None) -> None:
        self._lock = Lock()
        self._limits = limits or Limits()
        self._trackers: dict[int, OffsetTracker[Held]] = {p: OffsetTracker(at) for p, at in positions.items()}
        self._in_hand: dict[str, Held] = {}
        self._lanes = Lanes()
        self.on_turn: Callable[[list[Held]], object] = lambda _: None   # gets those whose turn it is now
        self._settled: deque[tuple[float, list[Held]]] = deque()   # what is recorded, and not known durable, by time
        self._bytes = 0
        self._open = dict.fromkeys(positions, 0)   # by partition: fetched and not settled
        self.open = 0                # their sum; read without the lock
        self.round = 0               # rises when Redis was restarted: what was claimed before is claimed again

    # ---- consumer -----------------------------------------------------------------------------------------------
    def take(self, fetched: Iterable[Held]) -> list[Held]:
        """Take fetched records in; returns those to be claimed now (a copy of a task in hand waits)."""
        ready: list[Held] = []
        with self._lock:
            for held in fetched:
                self._trackers[held.partition].add(held)
                self._bytes += held.size
                self.open += 1
                self._open[held.partition] += 1
                if self._enter(held):
                    ready.append(held)
        return ready

    def again(self, batch: Iterable[Held]) -> list[Held]:
        """These were answered LATE: returns those to be claimed again now (the others wait for a copy in hand)."""
        with self._lock:
            return [held for held in batch if self._enter(held)]

    def in_turn(self, batch: list[Held]) -> list[Held]:
        """Those that may be claimed now; a task with a key waits in its lane until the earlier ones have ended."""
        if all(held.message.key is None for held in batch):
            return batch
        with self._lock:
            return [held for held in batch if self._lanes.enter(held)]

    @property
    def behind(self) -> int:
        """How many wait in lanes."""
        return self._lanes.waiting

    def _enter(self, held: Held) -> bool:
        """Is it the one record in hand of its id? Else it queues behind the one that is."""
        first = self._in_hand.setdefault(held.message.id, held)
        if first is held:
            return True
        while first.next_copy is not None:
            first = first.next_copy
        first.next_copy = held
        return False

    def skip(self, partition: int, position: int) -> None:
        """The log of a partition begins at `position` now: what was below is gone from Kafka."""
        with self._lock:
            for held in self._trackers[partition]:
                self._bytes -= held.size
                held.size = PASSED
            self._trackers[partition] = OffsetTracker(position)

    def next_offset(self, partition: int) -> int:
        """The lowest offset of a partition that was not fetched yet."""
        with self._lock:
            return self._trackers[partition].next_offset

    def full(self) -> bool:
        """Is so much waiting to become durable or to be passed that nothing more may be fetched?"""
        return (self._bytes > self._limits.uncommitted_bytes
                or sum(map(len, self._trackers.values())) > self._limits.uncommitted)

    # ---- result writer, consumer --------------------------------------------------------------------------------
    def settle(self, batch: list[Held], now: float, round_: int) -> bool:
        """These are done as far as Redis says, as of `now` (monotonic s, after its answer).

        `round_` is `round` as it was before Redis was asked. False, and nothing done, when Redis was restarted since:
        it may have forgotten what it said.
        """
        turn: list[Held] = []
        with self._lock:
            if round_ != self.round:
                return False
            for held in batch:
                held.settled_at = now
                if held.message.key is not None and (following := self._lanes.leave(held)) is not None:
                    turn.append(following)
                self._open[held.partition] -= 1
                if held.end is not None and held.size != PASSED:
                    grown = len(held.end.result) + len(held.end.error)
                    held.size += grown
                    self._bytes += grown
            self.open -= len(batch)
            self._settled.append((now, batch))
        if turn:
            self.on_turn(turn)
        return True

    def waiting(self, partition: int, end: int) -> int:
        """Records of a partition that are not settled, given the end of its log (0: not known)."""
        with self._lock:
            return max(0, end - self._trackers[partition].next_offset) + self._open[partition]

    # ---- bookkeeper ---------------------------------------------------------------------------------------------
    def unsure(self) -> bool:
        """Is anything recorded that is not known durable?"""
        return bool(self._settled)

    def sweep(self, durable_before: float) -> tuple[dict[int, int], list[Held]]:
        """What was settled before `durable_before` is safe: returns the position to commit of every partition that
        moved, and the copies that need no longer wait and are to be claimed.

        Should one of them be told to run all the same (Redis was wiped), `again` lets only one do so.
        """
        released: list[Held] = []
        moved: dict[int, int] = {}
        with self._lock:
            while self._settled and self._settled[0][0] < durable_before:
                for held in self._settled.popleft()[1]:
                    self._release(held, released)
            for partition, tracker in self._trackers.items():
                passed = tracker.advance(durable_before)
                if passed:
                    self._bytes -= sum(held.size for held in passed)
                    moved[partition] = tracker.position
        return moved, released

    def _release(self, held: Held, released: list[Held]) -> None:
        if self._in_hand.get(held.message.id) is not held:
            return                                   # it was reopened and settled twice
        follower, held.next_copy = held.next_copy, None
        if follower is None:
            del self._in_hand[held.message.id]
            return
        self._in_hand[held.message.id] = follower
        while follower is not None:                  # all at once: each is answered that the task has ended
            follower.is_copy = True
            released.append(follower)
            follower.next_copy, follower = None, follower.next_copy

    def reopen(self) -> tuple[list[Held], list[Held]]:
        """Redis was restarted and may have forgotten: everything that was settled and not passed is open again.

        Returns what ended here (write it again first) and what was found ended or skipped (for `again`, then claim).
        Whatever was claimed and not started is claimed again too: its `claim_round` is no longer `round`.
        """
        rewrite: list[Held] = []
        reclaim: list[Held] = []
        with self._lock:
            self.round += 1
            for _, batch in self._settled:
                for held in batch:
                    if held.size == PASSED:         # in no tracker: nothing to be written again, nobody to wait for
                        self._release(held, reclaim)
            self._settled.clear()
            for tracker in self._trackers.values():
                for held in tracker:
                    if held.settled_at == NOT_SETTLED:
                        continue
                    held.settled_at = NOT_SETTLED
                    self.open += 1
                    self._open[held.partition] += 1
                    if held.end is not None:
                        held.size -= len(held.end.result) + len(held.end.error)
                        self._bytes -= len(held.end.result) + len(held.end.error)
                        rewrite.append(held)
                    else:
                        reclaim.append(held)
        return rewrite, reclaim
