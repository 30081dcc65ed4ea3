"""What must hold in a worker when something happens at the wrong moment; each is a way in which it once did not."""
from __future__ import annotations

import os
import queue
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from yadtq import codec
from yadtq.config import Settings
from yadtq.errors import KafkaRefused, OffsetOutOfRange, RedisConnectionError
from yadtq.names import SHARDS
from yadtq.result_backend import Claim, FinishEntry
from yadtq.task import TaskMessage, decode_error
from yadtq.tasks import TaskType
from yadtqd import async_runner, isolated_protocol, isolator, janitor, task_pool
from yadtqd.body import Deadlines, Outcome
from yadtqd.consumer import Consumer
from yadtqd.flights import Flights
from yadtqd.held import Held
from yadtqd.isolated_call import Death, Isolation
from yadtqd.ledger import Ledger
from yadtqd.redis_gate import RedisGate
from yadtqd.result_writer import ResultWriter
from yadtqd.shared import Shared
from yadtqd.slot import SLOT_BYTES, Slot
from yadtqd.static_membership import StaticMembership
from yadtqd.task_pool import TaskPool

OK = Outcome("OK", codec.encode(1, limit=99))


def held(task_id: str = "i", offset: int = 0, size: int = 1) -> Held:
    return Held(0, offset, TaskMessage(id=task_id, task="t", args=codec.encode([], limit=99), submitted_ms=0), size)


def task_type(handler: Any = lambda: 1, **fields: Any) -> TaskType:
    return TaskType(**({"name": "t", "handler": handler, "kind": "sync", "module": "m"} | fields))


def flights() -> Flights:
    return Flights(Slot(0, memoryview(bytearray(SLOT_BYTES))), lambda _: None)


# ---- the lease, before each body ------------------------------------------------------------------------------------
def test_a_task_that_waited_for_a_thread_asks_again_whether_it_may_begin() -> None:
    """A host that was frozen while all threads were busy would begin it as a zombie."""
    go, ran, lease = threading.Event(), [], [True]

    def handler() -> None:
        ran.append(1)
        go.wait(10)

    pool = TaskPool(1, flights(), 1000, lambda *_: None, lambda: None, lambda _: lease[0])
    assert pool.run(held("a"), task_type(handler), Deadlines(0, 0))
    lease[0] = False
    assert not pool.run(held("b"), task_type(handler), Deadlines(0, 0))      # ends although no thread is free
    go.set()
    assert not pool.run(held("b"), task_type(handler), Deadlines(0, 0))
    lease[0] = True
    assert pool.run(held("c"), task_type(handler), Deadlines(0, 0))          # no place was lost
    deadline = time.monotonic() + 5
    while len(ran) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert ran == [1, 1]


class Counting:
    """The part of the result backend that counts lone runs."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.seen = self.lone = 0

    def lone_begin(self, *_: Any) -> tuple[int, int]:
        self.calls.append("begin")
        self.lone += 1
        return self.seen, self.lone

    def lone_end(self, partition: int, epoch: int, task_id: str, n: int, crashed: bool) -> tuple[int, int]:
        self.calls.append("crashed" if crashed else "well")
        self.lone, self.seen = 0, self.seen + crashed
        return self.seen, self.lone


def isolation(backend: Counting, runs: list[Any], lease: Any = lambda: True) -> Isolation:
    made = Isolation(Settings(max_lone=3, max_crashes=2), "", backend, RedisGate(lambda: None), 1,  # type: ignore[arg-type]
                     lambda: False, lease)
    made._once = lambda *_: runs.pop(0)  # type: ignore[method-assign]
    return made


def test_no_further_run_of_an_isolated_task_begins_without_the_lease() -> None:
    lease = iter([True, True, False, False])
    backend, runs = Counting(), [Death("was killed by SIGSEGV", False), OK]
    assert isolation(backend, runs, lambda: next(lease)).run(held(), task_type(), Deadlines(0, 0)) is None
    assert runs == [OK]


def test_an_isolated_type_that_ends_its_isolator_is_given_up_in_the_end() -> None:
    """Nobody sees how its runs end: only what is counted before them can stop it."""
    backend, one = Counting(), held()
    runs: list[Any] = [None] * 100
    outcome = None
    while outcome is None and runs:                 # claimed again each time, to be run with nothing beside it
        outcome = isolation(backend, runs).run(one, task_type(isolated=True), Deadlines(0, 0))
    assert outcome is not None
    assert outcome.end == "KO"
    assert decode_error(outcome.error).code == "TASK_CRASHED"
    assert backend.calls == ["begin"] * 3


def test_an_isolator_that_was_replaced_costs_an_innocent_task_nothing() -> None:
    backend = Counting()
    assert isolation(backend, [None, OK]).run(held(), task_type(isolated=True), Deadlines(0, 0)) == OK
    assert backend.calls == ["begin", "well"]
    assert (backend.seen, backend.lone) == (0, 0)


# ---- threads do not die in silence ----------------------------------------------------------------------------------
def test_a_pool_thread_that_fails_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(task_pool, "end_now", lambda status, reason: ended.append(reason))

    def end(*_: Any) -> None:
        raise RuntimeError("a bug")

    TaskPool(1, flights(), 1000, end, lambda: None).run(held(), task_type(), Deadlines(0, 0))
    deadline = time.monotonic() + 5
    while not ended and time.monotonic() < deadline:
        time.sleep(0.001)
    assert "a bug" in ended[0]


def test_an_event_loop_that_ends_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """SystemExit in a callback goes through the loop: all tasks on it would stay in hand."""
    import asyncio

    ended = threading.Event()
    monkeypatch.setattr(async_runner, "end_now", lambda status, reason: ended.set())

    async def handler() -> None:
        def leave() -> None:
            raise SystemExit(3)
        asyncio.get_running_loop().call_soon(leave)
        await asyncio.sleep(60)

    runner = async_runner.AsyncRunner(flights(), 1000, lambda *_: None, lambda: None)
    runner.run(held(), task_type(handler, kind="async"), Deadlines(0, 0))
    assert ended.wait(5)
    assert runner._loop is not None
    for task in runner._tasks:
        task.cancel()
    runner._loop.run_until_complete(asyncio.sleep(0))
    runner._loop.close()


# ---- the ledger -----------------------------------------------------------------------------------------------------
def end_of(one: Held, size: int = 100) -> FinishEntry:
    return FinishEntry(one.message.id, 0, 0, "t", 0, "OK", one.offset, 0, 0, b"x" * size)


def test_results_of_records_that_were_skipped_meanwhile_do_not_count_for_ever() -> None:
    """Each clear_all_tasks under load would leave some bytes, until nothing more may be fetched."""
    ledger, one = Ledger({0: 0}), held()
    ledger.take([one])
    ledger.skip(0, 50)
    one.end = end_of(one)
    assert ledger.settle([one], 1.0, ledger.round)
    assert ledger.sweep(2.0) == ({}, [])
    assert ledger._bytes == 0
    assert ledger._in_hand == {}


def test_copies_of_a_record_that_was_skipped_do_not_wait_for_ever() -> None:
    """Redis is restarted before its end is known durable: nothing else would release them."""
    ledger, one, copy = Ledger({0: 0}), held(), held(offset=60)
    ledger.take([one])
    ledger.skip(0, 50)
    assert ledger.take([copy]) == []
    one.end = end_of(one)
    assert ledger.settle([one], 1.0, ledger.round)
    rewrite, reclaim = ledger.reopen()
    assert (rewrite, reclaim) == ([], [copy])
    assert ledger.again(reclaim) == [copy]
    assert ledger.settle([copy], 2.0, ledger.round)
    assert ledger.sweep(3.0) == ({0: 61}, [])
    assert ledger._in_hand == {}


# ---- a log that was made anew ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(("earliest", "committed", "watermark"), [(0, 0, 0), (200, 100, 100)])
def test_what_was_committed_in_a_log_that_is_gone_skips_nothing_of_the_new_one(
        earliest: int, committed: int, watermark: int) -> None:
    """The topic was deleted and made anew: a successor that began at the old offset would lose tasks."""
    shared = Shared.create(4, 4)
    try:
        row = shared.partitions[0]
        row.committed = row.watermark = 100
        transport: Any = SimpleNamespace(assign=lambda *_: None)
        parts: list[Any] = [SimpleNamespace(kafka_task_topic="t"), transport, None, Ledger({0: 100}), None,
                            shared.partitions, 1, None, None, None, lambda: 1, threading.Event(), None]
        consumer = Consumer(*parts)
        consumer._partitions = (0,)
        consumer._begin_anew(OffsetOutOfRange(None, 0, earliest))
        assert (row.committed, row.watermark) == (committed, watermark)
    finally:
        shared.close()


# ---- the janitor ----------------------------------------------------------------------------------------------------
def test_a_kafka_that_refuses_to_delete_does_not_stop_expiry() -> None:
    """Redis would fill up, and with noeviction everything would stop."""
    shared = Shared.create(4, 4)
    try:
        row = shared.partitions[0]
        row.owned, row.committed, shared.topic_partitions = 1, 100_000, 4
        ctx: Any = SimpleNamespace(settings=Settings(), shared=shared, slot=shared.slot(0))
        one = janitor.Janitor(ctx)
        expired: list[tuple[dict[int, int], list[int]]] = []

        def refuse(*_: Any) -> None:
            raise KafkaRefused

        one._admin = SimpleNamespace(delete_records=refuse, end_offsets=refuse, committed=refuse)  # type: ignore[assignment]
        one._backend = SimpleNamespace(  # type: ignore[assignment]
            expire=lambda now_ms, ttl_s, committed, limit, shards: expired.append((committed, shards)) or 0,
            pending_clear=lambda: None)
        assert not one._turn(time.monotonic() + 1000)
        assert expired == [({0: 100_000}, [0, 4, 8, 12])]
    finally:
        shared.close()


def test_each_shard_expires_at_one_host_and_by_what_all_have_committed() -> None:
    """If every host walked through all of them, Redis would look at tasks times hosts."""
    for partitions in (1, 3, 16, 4000):
        hosts = [set(range(partitions))] if partitions == 1 else [set(range(h, partitions, 3)) for h in range(3)]
        cared_for = [shard for owned in hosts for shard in janitor.shards_of(owned, partitions)]
        assert sorted(cared_for) == list(range(SHARDS))
    assert janitor.shards_of({0, 1}, 0) == []           # membership does not know yet
    shared = Shared.create(4, 4)
    try:
        shared.partitions[1].owned, shared.partitions[1].committed, shared.topic_partitions = 1, 70, 2
        ctx: Any = SimpleNamespace(settings=Settings(), shared=shared, slot=shared.slot(0))
        one = janitor.Janitor(ctx)
        calls: list[Any] = []
        left = [3, 2, 0]
        one._admin = SimpleNamespace(  # type: ignore[assignment]
            delete_records=lambda *_: {}, end_offsets=lambda *_: {}, committed=lambda *_: {0: 5, 1: 60})
        one._backend = SimpleNamespace(  # type: ignore[assignment]
            expire=lambda *of: calls.append(of) or left.pop(0), pending_clear=lambda: None)
        now = time.monotonic() + 1000
        assert one._turn(now)
        assert [of[2:] for of in calls] == [({0: 5, 1: 70}, janitor.EXPIRE_BATCH, list(range(1, SHARDS, 2)))] * 3
        assert one._turn(now + 1)
        assert len(calls) == 3                          # nothing was left: it waits a while
    finally:
        shared.close()


def test_kafka_is_asked_for_ends_only_where_a_worker_sees_nothing_new() -> None:
    shared = Shared.create(4, 4)
    try:
        for partition in (0, 1):
            shared.partitions[partition].owned = 1
        ctx: Any = SimpleNamespace(settings=Settings(), shared=shared, slot=shared.slot(0))
        one = janitor.Janitor(ctx)
        asked: list[list[int]] = []
        one._admin = SimpleNamespace(  # type: ignore[assignment]
            end_offsets=lambda _, partitions: asked.append(partitions) or dict.fromkeys(partitions, 9))
        one._look_at_ends()
        assert asked == [[0, 1]]
        shared.partitions[0].end_offset = 12
        one._look_at_ends()
        assert asked == [[0, 1], [1]]
        assert [shared.partitions[p].asked_end for p in (0, 1)] == [0, 9]
    finally:
        shared.close()


# ---- memory, while Redis is away ------------------------------------------------------------------------------------
def test_large_results_that_wait_for_redis_are_bounded() -> None:
    gate = RedisGate(lambda: None)
    parts: list[Any] = [None, None, gate, None, 1, "w", None, None, None]
    writer = ResultWriter(*parts)
    for n in range(70):
        one = held(offset=n)
        writer.add(one, end_of(one, 1 << 20), 0)
    assert not writer.heavy()                        # Redis answers: they are on their way
    gate.close(RedisConnectionError())
    assert writer.heavy()


# ---- the isolator ---------------------------------------------------------------------------------------------------
def test_an_isolated_task_that_can_not_be_forked_now_is_forked_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """An isolator that ended by it would take along the children of all workers."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind("")
    listener.listen(4)
    ctx: Any = SimpleNamespace(control_fd=listener.fileno(), parent_pidfd=-1)
    one = isolator.Isolator(ctx, SimpleNamespace())  # type: ignore[arg-type]
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    seat = isolator.Seat(theirs)
    one._seats[theirs.fileno()] = seat
    fork, forks = os.fork, []

    def failing_fork() -> int:
        forks.append(1)
        if len(forks) < 3:
            raise BlockingIOError("no process left")
        pid = fork()
        if pid == 0:
            os._exit(7)
        return pid

    monkeypatch.setattr(os, "fork", failing_fork)
    monkeypatch.setattr(isolator, "_children_of", lambda _: [])     # this process has children of its own: servers
    one._begin(seat, isolated_protocol.Run(b"", 1000, 0.0, 0.0, 0), b"")
    assert seat.pid == 0
    one._enforce(time.monotonic())
    assert seat.pid == 0
    one._enforce(time.monotonic())
    assert seat.pid > 0
    assert seat.waiting is None
    os.waitid(os.P_PIDFD, seat.pidfd, os.WEXITED | os.WNOWAIT)
    one._reap(seat)
    got = isolated_protocol.receive(mine)
    assert got is not None
    assert got[0] == isolated_protocol.Ended(7, 0, False)
    for each in (mine, theirs, listener, one._listener):
        each.close()
    one._epoll.close()


# ---- static membership ----------------------------------------------------------------------------------------------
def test_a_commit_that_hangs_for_good_is_seen() -> None:
    """kafka-python waits for the end of a transaction without a time-out: membership would beat on in vain."""
    shared = Shared.create(4, 4)
    try:
        slot = shared.slot(0)
        one = StaticMembership(SimpleNamespace(settings=Settings(), shared=shared, slot=slot))  # type: ignore[arg-type]
        assert one._comes_round()
        assert slot.waiting_for == 0
        one._round_at -= 30                          # a long outage of Kafka: told, and waited for
        assert one._comes_round()
        assert slot.waiting_for == 1
        one._round_at -= 60
        assert not one._comes_round()
    finally:
        shared.close()


# ---- an end in memory is enough -------------------------------------------------------------------------------------
def test_what_has_ended_here_is_written_again_and_not_run_again() -> None:
    """Its finish was applied, but the reply lost: repeated, it is LATE. Then Redis loses its last second."""
    ended, other = held("a"), held("b", offset=1)
    late: list[Held] = []
    ledger = Ledger({0: 0})
    ledger.take([ended, other])
    parts: list[Any] = [None, ledger, RedisGate(lambda: None), SimpleNamespace(count=lambda **_: None), 1, "w",
                        late.extend, None, None]
    ended.end = end_of(ended)
    ResultWriter(*parts)._obey([ended], ["LATE"], ledger.round)
    assert late == [ended]
    ready: queue.SimpleQueue[list[Held]] = queue.SimpleQueue()
    again: list[Held] = []
    consumer_parts: list[Any] = [None, None, None, ledger, None, None, 1, None, None, ready, None, threading.Event(),
                                 again.extend]
    Consumer(*consumer_parts)._obey([ended, other], [Claim("RUN"), Claim("RUN")], ledger.round)
    assert again == [ended]
    assert ready.get_nowait() == [other]
