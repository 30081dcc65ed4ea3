"""Tells an application of changes among the workers: who started, stopped, expired, came back, changed its state.

Owns the comparison of two looks at the workers' health (pure) and the thread that looks again and again. One daemon
thread and one reader per monitor. An outage of Kafka is told as one, and not as the death of every worker.
"""
from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from yadtq.errors import KafkaConnectionError, YADTQError
from yadtq.health import GOODBYES, HealthReader, WorkerHealth, WorkersHealth

log = logging.getLogger(__name__)


class ChangeKind(StrEnum):
    """What happened to a worker, or to all of them.

    Example:
        >>> ChangeKind.EXPIRED == "EXPIRED"
        True
    """

    STARTED = "STARTED"             # a worker that was not there, or had stopped
    RESTARTED = "RESTARTED"         # the same worker in a new process
    STOPPED = "STOPPED"             # it said goodbye
    EXPIRED = "EXPIRED"             # not heard of any more
    RECOVERED = "RECOVERED"         # heard of again, in the same process
    STATE = "STATE"                 # its state changed otherwise
    OUTAGE = "OUTAGE"               # nobody is heard of: Kafka is away (worker is None)
    OUTAGE_OVER = "OUTAGE_OVER"     # heartbeats come again (worker is None)


@dataclass(frozen=True)
class WorkerChange:
    """One change: its kind, the worker as it is now and as it was before (None when there is none), and a sentence.

    Example:
        >>> def told(change: WorkerChange) -> None:
        ...     print(change.kind, change.message)
    """

    kind: ChangeKind
    worker: WorkerHealth | None
    before: WorkerHealth | None
    message: str


def changes(before: WorkersHealth, after: WorkersHealth) -> list[WorkerChange]:
    """What changed between two looks, in the order of the workers."""
    if after.broker_outage:
        if before.broker_outage:
            return []
        return [WorkerChange(ChangeKind.OUTAGE, None, None,
                             "no worker is heard of any more: Kafka takes no heartbeats, or all hosts are gone")]
    told: list[WorkerChange] = []
    if before.broker_outage:
        told.append(WorkerChange(ChangeKind.OUTAGE_OVER, None, None, "workers are heard of again"))
    old = {worker.worker_id: worker for worker in before}
    for worker in after:
        change = _change(old.get(worker.worker_id), worker, outage_before=before.broker_outage)
        if change is not None:
            told.append(change)
    return told


def _change(old: WorkerHealth | None, new: WorkerHealth, *, outage_before: bool) -> WorkerChange | None:
    kind, text = _kind(old, new, outage_before=outage_before)
    return None if kind is None else WorkerChange(kind, new, old, f"worker {new.worker_id} {text}")


def _kind(old: WorkerHealth | None, new: WorkerHealth, *, outage_before: bool) -> tuple[ChangeKind | None, str]:
    was_gone = old is None or old.state in GOODBYES
    kind, text = None, ""
    if new.expired:
        if outage_before or not (old is None or old.expired):
            kind, text = ChangeKind.EXPIRED, f"has not been heard of for {new.age_s:.1f} s"
    elif new.state in GOODBYES:
        if not was_gone:
            kind, text = ChangeKind.STOPPED, f"has stopped ({new.state})"
    elif old is None or was_gone:
        kind, text = ChangeKind.STARTED, f"has started (process {new.pid})"
    elif (new.pid, new.epoch) != (old.pid, old.epoch):
        kind, text = ChangeKind.RESTARTED, f"runs in a new process, {new.pid}"
    elif old.expired and not outage_before:
        kind, text = ChangeKind.RECOVERED, "is heard of again"
    elif new.state != old.state:
        kind, text = ChangeKind.STATE, f"is {new.state}, was {old.state}"
    return kind, text


class WorkerMonitor:
    """Looks at the workers every `interval_s` and calls back for each change; made by `client.monitor_workers`.

    The callback runs in the monitor's thread, one call at a time; an exception in it is logged and changes nothing.

    Example:
        >>> with client.monitor_workers(print) as monitor:
        ...     work()
    """

    def __init__(self, reader: HealthReader, callback: Callable[[WorkerChange], object], interval_s: float,
                 window_s: float) -> None:
        self._reader, self._callback = reader, callback
        self._interval_s, self._window_s = interval_s, window_s
        self._workers = reader.read(window_s)       # the base line; raises KafkaConnectionError right here
        self._away = False
        self._heard_since_ms = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="yadtq-monitor", daemon=True)
        self._thread.start()

    @property
    def workers(self) -> WorkersHealth:
        """The workers as of the last look."""
        return self._workers

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop looking. Returns when the thread has ended (it is not waited for when the callback itself stops it)."""
        self._stopping.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def __enter__(self) -> WorkerMonitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self._look()
            except Exception:                       # a bug must not end the watch in silence
                log.exception("the monitor of the workers failed, and goes on")
        self._reader.close()

    def _look(self) -> None:
        try:
            after = self._reader.read(self._window_s, heard_since_ms=self._heard_since_ms)
        except YADTQError as error:
            if not isinstance(error, KafkaConnectionError):
                raise
            self._reader.close()                    # opened anew at the next look
            if not self._away:
                self._away = True
                self._tell(WorkerChange(ChangeKind.OUTAGE, None, None, f"Kafka is away: {error.message}"))
            return
        if self._away:                              # nobody could be heard meanwhile: silence counts from now
            self._away = False
            self._heard_since_ms = int(time.time() * 1000)
            self._tell(WorkerChange(ChangeKind.OUTAGE_OVER, None, None, "Kafka is back"))
            after = self._reader.read(self._window_s, heard_since_ms=self._heard_since_ms)
        before, self._workers = self._workers, after
        for change in changes(before, after):
            self._tell(change)

    def _tell(self, change: WorkerChange) -> None:
        try:
            self._callback(change)
        except Exception:                           # the application's own: not ours to die of
            log.exception("the callback of monitor_workers failed")
