"""The scheduler of a host: publishes delayed and retried tasks when they are due (the timing wheel, PROTOCOL rule 10).

A process of its own, one thread. Every host runs one; they share the levels of the delayed topic out by a consumer
group of their own, whose live member each is (yadtqd.group_member): what it reads it also commits. The order for each
record: look at the lease, produce, wait until Kafka has it, commit. A death in between publishes it twice, which the
claim of a worker tells apart; nothing is ever lost, and nothing is fired early. What is due when is decided by
yadtqd.wheel, sending is yadtqd.scheduler_outbox's. It never talks to Redis and never looks into a task.
"""
from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from yadtq.errors import TooFewPartitions, YADTQError
from yadtq.names import scheduler_group
from yadtq.transport import ensure_topics
from yadtqd.group_member import GroupMember
from yadtqd.member_loop import RETRY_S, MemberLoop
from yadtqd.scheduler_outbox import Outbox, why_refused
from yadtqd.shared import boottime_ns
from yadtqd.slot import WAITS_FOR_KAFKA, WAITS_FOR_UPGRADE
from yadtqd.wheel import Refuse, Wheel
from yadtqd.worker_state import WorkerState

if TYPE_CHECKING:
    from yadtqd.child import ChildContext

log = logging.getLogger(__name__)

POLL_S = 0.5                # when nothing is due earlier
UNSETTLED_POLL_S = 0.1      # while there is no certain place in the group, or after an error
ACK_POLL_S = 0.005          # while Kafka has yet to acknowledge
SILENT_S = 0.25             # Kafka has acknowledged nothing for so long: it is not looked at so often, since each look
                            # costs the library (3.0.12) some 10 KB until the fetch that is under way is answered
SHORTEST_POLL_S = 0.002
HAND_OVER_S = 2.0           # for what is under way of a level that goes to another host
GOODBYE_S = 0.5
FETCH_WAIT_MS = 250         # how long a broker holds a fetch with nothing to read, and so how late a level goes on
FETCH_BYTES = 262_144       # per level and fetch, parsed at one go: some milliseconds
ALL_AT_ONCE = 1_000_000     # never leave a rest of a fetch in the library: it forgets it when its level is paused


class Scheduler(MemberLoop):
    """What a turn of the loop does."""

    def __init__(self, ctx: ChildContext) -> None:
        super().__init__(ctx)
        self._member = GroupMember(
            ctx.settings, scheduler_group(ctx.settings.kafka_group), ctx.settings.kafka_delayed_topic, who="scheduler",
            reads=True, fetch_max_wait_ms=FETCH_WAIT_MS,
            max_partition_fetch_bytes=FETCH_BYTES, fetch_max_bytes=4 * FETCH_BYTES, metrics_enabled=False)
        self._wheel = Wheel()
        self._outbox = Outbox(ctx.settings, f"{ctx.settings.host_name}/{ctx.name}")
        self._committed: dict[int, int] = {}
        self._paused: set[int] = set()
        self._lease_ns = 0                  # CLOCK_BOOTTIME until which our place in the group is certain
        self._not_before = 0.0              # monotonic s: after an error of Kafka's
        self._commit_at = 0.0
        self._answered_at = 0.0             # monotonic s: Kafka acknowledged or refused something, or owed nothing
        self._newer = ""

    # ---- the loop ---------------------------------------------------------------------------------------------------
    def _connect(self) -> None:
        try:
            ensure_topics(self._settings)
        except TooFewPartitions as error:       # of the task topic: membership says so
            log.debug("%s", error)
        self._member.connect()

    def _turn(self) -> None:
        records = self._member.poll(self._patience_s(), ALL_AT_ONCE)
        self._renew_lease()
        self._note_events()
        self._member.mend_gaps()
        self._take(records)
        self._settle()
        self._publish()
        self._commit(time.monotonic())
        self._regulate()
        self._tell()

    def _patience_s(self) -> float:
        """How long to wait for records: until something is due."""
        if not self._may_publish() or time.monotonic() - self._answered_at > SILENT_S:
            return UNSETTLED_POLL_S
        now_ms = _now_ms()
        wait_s = (self._wheel.next_ms(now_ms + int(POLL_S * 1000)) - now_ms) / 1000
        if self._outbox.in_flight:
            wait_s = min(wait_s, ACK_POLL_S)
        return max(wait_s, SHORTEST_POLL_S)

    def _may_publish(self) -> bool:
        return self._lease_left_s() > 0 and time.monotonic() >= self._not_before

    def _lease_left_s(self) -> float:
        return (self._lease_ns - boottime_ns()) / 1e9

    # ---- the group --------------------------------------------------------------------------------------------------
    def _renew_lease(self) -> None:
        until_ns = self._member.certain_until_ns()
        if until_ns is None:
            until_ns = self._member.certain_while_joining_ns()
        elif self._member.stable_turns == 1:
            self._slot.state = WorkerState.RUNNING
        if until_ns is not None:
            self._lease_ns = max(self._lease_ns, until_ns)
        if self._lease_left_s() <= 0 and self._outbox.in_flight:
            self._outbox.give_up()

    def _note_events(self) -> None:
        while self._member.events:
            what, levels = self._member.events.popleft()
            log.info("scheduler: levels %s %s", levels, what)
            if what == "assigned":
                for level in levels:
                    self._wheel.gain(level)
                continue
            if what == "revoked":
                self._let_go(levels)
                self._member.release(levels)
            else:
                self._lease_ns = 0
                self._outbox.give_up()
            for level in levels:
                self._wheel.lose(level)
                self._committed.pop(level, None)
                self._paused.discard(level)

    def _let_go(self, levels: list[int]) -> None:
        """Before another host has them: what is under way ends, and is committed."""
        self._await_answers(HAND_OVER_S)
        positions = {level: at for level, at in self._wheel.positions().items() if level in levels}
        if positions and self._lease_left_s() > 0:
            self._member.commit(positions)

    def _await_answers(self, limit_s: float) -> None:
        end = time.monotonic() + limit_s
        self._settle()
        while self._outbox.in_flight and time.monotonic() < end and self._lease_left_s() > 0:
            time.sleep(SHORTEST_POLL_S)
            self._settle()

    # ---- reading ----------------------------------------------------------------------------------------------------
    def _take(self, records: Any) -> None:
        now_ms = _now_ms()
        for tp, batch in records.items():
            for record in batch:
                self._wheel.take(tp.partition, record.offset, record.key, record.value or b"", record.timestamp, now_ms)

    def _regulate(self) -> None:
        """Read nothing more of a level of which enough is in hand, or whose head only a newer YADTQ can read."""
        for number, level in self._wheel.levels.items():
            wanted = level.wants_more() and not level.newer
            if wanted == (number in self._paused):
                tp = self._member.tp(number)
                if wanted:
                    self._member.ask(self._member.consumer.resume, tp)
                    self._paused.discard(number)
                else:
                    self._member.ask(self._member.consumer.pause, tp)
                    self._paused.add(number)

    # ---- publishing -------------------------------------------------------------------------------------------------
    def _publish(self) -> None:
        while self._may_publish() and (room := self._outbox.room) > 0:
            moves = self._wheel.turn(_now_ms(), room)
            if not moves:
                return
            for move in moves:
                if isinstance(move, Refuse):
                    log.error("scheduler: %s", why_refused(move.entry))
            self._outbox.publish(moves)

    def _settle(self) -> None:
        published = 0
        if not self._outbox.in_flight or self._outbox.has_answers:
            self._answered_at = time.monotonic()
        for move, error in self._outbox.answers():
            if error is None:
                published += 1
                self._wheel.done(move.entry)
                continue
            if time.monotonic() >= self._not_before:
                log.warning("scheduler: could not publish, it is tried again: %s", error.message)
            self._not_before = time.monotonic() + RETRY_S
            self._outbox.judge(move, error)
            self._wheel.again(move.entry)
        if published:
            self._slot.count(done=published)        # hops too: they are progress

    def _commit(self, now: float) -> None:
        if now < self._commit_at or self._lease_left_s() <= 0:
            return
        positions = {level: at for level, at in self._wheel.positions().items() if self._committed.get(level) != at}
        if positions:
            self._commit_at = now + self._settings.auto_commit_interval_ms / 1000
            if self._member.commit(positions):
                self._committed |= positions

    # ---- telling ----------------------------------------------------------------------------------------------------
    def _tell(self) -> None:
        waits = 0 if self._lease_left_s() > 0 else WAITS_FOR_KAFKA
        newer = "; ".join(level.newer for level in self._wheel.levels.values() if level.newer)
        if newer:
            waits |= WAITS_FOR_UPGRADE
            if newer != self._newer:
                log.critical("delayed topic, %s; nothing more is read from there", newer)
        self._newer = newer
        self._slot.waiting_for = waits
        self._slot.lag = self._wheel.late(_now_ms()) + self._outbox.in_flight

    def _say_goodbye(self) -> None:
        if self._member.consumer is None:
            return
        try:
            self._await_answers(GOODBYE_S)
            self._commit_at = 0.0
            self._commit(time.monotonic())
        except YADTQError as error:
            log.warning("scheduler: the last commit failed: %s", error)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def run(ctx: ChildContext) -> int:
    """The scheduler's life; the exit status."""
    return Scheduler(ctx).run()
