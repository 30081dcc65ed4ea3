"""Puts the model's records into a real Redis and reads them back: the bytes, the index entries, the shards' numbers.

Written against docs/redis.md, independently of `yadtq.records`, so that a change of the layout shows as a failing test.
"""
from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

import redis

from tests.model.operations import Record
from yadtq.names import META_KEYS, SHARD_TAGS, record_key, shard_of, value_key

LAYOUT = struct.Struct("<BBBBBIIidIHHHIdHHIIHdddd")
NUMBERS = {"Q": 1, "S": 2, "P": 3, "R": 4, "X": 5, "OK": 6, "KO": 7, "CX": 8, "Z": 9}
NAMES = {number: name for name, number in NUMBERS.items()}
INLINE = 4096


def encode(record: Record, *, nonce: int = 0) -> bytes:
    """The bytes of a record whose result stands in it."""
    kind = record.k + "\0" + record.group if record.group else record.k
    k, w, u = kind.encode(), record.w.encode(), ",".join(record.u).encode()
    where = 2 if record.shown == "Z" else 0
    strings = k + w + record.r + record.f + u
    head = LAYOUT.pack(0xA1, NUMBERS[record.s], NUMBERS[record.shown], record.x, where, LAYOUT.size + len(strings),
                       record.a, record.p, -1 if record.e is None else record.e, record.g, record.seen, record.lone,
                       record.replay, nonce, record.t0, len(k), len(w), len(record.r), len(record.f), len(u), record.t1,
                       record.t2, record.o, record.due)
    return head + strings


def decode(raw: bytes, apart: bytes | None = None) -> Record:
    """The record in some bytes; `apart` is the value of its value key."""
    (magic, s, shown, x, where, length, a, p, e, g, seen, lone, replay, _, t0, nk, nw, nr, nf, nu, t1, t2, o, due
     ) = LAYOUT.unpack_from(raw)
    assert (magic, length) == (0xA1, len(raw))
    at = LAYOUT.size
    parts = []
    for size in (nk, nw, nr, nf, nu):
        parts.append(raw[at:at + size])
        at += size
    assert at == len(raw)
    k, w, r, f, u = parts
    assert (where == 1) == (apart is not None), "a value key without its mark, or a mark without its value key"
    assert apart is None or not r
    result = r if apart is None else apart
    waiters = tuple(u.decode().split(",")) if u else ()
    kind, _, group = k.decode().partition("\0")
    return Record(NAMES[s], a, p, None if e < 0 else int(e), bool(x), g, kind, int(t0), int(t1), int(t2), int(o),
                  w.decode(), result, f, waiters, NAMES[shown], replay, seen, lone, int(due), group)


def prefix(shard: int) -> str:
    return f"yadtq:{SHARD_TAGS[shard]}:"


def index_keys(task_id: str, record: Record) -> set[str]:
    """The indexes that list it: that of its type, and that of its group if it has one."""
    kind = "" if record.shown in "XZ" else record.k
    place = prefix(shard_of(task_id))
    keys = {f"{place}i:{record.g}:{record.shown}:{kind}"}
    if record.group and record.shown not in "XZ":
        keys.add(f"{place}ig:{record.g}:{record.shown}:{record.group}")
    return keys


def plant(connection: redis.Redis, records: Mapping[str, Record | None]) -> None:
    """Write records with their index entries."""
    pipe = connection.pipeline(transaction=False)
    for task_id, record in records.items():
        if record is not None:
            pipe.set(record_key(task_id), encode(record))
            for key in index_keys(task_id, record):
                pipe.zadd(key, {task_id: record.t0})
            kind = "" if record.shown in "XZ" else record.k
            pipe.sadd(prefix(shard_of(task_id)) + "k", f"{record.g}:{kind}")
    pipe.execute()


def set_shards(connection: redis.Redis, gen: int, fences: Mapping[int, int]) -> None:
    """Give all shards this clear number and these fences."""
    pipe = connection.pipeline(transaction=False)
    for key in META_KEYS:
        pipe.delete(key)
        pipe.hset(key, mapping={"g": gen, **{f"f:{p}": e for p, e in fences.items()}})
    pipe.execute()


def read_back(connection: redis.Redis, ids: Iterable[str]) -> dict[str, Record | None]:
    """The records as they are now."""
    ids = list(ids)
    raws, values = connection.mget([record_key(i) for i in ids]), connection.mget([value_key(i) for i in ids])
    return {i: None if raw is None else decode(raw, value) for i, raw, value in zip(ids, raws, values, strict=True)}


def index_entries(connection: redis.Redis) -> dict[str, set[str]]:
    """In which indexes each task is."""
    found: dict[str, set[str]] = {}
    for key in connection.scan_iter("yadtq:{s*}:i*:*", count=1000):
        for task_id in connection.zrange(key, 0, -1):
            found.setdefault(task_id.decode(), set()).add(key.decode())
    return found
