"""The worker of an in-memory queue: runs an application's handlers in the process of its test.

Owns one consumer of the in-memory transport; runs in a thread of its own, or in the caller's where tasks run inline.
Arguments and results go through the real encoding, errors through the real records. Failed attempts are repeated by
the real rules, but at once: a test need not wait for a back-off. It interrupts nothing (there are no time-outs) and
isolates nothing: a handler that hangs hangs the test, where a debugger shows it.
"""
from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import msgspec

from yadtq.attempts import Attempt, with_attempt
from yadtq.codec import decode, encode
from yadtq.config import Settings
from yadtq.dead_letter import DeadLetterMessage, encode_dead_letter
from yadtq.errors import (
    ArgumentNotEncodable,
    InvalidMessage,
    OffsetOutOfRange,
    ResultNotEncodable,
    TaskNotRegistered,
    YADTQError,
)
from yadtq.heartbeat import Heartbeat, encode_heartbeat
from yadtq.memory_backend import MemoryBackend
from yadtq.memory_scheduler import MemoryScheduler
from yadtq.records import ClaimEntry, FinishEntry
from yadtq.retry_policy import GiveUp, Wish, decide, limits_of, wish_of, wish_of_code
from yadtq.running import Cancelled, Interrupted, current_task, enter, leave
from yadtq.task import (
    TaskError,
    TaskMessage,
    decode_error,
    decode_message,
    encode_error,
    encode_message,
    from_exception,
)
from yadtq.tasks import TaskType, refused_arguments
from yadtq.transport.memory import MemoryAdmin, MemoryConsumer, MemoryProducer

if TYPE_CHECKING:
    from yadtq.transport import Record

WORKER_ID = "memory/w0"
EPOCH = 1


class _InHand:
    """The task that runs, for `current_task`: whether it was cancelled is asked at each look."""

    def __init__(self, message: TaskMessage, backend: MemoryBackend) -> None:
        self.message, self._backend = message, backend

    @property
    def cancelled(self) -> bool:
        return self._backend.cancel_asked([self.message.id])[0]


class MemoryWorker:
    """Takes what is submitted and runs it, one task after the other, in the order of each partition."""

    def __init__(self, settings: Settings, backend: MemoryBackend, types: Callable[[], Mapping[str, TaskType]]) -> None:
        self._settings, self._backend, self._types = settings, backend, types
        admin = MemoryAdmin(settings)
        partitions = admin.ensure_topics()
        self._consumer, self._producer = MemoryConsumer(settings), MemoryProducer(settings)
        self._delayed = MemoryScheduler(settings, self._producer)
        self._next = dict.fromkeys(range(partitions), 0)    # per partition: the offset that is read next
        self._consumer.assign(settings.kafka_task_topic, self._next)
        self._running = threading.Event()           # cleared: paused
        self._running.set()
        self._stopping = threading.Event()
        self._turn = threading.RLock()              # one task at a time, also when several threads submit inline
        self._thread: threading.Thread | None = None
        self._done = self._failed = self._beats = 0
        self._partitions = list(range(partitions))
        self._beat("STARTING")

    # ---- control ----------------------------------------------------------------------------------------------------
    def start(self) -> None:
        """Run tasks in a thread from now on."""
        self._thread = threading.Thread(target=self._run, name="yadtq-memory-worker", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Leave what is submitted QUEUED; returns once no task runs (unless called by a task)."""
        self._running.clear()
        self._consumer.wake()
        with self._turn:
            pass

    def resume(self) -> None:
        """Go on."""
        self._running.set()

    def run_pending(self) -> None:
        """Run what is there, in this thread, until nothing is (what the tasks submit included)."""
        with self._turn:
            while self._running.is_set():
                record = self._poll(0)
                if record is None:
                    return
                self._work(record)

    def close(self) -> None:
        """Stop after the task that runs. Idempotent."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._running.set()
        self._consumer.wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(30)
        self._beat("STOPPED")
        self._producer.close(1)
        self._consumer.close()
        self._delayed.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._running.wait()
            with self._turn:
                record = self._poll(0.05) if self._running.is_set() else None
                if record is not None and not self._stopping.is_set():
                    self._work(record)

    def _poll(self, seconds: float) -> Record | None:
        """The next task; what clear_all_tasks has deleted meanwhile is jumped over. Inline, no delay is waited for."""
        due_s = self._delayed.fire_due(at_once=self._thread is None)
        try:
            records = self._consumer.poll(1, min(seconds, due_s))
        except OffsetOutOfRange as jump:
            self._next[jump.partition] = jump.earliest
            self._consumer.assign(self._settings.kafka_task_topic, self._next)
            return self._poll(seconds)
        for record in records:
            self._next[record.partition] = record.offset + 1
            return record
        return None

    # ---- one task ---------------------------------------------------------------------------------------------------
    def _work(self, record: Record) -> None:
        next_one: Record | None = record
        while next_one is not None:
            next_one = self._once(next_one)

    def _once(self, record: Record) -> Record | None:
        """One attempt; the record of the next one if that follows at once."""
        try:
            message = decode_message(record.value)
        except InvalidMessage as refusal:
            self._give_up(record, f"{record.partition}:{record.offset}", "", refusal.code, refusal.message, b"")
            return None
        claim = self._backend.claim(record.partition, EPOCH, [ClaimEntry(
            message.id, message.n, message.g, message.task, message.submitted_ms, message.expires_ms,
            message.replay, group=message.group)], _now_ms())[0]
        if claim.answer != "RUN":
            return None
        started_ms = _now_ms()
        self._backend.started(record.partition, EPOCH, [(message.id, message.n, started_ms)], WORKER_ID)
        self._beat("RUNNING", message, started_ms)
        end, result, error, history = self._run_attempt(message, started_ms)
        self._done, self._failed = self._done + (end == "OK"), self._failed + (end == "KO")
        self._beat("RUNNING")
        answer = self._backend.finish(record.partition, EPOCH, [FinishEntry(
            message.id, message.n, message.g, message.task, message.submitted_ms, end, record.offset, started_ms,
            _now_ms(), result, error, message.replay, group=message.group)], WORKER_ID)[0]
        if end == "KO" and answer == "DONE":
            failure = decode_error(error)
            if failure.given_up:                        # its retries did not help
                self._give_up(record, message.id, message.task, failure.code, failure.message, error)
        if end == "R" and answer == "DONE":
            again = encode_message(msgspec.structs.replace(message, n=message.n + 1, history=history))
            if message.key is None:
                self._send(self._settings.kafka_task_topic, record.partition, again, record.key)
            else:                                       # in place: what comes after it with the same key waits
                return record._replace(value=again)
        return None

    def _run_attempt(self, message: TaskMessage, started_ms: int) -> tuple[str, bytes, bytes, bytes]:
        """How it ended (OK, KO, R or CX), value, error, and the history for the next attempt."""
        token = enter(_InHand(message, self._backend))
        try:
            result, error, wish = self._attempt(message)
        except Cancelled:
            return "CX", b"", b"", b""
        finally:
            leave(token)
        end, error, history = self._judge(message, error, wish, started_ms)
        return end, result, error, history

    def _judge(self, message: TaskMessage, error: bytes, wish: Wish | None,
               started_ms: int) -> tuple[str, bytes, bytes]:
        """OK, KO or R (a retry is owed), what is recorded of the error, and the history for the next attempt."""
        if not error:
            return "OK", encode_error(TaskError("", "", history=message.history)) if message.history else b"", b""
        failure, task_type = decode_error(error), self._types().get(message.task)
        decision = decide(wish or wish_of_code(failure.code, task_type), message.n,
                          limits_of(message, task_type, self._settings), _now_ms(), 0.0, message.expires_ms)
        if isinstance(decision, GiveUp):
            given_up = decision.retries_allowed or message.n > 0 or message.replay > 0
            return "KO", encode_error(msgspec.structs.replace(failure, given_up=given_up, history=message.history)), b""
        history = with_attempt(message.history, Attempt(message.n, started_ms, _now_ms(), WORKER_ID, failure.code,
                                                        failure.error_type, failure.message))
        return "R", encode_error(msgspec.structs.replace(failure, history=history)), history

    def _attempt(self, message: TaskMessage) -> tuple[bytes, bytes, Wish | None]:
        """The encoded value or error, and what the handler's exception says about a retry."""
        types = self._types()
        task_type = types.get(message.task)
        if task_type is None:
            near = get_close_matches(message.task, types, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            return b"", _refused(TaskNotRegistered(f"no handler is registered for {message.task!r}{hint}")), None
        args, kwargs = decode(message.args), decode(message.kwargs) if message.kwargs else {}
        try:
            value = _call(task_type, args, kwargs)
        except BaseException as raised:               # the application's own: its task ends with it
            if self._thread is None and not isinstance(raised, (Exception, SystemExit, Interrupted)):
                raise                                   # inline: Ctrl-C, or a test framework's verdict
            if isinstance(raised, Cancelled) and current_task().cancel_requested:
                raise
            mismatch = refused_arguments(task_type, raised, args, kwargs) if isinstance(raised, TypeError) else None
            failure = mismatch or raised
            return b"", encode_error(from_exception(failure)), wish_of(failure, task_type)
        try:
            return encode(value, limit=self._settings.max_payload_bytes, name="result"), b"", None
        except ArgumentNotEncodable as refusal:
            return b"", _refused(ResultNotEncodable(refusal.message)), None
        except YADTQError as refusal:
            return b"", _refused(refusal), None

    def _give_up(self, record: Record, task_id: str, task: str, code: str, message: str, error: bytes) -> None:
        letter = DeadLetterMessage(
            id=task_id, task=task, code=code, message=message, partition=record.partition, offset=record.offset,
            worker=WORKER_ID, dead_ms=_now_ms(), error=error, original=record.value)
        self._send(self._settings.kafka_dead_letter_topic, 0, encode_dead_letter(letter), task_id.encode())

    # ---- what it tells ----------------------------------------------------------------------------------------------
    def _beat(self, state: str, message: TaskMessage | None = None, since_ms: int = 0) -> None:
        self._beats += 1
        beat = Heartbeat(
            worker_id=WORKER_ID, host=socket.gethostname(), pid=os.getpid(), partitions=self._partitions, state=state,
            sent_ms=_now_ms(), seq=self._beats, epoch=EPOCH, interval_s=1.0, task_id=message.id if message else "",
            task=message.task if message else "", task_since_ms=since_ms, done=self._done, failed=self._failed,
            expires_after_s=86_400.0)
        self._send(self._settings.kafka_heartbeat_topic, 0, encode_heartbeat(beat), WORKER_ID.encode())

    def _send(self, topic: str, partition: int, value: bytes, key: bytes | None) -> None:
        self._producer.send(topic, partition, value, key)
        self._producer.flush(1)                         # so that who looks next sees it


def _call(task_type: TaskType, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if task_type.kind == "async":
        return asyncio.run(task_type.handler(*args, **kwargs))
    return task_type.handler(*args, **kwargs)


def _refused(error: YADTQError) -> bytes:
    return encode_error(TaskError(error.code, error.message, type(error).__name__, "", error.retryable))


def _now_ms() -> int:
    return int(time.time() * 1000)
