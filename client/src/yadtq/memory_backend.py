"""A result backend in memory, for tests of applications: the operations of ResultBackend, without Redis.

Owns the records of one in-memory queue and the pushes to who waits. Safe to use from many threads; one lock. Only
`yadtq.testing` uses it. It keeps the answers and transitions of the real functions as far as a queue with one worker
that never dies can meet them: no epochs, no suspects, no expiry.
"""
from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Literal
from uuid import uuid4

from yadtq.names import SHARDS, shard_of
from yadtq.records import ENDED, SHOWN_STATES, Claim, ClaimEntry, FinishEntry, Push, SubmitEntry, TaskRecordRaw


@dataclass
class _Record:
    """One task. `state` as in Redis: Q S P R X OK KO CX; `shown`: PROCESSING is shown."""

    state: str
    task: str
    g: int
    submitted_ms: int
    partition: int
    attempt: int = 0
    cancel_asked: bool = False
    shown: bool = False
    started_ms: int | None = None
    ended_ms: int | None = None
    offset: int = -1
    worker: str = ""
    result: bytes = b""
    error: bytes = b""
    group: str = ""
    replay: int = 0
    due_ms: int | None = None
    waiters: set[str] = field(default_factory=set)

    def seen_as(self) -> str:
        """The state under which it is listed."""
        return "Q" if self.state == "P" and not self.shown else self.state

    def raw(self, task_id: str) -> TaskRecordRaw:
        """As the real backend answers it."""
        return TaskRecordRaw(
            id=task_id, state=self.state, attempt=self.attempt, partition=self.partition, epoch=None,
            cancel_asked=self.cancel_asked, g=self.g, task=self.task, submitted_ms=self.submitted_ms,
            started_ms=self.started_ms, ended_ms=self.ended_ms, offset=self.offset, worker=self.worker,
            shown=self.shown, result=self.result or None, error=self.error or None, has_result=bool(self.result),
            expired=False, due_ms=self.due_ms, replay=self.replay, seen=0, lone=0, apart=False,
            waiters=tuple(self.waiters), group=self.group)


class MemorySubscription:
    """The ends pushed to one client id."""

    def __init__(self) -> None:
        self._pushes: SimpleQueue[Push | None] = SimpleQueue()

    def put(self, push: Push) -> None:
        """An end."""
        self._pushes.put(push)

    def get(self, timeout_s: float) -> list[Push] | None:
        """The ends that have come; [] when none came in time."""
        try:
            first = self._pushes.get(timeout=timeout_s) if timeout_s > 0 else self._pushes.get_nowait()
        except Empty:
            return []
        return [first] if first is not None else []

    def wake(self) -> None:
        """Have the `get` of another thread return."""
        self._pushes.put(None)

    def close(self) -> None:
        """Nothing to release."""


class MemoryBackend:
    """The records of one queue; the methods are ResultBackend's, whose docstrings say what they mean."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: dict[str, _Record] = {}
        self._clear = [0] * SHARDS
        self._subscriptions: dict[str, MemorySubscription] = {}
        self._store_id = uuid4().hex

    # ---- the life of a task -----------------------------------------------------------------------------------------
    def submit(self, entries: Sequence[SubmitEntry], *, waiter: str = "", timeout_s: float | None = None) -> list[str]:
        """DONE or CLEARED, task by task."""
        with self._lock:
            return [self._submit(entry) for entry in entries]

    def _submit(self, entry: SubmitEntry) -> str:
        if entry.g < self._clear[shard_of(entry.id)]:
            return "CLEARED"
        record, waiters = self._of_this_life(entry.id, entry.replay)
        if record is None or record.state == "X":
            self._records[entry.id] = _Record(
                "Q" if entry.due_ms is None else "S", entry.task, entry.g, entry.submitted_ms, entry.partition,
                cancel_asked=record is not None, group=entry.group or "", replay=entry.replay, due_ms=entry.due_ms,
                waiters=waiters)
        return "DONE"

    def _of_this_life(self, task_id: str, replay: int) -> tuple[_Record | None, set[str]]:
        """A task's record; one of fewer replays counts as missing, but who waits for it waits on."""
        record = self._live(task_id)
        return (None, record.waiters) if record is not None and record.replay < replay else (record, set())

    def claim(self, partition: int, epoch: int, entries: Sequence[ClaimEntry], now_ms: int, *,
              timeout_s: float | None = None) -> list[Claim]:
        """RUN, SETTLE, SKIP or CLEARED, task by task."""
        with self._lock:
            return [self._claim(partition, entry, now_ms) for entry in entries]

    def _claim(self, partition: int, entry: ClaimEntry, now_ms: int) -> Claim:
        if entry.g < self._clear[shard_of(entry.id)]:
            return Claim("CLEARED")
        record, waiters = self._of_this_life(entry.id, entry.replay)
        if record is None:
            record = self._records[entry.id] = _Record("Q", entry.task, entry.g, entry.submitted_ms, partition,
                                                       group=entry.group or "", replay=entry.replay,
                                                       waiters=waiters)
        if record.state in ENDED or record.replay > entry.replay:
            settled = record.replay == entry.replay and (record.attempt == entry.n or record.state == "CX")
            return Claim("SETTLE", state=record.state) if settled else Claim("SKIP")
        if entry.n < record.attempt or (record.state == "P" and record.attempt == entry.n):
            return Claim("SKIP")                        # retried meanwhile, or a second copy
        if record.cancel_asked:
            if record.state == "X":                     # what it is, only its message says
                record.task, record.submitted_ms, record.partition = entry.task, entry.submitted_ms, partition
                record.group = entry.group or ""
            self._end(entry.id, record, "CX", entry.n, now_ms)
            return Claim("SETTLE", state="CX")
        if entry.expires_ms is not None and entry.expires_ms <= now_ms:
            from yadtq.errors import TaskExpired
            from yadtq.task_error import TaskError, encode_error
            record.error = encode_error(TaskError(TaskExpired.code, TaskExpired().message))
            self._end(entry.id, record, "KO", entry.n, now_ms)
            return Claim("SETTLE", state="KO")
        record.state, record.attempt, record.partition = "P", entry.n, partition
        return Claim("RUN")

    def started(self, partition: int, epoch: int, entries: Sequence[tuple[str, int, int]], worker: str, *,
                timeout_s: float | None = None) -> list[str]:
        """Show tasks as PROCESSING: DONE, ASKED, LATE."""
        answers = []
        with self._lock:
            for task_id, n, started_ms in entries:
                record = self._live(task_id)
                if record is None or record.state != "P" or record.attempt != n:
                    answers.append("LATE")
                    continue
                record.shown, record.started_ms, record.worker = True, started_ms, worker
                answers.append("ASKED" if record.cancel_asked else "DONE")
        return answers

    def finish(self, partition: int, epoch: int, entries: Sequence[FinishEntry], worker: str, *,
               timeout_s: float | None = None) -> list[str]:
        """DONE, CANCELLED, LATE or CLEARED, task by task; whoever waits is told."""
        with self._lock:
            return [self._finish(entry, worker) for entry in entries]

    def _finish(self, entry: FinishEntry, worker: str) -> str:
        if entry.g < self._clear[shard_of(entry.id)]:
            return "CLEARED"
        record = self._live(entry.id)
        if record is None or record.replay != entry.replay or record.state in ENDED or entry.n < record.attempt:
            return "LATE"
        record.worker, record.started_ms, record.offset = worker, entry.started_ms, entry.offset
        record.result, record.error, record.due_ms = entry.result, entry.error, entry.due_ms
        if entry.end == "R" and not record.cancel_asked:
            record.state, record.attempt, record.shown = "R", entry.n + 1, False
            return "DONE"
        self._end(entry.id, record, "CX" if entry.end == "R" else entry.end, entry.n, entry.ended_ms)
        return "CANCELLED" if entry.end == "R" else "DONE"

    def _end(self, task_id: str, record: _Record, state: str, attempt: int, ended_ms: int) -> None:
        record.state, record.attempt, record.ended_ms = state, attempt, ended_ms
        self._tell(record, Push(task_id, state, attempt, record.result or None, record.error or None))

    def _tell(self, record: _Record, push: Push) -> None:
        for client_id in record.waiters:
            if client_id in self._subscriptions:
                self._subscriptions[client_id].put(push)
        record.waiters.clear()

    # ---- cancelling -------------------------------------------------------------------------------------------------
    def cancel(self, ids: Sequence[str], *, timeout_s: float | None = None) -> list[str]:
        """CONFIRMED, ASKED or ENDED, task by task."""
        with self._lock:
            return [self._cancel(task_id) for task_id in ids]

    def _cancel(self, task_id: str) -> str:
        record = self._live(task_id)
        if record is None:
            self._records[task_id] = _Record("X", "", self._clear[shard_of(task_id)], 0, -1, cancel_asked=True)
            return "ASKED"
        if record.state in ENDED:
            return "ENDED"
        record.cancel_asked = True
        if record.state in ("X", "P"):
            return "ASKED"
        self._end(task_id, record, "CX", record.attempt, record.submitted_ms)
        return "CONFIRMED"

    def cancel_asked(self, ids: Sequence[str], *, timeout_s: float | None = None) -> list[bool]:
        """Whether a cancel was asked for, task by task."""
        with self._lock:
            found = [self._live(task_id) for task_id in ids]
            return [record is not None and record.cancel_asked for record in found]

    # ---- reading ----------------------------------------------------------------------------------------------------
    def read(self, ids: Sequence[str], *, values: bool = True,
             timeout_s: float | None = None) -> list[TaskRecordRaw | None]:
        """The records; None for a task that isn't known."""
        with self._lock:
            return [None if record is None or record.state == "X" else record.raw(task_id)
                    for task_id, record in ((one, self._live(one)) for one in ids)]

    def watch(self, ids: Sequence[str], client_id: str, *,
              timeout_s: float | None = None) -> list[TaskRecordRaw | Literal["waiting"] | None]:
        """The record of a task that has ended, else the client is noted; None for an unknown one."""
        answers: list[TaskRecordRaw | Literal["waiting"] | None] = []
        with self._lock:
            for task_id in ids:
                record = self._live(task_id)
                if record is None or record.state == "X":
                    answers.append(None)
                elif record.state in ENDED:
                    answers.append(record.raw(task_id))
                else:
                    record.waiters.add(client_id)
                    answers.append("waiting")
        return answers

    def subscribe(self, client_id: str) -> MemorySubscription:
        """The reader of the ends that are pushed to this client."""
        with self._lock:
            return self._subscriptions.setdefault(client_id, MemorySubscription())

    def page(self, states: Sequence[str], types: Sequence[str] | None = None, after: str | None = None,
             limit: int = 100, since_ms: int | None = None, until_ms: int | None = None, newest_first: bool = False,
             group: str = "", *, timeout_s: float | None = None) -> tuple[list[tuple[str, str]], str | None]:
        """The next tasks shown in one of `states`, by the time of submission."""
        with self._lock:
            found = [(record.submitted_ms, task_id, record.seen_as()) for task_id, record in self._records.items()
                     if self._matches(task_id, record, states, types, group)
                     and (since_ms is None or record.submitted_ms >= since_ms)
                     and (until_ms is None or record.submitted_ms <= until_ms)]
        found.sort(reverse=newest_first)
        if after is not None:
            at, _, last_id = after.partition(":")
            place = (int(at), last_id)
            found = [one for one in found if (one[:2] < place if newest_first else one[:2] > place)]
        cursor = f"{found[limit - 1][0]}:{found[limit - 1][1]}" if len(found) > limit else None
        return [(task_id, state) for _, task_id, state in found[:limit]], cursor

    def _matches(self, task_id: str, record: _Record, states: Collection[str], types: Collection[str] | None,
                 group: str) -> bool:
        return (record.g >= self._clear[shard_of(task_id)] and record.seen_as() in states
                and (record.group == group if group else not types or record.task in types))

    def counts(self, types: Sequence[str] | None = None, group: str = "", *,
               timeout_s: float | None = None) -> dict[str, int]:
        """How many tasks are shown in each state: of a group, of some types, or in all."""
        total = dict.fromkeys(SHOWN_STATES, 0)
        with self._lock:
            for task_id, record in self._records.items():
                if self._matches(task_id, record, SHOWN_STATES, types, group):
                    total[record.seen_as()] += 1
        return total

    def _live(self, task_id: str) -> _Record | None:
        record = self._records.get(task_id)
        return None if record is None or record.g < self._clear[shard_of(task_id)] else record

    # ---- clearing, and the rest -------------------------------------------------------------------------------------
    def clear_numbers(self, *, timeout_s: float | None = None) -> list[int]:
        """The clear number of each shard."""
        return list(self._clear)

    def raise_clear(self, offsets: dict[int, int] | None = None, delayed: dict[int, int] | None = None, *,
                    timeout_s: float | None = None) -> list[int]:
        """Hide everything older."""
        with self._lock:
            self._clear = [number + 1 for number in self._clear]
            return list(self._clear)

    def drop_cleared(self, limit: int = 1000, *, timeout_s: float | None = None) -> int:
        """Delete hidden records; how many tasks that were."""
        with self._lock:
            hidden = [task_id for task_id in self._records if self._live(task_id) is None]
            dropped = [self._records.pop(task_id) for task_id in hidden]
            for task_id, record in zip(hidden, dropped, strict=True):
                self._tell(record, Push(task_id, "CLEARED", 0, None, None))
        return sum(record.state != "X" for record in dropped)

    def pending_clear(self, *, timeout_s: float | None = None) -> Any:
        """A clear in memory is never broken off."""
        return None

    def store_id(self, *, timeout_s: float | None = None) -> str:
        """The id of this store."""
        return self._store_id

    def close(self) -> None:
        """Nothing to release."""
