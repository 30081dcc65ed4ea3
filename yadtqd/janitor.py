"""The janitor of a host: deletes what nobody needs any more, in small portions, all the time.

A process of its own. For the partitions that this host owns it deletes records below the committed offset from Kafka
(task topics never delete by age, and the bound keeps a rewound offset from running old tasks again), where it owns
partition 0 also what the schedulers have committed. In the shards that fall to this host (`shards_of`) it lets ended
records of all partitions expire in Redis (PROTOCOL.md rule 7): if each host looked for its own in all shards, the
records that Redis has to look at would be tasks times hosts. It completes a `clear_all_tasks` whose caller died, and
asks Kafka where logs end that seem to stand still, by which a deaf consumer is found. It decides nothing about tasks,
and nothing waits for it: when Kafka or Redis is away it tries again later.
"""
from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from yadtq.errors import YADTQError
from yadtq.names import SHARDS, scheduler_group
from yadtqd.beater import Beater, patience_s
from yadtqd.exits import Exit
from yadtqd.worker_state import WorkerState

if TYPE_CHECKING:
    from yadtq.result_backend import ResultBackend
    from yadtq.transport import Admin
    from yadtqd.child import ChildContext

log = logging.getLogger(__name__)

TICK_S = 0.5
SPARE_RECORDS = 10_000          # that many below the committed offset are deleted at once ...
SPARE_S = 60.0                  # ... or fewer, when so much time has passed
EXPIRE_BATCH = 2000             # records that one call looks at
EXPIRE_IDLE_S = 5.0             # between calls when nothing expires
EXPIRE_TURN_S = 0.25            # of each turn at most, when much does: half of this process' time, and some of Redis's
COMMITS_S = 5.0                 # how often Kafka is asked what all hosts have committed
DROP_BATCH = 1000
CLEAR_LOOK_S = 5.0
ENDS_S = 5.0                    # how often Kafka is asked where the logs end
CLEAR_GRACE_S = 30.0            # a clear that takes longer has lost its caller
RETRY_S = 5.0


def shards_of(owned: Collection[int], partitions: int) -> list[int]:
    """In which shards of Redis the owner of these partitions, of so many in all, lets records expire.

    Each shard falls to one partition, and so to one host, whoever owns it.
    """
    return [shard for shard in range(SHARDS) if partitions and shard % partitions in owned]


class Janitor:
    """The loop; each chore has its own time."""

    def __init__(self, ctx: ChildContext) -> None:
        self._ctx, self._settings, self._table = ctx, ctx.settings, ctx.shared.partitions
        self._stopping = threading.Event()
        self._admin: Admin | None = None
        self._backend: ResultBackend | None = None
        self._deleted: dict[int, tuple[int, float]] = {}        # per partition: up to where, when (monotonic s)
        self._fired_at = self._expire_at = self._clear_at = self._ends_at = self._commits_at = 0.0
        self._committed: dict[int, int] = {}                    # what all hosts have committed, when last asked
        self._ends: dict[int, int] = {}                         # the ends of logs that the workers saw at the last look
        self._fired: dict[int, int] = {}                        # per level of the delayed topic: deleted up to here
        self._clear_seen: tuple[bytes, float] | None = None     # a pending clear, and since when

    def run(self) -> int:
        """Until SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        beater = Beater(self._ctx.slot, patience_s(self._settings))
        beater.start()
        self._ctx.slot.state = WorkerState.RUNNING
        wait_s = TICK_S
        while not self._stopping.wait(wait_s):
            beater.came_round()
            wait_s = TICK_S if self._turn(time.monotonic()) else RETRY_S
        return Exit.OK

    def _turn(self, now: float) -> bool:
        """Each chore for itself: a Kafka that refuses to delete must not let Redis fill up. False if one failed."""
        committed = {p: self._table[p].committed for p in self._table.owned() if self._table[p].committed}
        done = self._try(lambda: self._delete_records(committed, now))
        if now >= self._fired_at and 0 in self._table.owned():      # one host is enough, and somebody owns that one
            self._fired_at = now + SPARE_S
            done = self._try(self._delete_fired) and done
        if now >= self._ends_at:
            self._ends_at = now + min(ENDS_S, self._settings.progress_timeout_s / 6)
            done = self._try(self._look_at_ends) and done
        if now >= self._expire_at:
            shards = self._shards()
            if shards and now >= self._commits_at and self._settings.assignment == "group":
                self._commits_at = now + COMMITS_S
                done = self._try(self._look_at_commits) and done
            done = self._try(lambda: self._expire(shards, self._committed | committed, now)) and done
        if now >= self._clear_at:
            self._clear_at = now + CLEAR_LOOK_S
            done = self._try(lambda: self._complete_clear(now)) and done
        return done

    @staticmethod
    def _try(chore: Callable[[], None]) -> bool:
        try:
            chore()
        except YADTQError as error:
            log.warning("janitor: %s", error)
            return False
        return True

    # ---- Kafka ------------------------------------------------------------------------------------------------------
    def _delete_records(self, committed: dict[int, int], now: float) -> None:
        due: dict[int, int] = {}
        for partition, position in committed.items():
            done, at = self._deleted.setdefault(partition, (0, now - SPARE_S))
            if position - done >= SPARE_RECORDS or (position > done and now - at >= SPARE_S):
                due[partition] = position
        if not due:
            return
        begins = self._kafka().delete_records(self._settings.kafka_task_topic, due)
        for partition, position in due.items():
            self._deleted[partition] = max(position, begins.get(partition, 0)), now

    def _delete_fired(self) -> None:
        """What the schedulers have published and committed, from the delayed topic."""
        topic = self._settings.kafka_delayed_topic
        committed = self._kafka().committed(scheduler_group(self._settings.kafka_group), topic)
        due = {level: at for level, at in committed.items() if at > self._fired.get(level, 0)}
        if due:
            self._kafka().delete_records(topic, due)
            self._fired |= due

    def _look_at_ends(self) -> None:
        """Where our logs end: what a worker's own consumer says of that is worth nothing when it has gone deaf.

        One that says something new has not.
        """
        seen = {partition: self._table[partition].end_offset for partition in self._table.owned()}
        still = [partition for partition, end in seen.items() if self._ends.get(partition, end) == end]
        self._ends = seen
        ends = self._kafka().end_offsets(self._settings.kafka_task_topic, still) if still else {}
        for partition in seen:
            self._table[partition].asked_end = ends.get(partition, 0)

    def _look_at_commits(self) -> None:
        self._committed = self._kafka().committed(self._settings.kafka_group, self._settings.kafka_task_topic)

    def _kafka(self) -> Admin:
        if self._admin is None:
            from yadtq.transport import open_admin

            self._admin = open_admin(self._settings)
        return self._admin

    # ---- Redis ------------------------------------------------------------------------------------------------------
    def _redis(self) -> ResultBackend:
        if self._backend is None:
            from yadtq.result_backend import ResultBackend

            self._backend = ResultBackend(self._settings)
        return self._backend

    def _shards(self) -> list[int]:
        """Where this host lets records expire. Without a group others may be away for days: each for its own then."""
        if self._settings.assignment == "static":
            return list(range(SHARDS))
        return shards_of(self._table.owned(), self._ctx.shared.topic_partitions)

    def _expire(self, shards: list[int], committed: dict[int, int], now: float) -> None:
        until, dropped = time.monotonic() + EXPIRE_TURN_S, bool(shards and committed)
        while dropped and time.monotonic() < until:
            now_ms = time.time_ns() // 1_000_000
            dropped = self._redis().expire(now_ms, self._settings.result_ttl_s, committed, EXPIRE_BATCH, shards) > 0
        self._expire_at = now if dropped else now + EXPIRE_IDLE_S

    def _complete_clear(self, now: float) -> None:
        """Finish what the caller of clear_all_tasks began, once it has surely given up."""
        pending = self._redis().pending_clear()
        if pending is None:
            self._clear_seen = None
            return
        if self._clear_seen is None or self._clear_seen[0] != pending.raw:
            self._clear_seen = pending.raw, now
        if now - self._clear_seen[1] < CLEAR_GRACE_S:
            return
        log.warning("a clear_all_tasks was broken off: completing it")
        self._kafka().delete_records(self._settings.kafka_task_topic, pending.offsets)
        self._kafka().delete_records(self._settings.kafka_delayed_topic, pending.delayed)
        while self._redis().drop_cleared(DROP_BATCH):
            self._ctx.slot.beat(time.monotonic_ns())
        self._redis().clear_done(pending)


def run(ctx: ChildContext) -> int:
    """The janitor's life; the exit status."""
    return Janitor(ctx).run()
