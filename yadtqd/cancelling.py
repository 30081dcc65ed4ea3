"""Cancels in a worker: learns which of its tasks nobody wants any more, and has them end.

Owns when Redis is asked: about what runs, by the bookkeeper, every ASK_S once a task has run for a moment (a short one
is never asked for); about what lies claimed and not begun, by the processor, before it begins what has lain for LAY_NS.
One call for all of them. Who runs a task is told to end it, softly; the supervisor, or the isolator, ends what has not
ended after the task's grace. Never records an end: a cancelled task ends as all do, through the result writer.
"""
from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from yadtq.errors import RedisConnectionError, TaskNotRegistered
from yadtqd.body import grace

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtq.result_backend import ResultBackend
    from yadtqd.flights import Flights
    from yadtqd.held import Held
    from yadtqd.processor import Processor
    from yadtqd.redis_gate import RedisGate
    from yadtqd.registry import Registry

log = logging.getLogger(__name__)

ASK_S = 0.4                     # so a running task learns of its cancel within half a second, and a bit
LAY_NS = 250_000_000            # what was claimed, or asked for, later than that may begin without asking again
ASK_AHEAD = 1000                # tasks of a batch that are asked for together


class Canceller:
    """One per worker. `look` and `asked` are the bookkeeper's, `unwanted` is the processor's."""

    def __init__(self, settings: Settings, backend: ResultBackend, gate: RedisGate, registry: Registry,
                 processor: Processor, flights: Flights) -> None:
        self._settings, self._backend, self._gate, self._registry = settings, backend, gate, registry
        self._processor, self._flights = processor, flights
        self._ask_at = 0.0

    # ---- what runs --------------------------------------------------------------------------------------------------
    def look(self, running: Sequence[Held], now: float) -> None:
        """Ask about what has been running for a while. Raises RedisConnectionError."""
        if now < self._ask_at:
            return
        self._ask_at = now + ASK_S
        running = [held for held in running if not held.cancelled]
        if running:
            asked = self._backend.cancel_asked([held.message.id for held in running])
            self.asked([held for held, wished in zip(running, asked, strict=True) if wished])

    def asked(self, tasks: Sequence[Held]) -> None:
        """A cancel of these running tasks was asked for: have them end. Once is enough."""
        for held in tasks:
            if held.cancelled:
                continue
            held.cancelled = True
            grace_s = self._grace_s(held)
            log.info("%s %s is cancelled while it runs, and has %g s to end", held.message.task, held.message.id,
                     grace_s)
            hard_ns = time.monotonic_ns() + int(grace_s * 1e9)
            self._processor.cancel(held, hard_ns)
            self._flights.cancel(held, hard_ns)

    def _grace_s(self, held: Held) -> float:
        try:
            return grace(held.message, self._registry.get(held.message.task), self._settings)
        except TaskNotRegistered:               # then nothing runs
            return 0.0

    # ---- what waits to begin ----------------------------------------------------------------------------------------
    def unwanted(self, batch: Sequence[Held], now_ns: int) -> None:
        """Of the first of these, which are about to begin, mark those that were cancelled since they were claimed.

        When Redis does not answer they begin: a cancel that was only asked for is no promise.
        """
        batch = batch[:ASK_AHEAD]
        for held in batch:
            held.looked_ns = now_ns
        if self._gate.is_open:
            try:
                asked = self._backend.cancel_asked([held.message.id for held in batch])
            except RedisConnectionError as error:
                self._gate.close(error)
                return
            for held, wished in zip(batch, asked, strict=True):
                held.cancelled = held.cancelled or wished
