"""Beats for a child whose one thread asks Kafka or Redis questions that may take seconds, such as a first connection.

The beat goes on only while that thread has come round within `patience_s`: what hangs is still found and replaced.
"""
from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtqd.slot import Slot

BEAT_S = 0.5


class Beater(threading.Thread):
    """Start it, then call `came_round` in the loop."""

    def __init__(self, slot: Slot, patience_s: float) -> None:
        super().__init__(name="beat", daemon=True)
        self._slot, self._patience_s = slot, patience_s
        self._at = time.monotonic()

    def came_round(self) -> None:
        """The loop is at its beginning again."""
        self._at = time.monotonic()
        self._slot.beat(time.monotonic_ns())

    def run(self) -> None:
        """Beat until the process ends or its loop hangs."""
        while time.monotonic() - self._at < self._patience_s:
            self._slot.beat(time.monotonic_ns())
            time.sleep(BEAT_S)


def patience_s(settings: Settings) -> float:
    """How long one turn of a loop may take that asks Kafka and Redis: several questions, each at its time-out."""
    return 4 * settings.kafka_request_timeout_ms / 1000 + 2 * settings.redis_timeout_s
