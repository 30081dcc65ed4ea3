"""Records how attempts ended: keeps ends in memory until Redis has them, and obeys its answers.

Owns the ends that are not recorded yet. The processor adds and usually flushes (at once when nothing else waits, so
that a single task waits for no timer); the bookkeeper flushes what lies while a long task runs. One flush at a time.
Bounded: nothing is fetched while too much is open (`Ledger`). Never commits, never claims.
"""
from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from yadtq.errors import RedisConnectionError, TaskCrashed
from yadtqd.exits import Exit
from yadtqd.follow_ups import RETRY, stays
from yadtqd.worker_exit import end_now

if TYPE_CHECKING:
    from yadtq.result_backend import FinishEntry, ResultBackend
    from yadtqd.held import Held
    from yadtqd.ledger import Ledger
    from yadtqd.redis_gate import RedisGate
    from yadtqd.slot import Slot

HEAVY_BYTES = 64 << 20      # of ends that wait while Redis is away: hundreds of large results would fill the memory
BATCH = 1000                        # ends in one call; the backend cuts it into bounded scripts
PATIENCE_NS = 3_000_000, 25_000_000 # how long an end may wait for company while more work is at hand: least, most
PATIENCE = 4                        # times what a flush takes: so recording takes no more than a fifth of the time


class ResultWriter:
    """`on_late` gets tasks whose record went another way (claim again, obey); `on_follow` those that are recorded and
    have something to be published before they are done; `on_stay` those whose next attempt is made in their place."""

    def __init__(self, backend: ResultBackend, ledger: Ledger, gate: RedisGate, slot: Slot, epoch: int, worker_id: str,
                 on_late: Callable[[list[Held]], None], on_follow: Callable[[list[Held]], None],
                 on_stay: Callable[[list[Held]], None]) -> None:
        self._backend, self._ledger, self._gate, self._slot = backend, ledger, gate, slot
        self._epoch, self._worker_id = epoch, worker_id
        self._on_late, self._on_follow, self._on_stay = on_late, on_follow, on_stay
        self._pending: deque[Held] = deque()
        self._lock = threading.Lock()
        self.oldest_ns = 0          # monotonic time since when the oldest has been waiting
        self.patience_ns = PATIENCE_NS[0]
        self.settled = threading.Event()    # set when some were settled, for a consumer that waits for room

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, held: Held, end: FinishEntry, now_ns: int) -> None:
        """Take an end in; it is safe in memory and nowhere else."""
        held.end = end
        if not self._pending:
            self.oldest_ns = now_ns
        self._pending.append(held)

    def heavy(self) -> bool:
        """Does so much wait for a Redis that is away that nothing more should be run?"""
        if self._gate.is_open:
            return False
        ends = [held.end for held in list(self._pending)]
        return sum(len(end.result) + len(end.error) for end in ends if end is not None) > HEAVY_BYTES

    def due(self, now_ns: int) -> bool:
        """Is it time to flush, though more work is at hand? A call is dear, what it carries is cheap: the longer a
        flush takes, as it does when Redis is busy, the more ends go into the next."""
        pending = self._pending
        return bool(pending) and (now_ns - self.oldest_ns > self.patience_ns or len(pending) >= BATCH)

    def flush(self, *, even_if_closed: bool = False) -> bool:
        """Record all that is pending; True when nothing is left. Only the bookkeeper passes a closed gate."""
        pending = self._pending
        with self._lock:
            begun_ns = time.monotonic_ns()
            while pending:
                if not (even_if_closed or self._gate.is_open):
                    return False
                groups: dict[int, list[Held]] = {}
                for _ in range(min(len(pending), BATCH)):
                    held = pending.popleft()
                    groups.setdefault(held.partition, []).append(held)
                try:
                    self._record(groups)
                except RedisConnectionError as error:
                    for group in groups.values():
                        pending.extendleft(reversed(group))
                    self._gate.close(error)
                    return False
            least_ns, most_ns = PATIENCE_NS
            self.patience_ns = min(max(least_ns, PATIENCE * (time.monotonic_ns() - begun_ns)), most_ns)
        return True

    def put_back(self, batch: Iterable[Held]) -> None:
        """These have to be written again, before anything that ended later."""
        with self._lock:
            self._pending.extendleft(reversed(list(batch)))

    def _record(self, groups: dict[int, list[Held]]) -> None:
        """Record the ends of each partition; what is dealt with is taken out of `groups`."""
        round_ = self._ledger.round
        for partition in list(groups):
            ends = [held.end for held in groups[partition] if held.end is not None]
            answers = self._backend.finish(partition, self._epoch, ends, self._worker_id)
            self._obey(groups.pop(partition), answers, round_)

    def _obey(self, group: list[Held], answers: list[str], round_: int) -> None:
        done = group
        over: Collection[Held] = ()     # cancelled between attempts, or cleared: nothing follows, if Redis keeps it
        if answers.count("DONE") != len(answers):
            if "STALE" in answers:
                end_now(Exit.STALE, f"a later epoch than {self._epoch} owns partition {group[0].partition}")
            late = [held for held, answer in zip(group, answers, strict=True) if answer == "LATE"]
            done = [held for held, answer in zip(group, answers, strict=True) if answer != "LATE"]
            over = {held for held, answer in zip(group, answers, strict=True) if answer in ("CANCELLED", "CLEARED")}
            self._on_late(late)         # with their ends: the record may be of our own finish, and be lost yet
        self._count(done)
        going_on = {held for held in done if (held.follow is not None or stays(held)) and held not in over}
        if going_on:
            self._go_on([held for held in done if held in going_on], round_)
            done = [held for held in done if held not in going_on]
        if done and not self._ledger.settle(done, time.monotonic(), round_):
            self._pending.extendleft(reversed(done))     # Redis was restarted meanwhile: written again
        self.settled.set()

    def _go_on(self, batch: list[Held], round_: int) -> None:
        """Something follows these, or another attempt in their place, before they are done."""
        for held in batch:
            held.claim_round = round_
        follow = [held for held in batch if held.follow is not None]
        stay = [held for held in batch if held.follow is None]
        if follow:
            self._on_follow(follow)
        if stay:
            self._on_stay(stay)

    def _count(self, done: list[Held]) -> None:
        ends = [held.end.end for held in done if held.end is not None]
        failed, retried = ends.count("KO"), ends.count(RETRY)
        crashed = sum(held.follow is not None and held.follow.code == TaskCrashed.code for held in done)
        self._slot.count(done=len(done) - failed - retried, failed=failed, retried=retried, crashed=crashed)
