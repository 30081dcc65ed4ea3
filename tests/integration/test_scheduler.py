"""The scheduler on real Kafka: on time and in order, through its own death, a zombie's, and an outage of Kafka."""
from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from tests.conftest import settings_for
from tests.support.queue_user import QueueUser
from tests.support.role_host import RoleHost, until
from tests.support.services import KafkaServer, RedisServer
from yadtq.config import Settings
from yadtq.dead_letter import DeadLetterMessage, decode_dead_letter
from yadtq.delayed import SHORT, DelayedTask, encode_delayed, level_of
from yadtq.names import scheduler_group
from yadtq.partitioning import partition_of_key
from yadtq.task import decode_message, encode_message
from yadtq.transport import open_admin, open_consumer
from yadtqd.exits import Exit
from yadtqd.slot import WAITS_FOR_UPGRADE

pytestmark = pytest.mark.integration

TRANSPORTS = ("librdkafka", "kafka-python")


@pytest.fixture
def quick(settings: Settings) -> Settings:
    return settings.replace(auto_commit_interval_ms=100, kafka_session_timeout_ms=6000, host_name="a")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def committed(settings: Settings) -> dict[int, int]:
    admin = open_admin(settings)
    try:
        return admin.committed(scheduler_group(settings.kafka_group), settings.kafka_delayed_topic)
    finally:
        admin.close()


def waiting(settings: Settings) -> int:
    """How many records of the delayed topic are not committed past."""
    admin = open_admin(settings)
    try:
        ends = admin.end_offsets(settings.kafka_delayed_topic)
    finally:
        admin.close()
    done = committed(settings)
    return sum(end - done.get(level, 0) for level, end in ends.items())


@dataclass
class Fired:
    """What comes to the task topic: when, by id, in order."""

    settings: Settings
    at: dict[str, list[int]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    place: dict[str, int] = field(default_factory=dict)

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
            self.place[task_id] = record.partition
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


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_never_early_hardly_late_and_in_order(quick: Settings, transport: str) -> None:
    settings = quick.replace(transport=transport)
    with QueueUser(settings) as user, RoleHost(settings) as host, Fired(settings) as fired:
        host.start("scheduler")
        delayer = Delayer(user)
        seed = random.randrange(1 << 32)
        print(f"seed {seed}")
        chance = random.Random(seed)
        delays = [chance.uniform(0, 4) for _ in range(300)]
        ids = delayer.put(delays, partition=0)
        fired.wait(len(ids))
        late = sorted(fired.at[one][0] - delayer.due[one] for one in ids)
        assert late[0] >= 0
        assert late[-1] < 20_000                        # a busy machine; figures are in docs/performance.md
        swapped = sum(delayer.due[one] > delayer.due[other] for one, other in pairwise(fired.order))
        assert swapped < 60                             # in order, but for what was due at once or on a starved machine
        assert [len(fired.at[one]) for one in ids] == [1] * len(ids)
        host.kill("scheduler", signal.SIGTERM)
        assert host.status("scheduler") == Exit.OK


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_killed_while_thousands_wait_it_loses_none_and_runs_none_twice(quick: Settings, transport: str) -> None:
    settings = quick.replace(transport=transport, tasks=("tests.support.handlers",))
    with QueueUser(settings) as user, RoleHost(settings, own=(0, 1, 2, 3)) as host, Fired(settings) as fired:
        host.start("worker", "w0", (0, 1, 2, 3))
        host.start("scheduler", "s0")
        delayer = Delayer(user)
        ids = delayer.put([0.5 + n / 1000 for n in range(3000)])
        for n in range(4):
            time.sleep(0.6)
            host.kill(f"s{n}")
            host.status(f"s{n}")
            host.start("scheduler", f"s{n + 1}", wait=False)
        assert user.results(ids) == [n + 1 for n in range(3000)]
        fired.wait(len(ids))
        assert all(min(fired.at[one]) >= delayer.due[one] for one in ids)
        copies = sum(len(fired.at[one]) - 1 for one in ids)
        print(f"{copies} copies")
        assert copies <= 4 * 2000                       # a death: those of a second or two again; the claims skip them
        # what was committed is committed: a successor publishes nothing again
        until(lambda: waiting(settings) == 0, "everything committed", 20)
        host.kill("s4", signal.SIGTERM)
        assert host.status("s4") == Exit.OK
        host.start("scheduler", "s5")
        before = len(fired.look(0.2).order)
        assert len(fired.look(1.0).order) == before


def test_a_frozen_hosts_levels_move_and_its_last_words_change_nothing(quick: Settings) -> None:
    other = quick.replace(host_name="b")
    with QueueUser(quick) as user, RoleHost(quick) as a, RoleHost(other) as b, Fired(quick) as fired:
        a.start("scheduler")
        delayer = Delayer(user)
        ids = delayer.put([0.2 + n / 100 for n in range(1500)])         # until 15 s from now
        fired.wait(50)
        a.kill("scheduler", signal.SIGSTOP)
        b.start("scheduler", wait=False)
        fired.wait(len(ids), 60)
        assert all(min(fired.at[one]) >= delayer.due[one] for one in ids)
        until(lambda: waiting(quick) == 0, "everything committed", 20)
        seen, positions = len(fired.look(0.2).order), committed(quick)
        a.kill("scheduler", signal.SIGCONT)
        later = delayer.put([0.1] * 20 + [1.5] * 20)
        fired.wait(len(ids) + len(later))
        # it was woken with tasks in its heap that are long done: at most what it sent between two looks at its lease
        extra = len(fired.look(1.0).order) - seen - len(later)
        assert 0 <= extra <= 5000
        now = committed(quick)
        assert all(now[level] >= at for level, at in positions.items())
        assert all(len(fired.at[one]) == 1 for one in later)


def test_two_hosts_share_the_levels_and_one_that_leaves_hands_them_over(quick: Settings) -> None:
    other = quick.replace(host_name="b")
    with QueueUser(quick) as user, RoleHost(quick) as a, RoleHost(other) as b, Fired(quick) as fired:
        a.start("scheduler")
        delayer = Delayer(user)
        ids = delayer.put([n / 100 for n in range(600)])
        b.start("scheduler")
        ids += delayer.put([n / 100 for n in range(600)])
        fired.wait(len(ids), 40)
        assert all(min(fired.at[one]) >= delayer.due[one] for one in ids)
        assert a.slot("scheduler").done > 0
        assert b.slot("scheduler").done > 0
        assert [len(fired.at[one]) for one in ids] == [1] * len(ids)    # nobody died: nothing came twice


def test_kafka_stops_and_comes_back(own_kafka: KafkaServer, redis_server: RedisServer, topic_prefix: str,
                                    tmp_path: Path) -> None:
    settings = settings_for(own_kafka, redis_server, topic_prefix, tmp_path).replace(
        auto_commit_interval_ms=100, kafka_session_timeout_ms=6000, host_name="a")
    with QueueUser(settings) as user, RoleHost(settings) as host:
        host.start("scheduler")
        delayer = Delayer(user)
        with Fired(settings) as fired:
            ids = delayer.put([n / 250 for n in range(1500)])
            fired.wait(100)
        own_kafka.stop()
        time.sleep(2)
        own_kafka.start()
        with Fired(settings) as fired:
            fired.wait(len(ids), 60)
            assert all(min(fired.at[one]) >= delayer.due[one] for one in ids)
            more = delayer.put([0.2] * 10)
            fired.wait(len(ids) + len(more), 30)
        until(lambda: waiting(settings) == 0, "everything committed", 20)


def test_what_is_no_delayed_task_ends_as_a_dead_letter_and_a_newer_one_waits(quick: Settings) -> None:
    with QueueUser(quick) as user, RoleHost(quick) as host, Fired(quick) as fired:
        host.start("scheduler")
        delayer = Delayer(user)
        newer = msgspec.msgpack.encode([99, 0, 0, None, b"", "?"])
        delayer.raw([(SHORT, b"rubbish", None), (SHORT, b"", None), (SHORT, b"\xc1" * 1000, b"key"), (3, newer, None)])
        ids = delayer.put([0.1, 0.2, 1.5])
        fired.wait(3)
        letters = open_consumer(quick)
        try:
            letters.assign(quick.kafka_dead_letter_topic, {0: 0})
            found: list[DeadLetterMessage] = []
            until(lambda: found.extend(decode_dead_letter(r.value) for r in letters.poll(10, 0.2)) or len(found) >= 3,
                  "the letters")
        finally:
            letters.close()
        assert [(one.code, one.original, one.task) for one in found] == [
            ("INVALID_MESSAGE", b"rubbish", ""), ("INVALID_MESSAGE", b"", ""), ("INVALID_MESSAGE", b"\xc1" * 1000, "")]
        assert found[0].worker == "a/scheduler"
        until(lambda: host.slot("scheduler").waiting_for & WAITS_FOR_UPGRADE, "it tells that it waits for an upgrade")
        until(lambda: committed(quick).get(SHORT) == 5, "the rest committed")
        assert committed(quick).get(3, 0) == 0
        assert len(ids) == len(fired.at)


def test_a_partition_that_does_not_exist_any_more(quick: Settings) -> None:
    """The task topic was made anew with fewer partitions: such a task runs in one that there is, by its key if any."""
    with QueueUser(quick) as user, RoleHost(quick) as host, Fired(quick) as fired:
        host.start("scheduler")
        delayer, due_ms = Delayer(user), now_ms() + 300
        messages = [user.message("addition", n, 1, due_ms=due_ms) for n in range(3)]
        for message, partition, key in zip(messages, (7, 6, 1), (None, b"customer-17", None), strict=True):
            waits = DelayedTask(due_ms=due_ms, partition=partition, key=key, value=encode_message(message))
            delayer.raw([(SHORT, encode_delayed(waits), message.id.encode())])
        fired.wait(3)
        assert [fired.place[message.id] for message in messages] == [3, partition_of_key("customer-17", 4), 1]


def test_a_silent_kafka_costs_nothing(own_kafka: KafkaServer, redis_server: RedisServer, topic_prefix: str,
                                      tmp_path: Path) -> None:
    settings = settings_for(own_kafka, redis_server, topic_prefix, tmp_path).replace(host_name="a")
    with QueueUser(settings) as user, RoleHost(settings) as host:
        pid = host.start("scheduler")
        Delayer(user).put([0.2 + n / 50 for n in range(1000)])          # something is due all the time
        time.sleep(3)
        own_kafka.freeze()
        time.sleep(1)
        memory, cpu = resident_mb(pid), cpu_s(pid)
        time.sleep(9)
        assert cpu_s(pid) - cpu < 1.5, "it asks again and again"
        assert resident_mb(pid) - memory < 10, "what it asks is kept"
        own_kafka.thaw()


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
