"""A member of a group asks again with fresh metadata, and claims nothing that the group has taken away from it."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from yadtq.errors import KafkaConnectionError
from yadtq.transport.connection import import_kafka
from yadtqd.group_member import GroupMember, _assignor


def test_a_time_out_renews_the_metadata() -> None:
    kafka: Any = import_kafka()
    member: Any = GroupMember.__new__(GroupMember)
    renewed: list[int] = []
    member.consumer = SimpleNamespace(_cluster=SimpleNamespace(request_update=lambda: renewed.append(1)))

    def ask() -> None:
        raise kafka.errors.KafkaTimeoutError("it asked a broker that leads no more")

    with pytest.raises(KafkaConnectionError):
        member.ask(ask)
    assert renewed == [1]
    assert member.ask(lambda x: x, 7) == 7
    assert renewed == [1]


def _given(*partitions: int) -> Any:
    import_kafka()
    from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment

    return ConsumerProtocolAssignment(1, [("t", list(partitions))], b"")


def _claimed(assignor: Any) -> list[int]:
    return [partition for owned in assignor.metadata({"t"}).owned_partitions for partition in owned.partitions]


def test_a_member_that_lost_its_place_claims_nothing() -> None:
    given, lost = _given(0, 1), False
    assignor = _assignor()
    assignor.coordinator = SimpleNamespace(_generation=SimpleNamespace(is_lost=lambda: lost))
    assert _claimed(assignor) == []
    assignor.on_assignment(given, 7)
    assert _claimed(assignor) == [0, 1]
    lost = True
    assert _claimed(assignor) == []
    lost = False                    # it has a place again, and was given nothing yet
    assert _claimed(assignor) == []
