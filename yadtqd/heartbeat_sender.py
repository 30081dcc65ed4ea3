"""The heartbeat thread of a worker: its beat in the slot, for the supervisor, and on the heartbeat topic, for all.

It touches neither Redis nor the task topic, so that it beats while they are away. It takes the worker's epoch: the
offset of its first heartbeat, plus one, which only grows (PROTOCOL.md rule 1). It also watches the supervisor: a worker
without one ends at once, in case the kernel's own signal did not come.
"""
from __future__ import annotations

import logging
import os
import select
import threading
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from yadtq.errors import KafkaConnectionError, YADTQError
from yadtq.heartbeat import Heartbeat, encode_heartbeat
from yadtqd.exits import Exit
from yadtqd.worker_exit import end_now
from yadtqd.worker_state import WorkerState

if TYPE_CHECKING:
    from yadtq.transport import Producer
    from yadtqd.child import ChildContext
    from yadtqd.held import Held

log = logging.getLogger(__name__)

BEAT_S = 0.5


class HeartbeatSender(threading.Thread):
    """`current()` is what the worker runs: (task, monotonic ns, Unix ms) or None."""

    def __init__(self, ctx: ChildContext, worker_id: str, host: str) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._ctx, self._worker_id, self._host = ctx, worker_id, host
        self._slot = ctx.slot
        self._seq = 0
        self._version = _version()
        self._producer: Producer | None = None
        self._due = 0.0
        self._state = WorkerState.STARTING
        self.current: Callable[[], tuple[Held, int, int] | None] = lambda: None
        self.look: Callable[[], object] = lambda: None      # called at each beat: log level and the like

    # ---- called by the main thread ----------------------------------------------------------------------------------
    def take_epoch(self, producer: Producer, timeout_s: float) -> int:
        """Append our STARTING heartbeat; its offset + 1 is the epoch. Raises KafkaConnectionError at the time-out.

        After a time-out the record may still come into the log: it burns an epoch, and a second call takes a later one.
        """
        answer: list[tuple[int, YADTQError | None]] = []
        told = threading.Event()

        def done(offset: int, error: YADTQError | None) -> None:
            answer.append((offset, error))
            told.set()

        self._send(producer, done)
        if not told.wait(timeout_s):
            raise KafkaConnectionError(f"Kafka did not acknowledge a heartbeat within {timeout_s:g} s")
        offset, error = answer[0]
        if error is not None:
            raise error
        self._producer, self._due = producer, time.monotonic() + self._ctx.settings.heartbeat_interval
        self._slot.epoch = offset + 1
        return offset + 1

    def tell(self, state: WorkerState) -> None:
        """The worker's state has changed: write it into the slot and send it at once."""
        self._state = state
        self._slot.state = state
        if self._producer is not None:
            self._try(self._producer)

    def farewell(self) -> None:
        """The last heartbeat: the worker ends as it should."""
        self._state = WorkerState.STOPPED       # not for the slot: what happened to us, the supervisor sees itself
        if self._producer is not None:
            self._try(self._producer)

    # ---- the thread -------------------------------------------------------------------------------------------------
    def run(self) -> None:
        """Beat until the process ends."""
        try:
            supervisor = select.poll()
            if self._ctx.parent_pidfd >= 0:
                supervisor.register(self._ctx.parent_pidfd, select.POLLIN)
            while True:
                self._slot.beat(time.monotonic_ns())
                now = time.monotonic()
                if self._producer is not None and now >= self._due:
                    self._due = now + self._ctx.settings.heartbeat_interval
                    self._try(self._producer)
                self.look()
                if supervisor.poll(BEAT_S * 1000):
                    os._exit(Exit.CRASHED)              # nobody is left who could tell
        except BaseException as error:
            log.critical("the heartbeat thread failed", exc_info=True)
            end_now(Exit.CRASHED, f"heartbeat: {error!r}")

    def _try(self, producer: Producer) -> None:
        try:
            self._send(producer, None)
        except YADTQError as error:
            log.warning("a heartbeat could not be sent: %s", error)

    def _send(self, producer: Producer, done: Callable[[int, YADTQError | None], None] | None) -> None:
        settings, slot, current = self._ctx.settings, self._slot, self.current()
        self._seq += 1
        beat = Heartbeat(
            worker_id=self._worker_id, host=self._host, pid=os.getpid(), partitions=list(self._ctx.partitions),
            state=self._state.name, sent_ms=time.time_ns() // 1_000_000, seq=self._seq, epoch=max(slot.epoch, 0),
            interval_s=settings.heartbeat_interval,
            task_id=current[0].message.id if current else "", task=current[0].message.task if current else "",
            task_since_ms=current[2] if current else 0, done=slot.done, failed=slot.failed, lag=max(slot.lag, 0),
            version=self._version,
            expires_after_s=settings.heartbeat_interval * settings.missed_heartbeats_threshold)
        producer.send(settings.kafka_heartbeat_topic, 0, encode_heartbeat(beat), self._worker_id.encode(), done)


def _version() -> str:
    try:
        return version("yadtqd")
    except PackageNotFoundError:        # run from a checkout that is not installed
        return ""
