"""Cuts an operation on many tasks into calls of the function library: one shard and a bounded number of tasks each.

Pure: makes bytes and reads replies, never talks to Redis. Used by the result backend in any thread.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast
from zlib import crc32

import hiredis
import msgspec

from yadtq.names import FUNCTION_PREFIX, META_KEYS, SHARDS

MAX_TASKS: Final = 200              # a call: it holds Redis for about a millisecond
MAX_BYTES: Final = 1 << 20          # of values in a call, unless a single one is larger

_encode = msgspec.msgpack.Encoder().encode
_pack = cast("Callable[[tuple[object, ...]], bytes]", hiredis.pack_command)     # its own annotation is too narrow


def pack(*parts: bytes | str | int) -> bytes:
    """One command as the bytes that go to Redis."""
    return _pack(parts)


def call(function: str, shard: int, flat: Sequence[Any], values: Sequence[bytes] = ()) -> bytes:
    """The packed FCALL of one function on one shard: a flat msgpack array, and values that are bytes."""
    return _pack(("FCALL", FUNCTION_PREFIX + function, 1, META_KEYS[shard], _encode(flat), *values))


def by_shard(ids: Sequence[str], max_tasks: int = MAX_TASKS) -> Iterator[tuple[int, list[int]]]:
    """Which tasks go into which call: (shard, indexes into `ids`)."""
    groups: list[list[int]] = [[] for _ in range(SHARDS)]
    mask = SHARDS - 1
    for index, task_id in enumerate(ids):
        groups[crc32(task_id.encode()) & mask].append(index)
    for shard, group in enumerate(groups):
        if len(group) <= max_tasks:
            if group:
                yield shard, group
        else:
            for start in range(0, len(group), max_tasks):
                yield shard, group[start:start + max_tasks]


def rounds(ids: Sequence[str]) -> list[list[int]] | None:
    """None when every id is there once. Else the indexes, so that no round has an id twice.

    Within one call a function sees each record as it was before the call.
    """
    if len(set(ids)) == len(ids):
        return None
    seen: dict[str, int] = {}
    found: list[list[int]] = []
    for index, task_id in enumerate(ids):
        nth = seen.get(task_id, 0)
        seen[task_id] = nth + 1
        if nth == len(found):
            found.append([])
        found[nth].append(index)
    return found
