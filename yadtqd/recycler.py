"""A worker's own look at whether it is due to be replaced (yadtqd.recycling), by its counters, its memory, its age.

Used by the bookkeeper's thread. Memory is the resident set (RSS) of /proc/self/statm, which costs 20 microseconds to
read: pages shared with the supervisor count, as in `ps`. Only asks; the supervisor says when.
"""
from __future__ import annotations

import logging
import os
import random
import time
from typing import TYPE_CHECKING

from yadtqd.recycling import Limits

if TYPE_CHECKING:
    from yadtq.config import Settings
    from yadtqd.slot import Slot

log = logging.getLogger(__name__)

LOOK_S = 0.5
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Recycler:
    """Made when the worker begins to work; `due` is cheap enough for every tick."""

    def __init__(self, settings: Settings, slot: Slot) -> None:
        self._slot, self._since = slot, time.monotonic()
        limits = Limits.of(settings, random.random())  # noqa: S311 (jitter)
        if limits.memory and resident() >= limits.memory:
            log.warning("worker_max_memory_mb is %d, and a worker begins with %.0f MB: it is not looked at",
                        settings.worker_max_memory_mb, resident() / 1e6)
            limits = limits._replace(memory=0)
        self._limits, self._any = limits, any(limits)
        self._look_at = 0.0
        self.reason = ""

    def due(self, now: float) -> bool:
        """Is this process to be replaced? Once it is, it stays so."""
        if self._any and not self.reason and now >= self._look_at:
            slot = self._slot
            tasks = slot.done + slot.failed
            memory = resident() if self._limits.memory else 0
            self.reason = self._limits.reason(tasks, memory, now - self._since)
            self._look_at = now + (0.0 if self._limits.tasks else LOOK_S)
            if self.reason:
                log.info("this worker asks to be replaced: %s", self.reason)
        return bool(self.reason)


def resident() -> int:
    """Bytes of resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * _PAGE
