"""A member of a group asks again with fresh metadata, and claims nothing that the group has taken away from it."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from yadtq.errors import KafkaConnectionError
from yadtq.transport.connection import import_kafka
from yadtqd.group_member import GroupMember


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
