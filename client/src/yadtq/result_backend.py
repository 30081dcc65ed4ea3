"""Status and results in Redis: every operation on task records, each an atomic function on the server.

Owns what the operations take and answer; the transitions are redis_functions.lua's. One object a process and settings:
safe to use from many threads and after a fork, connects at the first call. An operation on any number of tasks is one
call a shard (at most 200 tasks each), all in one round trip; each is idempotent, because a call whose reply was lost is
sent again. Everything raises RedisConnectionError after `timeout_s` (setting redis_timeout_s) without an answer.
Never reads Kafka, never decodes a result, never decides what a worker does next.
"""
from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from yadtq.durability import Durability, replicas_online
from yadtq.names import KAFKA_KEY, SHARDS, STORE_KEY, shard_of, value_key
from yadtq.records import (
    STATE_NUMBER,
    STATES,
    Claim,
    ClaimEntry,
    FinishEntry,
    Push,
    SubmitEntry,
    TaskRecordRaw,
    kind_of,
    parse_record,
)
from yadtq.redis_client import RedisClient
from yadtq.shard_calls import MAX_BYTES, by_shard, call, pack, rounds
from yadtq.status_index import PendingClear, StatusIndex
from yadtq.subscription import Subscription

if TYPE_CHECKING:
    from yadtq.config import Settings

__all__ = ["SUBMIT_LIMIT_MS", "Claim", "ClaimEntry", "Durability", "FinishEntry", "PendingClear", "Push",
           "ResultBackend", "SubmitEntry", "Subscription", "TaskRecordRaw"]

T = TypeVar("T")

# A QUEUED record is refused when the submission is older: it may have run, ended and expired meanwhile. Half of what a
# record outlives its end by (status_index.KEEP_MS), and long enough for the client's clock to be wrong by minutes.
SUBMIT_LIMIT_MS: Final = 3_600_000

_DONE: Final = {ord("D"): "DONE", ord("C"): "CLEARED", ord("L"): "LATE", ord("X"): "STALE", ord("A"): "ASKED",
                ord("W"): "KNOWN", ord("N"): "CANCELLED"}
_CANCELLED: Final = {ord("D"): "CONFIRMED", ord("A"): "ASKED", ord("E"): "ENDED"}
_CLAIMS: Final = {ord("R"): Claim("RUN"), ord("K"): Claim("SKIP"), ord("X"): Claim("STALE"), ord("C"): Claim("CLEARED")}


class ResultBackend:
    """The result backend of one client or worker.

    Example:
        backend = ResultBackend(settings)
        backend.submit([SubmitEntry("0190...", "addition", g, submitted_ms, partition)])    # ["DONE"]
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.redis = RedisClient(settings)
        self.index = StatusIndex(self.redis)

    def close(self) -> None:
        """Close the connections; further calls raise ClientClosed."""
        self.redis.close()

    # ---- the life of a task -----------------------------------------------------------------------------------------
    def submit(self, entries: Sequence[SubmitEntry], *, waiter: str = "", timeout_s: float | None = None) -> list[str]:
        """Show tasks as QUEUED (SCHEDULED with a due time), unless their records exist: those stay as they are, but for
        one of fewer replays, which gives way to the new life.

        Answers DONE; CLEARED: clear_all_tasks came in between, stamp anew; LATE: the submission is too old. With
        `waiter` a client id is registered in the new records at once; KNOWN then says that a record exists and that
        it must be watched.
        """
        now_ms = int(time.time() * 1000)

        def make(shard: int, group: list[int]) -> bytes:
            flat: list[Any] = [now_ms, SUBMIT_LIMIT_MS, waiter]
            for index in group:
                task_id, task, g, submitted_ms, partition, due_ms, replay, label = entries[index]
                flat += (task_id, g, task if label is None else kind_of(task, label), submitted_ms, partition,
                         -1 if due_ms is None else due_ms, replay)
            return call("submit", shard, flat)

        return self._letters([entry[0] for entry in entries], make, _DONE, timeout_s)

    def claim(self, partition: int, epoch: int, entries: Sequence[ClaimEntry], now_ms: int, *,
              timeout_s: float | None = None) -> list[Claim]:
        """Ask for attempts to run, leaving the token (partition, epoch). Two copies of one id are asked for in turn."""
        ids = [entry[0] for entry in entries]
        answers: list[Claim] = [_CLAIMS[ord("K")]] * len(ids)
        for chosen in rounds(ids) or (range(len(ids)),):
            groups = [(shard, [chosen[i] for i in group]) for shard, group in by_shard([ids[i] for i in chosen])]
            calls = [self._claim_call(partition, epoch, now_ms, shard, [entries[i] for i in group])
                     for shard, group in groups]
            for (_, group), (letters, *more) in zip(groups, self.redis.run(calls, timeout_s), strict=True):
                details = iter(more)
                for index, letter in zip(group, letters, strict=True):
                    answers[index] = _CLAIMS.get(letter) or _claim_details(letter, details)
        return answers

    def _claim_call(self, partition: int, epoch: int, now_ms: int, shard: int, entries: Sequence[ClaimEntry]) -> bytes:
        flat: list[Any] = [partition, epoch, now_ms]
        any_expired = False
        for task_id, n, g, task, submitted_ms, expires_ms, replay, offset, group, stays in entries:
            expired = expires_ms is not None and expires_ms <= now_ms
            any_expired = any_expired or expired
            flat += (task_id, n, g, task if group is None else kind_of(task, group), submitted_ms, replay,
                     1 if expired else 0, offset, 1 if stays else 0)
        return call("claim", shard, flat, (_expired_error(),) if any_expired else ())

    def started(self, partition: int, epoch: int, entries: Sequence[tuple[str, int, int]], worker: str, *,
                timeout_s: float | None = None) -> list[str]:
        """Show tasks as PROCESSING: (id, attempt, started_ms). Answers DONE, ASKED (and a cancel was asked for), LATE
        (it isn't claimed by this token), STALE, CLEARED."""
        def make(shard: int, group: list[int]) -> bytes:
            flat: list[Any] = [partition, epoch, worker]
            for index in group:
                flat += entries[index]
            return call("started", shard, flat)

        return self._letters([entry[0] for entry in entries], make, _DONE, timeout_s)

    def finish(self, partition: int, epoch: int, entries: Sequence[FinishEntry], worker: str, *,
               timeout_s: float | None = None) -> list[str]:
        """Record how attempts ended, and push the ends to whoever waits.

        Answers DONE; CANCELLED: a cancel was asked for, so that the retry (`end` R) is none and nothing follows; LATE:
        the record went another way, claim again and obey; STALE; CLEARED. A finish that is
        repeated after it was recorded answers LATE, and its claim then SETTLE.
        """
        ids = [entry[0] for entry in entries]
        answers = [""] * len(ids)
        for chosen in rounds(ids) or (range(len(ids)),):
            groups = [(shard, part) for shard, group in by_shard([ids[i] for i in chosen])
                      for part in _bounded([chosen[i] for i in group], entries)]
            calls = [_finish_call(partition, epoch, worker, shard, [entries[i] for i in group])
                     for shard, group in groups]
            for (_, group), letters in zip(groups, self.redis.run(calls, timeout_s), strict=True):
                for index, letter in zip(group, letters, strict=True):
                    answers[index] = _DONE[letter]
        return answers

    def fence(self, partition: int, epoch: int, *, timeout_s: float | None = None) -> int:
        """Write the epoch into all shards; returns the highest that any of them had seen (above `epoch`: stale)."""
        calls = [call("fence", shard, (partition, epoch)) for shard in range(SHARDS)]
        return max(int(reply) for reply in self.redis.run(calls, timeout_s))

    def lone_begin(self, partition: int, epoch: int, task_id: str, n: int, *,
                   timeout_s: float | None = None) -> tuple[int, int] | None:
        """A suspect is about to run alone: counts it in `lone`. -> (seen, lone), None when the claim isn't ours."""
        return self._lone(partition, epoch, task_id, n, 0, timeout_s)

    def lone_end(self, partition: int, epoch: int, task_id: str, n: int, crashed: bool, *,
                 timeout_s: float | None = None) -> tuple[int, int] | None:
        """Its child's end was seen: `lone` is cleared; `crashed` (and not by us) adds to `seen`. -> (seen, lone)."""
        return self._lone(partition, epoch, task_id, n, 2 if crashed else 1, timeout_s)

    def _lone(self, partition: int, epoch: int, task_id: str, n: int, what: int,
              timeout_s: float | None) -> tuple[int, int] | None:
        nonce = secrets.randbelow(2**32 - 1) + 1            # tells a repeated call from a second run
        flat = (partition, epoch, task_id, n, what, nonce)
        reply = self.redis.run([call("lone_run", shard_of(task_id), flat)], timeout_s)[0]
        return (int(reply[0]), int(reply[1])) if len(reply) == 2 else None

    # ---- cancelling -------------------------------------------------------------------------------------------------
    def cancel(self, ids: Sequence[str], *, timeout_s: float | None = None) -> list[str]:
        """CONFIRMED: the body will not start. ASKED: the worker decides, or nobody knows the task. ENDED."""
        return self._letters(ids, lambda shard, group: call("cancel", shard, [ids[i] for i in group]), _CANCELLED,
                             timeout_s)

    def cancel_asked(self, ids: Sequence[str], *, timeout_s: float | None = None) -> list[bool]:
        """Whether a cancel was asked for, task by task."""
        return self._letters(ids, lambda shard, group: call("cancel_asked", shard, [ids[i] for i in group]),
                             {ord("Y"): True, ord("N"): False}, timeout_s)

    # ---- reading ----------------------------------------------------------------------------------------------------
    def read(self, ids: Sequence[str], *, values: bool = True,
             timeout_s: float | None = None) -> list[TaskRecordRaw | None]:
        """The records; None for a task that isn't known. `values=False` leaves long results where they are."""
        groups = list(by_shard(ids))
        replies = self.redis.run([call("read", shard, [ids[i] for i in group]) for shard, group in groups], timeout_s)
        found: list[TaskRecordRaw | None] = [None] * len(ids)
        for (_, group), reply in zip(groups, replies, strict=True):
            for index, raw in zip(group, reply, strict=True):
                if raw is not None:
                    found[index] = parse_record(ids[index], raw)
        return self._with_values(found, timeout_s) if values else found

    def watch(self, ids: Sequence[str], client_id: str, *,
              timeout_s: float | None = None) -> list[TaskRecordRaw | Literal["waiting"] | None]:
        """In one step: the record of a task that has ended, else the client is noted and will be pushed its end.

        None: not known, and nobody is noted. A record that has not ended is answered when 64 clients wait already.
        """
        groups = list(by_shard(ids))
        calls = [call("watch", shard, [client_id, *[ids[i] for i in group]]) for shard, group in groups]
        records: list[TaskRecordRaw | None] = [None] * len(ids)
        waiting = []
        for (_, group), reply in zip(groups, self.redis.run(calls, timeout_s), strict=True):
            for index, raw in zip(group, reply, strict=True):
                if raw == 1:
                    waiting.append(index)
                elif raw is not None:
                    records[index] = parse_record(ids[index], raw)
        answers: list[TaskRecordRaw | Literal["waiting"] | None] = list(self._with_values(records, timeout_s))
        for index in waiting:
            answers[index] = "waiting"
        return answers

    def _with_values(self, records: list[TaskRecordRaw | None], timeout_s: float | None) -> list[TaskRecordRaw | None]:
        """Fetch the results that lie apart, a bounded number of bytes at a time."""
        apart = [(index, record) for index, record in enumerate(records) if record is not None and record.apart]
        for index, record in apart:
            value = self.redis.run([pack("MGET", value_key(record.id))], timeout_s)[0][0]   # GET minds other types
            records[index] = record._replace(result=value, has_result=value is not None)
        return records

    def subscribe(self, client_id: str) -> Subscription:
        """The reader of the ends that are pushed to this client; one thread uses it."""
        return Subscription(self.redis, self.settings, client_id)

    # ---- the status index -------------------------------------------------------------------------------------------
    def page(self, states: Sequence[str], types: Sequence[str] | None = None, after: str | None = None,
             limit: int = 100, since_ms: int | None = None, until_ms: int | None = None, newest_first: bool = False,
             group: str = "", *, timeout_s: float | None = None) -> tuple[list[tuple[str, str]], str | None]:
        """The next tasks shown in one of `states` (Q S P R OK KO CX), in order of submission; see StatusIndex.page."""
        return self.index.page(states, types, after, limit, since_ms, until_ms, newest_first, group,
                               timeout_s=timeout_s)

    def counts(self, types: Sequence[str] | None = None, group: str = "", *,
               timeout_s: float | None = None) -> dict[str, int]:
        """How many tasks are shown in each state: of a group, of some types, or in all."""
        return self.index.counts(types, group, timeout_s=timeout_s)

    def expire(self, now_ms: int, ttl_s: float, committed: dict[int, int], limit: int = 1000,
               shards: Collection[int] = range(SHARDS), *, timeout_s: float | None = None) -> int:
        """Drop what has had its time in these shards, at most about `limit` records; see StatusIndex.expire."""
        return self.index.expire(now_ms, ttl_s, committed, limit, shards, timeout_s=timeout_s)

    # ---- clearing ---------------------------------------------------------------------------------------------------
    def clear_numbers(self, *, timeout_s: float | None = None) -> list[int]:
        """The clear number of each shard: what a new message is stamped with."""
        return self.index.clear_numbers(timeout_s=timeout_s)

    def raise_clear(self, offsets: dict[int, int] | None = None, delayed: dict[int, int] | None = None, *,
                    timeout_s: float | None = None) -> list[int]:
        """Hide everything older, in all shards; `offsets` and `delayed` are the end offsets that were read before."""
        return self.index.raise_clear(offsets, delayed, timeout_s=timeout_s)

    def drop_cleared(self, limit: int = 3200, *, timeout_s: float | None = None) -> int:
        """Delete up to about `limit` hidden records; call until 0."""
        return self.index.drop_cleared(limit, timeout_s=timeout_s)

    def pending_clear(self, *, timeout_s: float | None = None) -> PendingClear | None:
        """A clear that was begun and not declared done."""
        return self.index.pending_clear(timeout_s=timeout_s)

    def clear_done(self, pending: PendingClear, *, timeout_s: float | None = None) -> None:
        """Forget the intent of a clear."""
        self.index.clear_done(pending, timeout_s=timeout_s)

    # ---- the store itself -------------------------------------------------------------------------------------------
    def store_id(self, *, timeout_s: float | None = None) -> str:
        """The random id of what Redis holds; another one than before means that Redis was replaced by an empty one."""
        calls = [pack("SET", STORE_KEY, secrets.token_hex(8), "NX"), pack("GET", STORE_KEY)]
        return str(self.redis.run(calls, timeout_s)[1].decode())

    def kafka_identity(self, mine: str, *, timeout_s: float | None = None) -> str:
        """Which Kafka the epochs in this Redis come from: `mine`, if nobody has said so before."""
        calls = [pack("SET", KAFKA_KEY, mine, "NX"), pack("GET", KAFKA_KEY)]
        return str(self.redis.run(calls, timeout_s)[1].decode(errors="replace"))

    def info(self, section: str, *, timeout_s: float | None = None) -> dict[str, str]:
        """Sections of INFO (their names with spaces between), as text."""
        text = self.redis.run([pack("INFO", *section.split())], timeout_s)[0].decode()
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))

    def run_id(self, *, timeout_s: float | None = None) -> str:
        """The id of the running Redis process; another one than before means that it was restarted."""
        return self.info("server", timeout_s=timeout_s)["run_id"]

    def durability(self) -> Durability:
        """Keeps account of what is known to be on disk; one object a worker."""
        return Durability(self.settings.durability, self._info_of_safety)

    def _info_of_safety(self, sections: str) -> dict[str, str]:
        """INFO, and what the Sentinels say of the same process."""
        info = self.info(sections)
        sentinels = self.redis.sentinels
        if sentinels is not None:
            if not replicas_online(info):
                sentinels.ask()                     # for the next look: is it alone?
            info["sentinels_replicas"] = str(sentinels.replicas())
            alone_at = sentinels.alone_at(info.get("run_id", ""))
            info |= {} if alone_at is None else {"sentinels_alone_at": repr(alone_at)}
        return info

    # ---- within -----------------------------------------------------------------------------------------------------
    def _letters(self, ids: Sequence[str], make: Callable[[int, list[int]], bytes], meaning: dict[int, T],
                 timeout_s: float | None) -> list[T]:
        """Run a function that answers one letter a task."""
        groups = list(by_shard(ids))
        answers: list[Any] = [None] * len(ids)
        replies = self.redis.run([make(shard, group) for shard, group in groups], timeout_s)
        for (_, group), letters in zip(groups, replies, strict=True):
            for index, letter in zip(group, letters, strict=True):
                answers[index] = meaning[letter]
        return answers


def _claim_details(letter: int, details: Iterator[int]) -> Claim:
    state, seen, lone = next(details), next(details), next(details)
    if letter == ord("U"):
        return Claim("RUN", True, "", seen, lone)
    if letter == ord("W"):
        return Claim("WAIT", attempt=state, due_ms=seen)
    if letter in (ord("I"), ord("J")):
        suspect = letter == ord("J")
        return Claim("RUN", suspect, "", seen if suspect else 0, lone if suspect else 0, attempt=state)
    return Claim("SETTLE", False, STATES[state], seen, lone)


def _expired_error() -> bytes:
    from yadtq.errors import TaskExpired
    from yadtq.task_error import TaskError, encode_error

    return encode_error(TaskError(TaskExpired.code, TaskExpired().message))


def _finish_call(partition: int, epoch: int, worker: str, shard: int, entries: Sequence[FinishEntry]) -> bytes:
    flat: list[Any] = [partition, epoch, worker]
    values: list[bytes] = []
    for (task_id, n, g, task, submitted_ms, end, offset, started_ms, ended_ms, result, error, replay,
         due_ms, group) in entries:
        flat += (task_id, n, g, task if group is None else kind_of(task, group), submitted_ms, STATE_NUMBER[end],
                 offset, started_ms, ended_ms, replay, -1 if due_ms is None else due_ms, 1 if result else 0,
                 1 if error else 0)
        if result:
            values.append(result)
        if error:
            values.append(error)
    return call("finish", shard, flat, values)


def _bounded(group: list[int], entries: Sequence[FinishEntry]) -> Iterator[list[int]]:
    """Cut a group where its values get too large for one call."""
    total = sum(len(entries[index].result) + len(entries[index].error) for index in group)
    if total <= MAX_BYTES:
        yield group
        return
    part: list[int] = []
    size = 0
    for index in group:
        more = len(entries[index].result) + len(entries[index].error)
        if part and size + more > MAX_BYTES:
            yield part
            part, size = [], 0
        part.append(index)
        size += more
    yield part
