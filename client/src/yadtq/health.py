"""The health of all workers, as their heartbeats on Kafka tell it.

Owns `WorkerHealth` and what counts as expired; reads the tail of the heartbeat topic on demand: the first time from
`window_s` ago (found by time, so it costs the same whatever the topic holds; at most MOST_RECORDS, which a thousand
workers write in a quarter of an hour), later only what is new. The judgement is
pure and takes the clock; one reader is used by one thread at a time. Never asks a worker anything.
"""
from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from yadtq.config import Settings
from yadtq.errors import InvalidMessage, KafkaConnectionError, OffsetOutOfRange, UnknownTopic
from yadtq.heartbeat import Heartbeat, decode_heartbeat

if TYPE_CHECKING:
    from yadtq.connections import Opener
    from yadtq.transport import Admin, Consumer, Record

WINDOW_S = 900.0                            # how long a worker that is gone is still shown
GOODBYES = frozenset({"STOPPED", "EXITED"})  # a worker that said so is not missed
POLL_RECORDS = 2000
MOST_WORKERS = 10_000                       # that are remembered: anybody can write heartbeats
MOST_RECORDS = 200_000                      # that are read at first: with many workers the window is shorter


@dataclass(frozen=True)
class WorkerHealth:
    """What is known of one worker. Times ending in `_s` are ages in seconds, in `_ms` Unix times.

    Example:
        >>> for worker in client.get_all_workers_health():
        ...     print(worker.worker_id, worker.state, "expired" if worker.expired else f"{worker.age_s:.1f} s ago")
        host1/w0 RUNNING 1.2 s ago
    """

    worker_id: str
    host: str
    pid: int
    partitions: tuple[int, ...]
    state: str                              # STARTING RUNNING BACKOFF STOPPING STOPPED EXITED FATAL
    age_s: float                            # of the last heartbeat
    expired: bool                           # it should have been heard of again by now
    task: str = ""                          # what it runs; empty: nothing
    task_id: str = ""
    task_since_ms: int | None = None
    done: int = 0
    failed: int = 0
    lag: int = 0                            # records of its partitions that are not done
    epoch: int = 0
    last_beat_ms: int = 0
    interval_s: float = 0.0
    expires_after_s: float = 0.0
    version: str = ""

    @property
    def alive(self) -> bool:
        """Whether it is heard of and has not said goodbye."""
        return not self.expired and self.state not in GOODBYES


class WorkersHealth(list[WorkerHealth]):
    """The workers, sorted by their id; a list with one thing more.

    `broker_outage` is True when several workers were there and *none* is heard of any more: that is not the death of
    each of them but most likely Kafka's, which carries the heartbeats (or all hosts are gone).

    Example:
        >>> workers = client.get_all_workers_health()
        >>> workers.broker_outage, len(workers.alive)
        (False, 4)
    """

    def __init__(self, workers: Iterable[WorkerHealth] = (), *, broker_outage: bool = False) -> None:
        super().__init__(workers)
        self.broker_outage = broker_outage

    @property
    def alive(self) -> list[WorkerHealth]:
        """Those that are heard of and have not said goodbye."""
        return [worker for worker in self if worker.alive]


class Beat(NamedTuple):
    """The last heartbeat of a worker and when it came, by Kafka's clock of the record (Unix ms)."""

    heartbeat: Heartbeat
    at_ms: int


def judge(
    beats: Mapping[str, Beat], now_ms: int, *, window_s: float = WINDOW_S, heard_since_ms: int = 0,
) -> WorkersHealth:
    """The health of all workers of the last `window_s`.

    `heard_since_ms`: since when heartbeats can be heard without a gap (after an outage of Kafka); silence before that
    is not held against anybody.
    """
    workers = [_health(beat, now_ms, heard_since_ms) for beat in beats.values()
               if now_ms - beat.at_ms <= max(window_s, beat.heartbeat.expires_after_s) * 1000]
    workers.sort(key=lambda worker: _natural(worker.worker_id))
    expected = [worker for worker in workers if worker.state not in GOODBYES]
    return WorkersHealth(workers, broker_outage=len(expected) > 1 and all(worker.expired for worker in expected))


def _health(beat: Beat, now_ms: int, heard_since_ms: int) -> WorkerHealth:
    h = beat.heartbeat
    silent_ms = now_ms - max(beat.at_ms, heard_since_ms)
    return WorkerHealth(
        worker_id=h.worker_id, host=h.host, pid=h.pid, partitions=tuple(h.partitions), state=h.state,
        age_s=max(0, now_ms - beat.at_ms) / 1000,
        expired=h.state not in GOODBYES and silent_ms > h.expires_after_s * 1000,
        task=h.task, task_id=h.task_id, task_since_ms=h.task_since_ms or None, done=h.done, failed=h.failed, lag=h.lag,
        epoch=h.epoch, last_beat_ms=beat.at_ms, interval_s=h.interval_s, expires_after_s=h.expires_after_s,
        version=h.version)


def _natural(worker_id: str) -> tuple[str, int, str]:
    """host/w2 before host/w10."""
    head = worker_id.rstrip("0123456789")
    number = worker_id[len(head):]
    return head, int(number) if number else -1, worker_id


class HealthReader:
    """Reads heartbeats for one client; `read` may be called by any thread, one at a time."""

    def __init__(self, settings: Settings, opener: Opener, timeout_s: float) -> None:
        self._settings, self._opener, self._timeout_s = settings, opener, timeout_s
        self._topic = settings.kafka_heartbeat_topic
        self._lock = threading.Lock()
        self._admin: Admin | None = None
        self._consumer: Consumer | None = None
        self._next = 0                              # offset of the heartbeat that is read next
        self._beats: dict[str, Beat] = {}
        self._window_s = 0.0                        # how far back has been read

    def read(self, window_s: float = WINDOW_S, *, heard_since_ms: int = 0) -> WorkersHealth:
        """All workers of the last `window_s` as of now. Raises KafkaConnectionError within the client's time-out."""
        with self._lock:
            with suppress(UnknownTopic):            # no worker and no client has ever been here
                self._catch_up(window_s)
            return judge(self._beats, _now_ms(), window_s=window_s, heard_since_ms=heard_since_ms)

    def close(self, timeout_s: float = 0.0) -> None:
        """Close the connections; `read` would open them again."""
        with self._lock:
            consumer, admin, self._consumer, self._admin = self._consumer, self._admin, None, None
        if consumer is not None:
            consumer.close()
        if admin is not None:
            admin.close()

    def _catch_up(self, window_s: float) -> None:
        deadline = time.monotonic() + self._timeout_s
        if self._admin is None:
            self._admin = self._opener.admin(self._settings, self._timeout_s)
        end = self._admin.end_offsets(self._topic)[0]
        consumer = self._consumer
        if consumer is None or window_s > self._window_s or self._next > end:   # (> end: the topic was made anew)
            if consumer is None:
                consumer = self._consumer = self._opener.consumer(self._settings)
            since_ms = _now_ms() - round(window_s * 1000)
            self._next = max(self._admin.offsets_at(self._topic, since_ms)[0], end - MOST_RECORDS)
            self._window_s = window_s
            consumer.assign(self._topic, {0: self._next})
        while self._next < end:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise KafkaConnectionError(f"the heartbeats could not be read within {self._timeout_s:g} s")
            try:
                self._take(consumer.poll(POLL_RECORDS, min(left_s, 0.25)))
            except OffsetOutOfRange as jump:        # deleted by age meanwhile
                self._next = max(self._next, jump.earliest)
                consumer.assign(self._topic, {0: self._next})
        self._forget()

    def _take(self, records: Iterable[Record]) -> None:
        for record in records:
            self._next = record.offset + 1
            try:
                heartbeat = decode_heartbeat(record.value)
            except InvalidMessage:                  # somebody else's record, or a newer version's: not ours to judge
                continue
            self._beats.pop(heartbeat.worker_id, None)          # the order is that of the last beats
            self._beats[heartbeat.worker_id] = Beat(heartbeat, record.timestamp_ms)
            if len(self._beats) > MOST_WORKERS:
                del self._beats[next(iter(self._beats))]

    def _forget(self) -> None:
        oldest_ms = _now_ms() - round(2 * max(self._window_s, WINDOW_S) * 1000)
        for worker_id in [one for one, beat in self._beats.items() if beat.at_ms < oldest_ms]:
            del self._beats[worker_id]


def _now_ms() -> int:
    return int(time.time() * 1000)
