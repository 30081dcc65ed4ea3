"""The result backend on a real Redis: bytes of records, damaged data, results, pushes, counters.

What each operation does to a record is test_redis_functions.py's; pages, clearing and expiry are in
test_status_index.py, and what happens when Redis is away in test_redis_failures.py.
"""
from __future__ import annotations

import os
import random
import time

import msgspec
import pytest
import redis

from tests.contract.backend_support import NOW, finish, one, submit
from tests.model.operations import Record
from tests.model.redis_image import encode, prefix
from yadtq.errors import BackendDamaged, ClientClosed
from yadtq.names import META_KEYS, SHARDS, record_key, result_channel, shard_of, value_key
from yadtq.records import SHOWN_STATES, TaskRecordRaw, parse_record
from yadtq.result_backend import Claim, ClaimEntry, FinishEntry, Push, ResultBackend, SubmitEntry
from yadtq.task import new_task_id

# ---- bytes -----------------------------------------------------------------------------------------------------------
GOLDEN = bytes.fromhex(
    "a1 06 06 00 00 7a000000"                                          # version, state, shown, cancel, value, length
    "02000000 03000000 0000000000001c40 01000000 0400 0500 0600 04030201"   # a p e g seen lone replay nonce
    "00108056febc7842 0800 0700 02000000 04000000 0800"                # t0 and the lengths of the strings
    "00208056febc7842 00308056febc7842 000000000080d040 000000000000f0bf"   # t1 t2 o due
) + b"addition" + b"host/w1" + b"\xcd\x2a" + b"oops" + b"c-1,c-22"


def test_the_layout_of_a_record_is_this_one() -> None:
    """Whoever changes it must raise the version in the first byte and keep reading this one."""
    t = 1_700_000_000_000
    model = Record("OK", 2, 3, 7, False, 1, "addition", t + 1, t + 2, t + 3, 16896, "host/w1", b"\xcd\x2a", b"oops",
                   ("c-1", "c-22"), "OK", 6, 4, 5)
    assert encode(model, nonce=0x01020304) == GOLDEN
    assert parse_record("id", GOLDEN) == TaskRecordRaw(
        "id", "OK", 2, 3, 7, False, 1, "addition", t + 1, t + 2, t + 3, 16896, "host/w1", False, b"\xcd\x2a", b"oops",
        True, False, None, 6, 4, 5, False, ("c-1", "c-22"))


def test_redis_writes_the_same_bytes(backend: ResultBackend, connection: redis.Redis) -> None:
    backend.submit([SubmitEntry("some-id", "addition", 0, NOW, 3)], waiter="client")
    backend.claim(3, 7, [ClaimEntry("some-id", 0, 0, "addition", 1)], 5)
    wanted = Record("P", 0, 3, 7, k="addition", t0=NOW, u=("client",))
    assert connection.get(record_key("some-id")) == encode(wanted)


def test_a_push_is_this_message(backend: ResultBackend, connection: redis.Redis) -> None:
    ids = submit(backend, 1)
    assert backend.watch(ids, "me") == ["waiting"]
    listener = connection.pubsub()
    listener.subscribe(result_channel("me"))
    listener.get_message(timeout=5)
    finish(backend, ids, "KO", result=b"", error=b"why")
    message = listener.get_message(timeout=5)
    listener.close()
    assert message is not None
    assert message["data"] == (b"\xdc\x00\x01\x95\xda\x00\x24" + ids[0].encode() + b"\xa2KO\xce\x00\x00\x00\x00\xc0"
                               b"\xc6\x00\x00\x00\x03why")
    assert msgspec.msgpack.decode(message["data"]) == [[ids[0], "KO", 0, None, b"why"]]


# ---- what others left in Redis ---------------------------------------------------------------------------------------
def junk() -> list[bytes]:
    chance = random.Random(7)
    whole = encode(Record("Q", k="addition"))
    return [b"", b"\xa1", b"x" * 500, GOLDEN[:-1], GOLDEN + b"x", b"\xa2" + GOLDEN[1:], whole[:93],
            b"\xa1\x09" + GOLDEN[2:], b"\xa1\x06\x63" + GOLDEN[3:], b"\xa1\x00" + GOLDEN[2:],
            *(b"\xa1" + chance.randbytes(chance.randrange(92, 200)) for _ in range(20))]


@pytest.mark.parametrize("kind", ["string", "hash", "list"])
def test_damaged_records_count_as_missing_and_harm_no_batch(backend: ResultBackend, connection: redis.Redis,
                                                            kind: str) -> None:
    good = submit(backend, 20)
    bad = [new_task_id() for _ in junk()]

    def spoil() -> None:
        for task_id, raw in zip(bad, junk(), strict=True):
            connection.delete(record_key(task_id))
            if kind == "string":
                connection.set(record_key(task_id), raw)
            elif kind == "hash":
                connection.hset(record_key(task_id), "s", "Q")
            else:
                connection.rpush(record_key(task_id), "x")

    ids = [*bad, *good]
    spoil()
    assert backend.read(bad) == [None] * len(bad)
    assert backend.watch(bad, "me") == [None] * len(bad)
    assert backend.cancel_asked(bad) == [False] * len(bad)
    assert set(backend.cancel(bad)) == {"ASKED"}
    spoil()
    assert set(backend.submit([SubmitEntry(i, "addition", 0, NOW, 0) for i in ids])) == {"DONE"}
    spoil()
    claims = backend.claim(0, 1, [ClaimEntry(i, 0, 0, "addition", NOW) for i in ids], NOW)
    assert claims == [Claim("RUN")] * len(ids)
    spoil()
    assert set(backend.started(0, 1, [(i, 0, NOW) for i in bad], "w")) == {"LATE"}
    assert backend.lone_begin(0, 1, bad[0], 0) is None
    finish(backend, ids)
    assert {record.state for record in backend.read(ids) if record is not None} == {"OK"}


def test_a_record_with_the_right_frame_and_nonsense_within_breaks_nothing(backend: ResultBackend,
                                                                          connection: redis.Redis) -> None:
    """A record whose length fits and whose other bytes are random: whatever is made of it, the batch goes through."""
    chance = random.Random(11)
    ids = [new_task_id() for _ in range(300)]
    for task_id in ids:
        raw = bytearray(chance.randbytes(chance.randrange(93, 160)))
        raw[0:9] = bytes([0xA1, chance.randrange(1, 9), chance.randrange(1, 10), 0, 0]) + len(raw).to_bytes(4, "little")
        connection.set(record_key(task_id), bytes(raw))
    good = submit(backend, 50)
    everything = [*ids, *good]
    backend.read(everything)
    backend.watch(everything, "me")
    backend.claim(0, 1, [ClaimEntry(i, 0, 0, "addition", NOW) for i in everything], NOW)
    backend.started(0, 1, [(i, 0, NOW) for i in everything], "w")
    backend.cancel(everything)
    g = backend.clear_numbers()
    answers = backend.finish(0, 1, [FinishEntry(i, 0, g[shard_of(i)], "addition", NOW, "OK", 1, NOW, NOW)
                                    for i in everything], "w")
    assert set(answers[-50:]) == {"DONE"}


def test_an_index_of_another_type_is_replaced(backend: ResultBackend, connection: redis.Redis) -> None:
    for shard in range(SHARDS):
        connection.set(prefix(shard) + "i:0:Q:addition", "somebody was here")
    ids = submit(backend, 50)
    assert backend.counts()["Q"] == 50
    finish(backend, ids)
    assert backend.counts() == dict.fromkeys(SHOWN_STATES, 0) | {"OK": 50}


def test_a_meta_hash_of_another_type_is_a_typed_error(backend: ResultBackend, connection: redis.Redis) -> None:
    connection.set(META_KEYS[0], "somebody was here")
    with pytest.raises(BackendDamaged, match="WRONGTYPE"):
        backend.clear_numbers()


def test_nonsense_in_the_meta_hash_counts_as_nothing(backend: ResultBackend, connection: redis.Redis) -> None:
    for key in META_KEYS:
        connection.hset(key, mapping={"g": "many", "f:0": "high"})
    assert backend.clear_numbers() == [0] * SHARDS
    assert backend.fence(0, 3) == 3
    assert backend.pending_clear() is None


# ---- results ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 900_000])
def test_results_of_every_size_come_back(backend: ResultBackend, connection: redis.Redis, size: int) -> None:
    ids = submit(backend, 3)
    value = os.urandom(size)
    finish(backend, ids, result=value)
    for record in backend.read(ids):
        assert record is not None
        assert (record.result or b"", record.has_result) == (value, size > 0)
    assert (connection.exists(value_key(ids[0])) == 1) == (size > 4096)
    without = backend.read(ids, values=False)[0]
    assert without is not None
    assert without.has_result == (size > 0)


def test_many_large_results_in_one_batch(backend: ResultBackend) -> None:
    ids = submit(backend, 60)
    finish(backend, ids, result=b"z" * 300_000)
    assert {len(record.result or b"") for record in backend.read(ids) if record is not None} == {300_000}


# ---- who waits -------------------------------------------------------------------------------------------------------
def test_ends_are_pushed_to_every_waiter_once(backend: ResultBackend) -> None:
    ids = submit(backend, 500)
    readers = [backend.subscribe(name) for name in ("one", "two")]
    assert set(map(str, backend.watch(ids, "one"))) == {"waiting"}
    assert set(map(str, backend.watch(ids[:100], "two"))) == {"waiting"}
    backend.watch(ids[:100], "two")                                   # asked twice, told once
    finish(backend, ids)
    for reader, wanted in zip(readers, (ids, ids[:100]), strict=True):
        got = collect(reader, len(wanted))
        assert sorted(push.id for push in got) == sorted(wanted)
        assert {push[1:] for push in got} == {("OK", 0, b"\x05", None)}
        reader.close()


def collect(reader: object, count: int) -> list[Push]:
    got: list[Push] = []
    deadline = time.monotonic() + 5
    while len(got) < count and time.monotonic() < deadline:
        got += reader.get(0.2) or []                                  # type: ignore[attr-defined]
    return got


def test_a_value_too_large_for_a_push_is_left_to_be_read(backend: ResultBackend) -> None:
    ids = submit(backend, 1)
    reader = backend.subscribe("me")
    backend.watch(ids, "me")
    finish(backend, ids, result=b"x" * 100_000)
    assert collect(reader, 1) == [Push(ids[0], "OK", 0, None, None)]
    assert one(backend, ids[0]).result == b"x" * 100_000
    reader.close()


def test_a_waiter_given_at_submission_is_told(backend: ResultBackend) -> None:
    reader = backend.subscribe("me")
    task_id = new_task_id()
    entry = SubmitEntry(task_id, "addition", 0, NOW, 0)
    assert backend.submit([entry], waiter="me") == ["DONE"]
    assert backend.submit([entry], waiter="me") == ["KNOWN"]
    finish(backend, [task_id])
    assert [push.id for push in collect(reader, 1)] == [task_id]
    reader.close()


def test_cancelled_and_expired_tasks_are_pushed_too(backend: ResultBackend) -> None:
    reader = backend.subscribe("me")
    ids = submit(backend, 3)
    backend.watch(ids, "me")
    assert backend.cancel(ids[:1]) == ["CONFIRMED"]
    assert backend.claim(0, 1, [ClaimEntry(ids[1], 0, 0, "addition", NOW, NOW - 1)], NOW)[0].state == "KO"
    assert backend.claim(0, 1, [ClaimEntry(ids[2], 0, 0, "addition", NOW)], NOW) == [Claim("RUN")]
    assert backend.cancel(ids[2:]) == ["ASKED"]
    assert backend.claim(0, 2, [ClaimEntry(ids[2], 0, 0, "addition", NOW)], NOW)[0].state == "CX"
    got = {push.id: push for push in collect(reader, 3)}
    assert [got[i].state for i in ids] == ["CX", "KO", "CX"]
    from yadtq.task_error import decode_error
    assert decode_error(got[ids[1]].error or b"").code == "TASK_EXPIRED"
    reader.close()


def test_two_copies_in_one_batch_are_claimed_in_turn(backend: ResultBackend) -> None:
    task_id = new_task_id()
    first, second = ClaimEntry(task_id, 0, 0, "addition", NOW), ClaimEntry(task_id, 1, 0, "addition", NOW)
    assert [claim.answer for claim in backend.claim(0, 1, [second, first], NOW)] == ["RUN", "SKIP"]


# ---- counters, ids ---------------------------------------------------------------------------------------------------
def test_lone_runs_are_counted_once_a_call(backend: ResultBackend) -> None:
    from yadtq.shard_calls import call

    task_id = new_task_id()
    entry = ClaimEntry(task_id, 0, 0, "addition", NOW)
    backend.claim(0, 1, [entry], NOW)
    assert backend.claim(0, 2, [entry], NOW) == [Claim("RUN", True, "", 0, 0)]
    assert backend.claim(0, 2, [entry], NOW) == [Claim("RUN")], "a repeated claim is no suspect"
    assert backend.lone_begin(0, 2, task_id, 0) == (0, 1)
    assert backend.lone_end(0, 2, task_id, 0, True) == (1, 0)
    assert backend.lone_begin(0, 2, task_id, 0) == (1, 1)
    again = call("lone_run", shard_of(task_id), (0, 2, task_id, 0, 0, 77))
    assert backend.redis.run([again, again, again]) == [[1, 2]] * 3, "one call, however often it was sent"
    assert backend.claim(0, 3, [entry], NOW) == [Claim("RUN", True, "", 1, 2)]
    assert backend.lone_begin(0, 2, task_id, 0) is None


def test_a_repeated_finish_leads_to_settle(backend: ResultBackend) -> None:
    ids = submit(backend, 2)
    entries = [ClaimEntry(i, 0, 0, "addition", NOW) for i in ids]
    backend.claim(0, 1, entries, NOW)
    finish(backend, ids[:1])
    finish(backend, ids[1:], "R")
    for how, task_id, state in (("OK", ids[0], "OK"), ("R", ids[1], "R")):
        end = FinishEntry(task_id, 0, 0, "addition", NOW, how, 5, NOW, NOW, b"\x05")
        assert backend.finish(0, 1, [end], "host/w1") == ["LATE"]
        claim = backend.claim(0, 1, [ClaimEntry(task_id, 0, 0, "addition", NOW)], NOW)[0]
        assert (claim.answer, claim.state) == ("SETTLE", state)


def test_fence_reports_the_highest_epoch(backend: ResultBackend) -> None:
    assert backend.fence(0, 5) == 5
    assert backend.fence(0, 9) == 9
    assert backend.fence(0, 7) == 9
    assert backend.fence(1, 7) == 7
    assert backend.claim(0, 8, [ClaimEntry("some-task", 0, 0, "addition", NOW)], NOW) == [Claim("STALE")]


def test_the_store_id_lasts_until_redis_is_emptied(backend: ResultBackend, connection: redis.Redis) -> None:
    first = backend.store_id()
    assert backend.store_id() == first
    connection.flushall()
    assert backend.store_id() != first


def test_empty_batches_are_nothing(backend: ResultBackend) -> None:
    assert backend.submit([]) == backend.claim(0, 1, [], NOW) == backend.finish(0, 1, [], "w") == backend.read([]) == []


def test_a_closed_backend_says_so(backend: ResultBackend) -> None:
    backend.close()
    with pytest.raises(ClientClosed):
        backend.read(["x"])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_uses_connections_of_its_own(backend: ResultBackend) -> None:
    ids = submit(backend, 10)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for _ in range(200):
                status = 0 if all(record is not None for record in backend.read(ids)) else 1
                if status:
                    break
        finally:
            os._exit(status)
    for _ in range(200):
        assert all(record is not None for record in backend.read(ids))
    assert os.waitpid(pid, 0)[1] == 0
