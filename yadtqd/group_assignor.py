"""What a member tells its group of itself, and how a leader answers all: yadtqd.sharing, fitted to kafka-python.

Speaks the protocol `cooperative-sticky` as the library's own does, so that hosts with either can be in one group, with
two differences. A member says what it *holds*, which is more than what it was last given: a partition that was taken
from it is held until its worker has ended. And the leader shares out by `share` and `grant`. Called in the library's
thread; never asks Kafka anything. Imported after the fork only.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

from yadtqd.sharing import grant, share


class GroupAssignor(CooperativeStickyAssignor):
    """`holds()` tells the partitions that this member has not let go, those that it is about to last."""

    def __init__(self, topic: str, holds: Callable[[], Sequence[int]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._topic, self._holds = topic, holds
        self.asks = 0       # another number makes the group arrange itself anew, though nothing else has changed

    def metadata(self, topics: Any) -> Any:
        """What is sent when joining."""
        partitions = list(self._holds())
        row: Any = ConsumerProtocolSubscription.TopicPartition
        return ConsumerProtocolSubscription(
            version=self.version, topics=sorted(topics), user_data=str(self.asks).encode() if self.asks else b"",
            owned_partitions=[row(topic=self._topic, partitions=partitions)] if partitions else [])

    def assign(self, cluster: Any, members: Any) -> Any:
        """The leader's answer to all, from what they have sent."""
        topic, count = self._topic, len(cluster.partitions_for_topic(self._topic) or ())
        if any(list(member.metadata.topics) != [topic] for member in members):
            return super().assign(cluster, members)  # type: ignore[no-untyped-call]  # somebody else is in the group
        holds = {member.member_id: [p for row in member.metadata.owned_partitions or () if row.topic == topic
                                    for p in row.partitions] for member in members}
        given = grant(share(count, holds), holds)
        return {member: ConsumerProtocolAssignment(self.version, [(topic, hand)] if hand else [], b"")
                for member, hand in given.items()}
