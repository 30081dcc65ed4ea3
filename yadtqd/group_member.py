"""A live member of a Kafka consumer group: its place, how long that is certain (the lease), and commits that count.

Owns one kafka-python consumer with static membership (the host's name) and the cooperative-sticky assignor. Used by
one thread of membership (task topic, reads nothing) and of the scheduler (delayed topic, reads it). What is committed
here is committed as the group's live member, so that Kafka refuses it from a host that lost its place (PROTOCOL.md
rule 2). The rebalance listener, called within `poll`, only notes what happened. A revoked partition is held, and said
to be held, until whoever uses this has let it go (`release`), which may take its time: meanwhile the group may be
arranged anew as often as it likes, with this member in it, and nobody else gets that partition.
"""
from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, Any

from yadtq.errors import YADTQError
from yadtq.transport.connection import connect_kafka_python, from_kafka_python, import_kafka
from yadtqd.group_gaps import GapWatch, gaps
from yadtqd.holding import Holding, listener
from yadtqd.shared import boottime_ns, lease_end_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from yadtq.config import Settings

log = logging.getLogger(__name__)

CALL_S = 0.7                # of one question to Kafka: the beat comes at least each second
SILENT_S = 1.0              # the library no longer sends heartbeats, though its place seems stable, for so long ...
SILENT_LOOKS = 3            # ... and at so many looks: a process that was frozen has seen nothing meanwhile
HASTY_POLLS = 3             # that may come back early, one after the other: there are good reasons for one or two
FIRST_REST_S = 0.005        # after one more, and so much longer after each that follows
LONGEST_TURN_S = 60.0       # between two polls, before the group goes on without us; and how long it waits for a member
NEW_PARTITIONS_MS = 30_000  # a topic that was grown is seen after this
_NO_ERROR, _REBALANCE_IN_PROGRESS = 0, 27   # error codes of Kafka's protocol


class FatalMembership(Exception):
    """Trying again is useless: somebody has to change the configuration."""


class GroupMember:
    """`connect`, then `poll` in a loop; `events` has what the group said, ("assigned" | "revoked" | "lost", numbers).

    `reads=False`: every partition stays paused. `longest_turn_s`: the longest time between two polls, after which
    the group throws a member out. `options` go to kafka-python's consumer. `who` is the name in log lines.
    """

    def __init__(self, settings: Settings, group: str, topic: str, *, who: str, reads: bool,
                 longest_turn_s: float = LONGEST_TURN_S, **options: Any) -> None:
        self._settings, self._group, self._topic, self.who = settings, group, topic, who
        self._reads, self._longest_turn_s, self._options = reads, longest_turn_s, options
        self._holding = Holding()
        self.events = self._holding.events
        self.stable_turns = 0               # how often the lease was looked at with the place in the group stable
        self.consumer: Any = None
        self._polls = (0, 0)                # CLOCK_BOOTTIME ns at which the last two polls began
        self._join_seen = (0.0, 0)          # which join of the library's we have seen, and when that can have begun
        self._joining_since = 0.0           # monotonic s: the group is being arranged anew since then, 0 when it is not
        self._beside_at = 0.0               # when to ask beside the library again whether our place is certain
        self._heartbeat_ms = max(settings.kafka_session_timeout_ms // 7, 100)
        self._silent_since = 0.0            # monotonic s: no heartbeats since then, 0 when there are
        self._silent_looks = 0
        self._assignor: Any = None
        self._gaps: GapWatch | None = None  # from the first look at a stable group
        self._hasty = 0                     # polls in a row that did not wait and found nothing

    # ---- Kafka ------------------------------------------------------------------------------------------------------
    def connect(self) -> None:
        """Join the group, as far as that goes at once. Raises KafkaConnectionError."""
        kafka = import_kafka()
        from yadtqd.group_assignor import GroupAssignor

        settings, assignor = self._settings, GroupAssignor(self._topic, self._holds)
        consumer = connect_kafka_python(
            kafka.KafkaConsumer, settings, group_id=self._group, group_instance_id=settings.host_name,
            partition_assignment_strategy=[assignor], enable_auto_commit=False,
            auto_offset_reset="earliest", session_timeout_ms=settings.kafka_session_timeout_ms,
            heartbeat_interval_ms=self._heartbeat_ms, max_poll_interval_ms=int(self._longest_turn_s * 1000),
            metadata_max_age_ms=NEW_PARTITIONS_MS, **self._options)
        self._assignor = assignor
        consumer.partitions_for_topic(self._topic)      # else it joins, gets nothing, and joins again
        consumer.subscribe([self._topic], listener=listener(consumer, self._holding, pause=not self._reads))
        self.consumer = consumer

    def poll(self, timeout_s: float, max_records: int = 1) -> Mapping[Any, list[Any]]:
        """One pass of the library; the records by (topic, partition).

        Its public poll makes several passes, and whoever uses this would hear of what happened in between too late.
        """
        from kafka import util

        self._polls = (self._polls[1], boottime_ns())
        coordinator = self.consumer._coordinator
        if coordinator.stable() and self._holding.to_tell:
            coordinator.request_rejoin()        # not earlier: a join under way would end with forgetting that
        elif not coordinator.stable() and not coordinator.need_rejoin():
            # A poll that timed out just when the answer to a rejoin came has the library (3.0.12) forget that it was
            # about to join, when new partitions and nothing else were the reason: it would be silent for ever.
            coordinator.request_rejoin()
        begun = time.monotonic()
        timer: Any = util.Timer      # untyped
        try:
            found: Mapping[Any, list[Any]] = self.ask(self.consumer._poll_once, timer(timeout_s * 1000), max_records)
        finally:
            if self._holding.take_revoked():
                # The library would join again at once, to pass on what was revoked: that has to wait. Should the
                # group be arranged anew for another reason, the answer to the next heartbeat says so again.
                coordinator.rejoin_needed = False
        self._rest(found, begun, timeout_s)
        return found

    def _holds(self) -> list[int]:
        """What we say that we hold, when the library joins (in its thread): nothing, if our place was lost.

        Of that its listener hears, but not while it is joining already, nor of what was revoked before.
        """
        if self.consumer is None:
            return []
        held = self._holding.tell()
        if held and self.stable_turns and self.consumer._coordinator._generation.is_lost():
            self._holding.note("lost", held)
            self.consumer._subscription.assign_from_subscribed([])
            return self._holding.tell()
        return held

    def keep(self, partitions: Iterable[int]) -> None:
        """Before `connect`: an earlier process of this host was letting these go, and is not done."""
        self._holding.keep(partitions)

    def release(self, partitions: Iterable[int]) -> None:
        """These revoked ones are let go: once it is all of them, `poll` tells the group, and others get them."""
        self._holding.release(partitions)

    def _rest(self, found: Mapping[Any, list[Any]], begun: float, timeout_s: float) -> None:
        """Wait a while after polls that came back with nothing and did not wait.

        The library (3.0.12) waits for nothing while a heartbeat is overdue. When Kafka is silent we would ask as fast
        as we can, and each time leave something in memory that waits for the answer to the fetch under way.
        """
        now = time.monotonic()
        left_s = begun + timeout_s - now
        if found or self.events or now - begun > timeout_s / 2:
            self._hasty = 0
            return
        self._hasty += 1
        if self._hasty > HASTY_POLLS and left_s > 0:
            time.sleep(min(left_s, FIRST_REST_S * (self._hasty - HASTY_POLLS)))

    def ask(self, question: Any, *arguments: Any, **named: Any) -> Any:
        """Ask Kafka; its errors become ours. FatalMembership when another process has taken our name."""
        from kafka import errors

        try:
            return question(*arguments, **named)
        except errors.FencedInstanceIdError:
            raise self._fenced() from None
        except errors.KafkaTimeoutError as error:
            # The library (3.0.12) asks a broker that says that it leads a partition no more again and again, until its
            # metadata is renewed by age: for half a minute nobody would work on what we were given.
            self.consumer._cluster.request_update()
            raise from_kafka_python(error) from error
        except errors.KafkaError as error:
            raise from_kafka_python(error) from error

    def _fenced(self) -> FatalMembership:
        return FatalMembership(f"another yadtqd is in the group {self._group} as {self._settings.host_name!r}: give "
                               "each host its own host_name")

    def tp(self, partition: int) -> Any:
        """The library's name of a partition of the topic."""
        from kafka.structs import TopicPartition

        return TopicPartition(self._topic, partition)

    # ---- the place --------------------------------------------------------------------------------------------------
    def certain_until_ns(self) -> int | None:
        """The lease: until when (CLOCK_BOOTTIME) this place is certain. None while the group is being arranged anew.

        It counts from the sending of the last heartbeat that was answered, or from before the join.
        """
        coordinator = self.consumer._coordinator       # the library tells this nowhere else
        now_s = time.monotonic()
        if not coordinator.stable():
            self._joining_since = self._joining_since or now_s
            return None
        self._joining_since = 0.0
        self._look_for_silence(now_s, silent=not coordinator._heartbeat_enabled)
        self.stable_turns += 1
        beat = coordinator.heartbeat
        if beat.last_reset != self._join_seen[0]:
            # The group's clock started when the broker answered: not before the poll before the last began.
            self._join_seen = beat.last_reset, self._polls[0] or self._polls[1]
        since_ns = self._join_seen[1]
        sent, received = beat.last_send, beat.last_receive
        if received >= sent > 0:
            since_ns = max(since_ns, boottime_ns() - int((now_s - sent) * 1e9))
        return lease_end_ns(since_ns, self._settings)

    def certain_while_joining_ns(self) -> int | None:
        """The same while the group is being arranged anew; None when nobody confirms it now.

        A join waits for the slowest member, and for one that has just died as long as its session; meanwhile the
        library sends no heartbeats, and could not: its connection waits for the answer. So we ask by another one
        whether we still are who we were. While we are, the group gives nobody what we hold (yadtqd.sharing), neither
        now nor in the arrangement that is being made. Not for ever: a join that got lost would be left out in the end.
        """
        coordinator, now_s = self.consumer._coordinator, time.monotonic()
        generation, node = coordinator._generation, str(coordinator.coordinator_id).rpartition("-")[2]
        if (not self._joining_since or now_s - self._joining_since > self._longest_turn_s / 2 or generation.is_lost()
                or now_s < self._beside_at or not node.isdecimal()):
            return None
        self._beside_at = now_s + self._heartbeat_ms / 1000
        from kafka.protocol.consumer import HeartbeatRequest

        sent_ns = boottime_ns()
        try:
            code = self._exchange(int(node), HeartbeatRequest(
                group_id=self._group, generation_id=generation.generation_id, member_id=generation.member_id,
                group_instance_id=self._settings.host_name), request_timeout_ms=CALL_S * 1000).error_code
        except YADTQError as error:
            log.debug("%s: %s", self.who, error)
            return None
        return lease_end_ns(sent_ns, self._settings) if code in (_NO_ERROR, _REBALANCE_IN_PROGRESS) else None

    def _exchange(self, node: Any, request: Any, **limits: Any) -> Any:
        """The answer to a question that the library does not ask, within CALL_S. `limits` are the connection's own:
        it is closed when its request times out."""
        manager = self.consumer._manager

        async def exchange() -> Any:
            return await manager.wait_for(manager.send(request, node_id=node, **limits), CALL_S * 1000)

        return self.ask(self.consumer._net.run, exchange)

    def mend_gaps(self) -> None:
        """Have the group arranged anew when a partition was given to nobody; a turn of the loop while it is stable."""
        now, coordinator = time.monotonic(), self.consumer._coordinator
        if self._gaps is None:
            slow_s = self._longest_turn_s + 2 * self._settings.kafka_session_timeout_ms / 1000
            self._gaps = GapWatch(now, slow_s, random.Random())  # noqa: S311
        if not self._gaps.due(now) or not coordinator.stable():
            return
        missing = self._given_to_nobody()
        if self._gaps.saw(missing, now):
            log.warning("%s: the group has given %s to nobody; it is asked to share them out", self.who,
                        sorted(missing or ()))
            self._assignor.asks += 1
            coordinator.request_rejoin()

    def _given_to_nobody(self) -> frozenset[int] | None:
        """None when that can't be told now: the group is being arranged, or Kafka does not answer."""
        import_kafka()
        from kafka.protocol.admin import DescribeGroupsRequest
        from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

        consumer: Any = self.consumer
        partitions = consumer.partitions_for_topic(self._topic)
        try:
            answer = self._exchange(consumer._coordinator.coordinator_id, DescribeGroupsRequest(groups=[self._group]))
        except YADTQError as error:
            log.debug("%s: what is given to whom? %s", self.who, error)
            return None
        group = answer.groups[0]
        if group.error_code or group.group_state != "Stable" or not partitions:
            return None
        given_to: Any = ConsumerProtocolAssignment.decode       # untyped
        told_by: Any = ConsumerProtocolSubscription.decode
        given = [[tp.partition for tp in given_to(member.member_assignment).partitions() if tp.topic == self._topic]
                 for member in group.members if member.member_assignment]
        held = [row.partitions for member in group.members if member.member_metadata
                for row in told_by(member.member_metadata).owned_partitions or () if row.topic == self._topic]
        return gaps(partitions, [*given, *held])        # (what is being handed over is held, by who had it)

    def _look_for_silence(self, now_s: float, *, silent: bool) -> None:
        """A heartbeat that was fenced only makes the library fall silent, which else lasts no longer than a rejoin."""
        if not silent:
            self._silent_looks = 0
            return
        self._silent_looks += 1
        if self._silent_looks == 1:
            self._silent_since = now_s
        elif self._silent_looks > SILENT_LOOKS and now_s - self._silent_since > SILENT_S:
            raise self._fenced()

    def commit(self, positions: dict[int, int]) -> bool:
        """Commit as the group's live member; False when it was not possible now: nothing is lost, it comes again."""
        import_kafka()
        from kafka import errors
        from kafka.structs import OffsetAndMetadata

        offsets = {self.tp(p): OffsetAndMetadata(at, "", -1) for p, at in positions.items()}
        try:
            self.ask(self.consumer.commit, offsets, timeout_ms=CALL_S * 1000)
        except YADTQError as error:
            refused = isinstance(error.__cause__, errors.CommitFailedError | errors.RebalanceInProgressError)
            log.log(logging.INFO if refused else logging.WARNING, "%s: commit of %s: %s", self.who, positions, error)
            return False
        return True
