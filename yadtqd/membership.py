"""The membership of a host: its place in the consumer group that shares the partitions out, and all its commits.

A process of its own, with a place in the group (yadtqd.group_member) whose partitions are all paused: it reads no
record. Owns the partition table's `owned` and `committed` cells, the lease and every commit of the host's workers,
which it makes as the group's live member, so that Kafka refuses those of a host that lost its place (PROTOCOL.md rule
2).

A revoked partition is handed over once its worker is reaped and its last position committed: until then this member
says that it holds it, and the group gives it to nobody. It goes on polling meanwhile: nobody else in the group waits
for the tasks of this host. With `assignment = "static"` see yadtqd.static_membership.
"""
from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from yadtq.errors import TooFewPartitions, YADTQError
from yadtq.transport import open_admin
from yadtqd import kafka_identity
from yadtqd.assignment import Assignment
from yadtqd.group_member import CALL_S, GroupMember
from yadtqd.member_loop import MemberLoop
from yadtqd.shared import boottime_ns
from yadtqd.worker_state import WorkerState

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtqd.child import ChildContext
    from yadtqd.shared import Shared

log = logging.getLogger(__name__)

POLL_S = 0.1                # a look at events, watermarks and the lease at least so often
HAND_OVER_POLL_S = 0.01     # while a worker is awaited
RECOMMIT_S = 3600.0         # committed offsets expire (7 days) though nothing changes
END_OFFSETS_S = 5.0         # of partitions without a worker, for the lag that people see


class Membership(MemberLoop):
    """What a turn of the loop does."""

    def __init__(self, ctx: ChildContext) -> None:
        super().__init__(ctx)
        self._shared = ctx.shared
        self._table = ctx.shared.partitions
        self._assignment = Assignment(ctx.shared)
        settings = ctx.settings
        self._member = GroupMember(
            settings, settings.kafka_group, settings.kafka_task_topic, who="membership", reads=False)
        left_behind = [p for p in self._table.bound() if not self._table[p].owned]
        self._assignment.take(left_behind, lost=True)       # nobody knows whose they are by now: nothing is committed
        self._member.keep(left_behind)
        self._continues = False             # an earlier membership's lease was still certain when we joined
        self._commit_at = self._ends_at = 0.0
        self._recommit_at = time.monotonic() + RECOMMIT_S

    # ---- the loop ---------------------------------------------------------------------------------------------------
    def _turn(self) -> None:
        self._member.poll(HAND_OVER_POLL_S if self._assignment.leaving else POLL_S)
        self._note_events()
        self._renew_lease()
        self._gain()
        self._commit(time.monotonic())
        self._hand_over()
        self._look_at_ends(time.monotonic())
        if not self._assignment.leaving:
            self._member.mend_gaps()

    # ---- Kafka ------------------------------------------------------------------------------------------------------
    def _connect(self) -> None:
        ensure_topics(self._settings, self._shared)
        self._member.connect()

    # ---- joining and leaving ----------------------------------------------------------------------------------------
    def _note_events(self) -> None:
        while self._member.events:
            what, partitions = self._member.events.popleft()
            log.info("membership: partitions %s %s", partitions, what)
            if what == "assigned":
                self._assignment.give(partitions)
            else:
                self._assignment.take(partitions, lost=what == "lost")
                if what == "lost":
                    self._shared.lease_ns = min(self._shared.lease_ns, boottime_ns())

    def _renew_lease(self) -> None:
        until_ns = self._member.certain_until_ns()
        if until_ns is None:
            until_ns = self._member.certain_while_joining_ns()
            if until_ns is None:
                return
        elif self._member.stable_turns == 1:
            self._continues = self._shared.lease_left_s() > 0
            self._slot.state = WorkerState.RUNNING
        if until_ns > self._shared.lease_ns:
            self._shared.lease_ns = until_ns
            self._slot.waiting_for = 0

    def _gain(self) -> None:
        """Find out where the partitions that we were given begin; then they are ours."""
        coming = self._assignment.to_look_up()
        if coming:
            self._look_at_cluster()
            topic = {p: self._member.tp(p) for p in coming}
            ask, consumer = self._member.ask, self._member.consumer
            begins = ask(consumer.beginning_offsets, list(topic.values()), timeout_ms=CALL_S * 1000)
            committed = {p: ask(consumer.committed, tp, timeout_ms=CALL_S * 1000) for p, tp in topic.items()}
            self._assignment.begin({p: max(committed[p] or 0, begins.get(tp, 0)) for p, tp in topic.items()},
                                   continues=self._continues)
        if self._member.stable_turns > 2:          # in the first, the listener may not have been called yet
            self._assignment.joined()
            partitions = self._member.consumer.partitions_for_topic(self._settings.kafka_task_topic)
            self._shared.topic_partitions = len(partitions or ())

    def _look_at_cluster(self) -> None:
        """Another cluster may stand at this address by now: it lacks our topics, and its epochs are others."""
        known, cluster = self._shared.kafka, self._member.consumer._cluster.cluster_id
        if known and cluster and not known.startswith(f"{cluster}/"):
            log.warning("membership: Kafka is another cluster than before, %s", cluster)
            ensure_topics(self._settings, self._shared)

    def _hand_over(self) -> None:
        for partition, position in self._assignment.reaped().items():
            if position and not self._commit_now({partition: position}) and self._shared.lease_left_s() > 0:
                continue                    # once more: the next owner would only look at it all again
            log.info("membership: partition %d is handed over at %d", partition, self._table[partition].committed)
            self._assignment.left(partition)
            self._member.release([partition])

    # ---- committing -------------------------------------------------------------------------------------------------
    def _commit(self, now: float) -> None:
        if now < self._commit_at:
            return
        self._commit_at = now + self._settings.auto_commit_interval_ms / 1000
        everything = now >= self._recommit_at
        positions = self._assignment.to_commit(all_of_them=everything)
        if positions and self._commit_now(positions) and everything:
            self._recommit_at = now + RECOMMIT_S

    def _commit_now(self, positions: dict[int, int]) -> bool:
        """False when it was not possible now: nothing is lost, it comes again."""
        if not self._member.commit(positions):
            return False
        self._assignment.committed(positions)
        return True

    def _look_at_ends(self, now: float) -> None:
        """The ends of logs that no worker reads, so that their lag is seen."""
        if now < self._ends_at:
            return
        self._ends_at = now + END_OFFSETS_S
        idle = [p for p in self._assignment.held if not self._table[p].worker]
        if idle:
            ends = self._member.ask(self._member.consumer.end_offsets, [self._member.tp(p) for p in idle],
                                    timeout_ms=CALL_S * 1000)
            for tp, end in ends.items():
                self._table[tp.partition].end_offset = end

    def _say_goodbye(self) -> None:
        """Commit what is left. The group keeps our place for a session: a restarted daemon finds it again."""
        if self._member.consumer is None:
            return
        try:
            positions = self._assignment.to_commit()
            if positions:
                self._commit_now(positions)
            self._hand_over()
        except YADTQError as error:
            log.warning("membership: the last commit failed: %s", error)


def ensure_topics(settings: Settings, shared: Shared) -> int:
    """Create the topics where missing, and learn which Kafka this is, before any partition is ours.

    A task topic with fewer partitions than configured is used as it is.
    """
    admin = open_admin(settings)
    try:
        try:
            count = admin.ensure_topics()
        except TooFewPartitions as error:
            log.warning("%s", error)
            count = admin.partition_count(settings.kafka_task_topic)
        kafka_identity.learn(admin, shared)
        return count
    finally:
        admin.close()


def run(ctx: ChildContext) -> int:
    """Membership's life; the exit status."""
    if ctx.settings.assignment == "static":
        from yadtqd.static_membership import StaticMembership

        return StaticMembership(ctx).run()
    return Membership(ctx).run()
