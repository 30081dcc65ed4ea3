"""Whatever somebody wrote into the name space of YADTQ: no batch fails by it, and sound tasks among it go their way.

Damage of three kinds, each at random with a printed seed: records whose bytes are nearly right (tests/fuzz makes them),
keys of another type, numbers that are none. Only a shard's meta hash of another type is told, as BACKEND_DAMAGED.
"""
from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest
import redis

from tests.fuzz.mutation import HOSTILE, mutated
from tests.fuzz.targets import TARGETS
from yadtq.errors import YADTQError
from yadtq.names import META_KEYS, SHARDS, shard_of, value_key
from yadtq.records import SHOWN_STATES, parse_record
from yadtq.result_backend import ClaimEntry, FinishEntry, ResultBackend, SubmitEntry
from yadtq.task import new_task_id
from yadtq.tasks_query import shown_record

NOW = int(time.time() * 1000)
COUNT = 150


@pytest.fixture
def rng() -> random.Random:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


def record_key(task_id: str) -> str:
    return META_KEYS[shard_of(task_id)][:-1] + "t:" + task_id


def of_another_type(connection: redis.Redis, key: str, rng: random.Random) -> None:
    connection.delete(key)
    kind = rng.randrange(5)
    if kind == 0:
        connection.lpush(key, "somebody", "was here")
    elif kind == 1:
        connection.hset(key, mapping={"g": "nan", "f:0": "inf"})
    elif kind == 2:
        connection.zadd(key, {b"\xff\xfe": float("inf"), "x": -1})
    elif kind == 3:
        connection.sadd(key, b"\xff", "0:addition", "99999999999999999999:x", "")
    else:
        connection.xadd(key, {"a": "b"})


def everything(backend: ResultBackend, ids: Sequence[str], epoch: int) -> None:
    """All operations, on all tasks at once."""
    g = backend.clear_numbers()
    backend.submit([SubmitEntry(i, "addition", g[shard_of(i)], NOW, 0) for i in ids])
    backend.read(ids)
    backend.watch(ids, "client")
    backend.claim(0, epoch, [ClaimEntry(i, 0, g[shard_of(i)], "addition", NOW) for i in ids], NOW)
    backend.started(0, epoch, [(i, 0, NOW) for i in ids], "h/w0")
    for task_id in ids[:20]:
        backend.lone_begin(0, epoch, task_id, 0)
    backend.cancel_asked(ids)
    backend.cancel(ids[::3])
    backend.finish(0, epoch, [FinishEntry(i, 0, g[shard_of(i)], "addition", NOW, "OK", 1, NOW, NOW, b"\x05" * 5000)
                              for i in ids], "h/w0")
    for record in backend.read(ids):
        if record is not None:
            shown_record(record.id, record)
    cursor = None
    for newest_first in (False, True):
        while True:
            _, cursor = backend.page(SHOWN_STATES, None, cursor, 50, newest_first=newest_first)
            if cursor is None:
                break
    backend.counts()
    for _ in range(5):
        backend.expire(NOW + 10**9, 1, {0: 100}, 100)


def sound_tasks_still_work(backend: ResultBackend, epoch: int) -> None:
    g = backend.clear_numbers()
    ids = [new_task_id() for _ in range(50)]
    assert set(backend.submit([SubmitEntry(i, "addition", g[shard_of(i)], NOW, 0) for i in ids])) == {"DONE"}
    claims = backend.claim(0, epoch, [ClaimEntry(i, 0, g[shard_of(i)], "addition", NOW) for i in ids], NOW)
    assert {claim.answer for claim in claims} == {"RUN"}
    ends = [FinishEntry(i, 0, g[shard_of(i)], "addition", NOW, "OK", 1, NOW, NOW, b"\x05") for i in ids]
    assert set(backend.finish(0, epoch, ends, "h/w0")) == {"DONE"}
    assert [record and record.result for record in backend.read(ids)] == [b"\x05"] * 50


def test_records_that_are_nearly_right(backend: ResultBackend, connection: redis.Redis, rng: random.Random) -> None:
    backend.clear_numbers()
    for epoch in range(1, 9):
        ids = [new_task_id() for _ in range(COUNT)]
        with connection.pipeline() as pipe:
            for task_id in ids:
                pipe.set(record_key(task_id), mutated_record(rng))
            pipe.execute()
        everything(backend, ids, epoch)
        sound_tasks_still_work(backend, epoch)
    while backend.drop_cleared():
        pass


def mutated_record(rng: random.Random) -> bytes:
    """Often with the length that the record says it has: else it would be refused at once."""
    seeds = TARGETS["record"].seeds
    data = bytearray(mutated(seeds, rng)[:500])
    if len(data) >= 9 and rng.random() < 0.8:
        data[0], data[5:9] = seeds[0][0], len(data).to_bytes(4, "little")
    if len(data) > 93 and rng.random() < 0.3:           # a time or an offset that is none
        import struct
        number = float(rng.choice([one for one in HOSTILE if isinstance(one, int | float)]))
        at = rng.choice((17, 39, 61, 69, 77, 85))
        data[at:at + 8] = struct.pack("<d", number)
    return bytes(data)


def test_keys_of_another_type(backend: ResultBackend, connection: redis.Redis, rng: random.Random) -> None:
    ids = [new_task_id() for _ in range(COUNT)]
    everything(backend, ids, 1)
    for task_id in ids:
        if rng.random() < 0.5:
            of_another_type(connection, record_key(task_id), rng)
        of_another_type(connection, value_key(task_id), rng)
    for key in connection.scan_iter("*:i:*"):
        if rng.random() < 0.5:
            of_another_type(connection, key.decode("utf-8", "surrogateescape"), rng)
    for shard in range(SHARDS):
        if rng.random() < 0.5:
            of_another_type(connection, META_KEYS[shard][:-1] + "k", rng)
    everything(backend, ids, 2)
    everything(backend, ids[::-1], 3)
    sound_tasks_still_work(backend, 3)


@pytest.mark.parametrize("nonsense", ["", "nan", "-1", "inf", "1e300", "0x10", "\xff"])
def test_numbers_that_are_none(backend: ResultBackend, connection: redis.Redis, nonsense: str) -> None:
    for key in META_KEYS:
        connection.hset(key, mapping={"g": nonsense, "f:0": nonsense, "intent": nonsense})
    assert all(0 <= number < 1 << 32 for number in backend.clear_numbers())
    assert backend.pending_clear() is None
    epoch = max(backend.fence(0, 3), 3)
    everything(backend, [new_task_id() for _ in range(20)], epoch)
    sound_tasks_still_work(backend, epoch)
    backend.raise_clear({0: 7})
    sound_tasks_still_work(backend, epoch)


def test_a_meta_hash_of_another_type_is_told_and_nothing_else(backend: ResultBackend, connection: redis.Redis) -> None:
    backend.clear_numbers()
    connection.delete(META_KEYS[3])
    connection.set(META_KEYS[3], "somebody was here")
    ids = [new_task_id() for _ in range(100)]
    with pytest.raises(YADTQError, match="BACKEND_DAMAGED"):
        everything(backend, ids, 1)
    elsewhere = [i for i in ids if shard_of(i) != 3]
    assert set(backend.submit([SubmitEntry(i, "addition", 0, NOW, 0) for i in elsewhere])) == {"DONE"}


def test_every_nearly_right_record_is_a_record_or_none(rng: random.Random) -> None:
    for _ in range(20_000):
        record = parse_record("id", mutated_record(rng))
        if record is not None:
            shown_record("id", record)
