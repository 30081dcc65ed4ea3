"""The result backend while Redis is away, refuses, or comes back: typed errors in time, and nothing done twice or lost.

Each test has a Redis of its own to kill, freeze and spoil.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.services import RedisServer
from yadtq.config import Settings
from yadtq.durability import LOOK_S, SETTLE_S
from yadtq.errors import RedisConnectionError, RedisRefused
from yadtq.names import META_KEYS, SHARDS
from yadtq.result_backend import ClaimEntry, FinishEntry, Push, ResultBackend, SubmitEntry, Subscription
from yadtq.task import new_task_id

NOW = int(time.time() * 1000)


@pytest.fixture
def backend(own_redis: RedisServer) -> Iterator[ResultBackend]:
    backend = ResultBackend(Settings(redis_host=own_redis.host, redis_port=own_redis.port, redis_timeout_s=2.0))
    yield backend
    backend.close()


@pytest.fixture
def connection(own_redis: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(host=own_redis.host, port=own_redis.port) as connection:
        yield connection


def entries(count: int) -> list[SubmitEntry]:
    return [SubmitEntry(new_task_id(), "addition", 0, NOW, 0) for _ in range(count)]


def within(seconds: float, began: float) -> None:
    assert time.monotonic() - began < seconds


def test_a_dead_redis_is_a_typed_error_in_time(backend: ResultBackend, own_redis: RedisServer) -> None:
    backend.submit(entries(1))
    own_redis.kill()
    for timeout_s in (0.0, 0.3):
        began = time.monotonic()
        with pytest.raises(RedisConnectionError) as caught:
            backend.submit(entries(1), timeout_s=timeout_s)
        within(timeout_s + 1.0, began)
        assert caught.value.retryable
        assert str(own_redis.port) in caught.value.message


def test_a_frozen_redis_is_a_typed_error_in_time(backend: ResultBackend, own_redis: RedisServer) -> None:
    tasks = entries(1000)
    backend.submit(tasks)
    own_redis.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(RedisConnectionError):
            backend.claim(0, 1, [ClaimEntry(t.id, 0, 0, t.task, NOW) for t in tasks], NOW, timeout_s=0.5)
        within(1.5, began)
    finally:
        own_redis.thaw()
    claims = backend.claim(0, 1, [ClaimEntry(t.id, 0, 0, t.task, NOW) for t in tasks], NOW)
    assert {claim.answer for claim in claims} == {"RUN"}
    assert not any(claim.suspect for claim in claims), "the frozen call was done after all; its repeat is no suspect"


def test_a_restart_is_ridden_out_by_the_call(backend: ResultBackend, own_redis: RedisServer) -> None:
    tasks = entries(500)
    backend.submit(tasks)
    own_redis.kill()
    back = threading.Timer(0.5, own_redis.start)
    back.start()
    try:
        ends = [FinishEntry(t.id, 0, 0, t.task, NOW, "OK", 1, NOW, NOW, b"\x01") for t in tasks]
        assert set(backend.finish(0, 1, ends, "w", timeout_s=10)) == {"DONE"}
    finally:
        back.join()


def test_functions_are_loaded_again_when_they_are_gone(backend: ResultBackend, connection: redis.Redis) -> None:
    tasks = entries(100)
    backend.submit(tasks[:50])
    connection.execute_command("FUNCTION", "FLUSH")
    assert set(backend.submit(tasks)) == {"DONE"}
    assert backend.counts()["Q"] == 100


@pytest.mark.parametrize(("build", "kept"), [("0:x", False), ("1:other", False), ("nonsense", False), ("99:x", True)])
def test_an_older_library_is_replaced_and_a_newer_one_left_alone(backend: ResultBackend, connection: redis.Redis,
                                                                 build: str, kept: bool) -> None:
    text = f"redis.register_function{{function_name='yadtq1_build', callback=function() return '{build}' end}}"
    connection.execute_command("FUNCTION", "LOAD", "#!lua name=yadtq_v1\n" + text)
    backend.store_id()                                               # any call looks at the library first
    assert (connection.fcall("yadtq1_build", 1, META_KEYS[0]).decode() == build) == kept


def test_a_wiped_redis_has_another_store_id_and_works(backend: ResultBackend, own_redis: RedisServer) -> None:
    backend.submit(entries(10))
    first, run = backend.store_id(), backend.run_id()
    own_redis.wipe()
    own_redis.start()
    assert backend.store_id(timeout_s=10) != first
    assert backend.run_id() != run
    assert set(backend.submit(entries(10))) == {"DONE"}


@pytest.mark.parametrize(("spoil", "mend", "word"), [
    ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "memory"),
    ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "replica"),
])
def test_states_that_pass_are_ridden_out_and_named(backend: ResultBackend, connection: redis.Redis, spoil: str,
                                                   mend: str, word: str) -> None:
    tasks = entries(300)
    backend.submit(tasks[:100])
    connection.execute_command(*spoil.split())
    with pytest.raises(RedisConnectionError, match=word) as caught:
        backend.submit(tasks, timeout_s=0.2)
    assert caught.value.retryable
    timer = threading.Timer(0.3, connection.execute_command, mend.split())
    timer.start()
    assert set(backend.submit(tasks, timeout_s=10)) == {"DONE"}
    timer.join()
    assert backend.counts()["Q"] == 300


def test_a_replica_without_its_master_is_named(backend: ResultBackend, connection: redis.Redis) -> None:
    connection.config_set("replica-serve-stale-data", "no")
    backend.counts()
    connection.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(RedisConnectionError, match="master"):
        backend.counts(timeout_s=0.2)


def test_a_disk_that_fails_is_named(backend: ResultBackend, connection: redis.Redis) -> None:
    backend.counts()
    connection.config_set("save", "3600 1")                          # else a failed save stops no writes
    names = connection.config_get("dir") | connection.config_get("dbfilename")
    Path(names["dir"], names["dbfilename"], "in-the-way").mkdir(parents=True)
    connection.set("something", "changed")
    connection.bgsave()
    deadline = time.monotonic() + 10
    while connection.info("persistence")["rdb_last_bgsave_status"] == "ok" and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(RedisConnectionError, match="disk"):
        backend.submit(entries(1), timeout_s=0.2)


def test_a_full_redis_still_lets_results_expire(backend: ResultBackend, connection: redis.Redis) -> None:
    tasks = entries(100)
    backend.submit(tasks)
    ends = [FinishEntry(t.id, 0, 0, t.task, NOW, "OK", 1, NOW, NOW, b"x" * 10_000) for t in tasks]
    backend.finish(0, 1, ends, "w")
    connection.config_set("maxmemory", 1)
    assert sum(backend.expire(NOW + 10_000, 1, {0: 2}, 3200) for _ in range(3)) == 100
    connection.config_set("maxmemory", 0)


def test_a_wrong_password_is_said_at_once(own_redis: RedisServer, connection: redis.Redis) -> None:
    connection.config_set("requirepass", "secret")
    for password in ("", "wrong"):
        backend = ResultBackend(Settings(redis_host=own_redis.host, redis_port=own_redis.port, redis_password=password))
        began = time.monotonic()
        with pytest.raises(RedisRefused) as caught:
            backend.clear_numbers(timeout_s=30)
        within(2, began)
        assert not caught.value.retryable
        assert isinstance(caught.value, RedisConnectionError)
        assert "secret" not in str(caught.value)
    backend = ResultBackend(Settings(redis_host=own_redis.host, redis_port=own_redis.port, redis_password="secret"))
    assert backend.clear_numbers() == [0] * SHARDS
    backend.close()


def test_a_user_without_rights_is_said_at_once(own_redis: RedisServer, connection: redis.Redis) -> None:
    connection.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+get")
    backend = ResultBackend(Settings(redis_host=own_redis.host, redis_port=own_redis.port, redis_username="reader",
                                     redis_password="pw"))
    with pytest.raises(RedisRefused, match="NOPERM"):
        backend.clear_numbers()


def test_the_least_rights_suffice(own_redis: RedisServer, connection: redis.Redis) -> None:
    """What docs/redis.md tells administrators to grant is enough for everything."""
    rights = _documented_rights()
    connection.execute_command("ACL", "SETUSER", "yadtq", "on", ">pw", *rights)
    backend = ResultBackend(Settings(redis_host=own_redis.host, redis_port=own_redis.port, redis_username="yadtq",
                                     redis_password="pw"))
    tasks = entries(50)
    ids = [t.id for t in tasks]
    backend.store_id()
    backend.submit(tasks)
    reader = backend.subscribe("me")
    backend.watch(ids, "me")
    backend.claim(0, 1, [ClaimEntry(i, 0, 0, "addition", NOW) for i in ids], NOW)
    backend.started(0, 1, [(ids[0], 0, NOW)], "w")
    backend.finish(0, 1, [FinishEntry(i, 0, 0, "addition", NOW, "OK", 1, NOW, NOW, b"y" * 5000) for i in ids], "w")
    assert len(collect(reader, 50)) == 50
    reader.close()
    backend.read(ids)
    backend.cancel(ids)
    backend.page(["OK"])
    backend.counts()
    backend.expire(NOW, 1, {0: 9})
    backend.raise_clear()
    backend.drop_cleared()
    backend.durability().durable_before(1.0)
    backend.close()


def _documented_rights() -> list[str]:
    text = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    line = next(line for line in text.splitlines() if line.strip().startswith("user yadtq on"))
    return [word for word in line.split()[3:] if not word.startswith(">")]


# ---- the subscription ------------------------------------------------------------------------------------------------
def collect(reader: Subscription, count: int, timeout_s: float = 5.0) -> list[Push]:
    got: list[Push] = []
    deadline = time.monotonic() + timeout_s
    while len(got) < count and time.monotonic() < deadline:
        got += reader.get(0.2) or []
    return got


def test_a_subscription_comes_back_and_says_so(backend: ResultBackend, own_redis: RedisServer) -> None:
    task = entries(1)[0]
    backend.submit([task])
    reader = backend.subscribe("me")
    assert reader.get(0.05) == []
    own_redis.kill()
    with pytest.raises(RedisConnectionError):
        reader.get(1.0)
    with pytest.raises(RedisConnectionError):
        reader.get(0.2)
    own_redis.start()
    deadline = time.monotonic() + 10
    answer: list[Push] | None = []
    while answer is not None and time.monotonic() < deadline:
        try:
            answer = reader.get(1.0)
        except RedisConnectionError:
            continue
    assert answer is None, "after a reconnect the reader says: watch again"
    assert reader.get(0.05) == []
    assert backend.watch([task.id], "me") == ["waiting"]
    backend.finish(0, 1, [FinishEntry(task.id, 0, 0, "addition", NOW, "OK", 1, NOW, NOW, b"\x01")], "w")
    assert [push.id for push in collect(reader, 1)] == [task.id]
    reader.close()


def test_a_subscription_can_be_woken_and_waits_no_longer_than_asked(backend: ResultBackend) -> None:
    reader = backend.subscribe("me")
    began = time.monotonic()
    assert reader.get(0.2) == []
    assert 0.15 < time.monotonic() - began < 1.0
    waker = threading.Timer(0.1, reader.wake)
    began = time.monotonic()
    waker.start()
    assert reader.get(10) == []
    within(5, began)
    waker.join()
    reader.close()


def test_a_silent_peer_is_found_dead(backend: ResultBackend, own_redis: RedisServer,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yadtq.subscription.SILENCE_S", 0.2)
    reader = backend.subscribe("me")
    assert reader.get(1.0) == []                                     # a PING went out and was answered
    own_redis.freeze()
    try:
        with pytest.raises(RedisConnectionError):
            read_on(reader)
    finally:
        own_redis.thaw()
    reader.close()


def read_on(reader: Subscription) -> None:
    for _ in range(20):
        assert reader.get(1.0) is not None


def test_no_subscription_without_redis(backend: ResultBackend, own_redis: RedisServer) -> None:
    own_redis.kill()
    with pytest.raises(RedisConnectionError):
        backend.subscribe("me")


# ---- what is on disk -------------------------------------------------------------------------------------------------
def test_what_was_written_becomes_safe_and_a_restart_shows(backend: ResultBackend, own_redis: RedisServer) -> None:
    durability = backend.durability()
    durability.durable_before(time.monotonic())
    backend.submit(entries(10))
    written = time.monotonic()
    durability.note(written)
    assert durability.durable_before(time.monotonic()) < written
    deadline = written + 15
    while durability.durable_before(time.monotonic()) < written:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert time.monotonic() - written >= SETTLE_S
    assert not durability.restarted
    own_redis.restart()
    durability.note(time.monotonic())
    durability.durable_before(time.monotonic() + LOOK_S)
    assert durability.restarted
