"""The membership of a host: its place in the consumer group that shares the partitions out, and all its commits.

A process of its own, with one kafka-python consumer whose partitions are all paused: it reads no record. Owns the
partition table's `owned` and `committed` cells, the lease and every commit of the host's workers, which it makes as the
group's live member, so that Kafka refuses those of a host that lost its place (PROTOCOL.md rule 2).

A revoked partition is handed over by *not polling* until its worker is reaped and its last position committed: the
rebalance listener only notes what happened, heartbeats go on in the library's thread, and the group gives the partition
to another only when the next poll says that we are ready. With `assignment = "static"` see yadtqd.static_membership.
"""
from __future__ import annotations

import logging
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from yadtq.errors import KafkaConnectionError, TooFewPartitions, YADTQError
from yadtq.transport import open_admin
from yadtq.transport.connection import connect_kafka_python, from_kafka_python, import_kafka
from yadtqd import kafka_identity
from yadtqd.assignment import Assignment
from yadtqd.beater import Beater, patience_s
from yadtqd.exits import Exit
from yadtqd.shared import boottime_ns, lease_margin_s
from yadtqd.worker_state import WorkerState

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtqd.child import ChildContext
    from yadtqd.shared import Shared

log = logging.getLogger(__name__)

POLL_S = 0.1                # a look at events, watermarks and the lease at least so often
HAND_OVER_POLL_S = 0.01     # while a worker is awaited
CALL_S = 0.7                # of one question to Kafka: the beat comes at least each second
RETRY_S = 0.3
RECOMMIT_S = 3600.0         # committed offsets expire (7 days) though nothing changes
END_OFFSETS_S = 5.0         # of partitions without a worker, for the lag that people see
SILENT_TURNS = 10           # of POLL_S
NEW_PARTITIONS_MS = 30_000  # a topic that was grown is seen after this


class Membership:
    """The loop."""

    def __init__(self, ctx: ChildContext) -> None:
        self._ctx, self._settings, self._shared = ctx, ctx.settings, ctx.shared
        self._table = ctx.shared.partitions
        self._assignment = Assignment(ctx.shared)
        self._events: deque[tuple[str, list[int]]] = deque()    # from the listener, in the library's thread
        self._stopping = False
        self._stable_turns = self._silent_turns = 0
        self._polls = (0, 0)                # CLOCK_BOOTTIME ns at which the last two polls began
        self._join_seen = (0.0, 0)          # which join of the library's we have seen, and when that can have begun
        self._continues = False             # an earlier membership's lease was still certain when we joined
        self._commit_at = self._ends_at = 0.0
        self._recommit_at = time.monotonic() + RECOMMIT_S
        self._consumer: Any = None

    # ---- the loop ---------------------------------------------------------------------------------------------------
    def run(self) -> int:
        """Until SIGTERM; then the last positions are committed and the place in the group is kept (static member)."""
        signal.signal(signal.SIGTERM, self._stop)
        self._ctx.slot.state = WorkerState.STARTING
        beater = Beater(self._ctx.slot, patience_s(self._settings))
        beater.start()
        while not self._stopping:
            beater.came_round()
            try:
                if self._consumer is None:
                    self._connect()
                self._turn()
            except FatalMembership as error:
                log.critical("%s", error)
                return Exit.STOP_FATAL_CONFIG
            except KafkaConnectionError as error:
                self._ctx.slot.waiting_for = 1
                log.warning("membership: %s", error)
                time.sleep(RETRY_S)
        self._say_goodbye()
        return Exit.OK

    def _turn(self) -> None:
        if not self._assignment.leaving:
            self._poll()
        self._note_events()
        self._renew_lease()
        self._gain()
        self._commit(time.monotonic())
        self._hand_over()
        self._look_at_ends(time.monotonic())
        if self._assignment.leaving:
            time.sleep(HAND_OVER_POLL_S)

    def _stop(self, *_: object) -> None:
        self._stopping = True

    # ---- Kafka ------------------------------------------------------------------------------------------------------
    def _connect(self) -> None:
        ensure_topics(self._settings, self._shared)
        kafka = import_kafka()
        from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

        settings = self._settings
        session_ms = settings.kafka_session_timeout_ms
        hand_over_ms = int((settings.drain_timeout_s + 2 * session_ms / 1000 + 60) * 1000)
        self._consumer = connect_kafka_python(
            kafka.KafkaConsumer, settings, group_id=settings.kafka_group, group_instance_id=settings.host_name,
            partition_assignment_strategy=[CooperativeStickyAssignor], enable_auto_commit=False,
            auto_offset_reset="earliest", session_timeout_ms=session_ms,
            heartbeat_interval_ms=max(session_ms // 5, 100), max_poll_interval_ms=hand_over_ms,
            metadata_max_age_ms=NEW_PARTITIONS_MS)
        self._consumer.partitions_for_topic(settings.kafka_task_topic)  # else it joins, gets nothing, and joins again
        self._consumer.subscribe([settings.kafka_task_topic], listener=_listener(self._consumer, self._events))

    def _poll(self) -> None:
        """One pass of the library.

        Its public poll makes several, and one that revokes is followed by one that joins again, which tells the group
        that we have let go.
        """
        from kafka import util

        self._polls = (self._polls[1], boottime_ns())
        coordinator = self._consumer._coordinator
        if not coordinator.stable() and not coordinator.need_rejoin():
            # A poll that timed out just when the answer to a rejoin came has the library (3.0.12) forget that it was
            # about to join, when new partitions and nothing else were the reason: it would be silent for ever.
            coordinator.request_rejoin()
        timer: Any = util.Timer      # untyped
        self._call(self._consumer._poll_once, timer(POLL_S * 1000), 1)

    def _call(self, ask: Any, *arguments: Any, **named: Any) -> Any:
        """Ask Kafka; its errors become ours. FatalMembership when another process has taken our name."""
        from kafka import errors

        try:
            return ask(*arguments, **named)
        except errors.FencedInstanceIdError:
            raise self._fenced() from None
        except errors.KafkaError as error:
            raise from_kafka_python(error) from error

    def _fenced(self) -> FatalMembership:
        return FatalMembership(f"another yadtqd is in the group {self._settings.kafka_group} as "
                               f"{self._settings.host_name!r}: give each host its own host_name")

    # ---- joining and leaving ----------------------------------------------------------------------------------------
    def _note_events(self) -> None:
        while self._events:
            what, partitions = self._events.popleft()
            log.info("membership: partitions %s %s", partitions, what)
            if what == "assigned":
                self._assignment.give(partitions)
            else:
                self._assignment.take(partitions, lost=what == "lost")
                if what == "lost":
                    self._shared.lease_ns = 0

    def _renew_lease(self) -> None:
        """The lease counts from the sending of the last heartbeat that was answered, or from before the join."""
        coordinator = self._consumer._coordinator      # the library tells this nowhere else
        beat = coordinator.heartbeat
        if not coordinator.stable():
            return
        # A heartbeat that was fenced only makes the library fall silent, which else lasts no longer than a rejoin.
        self._silent_turns = 0 if coordinator._heartbeat_enabled else self._silent_turns + 1
        if self._silent_turns >= SILENT_TURNS:
            raise self._fenced()
        self._stable_turns += 1
        if self._stable_turns == 1:
            self._continues = self._shared.lease_left_s() > 0
            self._ctx.slot.state = WorkerState.RUNNING
        if beat.last_reset != self._join_seen[0]:
            # The group's clock started when the broker answered: not before the poll before the last began.
            self._join_seen = beat.last_reset, self._polls[0] or self._polls[1]
        since_ns = self._join_seen[1]
        sent, received = beat.last_send, beat.last_receive
        if received >= sent > 0:
            since_ns = max(since_ns, boottime_ns() - int((time.monotonic() - sent) * 1e9))
        length_ns = int(self._settings.kafka_session_timeout_ms * 1e6 - lease_margin_s(self._settings) * 1e9)
        if since_ns + length_ns > self._shared.lease_ns:
            self._shared.lease_ns = since_ns + length_ns
            self._ctx.slot.waiting_for = 0

    def _gain(self) -> None:
        """Find out where the partitions that we were given begin; then they are ours."""
        coming = self._assignment.to_look_up()
        if coming:
            self._look_at_cluster()
            topic = {p: self._tp(p) for p in coming}
            begins = self._call(self._consumer.beginning_offsets, list(topic.values()), timeout_ms=CALL_S * 1000)
            committed = {p: self._call(self._consumer.committed, tp, timeout_ms=CALL_S * 1000)
                         for p, tp in topic.items()}
            self._assignment.begin({p: max(committed[p] or 0, begins.get(tp, 0)) for p, tp in topic.items()},
                                   continues=self._continues)
        if self._stable_turns > 2:          # in the first, the listener may not have been called yet
            self._assignment.joined()
            partitions = self._consumer.partitions_for_topic(self._settings.kafka_task_topic)
            self._shared.topic_partitions = len(partitions or ())

    def _look_at_cluster(self) -> None:
        """Another cluster may stand at this address by now: it lacks our topics, and its epochs are others."""
        known, cluster = self._shared.kafka, self._consumer._cluster.cluster_id
        if known and cluster and not known.startswith(f"{cluster}/"):
            log.warning("membership: Kafka is another cluster than before, %s", cluster)
            ensure_topics(self._settings, self._shared)

    def _hand_over(self) -> None:
        for partition, position in self._assignment.reaped().items():
            if position and not self._commit_now({partition: position}) and self._shared.lease_left_s() > 0:
                continue                    # once more: the next owner would only look at it all again
            log.info("membership: partition %d is handed over at %d", partition, self._table[partition].committed)
            self._assignment.left(partition)

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
        """Commit as the group's live member; False when it was not possible now: nothing is lost, it comes again."""
        import_kafka()
        from kafka import errors
        from kafka.structs import OffsetAndMetadata

        offsets = {self._tp(p): OffsetAndMetadata(at, "", -1) for p, at in positions.items()}
        try:
            self._call(self._consumer.commit, offsets, timeout_ms=CALL_S * 1000)
        except YADTQError as error:
            refused = isinstance(error.__cause__, errors.CommitFailedError | errors.RebalanceInProgressError)
            log.log(logging.INFO if refused else logging.WARNING, "membership: commit of %s: %s", positions, error)
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
            ends = self._call(self._consumer.end_offsets, [self._tp(p) for p in idle], timeout_ms=CALL_S * 1000)
            for tp, end in ends.items():
                self._table[tp.partition].end_offset = end

    def _say_goodbye(self) -> None:
        """Commit what is left. The group keeps our place for a session: a restarted daemon finds it again."""
        if self._consumer is None:
            return
        try:
            positions = self._assignment.to_commit()
            if positions:
                self._commit_now(positions)
            self._hand_over()
        except YADTQError as error:
            log.warning("membership: the last commit failed: %s", error)

    def _tp(self, partition: int) -> Any:
        from kafka.structs import TopicPartition

        return TopicPartition(self._settings.kafka_task_topic, partition)


class FatalMembership(Exception):
    """Trying again is useless: somebody has to change the configuration."""


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


def _listener(consumer: Any, events: deque[tuple[str, list[int]]]) -> Any:
    """The rebalance listener: notes what happened, and keeps every partition paused. Runs in the library's thread."""
    from kafka import ConsumerRebalanceListener

    class Listener(ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned: Any) -> None:
            consumer.pause(*assigned)
            events.append(("assigned", sorted(tp.partition for tp in assigned)))

        def on_partitions_revoked(self, revoked: Any) -> None:
            events.append(("revoked", sorted(tp.partition for tp in revoked)))

        def on_partitions_lost(self, lost: Any) -> None:
            events.append(("lost", sorted(tp.partition for tp in lost)))

    return Listener()


def run(ctx: ChildContext) -> int:
    """Membership's life; the exit status."""
    if ctx.settings.assignment == "static":
        from yadtqd.static_membership import StaticMembership

        return StaticMembership(ctx).run()
    return Membership(ctx).run()
