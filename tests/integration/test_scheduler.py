"""The scheduler on real Kafka: on time and in order, through its own death, a zombie's, and an outage of Kafka."""
from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.queue_user import QueueUser
from tests.support.role_host import RoleHost, until
from yadtq.config import Settings
from yadtq.delayed import DelayedTask, encode_delayed, level_of
from yadtq.task import decode_message, encode_message
from yadtq.transport import open_consumer
from yadtqd.exits import Exit

pytestmark = pytest.mark.integration

TRANSPORTS = ("librdkafka", "kafka-python")


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.replace(auto_commit_interval_ms=100, kafka_session_timeout_ms=6000, host_name="a")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Fired:
    """What comes to the task topic: when, by id, in order."""

    settings: Settings
    at: dict[str, list[int]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    def __enter__(self) -> Fired:
        self._consumer = open_consumer(self.settings)
        self._consumer.assign(self.settings.kafka_task_topic, dict.fromkeys(range(self.settings.num_partitions), 0))
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def look(self, seconds: float = 0.1) -> Fired:
        for record in self._consumer.poll(5000, seconds):
            task_id = decode_message(record.value).id
            self.at.setdefault(task_id, []).append(record.timestamp_ms)
            self.order.append(task_id)
        return self

    def wait(self, count: int, timeout_s: float = 30) -> Fired:
        until(lambda: len(self.look().at) >= count, f"{count} tasks fired", timeout_s)
        return self


class Delayer:
    """Puts tasks into the delayed topic as a client does."""

    def __init__(self, user: QueueUser) -> None:
        self._user, self.due = user, dict[str, int]()

    def put(self, delays_s: list[float], *, partition: int | None = None) -> list[str]:
        """The ids; every task's record lies in its level when this returns."""
        user, items, ids = self._user, [], []
        begun = now_ms()
        for number, delay_s in enumerate(delays_s):
            due_ms = begun + round(delay_s * 1000)
            place = number % user.partitions if partition is None else partition
            message = user.message("addition", number, 1, due_ms=due_ms)
            delayed = DelayedTask(due_ms=due_ms, partition=place, value=encode_message(message))
            items.append((level_of(due_ms - now_ms()), encode_delayed(delayed), message.id.encode()))
            ids.append(message.id)
            self.due[message.id] = due_ms
        self.raw(items)
        return ids

    def raw(self, items: list[tuple[int, bytes, bytes | None]]) -> None:
        errors: list[object] = []
        self._user.producer.send_many(self._user.settings.kafka_delayed_topic, items,
                                      lambda index, offset, error: errors.append(error) if error else None)
        assert self._user.producer.flush(20) == 0
        assert not errors


@pytest.fixture
def delayer(quick: Settings) -> Iterator[Callable[[], Delayer]]:
    with QueueUser(quick) as user:
        yield lambda: Delayer(user)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_never_early_hardly_late_and_in_order(quick: Settings, transport: str) -> None:
    settings = quick.replace(transport=transport)
    with QueueUser(settings) as user, RoleHost(settings) as host, Fired(settings) as fired:
        host.start("scheduler")
        delayer = Delayer(user)
        delays = [random.uniform(0, 4) for _ in range(300)]
        ids = delayer.put(delays, partition=0)
        fired.wait(len(ids))
        late = sorted(fired.at[one][0] - delayer.due[one] for one in ids)
        print(late[0], late[150], late[-1])
        assert late[0] >= 0
        assert late[-1] < 10_000                            # a busy machine; in docs/performance.md are the figures
        assert [len(fired.at[one]) for one in ids] == [1] * len(ids)
        host.kill("scheduler", signal.SIGTERM)
        assert host.status("scheduler") == Exit.OK
