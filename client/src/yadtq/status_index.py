"""Tasks by status, type and time; clearing everything; and the expiry of what has had its time.

Owns the paging over the shards' sorted sets, the cursor, and the janitor's place in its walk. Used by clients and by
the janitor, any thread. Never scans the key space, and never holds Redis for longer than one bounded call a shard.
"""
from __future__ import annotations

import base64
import binascii
import struct
import time
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

import msgspec

from yadtq.names import SHARDS
from yadtq.records import SHOWN_STATES, STATE_NUMBER, STATES
from yadtq.redis_client import RedisClient
from yadtq.shard_calls import MAX_TASKS, call

# How long a record outlives the moment at which it was found old and committed: no copy of its message may come later.
KEEP_MS: Final = 2 * 3_600_000
MAX_PAGE: Final = 10_000
_SLACK: Final = 8                   # a shard's share of a page varies; a few more spare a second round
_FOREVER_MS: Final = 1 << 52
_Intent = tuple[list[int], list[tuple[int, int]], list[tuple[int, int]]]


class PendingClear(NamedTuple):
    """What a clear intends: the clear number of each shard, and the offsets up to which Kafka's records go."""

    numbers: tuple[int, ...]
    offsets: dict[int, int]             # of the task topic
    delayed: dict[int, int]             # of the delayed topic
    raw: bytes = b""


class StatusIndex:
    """The status index of one result backend."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._walk: dict[int, tuple[bytes, int, bytes]] = {}    # per shard: where the last expire stopped

    # ---- pages ------------------------------------------------------------------------------------------------------
    def page(self, states: Sequence[str], types: Sequence[str] | None, after: str | None, limit: int,
             since_ms: int | None, until_ms: int | None, newest_first: bool, group: str = "", *,
             timeout_s: float | None = None) -> tuple[list[tuple[str, str]], str | None]:
        """At most `limit` (1 to 10,000) tasks as (id, state), and a cursor for the next page, None at the end.

        The order is that of (submission time in ms, id). A page may be shorter than `limit` though more follow. A task
        is listed at most once by a walk, also when it changes its state meanwhile. Of a group, tasks of all types are
        listed. Raises ValueError for a cursor that isn't one, or a state that isn't shown.
        """
        unknown = [state for state in states if state not in SHOWN_STATES]
        if unknown:
            raise ValueError(f"no such state: {unknown[0]!r}")
        limit = max(1, min(limit, MAX_PAGE))
        score, last_id = (-1, "") if after is None else _parse_cursor(after)
        share = limit // SHARDS + _SLACK
        flat = (share, int(newest_first), str(since_ms or 0), str(_FOREVER_MS if until_ms is None else until_ms), score,
                last_id, [STATE_NUMBER[state] for state in states], list(types or ()), group)
        replies = self._redis.run([call("page", shard, flat) for shard in range(SHARDS)], timeout_s)
        found: list[tuple[int, str, int]] = []
        bound: tuple[int, str] | None = None            # behind the last one of a full share other tasks may be missing
        for reply in replies:
            tasks = [(reply[i + 2], reply[i].decode(errors="replace"), reply[i + 1]) for i in range(0, len(reply), 3)]
            found += tasks
            if len(tasks) == share:
                end = tasks[-1][:2]
                bound = end if bound is None else max(bound, end) if newest_first else min(bound, end)
        found.sort(reverse=newest_first)
        if bound is not None:
            found = [one for one in found if (one[:2] >= bound if newest_first else one[:2] <= bound)]
        more = bound is not None or len(found) > limit
        found = found[:limit]
        cursor = _cursor(found[-1][0], found[-1][1]) if more and found else None
        return [(task_id, STATES[state]) for _, task_id, state in found], cursor

    def counts(self, types: Sequence[str] | None = None, group: str = "", *,
               timeout_s: float | None = None) -> dict[str, int]:
        """How many tasks are shown in each state: of a group, else of some types, else in all."""
        total = dict.fromkeys(SHOWN_STATES, 0)
        flat = (group, list(types or ()))
        for reply in self._redis.run([call("counts", shard, flat) for shard in range(SHARDS)], timeout_s):
            for state, number in zip(STATES[1:], reply, strict=True):
                if state in total:
                    total[state] += number
        return total

    # ---- clearing ---------------------------------------------------------------------------------------------------
    def clear_numbers(self, *, timeout_s: float | None = None) -> list[int]:
        """The clear number of each shard."""
        return [number for number, _ in self._numbers(timeout_s)]

    def _numbers(self, timeout_s: float | None) -> list[tuple[int, bytes]]:
        return self._redis.run([call("clear_numbers", shard, ()) for shard in range(SHARDS)], timeout_s)

    def raise_clear(self, offsets: dict[int, int] | None, delayed: dict[int, int] | None = None, *,
                    timeout_s: float | None = None) -> list[int]:
        """Raise the clear number of every shard; returns the new ones.

        The time (Unix seconds) if that is more than the next number: clients remember numbers, and one that has seen a
        Redis which was wiped since would else stamp its tasks with numbers that this clear, and more, don't reach.
        What is intended is written down first (shard 0), so that whoever comes later can complete it. A repeat of the
        same call raises nothing twice.
        """
        now_s = int(time.time())
        target = [max(number + 1, now_s) for number in self.clear_numbers(timeout_s=timeout_s)]
        raw = msgspec.msgpack.encode((target, sorted((offsets or {}).items()), sorted((delayed or {}).items())))
        return self._raise_to(target, raw, timeout_s)

    def _raise_to(self, target: Sequence[int], raw: bytes, timeout_s: float | None) -> list[int]:
        first = call("raise_clear", 0, (target[0],), (raw,))
        others = [call("raise_clear", shard, (target[shard],), (b"",)) for shard in range(1, SHARDS)]
        return [*self._redis.run([first], timeout_s), *self._redis.run(others, timeout_s)]

    def pending_clear(self, *, timeout_s: float | None = None) -> PendingClear | None:
        """The clear that was begun and not declared done; completes its raise where that was broken off."""
        replies = self._numbers(timeout_s)
        raw = replies[0][1]
        if not raw:
            return None
        try:
            numbers, offsets, delayed = msgspec.msgpack.decode(raw, type=_Intent)
        except (ValueError, RecursionError):
            return None
        if len(numbers) != SHARDS:
            return None
        if any(found < number for (found, _), number in zip(replies, numbers, strict=True)):
            self._raise_to(numbers, raw, timeout_s)
        return PendingClear(tuple(numbers), dict(offsets), dict(delayed), raw)

    def clear_done(self, pending: PendingClear, *, timeout_s: float | None = None) -> None:
        """Forget an intent, unless another clear has been begun since."""
        self._redis.run([call("forget_intent", 0, (), (pending.raw,))], timeout_s)

    def drop_cleared(self, limit: int, *, timeout_s: float | None = None) -> int:
        """Delete hidden records, a bounded number a shard (about `limit` in all); how many tasks that were.

        0: all are gone.
        """
        share = max(1, min(limit // SHARDS, MAX_TASKS))
        while True:
            calls = [call("drop_cleared", shard, (share,)) for shard in range(SHARDS)]
            replies = self._redis.run(calls, timeout_s)
            dropped = sum(int(reply[0]) for reply in replies)
            if dropped or not any(reply[1] for reply in replies):
                return dropped

    # ---- expiry -----------------------------------------------------------------------------------------------------
    def expire(self, now_ms: int, ttl_s: float, committed: dict[int, int], limit: int,
               shards: Collection[int] = range(SHARDS), *, timeout_s: float | None = None) -> int:
        """Drop what has had its time in these shards, looking at about `limit` records; returns how many were dropped.

        An ended task whose message lies below the committed offset of its partition loses its value and leaves the
        listings `ttl_s` after its end; what is left is a tombstone, which goes KEEP_MS later. Tasks that have not ended
        stay, and so do those of partitions that `committed` doesn't name.
        """
        flat_committed = [number for item in committed.items() for number in item]
        share = max(1, min(limit // max(len(shards), 1), MAX_TASKS))
        calls = []
        for shard in shards:
            index, score, last_id = self._walk.get(shard, (b"", -1, b""))
            flat = [now_ms, now_ms - int(ttl_s * 1000), now_ms - KEEP_MS, share, _text(index), score, _text(last_id),
                    *flat_committed]
            calls.append(call("expire", shard, flat))
        done = 0
        for shard, (number, index, score, last_id) in zip(shards, self._redis.run(calls, timeout_s), strict=True):
            done += number
            self._walk[shard] = (index, int(score), last_id)
        return done


def _text(data: bytes) -> msgspec.Raw:
    """A text as msgpack has it, of bytes that need be none: names that somebody else wrote into Redis."""
    return msgspec.Raw(struct.pack(">BI", 0xDB, len(data)) + data)


def _cursor(score: int, task_id: str) -> str:
    return base64.urlsafe_b64encode(struct.pack(">q", score) + task_id.encode()).decode().rstrip("=")


def _parse_cursor(text: str) -> tuple[int, str]:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return struct.unpack_from(">q", raw)[0], raw[8:].decode()
    except (ValueError, struct.error, binascii.Error):
        raise ValueError(f"not a cursor: {text!r}") from None
